"""The A/B stage: a fixed share, until one of three things is proven.

Better (the e-value against "not better" passes 1 / alpha, and the minimum duration is over):
promote. Worse: roll back, at any time. Too small to matter (the upper end of the confidence
sequence of the lift is below `min_effect`, and the minimum duration is over): roll back as futile.
When `max_duration` passes first the test is undecided: it holds and says so; it never promotes.
"""

from __future__ import annotations

from controller.core.decide.guardrail import doubt, harm, progress, proven
from controller.core.decide.situation import Situation, basis_points, for_people
from controller.core.model import Ruling, Verdict
from controller.core.policy import Ab, Stage


def rule(stage: Stage, situation: Situation) -> Ruling:
    """What the A/B stage says now."""
    ab = stage.ab
    assert ab is not None
    decisive = harm(situation, ab.alpha) or doubt(situation)
    if decisive is not None:
        return decisive
    weights = situation.split_at(basis_points(ab.share))
    dwell = max(ab.min_duration, situation.settle_s)
    if situation.in_stage_s < dwell:
        left = for_people(dwell - situation.in_stage_s)
        return Ruling(
            Verdict.HOLD, "dwell", f"testing for {left} more: {_so_far(ab, situation)}", weights
        )
    return _concluded(ab, situation, weights) or _undecided(ab, situation, weights)


def _concluded(ab: Ab, situation: Situation, weights: dict[str, int]) -> Ruling | None:
    seen = situation.evidence
    if proven(seen.log_superior, ab.alpha):
        verdict = Verdict.PROMOTE if situation.is_last else Verdict.ADVANCE
        return Ruling(
            verdict, "better", f"{seen.candidate.arm} is better: {_so_far(ab, situation)}", weights
        )
    if seen.lift.upper < ab.min_effect:
        reason = (
            f"futile: the lift of {seen.candidate.arm} is at most {seen.lift.upper:.2%}, "
            f"less than the {ab.min_effect:.2%} that matters"
        )
        return Ruling(Verdict.ROLL_BACK, "futile", reason)
    return None


def _undecided(ab: Ab, situation: Situation, weights: dict[str, int]) -> Ruling:
    if situation.in_stage_s >= ab.max_duration:
        reason = f"undecided after {for_people(ab.max_duration)}: {_so_far(ab, situation)}"
        return Ruling(Verdict.HOLD, "expired", reason, weights)
    return Ruling(Verdict.HOLD, "not_proven", f"not yet proven: {_so_far(ab, situation)}", weights)


def _so_far(ab: Ab, situation: Situation) -> str:
    seen = situation.evidence
    lift = "unknown" if seen.lift.estimate is None else f"{seen.lift.estimate:+.2%}"
    return f"lift {lift} on {seen.candidate.n} outcomes, {progress(seen.log_superior, ab.alpha)}"
