"""The canary stage: a candidate's share rises step by step, as long as it does no harm.

A step is taken when it has lasted long enough for its own exposures to close, enough of the
candidate's outcomes are in, nothing is failing, and the next share risks no more than the budget:
next share x greatest loss that the evidence leaves possible <= budget. The *last* step of the last
stage promotes, and only on proof: the e-value against "worse by at least the margin" must pass
1 / false_promotion, and so must those that each guardrail's bound is kept. Absence of proven harm
is never enough. When time is up without proof, the policy's `on_expiry` says what happens; the
default is to hold and say so.
"""

from __future__ import annotations

from controller.core.decide.conditions import claim, promotion
from controller.core.decide.guardrail import doubt, harmed, unready
from controller.core.decide.situation import Situation, basis_points, for_people
from controller.core.model import Ruling, Verdict
from controller.core.policy import Canary, Stage


def rule(stage: Stage, situation: Situation) -> Ruling:
    """What the canary stage says now."""
    canary = stage.canary
    assert canary is not None
    decisive = harmed(situation, canary.false_rollback) or doubt(situation)
    if decisive is not None:
        return decisive
    is_over = situation.in_stage_s >= canary.max_duration
    if is_over and not (_is_at_end(canary, situation) and _unproven(stage, situation) is None):
        return _expired(canary, situation)
    return _waiting(canary, situation) or _onward(stage, canary, situation)


def _weights(canary: Canary, situation: Situation) -> dict[str, int]:
    return situation.split_at(basis_points(canary.steps[situation.rollout.step]))


def _waiting(canary: Canary, situation: Situation) -> Ruling | None:
    """A hold while the step is too young or too small, else None."""
    weights = _weights(canary, situation)
    dwell = max(canary.min_duration, situation.settle_s)
    if situation.in_step_s < dwell:
        left = for_people(dwell - situation.in_step_s)
        return Ruling(Verdict.HOLD, "dwell", f"{_step(canary, situation)}: {left} more", weights)
    outcomes = situation.step_outcomes(situation.only)
    if outcomes < canary.min_outcomes:
        reason = f"{_step(canary, situation)}: {outcomes} of {canary.min_outcomes} outcomes"
        return Ruling(Verdict.HOLD, "min_outcomes", reason, weights)
    return None


def _onward(stage: Stage, canary: Canary, situation: Situation) -> Ruling:
    weights = _weights(canary, situation)
    seen = situation.only
    candidate = seen.candidate.arm
    if situation.rollout.step + 1 < len(canary.steps):
        return _too_risky(canary, situation, weights) or Ruling(
            Verdict.ADVANCE,
            "step_passed",
            f"{candidate} does no harm that {situation.step_outcomes(seen)} outcomes would show",
            weights,
        )
    if not situation.is_last:
        return Ruling(Verdict.ADVANCE, "canary_passed", f"{candidate} passed the canary", weights)
    unproven = _unproven(stage, situation)
    if unproven is None:
        reason = _promotion_sentence(stage, situation)
        return Ruling(Verdict.PROMOTE, "not_worse", reason, weights)
    cause, what = unproven
    return Ruling(Verdict.HOLD, cause, f"{_step(canary, situation)}: {what}", weights)


def _too_risky(canary: Canary, situation: Situation, weights: dict[str, int]) -> Ruling | None:
    """A hold while the next share could cost more than the budget, else None."""
    seen = situation.only
    share = canary.steps[situation.rollout.step + 1]
    if canary.budget >= 1.0 or share * seen.risk <= canary.budget:
        return None  # a budget of everything asks for nothing, even where nothing is known
    reason = (
        f"{_step(canary, situation)}: {seen.candidate.arm} may still be worse by "
        f"{_loss(seen.risk)}; {share:.3g} of the traffic would risk more than the budget of "
        f"{canary.budget:.3g}, which allows {canary.budget / share:.3g}"
    )
    return Ruling(Verdict.HOLD, "risk", reason, weights)


def _loss(risk: float) -> str:
    return f"{risk:.2%}" if risk <= 1 else "any amount"


def _is_at_end(canary: Canary, situation: Situation) -> bool:
    return situation.is_last and situation.rollout.step + 1 == len(canary.steps)


def _unproven(stage: Stage, situation: Situation) -> tuple[str, str] | None:
    """What is missing before the candidate may be promoted: (cause, words), or None."""
    seen = situation.only
    for condition in promotion(stage, situation, seen):
        if not condition.is_met:
            cause = "not_proven" if condition.cause == "not_worse" else condition.cause
            return cause, f"not yet proven, {condition.name}: {condition.progress}"
    return unready(situation, seen)


def _expired(canary: Canary, situation: Situation) -> Ruling:
    """Time is up without proof: undecided, and the policy says what that means."""
    seen = situation.only
    candidate = seen.candidate.arm
    reason = f"undecided after {for_people(canary.max_duration)}: {canary.on_expiry} {candidate}"
    weights = situation.unchanged
    if canary.on_expiry == "hold":
        return Ruling(Verdict.HOLD, "expired", reason, weights)
    if canary.on_expiry == "promote" and seen.candidate.n < max(situation.min_units, 1):
        # Whoever accepts a promotion without proof has not accepted one without a measurement.
        short = "but it has no outcome yet"
        if seen.candidate.n:
            short = f"but only {seen.candidate.n} of {situation.min_units} units were judged"
        return Ruling(Verdict.HOLD, "expired", f"{reason}, {short}", weights)
    if canary.on_expiry == "roll_back":
        return Ruling(Verdict.ROLL_BACK, "expired", reason, candidate=candidate)
    verdict = Verdict.PROMOTE if situation.is_last else Verdict.ADVANCE
    return Ruling(verdict, "expired", reason)


def _promotion_sentence(stage: Stage, situation: Situation) -> str:
    seen = situation.only
    not_worse = claim(stage, situation, seen)
    assert stage.canary is not None
    return (
        f"{seen.candidate.arm} is not worse than {seen.champion.arm} by {stage.canary.margin:.3g}: "
        f"{seen.candidate.mean:.4g} on {seen.candidate.n} outcomes against "
        f"{seen.champion.mean:.4g} on {seen.champion.n}, {not_worse.progress}"
    )


def _step(canary: Canary, situation: Situation) -> str:
    return f"step {situation.rollout.step + 1} of {len(canary.steps)}"
