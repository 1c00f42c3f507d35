"""The canary stage: a candidate's share rises step by step, as long as it does no harm.

A step is taken when it has lasted long enough for its own exposures to close, enough of the
candidate's outcomes are in, and nothing is failing. The *last* step of the last stage promotes, and
only on proof: the e-value against "worse by at least the margin" must pass 1 / false_promotion.
Absence of proven harm is never enough. When time is up without proof, the policy's `on_expiry`
says what happens; the default is to hold and say so.
"""

from __future__ import annotations

from controller.core.decide.guardrail import doubt, harm, progress, proven
from controller.core.decide.situation import Situation, basis_points, for_people
from controller.core.model import Ruling, Verdict
from controller.core.policy import Canary, Stage


def rule(stage: Stage, situation: Situation) -> Ruling:
    """What the canary stage says now."""
    canary = stage.canary
    assert canary is not None
    decisive = harm(situation, canary.false_rollback) or doubt(situation)
    if decisive is not None:
        return decisive
    if situation.in_stage_s >= canary.max_duration and not _may_promote(canary, situation):
        return _expired(canary, situation)
    return _waiting(canary, situation) or _onward(canary, situation)


def _weights(canary: Canary, situation: Situation) -> dict[str, int]:
    return situation.split_at(basis_points(canary.steps[situation.rollout.step]))


def _waiting(canary: Canary, situation: Situation) -> Ruling | None:
    """A hold while the step is too young or too small, else None."""
    weights = _weights(canary, situation)
    dwell = max(canary.min_duration, situation.settle_s)
    if situation.in_step_s < dwell:
        left = for_people(dwell - situation.in_step_s)
        return Ruling(Verdict.HOLD, "dwell", f"{_step(canary, situation)}: {left} more", weights)
    outcomes = situation.step_outcomes
    if outcomes < canary.min_outcomes:
        reason = f"{_step(canary, situation)}: {outcomes} of {canary.min_outcomes} outcomes"
        return Ruling(Verdict.HOLD, "min_outcomes", reason, weights)
    return None


def _onward(canary: Canary, situation: Situation) -> Ruling:
    weights = _weights(canary, situation)
    candidate = situation.rollout.candidate
    if situation.rollout.step + 1 < len(canary.steps):
        reason = f"{candidate} does no harm that {situation.step_outcomes} outcomes would show"
        return Ruling(Verdict.ADVANCE, "step_passed", reason, weights)
    if not situation.is_last:
        return Ruling(Verdict.ADVANCE, "canary_passed", f"{candidate} passed the canary", weights)
    if _may_promote(canary, situation):
        return Ruling(Verdict.PROMOTE, "not_worse", _promotion_sentence(canary, situation), weights)
    log_e = _log_noninferior(situation)
    reason = (
        f"{_step(canary, situation)}: not yet proven that {candidate} is worse by less than "
        f"{canary.margin:.3g}: {progress(log_e, canary.false_promotion)}"
    )
    return Ruling(Verdict.HOLD, "not_proven", reason, weights)


def _may_promote(canary: Canary, situation: Situation) -> bool:
    is_last_step = situation.rollout.step + 1 == len(canary.steps)
    return (
        situation.is_last
        and is_last_step
        and proven(_log_noninferior(situation), canary.false_promotion)
    )


def _expired(canary: Canary, situation: Situation) -> Ruling:
    """Time is up without proof: undecided, and the policy says what that means."""
    candidate = situation.rollout.candidate
    reason = f"undecided after {for_people(canary.max_duration)}: {canary.on_expiry} {candidate}"
    weights = situation.split_at(situation.share)
    if canary.on_expiry == "hold":
        return Ruling(Verdict.HOLD, "expired", reason, weights)
    if canary.on_expiry == "promote" and not situation.evidence.candidate.n:
        # Whoever accepts a promotion without proof has not accepted one without a measurement.
        return Ruling(Verdict.HOLD, "expired", f"{reason}, but it has no outcome yet", weights)
    if canary.on_expiry == "roll_back":
        return Ruling(Verdict.ROLL_BACK, "expired", reason)
    verdict = Verdict.PROMOTE if situation.is_last else Verdict.ADVANCE
    return Ruling(verdict, "expired", reason)


def _log_noninferior(situation: Situation) -> float:
    return situation.evidence.log_noninferior[situation.rollout.stage]


def _promotion_sentence(canary: Canary, situation: Situation) -> str:
    seen = situation.evidence
    return (
        f"{seen.candidate.arm} is not worse than {seen.champion.arm} by {canary.margin:.3g}: "
        f"{seen.candidate.mean:.4g} on {seen.candidate.n} outcomes against "
        f"{seen.champion.mean:.4g} on {seen.champion.n}, "
        f"{progress(_log_noninferior(situation), canary.false_promotion)}"
    )


def _step(canary: Canary, situation: Situation) -> str:
    return f"step {situation.rollout.step + 1} of {len(canary.steps)}"
