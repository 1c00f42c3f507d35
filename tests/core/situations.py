"""Situations made by hand: what a stage function is given, one field at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from controller.core.decide.situation import Situation
from controller.core.model import (
    ArmSummary,
    CandidateEvidence,
    Health,
    Lift,
    Rollout,
)
from controller.core.policy import Stage

CERTAIN = 1e3
"""A log e-value that is complete evidence at every level anyone would ask for."""


def stage(**kind: dict[str, Any]) -> Stage:
    return Stage.model_validate(kind)


def arm(name: str, n: int, mean: float | None, errors: int = 0) -> ArmSummary:
    return ArmSummary(name, n, (mean or 0.0) * n, mean, None, errors, n)


def evidence(**changes: Any) -> CandidateEvidence:
    """Nothing is known of v2 against v1, on 1 000 outcomes each, but for the changes."""
    nothing = CandidateEvidence(
        champion=arm("v1", 1_000, 0.3),
        candidate=arm("v2", 1_000, 0.3),
        lift=Lift(0.0, -math.inf, math.inf),
        log_harm=0.0,
        log_superior=0.0,
        log_noninferior=(0.0, 0.0),
        log_errors=0.0,
        log_shadow_errors=0.0,
        p_best=0.5,
        loss=0.05,
    )
    return replace(nothing, **changes)


def situation(
    *,
    in_stage_s: float = 10_000.0,
    in_step_s: float = 10_000.0,
    step: int = 0,
    share: int = 500,
    is_last: bool = True,
    settle_s: float = 90.0,
    guarded: bool = True,
    sample_ratio: float = 0.0,
    rewards: int = 600,
    rollout: dict[str, Any] | None = None,
    **seen: Any,
) -> Situation:
    """A case at second 1 000 000, long enough in its stage and step for anything to be ripe."""
    now = 1_000_000.0
    base = Rollout(
        id="m-1",
        candidate="v2",
        champion="v1",
        salt="m/1:",
        stage=0,
        step=step,
        started=now - in_stage_s,
        stage_started=now - in_stage_s,
        step_started=now - in_step_s,
        weights_updated=now - in_step_s,
    )
    return Situation(
        now=now,
        rollout=replace(base, **(rollout or {})),
        evidence=evidence(**seen),
        health=Health(sample_ratio, rewards),
        share=share,
        settle_s=settle_s,
        is_last=is_last,
        has_error_guardrail=guarded,
    )
