"""What people see of a state.

The report behind the API, the dashboard and `status`, and the evidence that a decision keeps. Pure:
the same state gives the same report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from controller.core import estimate
from controller.core.arms import alive, earlier
from controller.core.case import INTERVAL_ALPHA, evidence_of, signals, situated, unreported
from controller.core.conduct import stage_kind
from controller.core.decide.conditions import (
    SAMPLE_RATIO_ALPHA,
    Condition,
    all_conditions,
    promotion_alpha,
)
from controller.core.decide.guardrail import silence_of
from controller.core.decide.phases import RESTING
from controller.core.decide.situation import for_people
from controller.core.estimate.effect import arm_interval
from controller.core.model import (
    ArmReport,
    ArmRole,
    ArmSummary,
    CandidateEvidence,
    EarlierArms,
    GuardEvidence,
    HealthKey,
    Int,
    Json,
    Lift,
    Phase,
    Report,
    Role,
)
from controller.core.policy import Policy
from controller.core.state import State

SIGNIFICANT = 9
"""Digits kept of a decision's figures: more than anyone reads, fewer than machines differ in."""

PAST: Final = 100
"""The newest arms with which nothing goes on any more are shown: a model that is trained every ten
minutes has thousands of them after a month, and a report is made at each turn."""


def report(policy: Policy, state: State) -> Report:
    """Where the model stands."""
    is_shown = state.is_judging or state.phase not in (Phase.IDLE, Phase.PAUSED)
    rollout = state.rollout if is_shown else None
    evidence = _evidence(state)
    candidates = rollout.live if rollout and state.is_judging else ()
    arms, earlier = _arms(policy, state, evidence)
    return Report(
        model=state.model,
        time=state.clock,
        phase=state.phase,
        stage=stage_kind(policy, rollout) if rollout else "",
        step=rollout.step if rollout else 0,
        epoch=state.split.epoch,
        epoch_in_force=state.in_force_epoch,
        verdict=state.said.verdict,
        cause=state.said.cause,
        reason=state.said.reason,
        champion=state.champion,
        candidate=candidates[0] if candidates else None,
        candidates=candidates,
        queue=state.queue,
        arms=arms,
        lift={seen.candidate.arm: seen.lift for seen in evidence},
        segments=dict(state.split.segments),
        health=_health(policy, state),
        rejected=dict(sorted(state.rejected.items())),
        earlier=earlier,
    )


def _arms(
    policy: Policy, state: State, evidence: Sequence[CandidateEvidence]
) -> tuple[tuple[ArmReport, ...], EarlierArms | None]:
    """The arms that are shown, the champion first, and the sums of the others."""
    place = {arm: i for i, arm in enumerate(state.arms)}
    going = alive(state)
    idle = [i for arm, i in place.items() if arm not in going]
    hidden = np.array(idle[: max(0, len(idle) - PAST)], np.int64)
    names = {state.champion, *state.arms} - {state.arms[i] for i in hidden.tolist()}
    shown = sorted(names, key=lambda arm: (arm != state.champion, arm))
    reports = tuple(_arm(policy, state, evidence, arm, place.get(arm, -1)) for arm in shown)
    past = earlier(state, hidden)
    return reports, past if past.arms else None


def _arm(
    policy: Policy, state: State, evidence: Sequence[CandidateEvidence], arm: str, i: int
) -> ArmReport:
    summary = _summary(policy, state, evidence, arm, i)
    return ArmReport(
        arm=arm,
        role=Role.CHAMPION if arm == state.champion else Role.CANDIDATE,
        weight=state.split.weights.get(arm, 0),
        weight_in_force=state.in_force.get(arm, 0),
        exposures=_at(state.totals.exposures, i),
        outcomes=_at(state.sums[0].outcomes, i),
        pending=_at(state.joins[0].pending, i) + _at(state.partitions.pending, i),
        rewards=_at(state.joins[0].joined, i) + _at(state.partitions.rewards, i),
        errors=_at(state.totals.errors, i),
        units=summary.n,
        mean=summary.mean,
        interval=summary.interval,
        ready=_runs(state, arm, "ready"),
        replicas=_runs(state, arm, "replicas"),
    )


def _runs(state: State, arm: str, what: Literal["ready", "replicas"]) -> int | None:
    """How much of the arm runs, where the cluster says so."""
    found = state.capacities.get(arm)
    if found is None or found.state == "unknown":
        return None
    return found.ready if what == "ready" else found.replicas


def _at(counts: Int, i: int) -> int:
    """The count of arm `i`, 0 for an arm that was never counted."""
    return int(counts[i]) if 0 <= i < len(counts) else 0


def _summary(
    policy: Policy, state: State, evidence: Sequence[CandidateEvidence], arm: str, i: int
) -> ArmSummary:
    """The rollout's figures for its arms while it is on, else those of all outcomes."""
    if evidence and state.is_judging:
        for summary in (evidence[0].champion, *(seen.candidate for seen in evidence)):
            if summary.arm == arm:
                return summary
    sums = state.sums[0]
    n, total = (int(sums.outcomes[i]), float(sums.value[i])) if i >= 0 else (0, 0.0)
    low, high = policy.spec.reward.range
    interval = None
    if n and policy.spec.reward.is_binary:
        ends = arm_interval(n, (total - n * low) / (high - low), INTERVAL_ALPHA)
        interval = (
            None if ends is None else (low + ends[0] * (high - low), low + ends[1] * (high - low))
        )
    return ArmSummary(arm, n, total, total / n if n else None, interval, 0, 0)


def _evidence(state: State) -> tuple[CandidateEvidence, ...]:
    """What is known of the candidates that are in, or, at rest, were in at the end."""
    live = state.rollout.live if state.rollout is not None else ()
    return tuple(seen for seen in evidence_of(state) if seen.candidate.arm in live)


def _health(policy: Policy, state: State) -> dict[HealthKey, Json]:
    confirmed = state.in_force_epoch >= state.split.epoch
    health: dict[HealthKey, Json] = {
        "unattributed": state.unattributed,
        "split": "in force" if confirmed else "not yet confirmed by the router",
    }
    if waited := _waited_for(policy, state):
        health["waiting"] = waited
    health |= _partitions(policy, state)
    if state.estimators is None or state.spec is None:
        return {"sample_ratio": "ok", "sample_ratio_evidence": 1.0, **health}
    seen = signals(policy, state)
    ratio = max(seen.log_exposures, seen.log_outcomes, seen.log_dropped)
    health |= {
        "sample_ratio": "mismatch" if ratio >= -math.log(SAMPLE_RATIO_ALPHA) else "ok",
        "sample_ratio_evidence": rounded(math.exp(min(ratio, 700.0))),
        "silent_s": rounded(seen.silent_s),
    }
    if seen.join_fall is not None:
        now, before = seen.join_fall
        health["join_rate"] = {"now": rounded(now), "before": rounded(before)}
    return health


def _partitions(policy: Policy, state: State) -> dict[HealthKey, Json]:
    """What is open in each partition, how far it is behind, and what does not come."""
    known, found = state.partitions, dict[HealthKey, Json]()
    if known.open:
        found["partitions"] = [
            {
                "partition": number,
                "open": known.standing[number].open,
                "behind_s": rounded(known.behind_s(number, state.clock)),
            }
            for number in known.open
        ]
    if (silent := unreported(policy, state)) is not None:
        found["unreported"] = silence_of(*silent)
    if policy.spec.partitions != known.count and state.phase not in RESTING:
        found["partitioning"] = (
            f"events are split over {policy.spec.partitions}, not {known.count}, once this rollout "
            "has ended"
        )
    return found


def _waited_for(policy: Policy, state: State) -> str:
    """What a model in a cluster waits for, one sentence each; empty where it waits for nothing."""
    pace, found = policy.pace, list[str]()
    for arm, since in state.waits.items():
        left = for_people(since + pace.deadline_s - state.clock)
        found.append(f"{arm} is given up in {left} unless enough of it is ready")
    if state.intent is not None:
        found.append(f"{state.intent.said}: waits for {state.intent.arm}")
    for one in state.leaving:
        stay_s = pace.retain_s if one.role is ArmRole.RETIRED else pace.drain_s
        since = state.clock if one.since is None else one.since
        left = for_people(max(0.0, since + stay_s - state.clock))
        found.append(f"{one.arm} is scaled down in {left}")
    return "; ".join(found)


def evidence_summary(policy: Policy, state: State) -> dict[str, Json]:
    """What a decision rests on, as JSON: rounded to `SIGNIFICANT` digits."""
    evidence = _evidence(state)
    if not evidence or state.estimators is None or state.spec is None:
        return {}
    health = estimate.health(state.spec, state.estimators)
    first, *others = evidence
    summary: dict[str, Json] = {
        "champion": arm_document(first.champion),
        **candidate_summary(first),
        "sample_ratio": {
            "exposures": rounded(health.log_exposures),
            "outcomes": rounded(health.log_outcomes),
            "dropped": rounded(health.log_dropped),
        },
        "conditions": conditions(policy, state),
        "rejected": dict(sorted(state.rejected.items())),
        "unattributed": state.unattributed,
    }
    if others:
        summary["others"] = [candidate_summary(seen) for seen in others]
        summary["discoveries"] = list(discoveries(policy, state))
    return summary


def discoveries(policy: Policy, state: State) -> tuple[str, ...]:
    """Which of several candidates are found to be better than the champion, by e-BH.

    At most the stage's alpha of such findings is false on average (see `estimate.ebh`); a promotion
    asks for more, since it picks one. Empty where there are not several.
    """
    situation = situated(policy, state) if state.is_judging else None
    if situation is None or len(situation.live) < 2:
        return ()
    alpha = promotion_alpha(policy.spec.stages[situation.rollout.stage])
    lost = situation.health.log_lost
    found = estimate.ebh([seen.log_superior - lost for seen in situation.live], alpha)
    pairs = zip(situation.live, found, strict=True)
    return tuple(seen.candidate.arm for seen, is_found in pairs if is_found)


def candidate_summary(seen: CandidateEvidence) -> dict[str, Json]:
    """What is known of one candidate, as JSON."""
    return {
        "candidate": arm_document(seen.candidate),
        "lift": lift_document(seen.lift),
        "risk": rounded(seen.risk),
        "log_e": {
            "harm": rounded(seen.log_harm),
            "harm_fast": rounded(seen.log_harm_fast),
            "superior": rounded(seen.log_superior),
            "noninferior": [rounded(value) for value in seen.log_noninferior],
        },
        "guardrails": [guard_document(guard) for guard in seen.guards],
        "shadow": guard_document(seen.shadow) if seen.shadow is not None else None,
        "p_best": rounded(seen.p_best),
        "loss": rounded(seen.loss),
        "capped": rounded(seen.capped),
    }


def guard_document(guard: GuardEvidence) -> dict[str, Json]:
    """What a guardrail saw, as JSON."""
    return {
        "metric": guard.metric,
        "detail": guard.detail,
        "champion": _or_none(guard.champion),
        "candidate": _or_none(guard.candidate),
        "max_increase": rounded(guard.max_increase),
        "limit_ms": _or_none(guard.limit_ms),
        "log_e": {"worse": rounded(guard.log_worse), "within": rounded(guard.log_within)},
    }


def _or_none(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def arm_document(summary: ArmSummary) -> dict[str, Json]:
    """What was seen of one arm, as JSON."""
    return {
        "arm": summary.arm,
        "n": summary.n,
        "mean": _or_none(summary.mean),
        "interval": None if summary.interval is None else [rounded(x) for x in summary.interval],
        "answers": summary.answers,
        "errors": summary.errors,
    }


def lift_document(lift: Lift) -> dict[str, Json]:
    """A lift as JSON; an end without bound is null."""
    return {
        "estimate": _or_none(lift.estimate),
        "interval": [rounded(lift.lower), rounded(lift.upper)],
    }


def rounded(value: float) -> float | None:
    """The value to `SIGNIFICANT` digits; null where it is not finite."""
    return float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None


def conditions(policy: Policy, state: State) -> list[Json]:
    """Each e-value that may move the rollout, with its threshold and what it would do."""
    situation = situated(policy, state) if state.is_judging else None
    if situation is None:
        return []
    stage = policy.spec.stages[situation.rollout.stage]
    return [condition_document(row) for row in all_conditions(stage, situation)]


def condition_document(condition: Condition) -> dict[str, Json]:
    """One condition as JSON."""
    return {
        "candidate": condition.candidate,
        "cause": condition.cause,
        "name": condition.name,
        "evidence": rounded(math.exp(min(condition.log_e, 700.0))),
        "threshold": rounded(1 / condition.alpha),
        "reached": condition.is_met,
        "then": condition.then,
    }
