"""Why a rollout moves, or why it does not: in numbers, and in plain words.

Everything here is read off the same conditions by which the stages decide (`decide.conditions`),
so an explanation cannot say anything else than the engine does. What is added is the way that is
left: at the present growth of an e-value, how many requests until it is complete.

    units left = (log(1 / alpha) - log E) / growth per unit

`growth` is the expected log e-value per unit if the arms are what they look like now (see
`estimate.growth`); where that is not positive the condition is not on its way to being met.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.core import estimate
from controller.core.case import situated
from controller.core.conduct import stage_kind
from controller.core.decide.conditions import Condition, all_conditions, named
from controller.core.decide.situation import Situation
from controller.core.model import BASIS, Growth, GuardEvidence, Json
from controller.core.policy import Policy
from controller.core.report import condition_document, guard_document
from controller.core.state import State


def explanation(policy: Policy, state: State) -> dict[str, Json]:
    """Where the model stands and why: what `explain` shows of the present."""
    rollout = state.rollout if state.is_judging else None
    situation = situated(policy, state) if rollout else None
    rows = _rows(policy, state, situation) if situation else []
    sentences = [f"{state.said.verdict.value}: {state.said.reason}"]
    sentences += [_sentence(condition, left) for condition, left in rows]
    if situation is not None:
        sentences += [
            _guard_sentence(seen.candidate.arm, guard)
            for seen in situation.live
            for guard in seen.guards
        ]
    return {
        "model": state.model,
        "time": state.clock if math.isfinite(state.clock) else None,
        "phase": state.phase.value,
        "stage": stage_kind(policy, rollout) if rollout else "",
        "step": rollout.step if rollout else 0,
        "verdict": state.said.verdict.value,
        "cause": state.said.cause,
        "reason": state.said.reason,
        "conditions": [condition_document(c) | {"requests_left": left} for c, left in rows],
        "guardrails": _guards(situation),
        "sentences": list(sentences),
    }


def _guards(situation: Situation | None) -> list[Json]:
    if situation is None:
        return []
    found: list[Json] = []
    for seen in situation.live:
        arm: dict[str, Json] = {"candidate": seen.candidate.arm}
        found += [arm | guard_document(guard) for guard in seen.guards]
    return found


def _rows(policy: Policy, state: State, situation: Situation) -> list[tuple[Condition, int | None]]:
    """Each condition with the requests that it still needs; None where it does not say."""
    assert state.rollout is not None
    stage = policy.spec.stages[state.rollout.stage]
    growths = {arm: _growth(state, arm) for arm in state.rollout.live}
    guards = {seen.candidate.arm: seen.guards for seen in situation.live}
    rows = []
    for condition in all_conditions(stage, situation):
        growth = growths.get(condition.candidate)
        per_unit = 0.0
        if growth is not None:
            per_unit = _of(condition, growth, state.rollout.stage, guards[condition.candidate])
        rows.append((condition, _left(condition, state, per_unit)))
    return rows


def _growth(state: State, arm: str) -> Growth | None:
    """What a unit adds to each e-value of this candidate at the present split."""
    rollout, weights = state.rollout, state.split.weights
    assert rollout is not None
    assert state.spec is not None
    assert state.estimators is not None
    mine, champion = weights.get(arm, 0), weights.get(rollout.champion, 0)
    if not mine or not champion:
        return None
    pi = mine / (mine + champion)
    return estimate.growth(state.spec, state.estimators, rollout.candidates.index(arm), pi)


def _left(condition: Condition, state: State, per_unit: float) -> int | None:
    """Requests of the model until the condition is met, if all goes on as it looks now."""
    rollout = state.rollout
    if rollout is None or condition.then != "promote":
        return None
    if condition.is_met:
        return 0
    if not per_unit > 0.0:
        return None
    weights = state.split.weights
    share = (weights.get(condition.candidate, 0) + weights.get(rollout.champion, 0)) / BASIS
    return math.ceil((condition.threshold - condition.log_e) / per_unit / share)


def _of(condition: Condition, growth: Growth, stage: int, guards: Sequence[GuardEvidence]) -> float:
    """Nats that a unit adds to what the condition asks for."""
    if condition.guard is not None:
        return growth.within[guards.index(condition.guard)]
    if condition.cause == "not_worse":
        return growth.noninferior[stage]
    return growth.superior


def _sentence(condition: Condition, left: int | None) -> str:
    would = {"promote": "to promote", "roll_back": "to roll back", "hold": "to hold"}
    text = f"{condition.candidate}: {condition.name}, {condition.progress} {would[condition.then]}"
    if condition.is_met:
        return f"{text}: reached"
    if condition.then != "promote":
        return text
    if left is None:
        return f"{text}: not on its way, as the arms look now"
    return f"{text}: about {left:,} more requests, as the arms look now"


def _guard_sentence(arm: str, guard: GuardEvidence) -> str:
    champion = "nothing yet" if guard.champion is None else f"{guard.champion:.4g}"
    candidate = "nothing yet" if guard.candidate is None else f"{guard.candidate:.4g}"
    if guard.metric == "latency":
        limit = "unknown" if guard.limit_ms is None else f"{guard.limit_ms:.4g} ms"
        return (
            f"guardrail {named(guard)}: {champion} of the champion's answers were slower than its "
            f"own, {candidate} of {arm}'s slower than what is allowed ({limit})"
        )
    seen = f"champion {champion}, {arm} {candidate}"
    return f"guardrail {named(guard)}: {seen}, {guard.max_increase:.3g} more is allowed"


def decision_sentences(conditions: Sequence[dict[str, Json]]) -> list[str]:
    """The conditions kept with a decision, in plain words."""
    return [
        f"{row['candidate']}: {row['name']}, evidence {row['evidence']:.3g} of "
        f"{row['threshold']:.3g} to {str(row['then']).replace('_', ' ')}"
        + (": reached" if row["reached"] else "")
        for row in conditions
        if isinstance(row.get("evidence"), float | int)
        and isinstance(row.get("threshold"), float | int)
    ]
