"""From evidence to a verdict: one pure function a stage, all with one signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from controller.core.decide import ab, canary, shadow, thompson
from controller.core.decide.situation import Situation
from controller.core.model import Ruling
from controller.core.policy import Stage

RULES: Final[
    dict[Literal["shadow", "canary", "ab", "thompson"], Callable[[Stage, Situation], Ruling]]
] = {"shadow": shadow.rule, "canary": canary.rule, "ab": ab.rule, "thompson": thompson.rule}


def rule(stage: Stage, situation: Situation) -> Ruling:
    """What the stage's function says now; `weights` are those of the present step."""
    return RULES[stage.kind](stage, situation)
