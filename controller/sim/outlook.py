"""The vocabulary of a plan, and the plan as plain values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Final, Literal, TypeAlias

from controller.core.model import Json
from controller.core.policy import Policy, digest

Hypothesis: TypeAlias = Literal["equal", "better", "worse"]
HYPOTHESES: Final[tuple[Hypothesis, ...]] = ("equal", "better", "worse")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the plan is told of the model's traffic.

    delay_s  mean of an exponential delay from exposure to reward
    errors   share of answers that fail
    effect   relative; None: the policy's `min_effect`, else its margin, else `USUAL_EFFECT`
    """

    rate: float
    base_rate: float
    delay_s: float
    errors: float = 0.005
    effect: float | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How the rollout of a hypothesis ends, if nothing comes by chance."""

    verdict: Literal["promoted", "rolled_back", "undecided"]
    cause: str
    seconds: float
    requests: float
    on_candidate: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One stage, or one step of a canary.

    dwell_s            that it lasts at least
    min_outcomes_s     until the policy's `min_outcomes` of the candidate are in
    bound, requests    for a harm of the effect at this share: the least that any test needs on
                       average that keeps the stage's promise; what the test on final outcomes
                       does, which has a part of the stage's alpha
    detectable         relative loss that is found within the stage's greatest duration at this
                       share: by half of the rollouts, by four of five; None: nothing is
    seconds            spent in it, by hypothesis; None where it is not reached
    waits              cause -> seconds, of an equal candidate
    """

    stage: int
    kind: str
    step: int
    share: float
    dwell_s: float
    min_outcomes_s: float | None
    bound: float
    requests: float
    detectable: tuple[float | None, float | None]
    seconds: dict[Hypothesis, float | None]
    waits: dict[str, float]


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """How long it takes to prove that a guardrail's bound is kept, by an equal candidate."""

    name: str
    max_increase: float
    requests: float
    seconds: float


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """The whole plan."""

    policy: Policy
    traffic: Traffic
    effect: float
    steps: tuple[StepPlan, ...]
    guards: tuple[GuardPlan, ...]
    endings: dict[Hypothesis, Ending]
    warnings: tuple[str, ...]


def document(found: RolloutPlan) -> dict[str, Json]:
    """The plan as plain values; what never comes is null."""
    traffic = found.traffic
    return {
        "model": found.policy.model,
        "policy_digest": digest(found.policy),
        "rate_per_s": traffic.rate,
        "base_rate": traffic.base_rate,
        "delay_s": traffic.delay_s,
        "errors": traffic.errors,
        "effect": found.effect,
        "hypotheses": {name: _plain(ending) for name, ending in found.endings.items()},
        "stages": [_stage(step) for step in found.steps],
        "guardrails": [_plain(guard) for guard in found.guards],
        "warnings": list(found.warnings),
    }


def _stage(step: StepPlan) -> dict[str, Json]:
    row = _plain(step)
    half, most = step.detectable
    row["detectable"] = {"half": half, "four_of_five": most}
    return row


def _plain(value: Ending | StepPlan | GuardPlan) -> dict[str, Json]:
    row: dict[str, Json] = asdict(value)
    return {key: None if each == math.inf else each for key, each in row.items()}
