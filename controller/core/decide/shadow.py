"""The shadow stage: the candidate answers copies of requests; users see the champion only.

It can show that a candidate crashes, never that it is good: users did not see its answers, so there
is no reward. It needs at least one mirrored answer to pass (a success without a measurement is the
oldest fault of canary tools).
"""

from __future__ import annotations

from controller.core.decide import conditions
from controller.core.decide.situation import Situation, basis_points, for_people
from controller.core.model import BASIS, Ruling, Verdict
from controller.core.policy import Stage


def rule(stage: Stage, situation: Situation) -> Ruling:
    """What the shadow stage says now."""
    shadow = stage.shadow
    assert shadow is not None
    seen = situation.only
    candidate = seen.candidate.arm
    weights = {situation.rollout.champion: BASIS}
    mirror = {candidate: basis_points(shadow.percent)}

    def ruling(verdict: Verdict, cause: str, reason: str) -> Ruling:
        return Ruling(verdict, cause, reason, weights=weights, mirror=mirror)

    if any(condition.is_met for condition in conditions.shadow(seen)):
        return ruling(
            Verdict.ROLL_BACK,
            "shadow_errors",
            f"{candidate} fails more mirrored requests than the guardrail allows",
        )
    answers = situation.rollout.shadow_answers
    if situation.in_stage_s < shadow.duration:
        left = for_people(shadow.duration - situation.in_stage_s)
        return ruling(
            Verdict.HOLD, "dwell", f"shadowing {candidate} for {left} more, {answers} answers"
        )
    if not answers:
        return ruling(
            Verdict.HOLD, "no_answers", f"no mirrored request was answered by {candidate} yet"
        )
    return ruling(Verdict.ADVANCE, "shadowed", f"{candidate} answered {answers} mirrored requests")
