"""The A/B stage: a fixed share, split evenly among the candidates, until something is proven.

Better (the e-value against "not better" passes K / alpha for K candidates, every guardrail is
proven to be kept, and the minimum duration is over): promote the one for which most is proven.
Worse: that candidate leaves, at any time. Too small to matter (the upper end of the confidence
sequence of the lift is below `min_effect`, and the minimum duration is over): it leaves as futile.
When the last one leaves, the rollout is rolled back. When `max_duration` passes first the test is
undecided: it holds and says so; it never promotes.

A lift that the last week alone excludes is not acted upon: it was novelty.
"""

from __future__ import annotations

from controller.core.decide.conditions import Condition, claim, promotion
from controller.core.decide.guardrail import doubt, harmed, unready
from controller.core.decide.situation import Situation, basis_points, for_people
from controller.core.model import CandidateEvidence, Ruling, Verdict
from controller.core.policy import Ab, Stage


def rule(stage: Stage, situation: Situation) -> Ruling:
    """What the A/B stage says now."""
    ab = stage.ab
    assert ab is not None
    decisive = harmed(situation, ab.alpha) or doubt(situation)
    if decisive is not None:
        return decisive
    weights = situation.split_at(basis_points(ab.share))
    dwell = max(ab.min_duration, situation.settle_s)
    if situation.in_stage_s < dwell:
        left = for_people(dwell - situation.in_stage_s)
        reason = f"testing for {left} more: {_so_far(stage, situation)}"
        return Ruling(Verdict.HOLD, "dwell", reason, weights)
    return (
        _better(stage, situation, weights)
        or _futile(ab, situation)
        or _undecided(stage, ab, situation, weights)
    )


def _better(stage: Stage, situation: Situation, weights: dict[str, int]) -> Ruling | None:
    """A promotion of the best proven candidate, or why what is proven is not acted upon."""
    proven = [seen for seen in situation.live if claim(stage, situation, seen).is_met]
    if not proven:
        return None
    seen = max(proven, key=lambda seen: seen.log_superior)
    missing = _missing(stage, situation, seen)
    if missing is not None:
        cause, reason = missing
        return Ruling(Verdict.HOLD, cause, reason, weights)
    verdict = Verdict.PROMOTE if situation.is_last else Verdict.ADVANCE
    arm = seen.candidate.arm
    reason = f"{arm} is better: {_of(claim(stage, situation, seen), seen)}"
    return Ruling(verdict, "better", reason, weights, candidate=arm)


def _missing(stage: Stage, situation: Situation, seen: CandidateEvidence) -> tuple[str, str] | None:
    arm = seen.candidate.arm
    for condition in promotion(stage, situation, seen)[1:]:
        if not condition.is_met:
            reason = f"{arm} is better, but not yet proven {condition.name}: {condition.progress}"
            return condition.cause, reason
    recent = dict(zip(situation.rollout.candidates, situation.recent, strict=False)).get(arm)
    if recent is not None and (recent.lower > 0 if situation.is_minimised else recent.upper < 0):
        reason = (
            f"{arm} is better over the whole test, but the last week alone says the opposite "
            f"({recent.lower:+.2%} to {recent.upper:+.2%}): it may have been novelty"
        )
        return "novelty", reason
    return unready(situation, seen)


def _futile(ab: Ab, situation: Situation) -> Ruling | None:
    for seen in situation.live:
        gain = situation.greatest_gain(seen)
        if gain < ab.min_effect:
            arm = seen.candidate.arm
            reason = (
                f"futile: the gain of {arm} is at most {gain:.2%}, "
                f"less than the {ab.min_effect:.2%} that matters"
            )
            return Ruling(Verdict.ROLL_BACK, "futile", reason, candidate=arm)
    return None


def _undecided(stage: Stage, ab: Ab, situation: Situation, weights: dict[str, int]) -> Ruling:
    so_far = _so_far(stage, situation)
    if situation.in_stage_s >= ab.max_duration:
        reason = f"undecided after {for_people(ab.max_duration)}: {so_far}"
        return Ruling(Verdict.HOLD, "expired", reason, weights)
    return Ruling(Verdict.HOLD, "not_proven", f"not yet proven: {so_far}", weights)


def _so_far(stage: Stage, situation: Situation) -> str:
    rows = [(claim(stage, situation, seen), seen) for seen in situation.live]
    if len(rows) == 1:
        return _of(*rows[0])
    return "; ".join(f"{seen.candidate.arm} {_of(better, seen)}" for better, seen in rows)


def _of(better: Condition, seen: CandidateEvidence) -> str:
    lift = "unknown" if seen.lift.estimate is None else f"{seen.lift.estimate:+.2%}"
    return f"lift {lift} on {seen.candidate.n} outcomes, {better.progress}"
