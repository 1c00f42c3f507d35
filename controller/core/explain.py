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
from controller.core.decide.conditions import Condition, all_conditions
from controller.core.decide.situation import Situation
from controller.core.model import BASIS, CandidateEvidence, Growth, Json, Verdict
from controller.core.policy import Policy
from controller.core.report import (
    arm_document,
    candidate_summary,
    condition_document,
    discoveries,
)
from controller.core.sentences import candidate_document, guard_rows, sentences
from controller.core.state import Said, State


def explanation(policy: Policy, state: State) -> dict[str, Json]:
    """Where the model stands and why: what `explain` shows of the present."""
    rollout = state.rollout if state.is_judging else None
    situation = situated(policy, state) if rollout else None
    rows = _rows(policy, state, situation) if situation else []
    seen = situation.live if situation else ()
    found: dict[str, Json] = {
        "model": state.model,
        "time": state.clock if math.isfinite(state.clock) else None,
        "phase": state.phase.value,
        "stage": stage_kind(policy, rollout) if rollout else "",
        "step": rollout.step if rollout else 0,
        "verdict": state.said.verdict.value,
        "cause": state.said.cause,
        "reason": state.said.reason,
        "champion": arm_document(seen[0].champion) if seen else None,
        "candidates": [candidate_document(candidate_summary(one)) for one in seen],
        "conditions": [
            condition_document(condition)
            | {
                "requests_left": left,
                "holds": _holds(condition, state.said),
                "seen": _is_seen(condition, seen),
            }
            for condition, left in rows
        ],
        "guardrails": [row for one in seen for row in guard_rows(candidate_summary(one))],
        "discoveries": list(discoveries(policy, state)),
    }
    return {**found, "sentences": list(sentences(found))}


def _holds(condition: Condition, said: Said) -> bool:
    """Whether the rollout stays where it is because of this condition."""
    if said.verdict is not Verdict.HOLD:
        return False
    if condition.then == "hold":
        return condition.is_met
    claims = {"not_worse": "not_proven", "better": "not_proven"}
    is_meant = claims.get(condition.cause, condition.cause) == said.cause
    return condition.then == "promote" and is_meant and not condition.is_met


def _is_seen(condition: Condition, seen: Sequence[CandidateEvidence]) -> bool:
    """Whether both arms have shown anything that the condition is about."""
    if condition.guard is not None:
        return condition.guard.candidate is not None and condition.guard.champion is not None
    of = [one for one in seen if one.candidate.arm == condition.candidate]
    return all(one.candidate.n > 0 and one.champion.n > 0 for one in of)


def _rows(policy: Policy, state: State, situation: Situation) -> list[tuple[Condition, int | None]]:
    """Each condition with the requests that it still needs; None where it does not say."""
    assert state.rollout is not None
    stage = policy.spec.stages[state.rollout.stage]
    seen = {one.candidate.arm: one for one in situation.live}
    growths = {arm: _growth(state, arm) for arm in seen}
    rows = []
    for condition in all_conditions(stage, situation):
        growth, one = growths.get(condition.candidate), seen.get(condition.candidate)
        per_unit = _of(condition, growth, state.rollout.stage, one) if growth and one else 0.0
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


def _of(condition: Condition, growth: Growth, stage: int, seen: CandidateEvidence) -> float:
    """What a unit adds to this condition, in nats."""
    for guard, within in zip(seen.guards, growth.within, strict=True):
        if guard is condition.guard:
            return within
    if condition.cause == "not_worse":
        return growth.noninferior[stage]
    return growth.superior
