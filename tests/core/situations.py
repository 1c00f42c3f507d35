"""Situations made by hand: what a stage function is given, one field at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from controller.core.decide.situation import Situation
from controller.core.model import (
    ArmSummary,
    CandidateEvidence,
    GuardEvidence,
    Lift,
    Rollout,
    Signals,
)
from controller.core.policy import Stage

CERTAIN = 1e3
"""A log e-value that is complete evidence at every level anyone would ask for."""


def stage(**kind: dict[str, Any]) -> Stage:
    return Stage.model_validate(kind)


def arm(name: str, n: int, mean: float | None, errors: int = 0) -> ArmSummary:
    return ArmSummary(name, n, (mean or 0.0) * n, mean, None, errors, n)


def guard(metric: str, detail: str = "", **changes: Any) -> GuardEvidence:
    """A guardrail that is proven to be kept, but for the changes."""
    kept = GuardEvidence(
        metric=metric,
        detail=detail,
        log_worse=0.0,
        log_within=CERTAIN,
        champion=0.01,
        candidate=0.01,
        max_increase=0.01,
    )
    return replace(kept, **changes)


def evidence(
    name: str = "v2",
    *,
    log_errors: float = 0.0,
    log_shadow_errors: float = 0.0,
    guarded: bool = True,
    **changes: Any,
) -> CandidateEvidence:
    """Nothing is known of a candidate against v1, on 1 000 outcomes each, but for the changes."""
    nothing = CandidateEvidence(
        champion=arm("v1", 1_000, 0.3),
        candidate=arm(name, 1_000, 0.3),
        lift=Lift(0.0, -math.inf, math.inf),
        risk=0.0,
        log_harm=0.0,
        log_harm_fast=0.0,
        log_superior=0.0,
        log_noninferior=(0.0, 0.0),
        guards=(guard("error_rate", log_worse=log_errors),) if guarded else (),
        shadow=guard("error_rate", log_worse=log_shadow_errors),
        log_better=(),
        p_best=0.5,
        loss=0.05,
        capped=0.0,
        multiplicity=1,
    )
    return replace(nothing, **changes)


def situation(  # a case, one field at a time
    *others: CandidateEvidence,
    in_stage_s: float = 10_000.0,
    in_step_s: float = 10_000.0,
    step: int = 0,
    share: int = 500,
    sample_ratio: float = 0.0,
    rewards: int = 600,
    signals: dict[str, Any] | None = None,
    rollout: dict[str, Any] | None = None,
    case: dict[str, Any] | None = None,
    is_last: bool = True,
    settle_s: float = 90.0,
    **seen: Any,
) -> Situation:
    """A case at second 1 000 000, long enough in its stage and step for anything to be ripe.

    `seen` are changes of the evidence of v2; `others` run beside it, with the same share.
    """
    now = 1_000_000.0
    every = (evidence(**seen), *others)
    names = tuple(one.candidate.arm for one in every)
    base = Rollout(
        id="m-1",
        candidates=names,
        champion="v1",
        salt="m/1:",
        stage=0,
        step=step,
        started=now - in_stage_s,
        stage_started=now - in_stage_s,
        step_started=now - in_step_s,
        weights_updated=now - in_step_s,
    )
    changed = replace(base, **(rollout or {}))
    live = [one for one in every if one.candidate.arm in changed.live]
    p_best = [one.p_best for one in live]
    health = Signals(sample_ratio, 0.0, 0.0, rewards)
    found = Situation(
        now=now,
        rollout=changed,
        evidence=every,
        health=replace(health, **(signals or {})),
        weights={"v1": 10_000 - share * len(live), **dict.fromkeys(changed.live, share)},
        settle_s=settle_s,
        is_last=is_last,
        is_binary=False,
        has_fast_path=False,
        best=(1 - sum(p_best), *p_best),
    )
    return replace(found, **(case or {}))
