"""Conditions: every e-value that can move a rollout, with the threshold that it must reach.

The stages decide by these values and `explain` shows these values, so what people are told is what
was decided by. A condition is met when its e-value reaches 1 / alpha: by Ville's inequality the
chance that this *ever* happens while its null is true is at most alpha, however often one looks.

**Roll back.** Several ways lead to it. Each may spend a share of the stage's alpha, and the shares
of the ways that a policy uses sum to one: so the chance of *any* false rollback is at most alpha.

**Promote.** All conditions must be met, so each has the whole alpha; where K candidates were ever
in the rollout, a claim that picks one of them needs K / alpha. That nothing bad was found is no
condition: a guardrail passes when it is *proven* that its bound is kept.

**Lost events.** The e-values that compare arms by their propensity rest on it: if the exposures of
one arm are lost, those of the other alone seem to speak against it. The sample ratio sees the same
loss, and nothing else, so what it says is taken off: what counts is the evidence *beyond* that arms
were lost. Where none are lost that is next to nothing, for the e-value of a sound sample ratio
exceeds K with probability 1 / K at most; where they are, it grows faster than what a loss does to
any other. The fast path looks at units that came, and needs nothing taken off.

**Hold.** Signals about the data themselves: they say that evidence cannot be trusted, in either
direction, and move nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from controller.core.decide.situation import Situation
from controller.core.model import CandidateEvidence, GuardEvidence, Signals, quick
from controller.core.policy import Stage

SHARES: Final = {
    "errors": 0.3,
    "latency": 0.2,
    "reward_guardrail": 0.2,
    "reward_fast": 0.2,
    "reward_harm": 0.3,
}
"""What each way to roll back may spend of alpha, before those that are not used give theirs up."""

GUARD_CAUSES: Final[dict[str, str]] = {
    "error_rate": "errors",
    "latency": "latency",
    "reward": "reward_guardrail",
}

SHADOW_ALPHA: Final = 0.01
"""A shadow stage states no level of its own; this is the default of the other stages."""

SAMPLE_RATIO_ALPHA: Final = 1e-4
"""A sound experiment is held for its sample ratio once in ten thousand."""


@quick
@dataclass(frozen=True)
class Condition:
    """One e-value and what it would do.

    candidate  whom it is about
    cause      the constant word of the ruling that it leads to
    name       what is proven, for people
    log_e      natural logarithm of the e-value
    alpha      it is met when the e-value reaches 1 / alpha
    """

    candidate: str
    cause: str
    name: str
    log_e: float
    alpha: float
    then: Literal["roll_back", "promote", "hold"]
    guard: GuardEvidence | None = None

    @property
    def threshold(self) -> float:
        """Natural logarithm of 1 / alpha."""
        return -math.log(self.alpha)

    @property
    def is_met(self) -> bool:
        """Whether the evidence is complete."""
        return self.log_e >= self.threshold

    @property
    def progress(self) -> str:
        """The e-value against its threshold, for people."""
        return progress(self.log_e, self.alpha)


def progress(log_e: float, alpha: float) -> str:
    """An e-value against its threshold, for people."""
    return f"evidence {math.exp(min(log_e, 50.0)):.3g} of {1 / alpha:.3g}"


def harm_alpha(stage: Stage) -> float:
    """The chance that the stage may roll back a candidate that is not worse."""
    if stage.canary is not None:
        return stage.canary.false_rollback
    if stage.ab is not None:
        return stage.ab.alpha
    if stage.thompson is not None:
        return 1.0 - stage.thompson.promote_probability
    return SHADOW_ALPHA


def promotion_alpha(stage: Stage) -> float:
    """The chance that the stage may promote a candidate that should not be."""
    return stage.canary.false_promotion if stage.canary is not None else harm_alpha(stage)


def all_conditions(stage: Stage, situation: Situation) -> tuple[Condition, ...]:
    """Every condition of the stage, of every candidate that is still in."""
    if stage.shadow is not None:
        return tuple(c for seen in situation.live for c in shadow(seen))
    alpha = harm_alpha(stage)
    return tuple(
        condition
        for seen in situation.live
        for condition in (*harm(situation, seen, alpha), *promotion(stage, situation, seen))
    ) + tuple(sample_ratio(situation))


def harm(situation: Situation, seen: CandidateEvidence, alpha: float) -> tuple[Condition, ...]:
    """The ways in which this candidate may be rolled back, each with its share of alpha."""
    rows = _harms(situation, seen, alpha)
    return tuple(_harm(seen, *row) for row in rows)


def proven_harm(
    situation: Situation, seen: CandidateEvidence, alpha: float
) -> tuple[Condition, ...]:
    """Those of them that are met: in most ticks none."""
    rows = _harms(situation, seen, alpha)
    return tuple(_harm(seen, *row) for row in rows if row[1] >= row[0].threshold)


def _harm(
    seen: CandidateEvidence, way: _Way, log_e: float, guard: GuardEvidence | None
) -> Condition:
    arm, name = seen.candidate.arm, way.name
    if guard is not None:
        name = f"more than allowed: {named(guard)}"
    return Condition(arm, way.cause, name, log_e, way.alpha, "roll_back", guard)


def _harms(
    situation: Situation, seen: CandidateEvidence, alpha: float
) -> Iterator[tuple[_Way, float, GuardEvidence | None]]:
    """Each way, the log e-value for it, and the guardrail that it is about."""
    lost, is_fast = situation.health.log_lost, situation.has_fast_path
    ways = iter(_ways(alpha, tuple([guard.metric for guard in seen.guards]), is_fast=is_fast))
    yield next(ways), seen.log_harm - lost, None
    if is_fast:
        yield next(ways), seen.log_harm_fast, None
    for guard in seen.guards:
        yield next(ways), guard.log_worse - lost, guard


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to roll back: its cause, its name, its share of alpha, and what that asks for."""

    cause: str
    name: str
    alpha: float
    threshold: float


@lru_cache(maxsize=1024)
def _ways(alpha: float, metrics: tuple[str, ...], *, is_fast: bool) -> tuple[_Way, ...]:
    """The ways to roll back of a policy with guardrails of these metrics, in order."""
    ways = [("reward_harm", "worse reward, outcomes that are final")]
    if is_fast:
        ways.append(("reward_fast", "worse reward, as it comes in"))
    ways += [(GUARD_CAUSES[metric], "") for metric in metrics]
    rewards = sum(1 for cause, _ in ways if cause == "reward_guardrail")
    shares = [SHARES[c] / (rewards if c == "reward_guardrail" else 1) for c, _ in ways]
    parts = [alpha * share / sum(shares) for share in shares]
    return tuple(
        _Way(cause, name, part, -math.log(part))
        for (cause, name), part in zip(ways, parts, strict=True)
    )


def claim(stage: Stage, situation: Situation, seen: CandidateEvidence) -> Condition:
    """What is claimed of this candidate: the first that must be proven before it is promoted."""
    arm, best = seen.candidate.arm, promotion_alpha(stage) / seen.multiplicity
    lost = situation.health.log_lost
    if stage.canary is not None:
        log_e, name = seen.log_noninferior[situation.rollout.stage], "not worse by the margin"
        return Condition(arm, "not_worse", name, log_e - lost, best, "promote")
    return Condition(arm, "better", "better", seen.log_superior - lost, best, "promote")


def promotion(stage: Stage, situation: Situation, seen: CandidateEvidence) -> tuple[Condition, ...]:
    """What must be proven before this candidate is promoted."""
    alpha, lost = promotion_alpha(stage), situation.health.log_lost
    rivals = _rivals(situation, seen, alpha) if stage.thompson is not None else ()
    return (claim(stage, situation, seen), *rivals, *guards_within(seen, alpha, lost))


def _rivals(situation: Situation, seen: CandidateEvidence, alpha: float) -> tuple[Condition, ...]:
    """That this candidate is better than each of the others that are still in."""
    arm, live = seen.candidate.arm, situation.rollout.live
    if not situation.is_binary:
        return ()
    return tuple(
        Condition(
            arm,
            "rivals",
            f"better than {name}",
            log_e - situation.health.log_lost,
            alpha / seen.multiplicity,
            "promote",
        )
        for name, log_e in zip(situation.rollout.candidates, seen.log_better, strict=True)
        if name != arm and name in live
    )


def guards_within(seen: CandidateEvidence, alpha: float, lost: float) -> tuple[Condition, ...]:
    """That each guardrail's bound is kept."""
    return tuple(
        Condition(
            seen.candidate.arm,
            "guardrail_unproven",
            f"within the bound: {named(guard)}",
            guard.log_within - lost,
            alpha,
            "promote",
            guard,
        )
        for guard in seen.guards
    )


def shadow(seen: CandidateEvidence) -> tuple[Condition, ...]:
    """What rolls a candidate back before any user has seen it."""
    if seen.shadow is None:
        return ()
    name = f"more than allowed: {named(seen.shadow)}"
    log_e = seen.shadow.log_worse
    arm = seen.candidate.arm
    return (Condition(arm, "shadow_errors", name, log_e, SHADOW_ALPHA, "roll_back", seen.shadow),)


def sample_ratio(situation: Situation) -> tuple[Condition, ...]:
    """That arms did not get, or did not keep, what the splits gave them."""
    health, names = situation.health, ", ".join(situation.rollout.live)
    rows = (
        ("sample ratio of exposures", health.log_exposures),
        ("sample ratio of outcomes", health.log_outcomes),
        ("sample ratio of dropped events", health.log_dropped),
    )
    return tuple(
        Condition(names, "sample_ratio", name, log_e, SAMPLE_RATIO_ALPHA, "hold")
        for name, log_e in rows
    )


def is_ratio_sound(health: Signals) -> bool:
    """Whether none of them is met."""
    largest = max(health.log_exposures, health.log_outcomes, health.log_dropped)
    return largest < -math.log(SAMPLE_RATIO_ALPHA)


def named(guard: GuardEvidence) -> str:
    """A guardrail, for people: `errors`, `latency p99`, `refund`."""
    match guard.metric:
        case "error_rate":
            return "errors"
        case "latency":
            return f"latency {guard.detail}"
        case _:
            return guard.detail
