"""What people see of a state.

The report behind the API, the dashboard and `status`, and the evidence that a decision keeps. Pure:
the same state gives the same report.
"""

from __future__ import annotations

import math

from controller.core import estimate
from controller.core.conduct import INTERVAL_ALPHA, situated, stage_kind
from controller.core.decide.guardrail import ERROR_SHARE, SAMPLE_RATIO_THRESHOLD
from controller.core.decide.situation import Situation
from controller.core.estimate.effect import arm_interval
from controller.core.model import (
    ArmReport,
    ArmSummary,
    CandidateEvidence,
    Int,
    Json,
    Lift,
    Phase,
    Report,
    Role,
)
from controller.core.policy import Policy, Stage
from controller.core.state import State

SIGNIFICANT = 9
"""Digits kept of a decision's figures: more than anyone reads, fewer than machines differ in."""


def report(policy: Policy, state: State) -> Report:
    """Where the model stands."""
    is_shown = state.is_judging or state.phase not in (Phase.IDLE, Phase.PAUSED)
    rollout = state.rollout if is_shown else None
    evidence = _evidence(state)
    candidate = rollout.candidate if rollout and state.is_judging else None
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
        candidate=candidate,
        queue=state.queue,
        arms=_arms(state, evidence),
        lift={evidence.candidate.arm: evidence.lift} if evidence else {},
        health=_health(state),
        rejected=dict(sorted(state.rejected.items())),
    )


def _arms(state: State, evidence: CandidateEvidence | None) -> tuple[ArmReport, ...]:
    names = sorted(set(state.arms) | {state.champion}, key=lambda arm: (arm != state.champion, arm))
    return tuple(_arm(state, evidence, arm) for arm in names)


def _arm(state: State, evidence: CandidateEvidence | None, arm: str) -> ArmReport:
    i = state.arms.index(arm) if arm in state.arms else -1
    counts = state.totals
    summary = _summary(state, evidence, arm, i)
    return ArmReport(
        arm=arm,
        role=Role.CHAMPION if arm == state.champion else Role.CANDIDATE,
        weight=state.split.weights.get(arm, 0),
        weight_in_force=state.in_force.get(arm, 0),
        exposures=_at(counts.exposures, i),
        outcomes=_at(counts.outcomes, i),
        pending=_at(state.join.pending, i),
        rewards=_at(state.join.joined, i),
        errors=_at(counts.errors, i),
        units=summary.n,
        mean=summary.mean,
        interval=summary.interval,
    )


def _at(counts: Int, i: int) -> int:
    """The count of arm `i`, 0 for an arm that was never counted."""
    return int(counts[i]) if 0 <= i < len(counts) else 0


def _summary(state: State, evidence: CandidateEvidence | None, arm: str, i: int) -> ArmSummary:
    """The rollout's figures for its two arms while it is on, else those of all outcomes."""
    if evidence is not None and state.is_judging:
        for summary in (evidence.champion, evidence.candidate):
            if summary.arm == arm:
                return summary
    n, total = (int(state.totals.outcomes[i]), float(state.totals.value[i])) if i >= 0 else (0, 0.0)
    high = state.spec.high if state.spec else 1.0
    interval = arm_interval(n, total / high, INTERVAL_ALPHA)
    scaled = (interval[0] * high, interval[1] * high) if interval else None
    return ArmSummary(arm, n, total, total / n if n else None, scaled, 0, 0)


def _evidence(state: State) -> CandidateEvidence | None:
    rollout = state.rollout
    if rollout is None or state.estimators is None or state.spec is None:
        return None
    return estimate.evidence(state.spec, state.estimators, rollout.champion, rollout.candidate)


def _health(state: State) -> dict[str, Json]:
    ratio = estimate.health(state.estimators) if state.estimators else 0.0
    confirmed = state.in_force_epoch >= state.split.epoch
    return {
        "sample_ratio": "mismatch" if ratio >= math.log(SAMPLE_RATIO_THRESHOLD) else "ok",
        "sample_ratio_evidence": rounded(math.exp(min(ratio, 700.0))),
        "unattributed": state.unattributed,
        "split": "in force" if confirmed else "not yet confirmed by the router",
    }


def evidence_summary(state: State) -> dict[str, Json]:
    """What a decision rests on, as JSON: rounded to `SIGNIFICANT` digits."""
    evidence = _evidence(state)
    if evidence is None:
        return {}
    return {
        "champion": _arm_summary(evidence.champion),
        "candidate": _arm_summary(evidence.candidate),
        "lift": lift_document(evidence.lift),
        "log_e": {
            "harm": rounded(evidence.log_harm),
            "superior": rounded(evidence.log_superior),
            "noninferior": [rounded(value) for value in evidence.log_noninferior],
            "errors": rounded(evidence.log_errors),
            "shadow_errors": rounded(evidence.log_shadow_errors),
            "sample_ratio": rounded(estimate.health(state.estimators) if state.estimators else 0.0),
        },
        "p_best": rounded(evidence.p_best),
        "loss": rounded(evidence.loss),
        "rejected": dict(sorted(state.rejected.items())),
        "unattributed": state.unattributed,
    }


def _arm_summary(summary: ArmSummary) -> dict[str, Json]:
    return {
        "arm": summary.arm,
        "n": summary.n,
        "mean": None if summary.mean is None else rounded(summary.mean),
        "interval": None if summary.interval is None else [rounded(x) for x in summary.interval],
        "answers": summary.answers,
        "errors": summary.errors,
    }


def lift_document(lift: Lift) -> dict[str, Json]:
    """A lift as JSON; an end without bound is null."""
    estimate_ = None if lift.estimate is None else rounded(lift.estimate)
    return {"estimate": estimate_, "interval": [rounded(lift.lower), rounded(lift.upper)]}


def rounded(value: float) -> float | None:
    """The value to `SIGNIFICANT` digits; null where it is not finite."""
    return float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None


def conditions(policy: Policy, state: State) -> list[dict[str, Json]]:
    """Each e-value that may move the rollout, with its threshold and what it would do."""
    situation = situated(policy, state) if state.is_judging else None
    if situation is None:
        return []
    stage = policy.spec.stages[situation.rollout.stage]
    return [
        {
            "name": name,
            "evidence": rounded(math.exp(min(log_e, 700.0))),
            "threshold": rounded(1 / alpha),
            "reached": log_e >= -math.log(alpha),
            "then": then,
        }
        for name, log_e, alpha, then in _tests(stage, situation)
    ]


def _tests(stage: Stage, situation: Situation) -> list[tuple[str, float, float, str]]:
    seen = situation.evidence
    rows: list[tuple[str, float, float, str]] = []
    error_share = ERROR_SHARE if situation.has_error_guardrail else 0.0
    if stage.canary:
        harm_alpha = stage.canary.false_rollback
        log_e = seen.log_noninferior[situation.rollout.stage]
        rows.append(("not worse by the margin", log_e, stage.canary.false_promotion, "promote"))
    elif stage.ab:
        harm_alpha = stage.ab.alpha
        rows.append(("better", seen.log_superior, stage.ab.alpha, "promote"))
    elif stage.thompson:
        harm_alpha = 1 - stage.thompson.promote_probability
        rows.append(("better", seen.log_superior, harm_alpha, "promote"))
    else:
        return [("more errors in the shadow", seen.log_shadow_errors, 0.01, "roll back")]
    rows.append(("worse reward", seen.log_harm, (1 - error_share) * harm_alpha, "roll back"))
    if error_share:
        rows.append(("more errors", seen.log_errors, error_share * harm_alpha, "roll back"))
    ratio = situation.health.log_sample_ratio
    rows.append(("sample ratio mismatch", ratio, 1 / SAMPLE_RATIO_THRESHOLD, "hold"))
    return rows
