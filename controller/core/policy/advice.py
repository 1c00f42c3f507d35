"""What a policy asks for that cannot work, although each of its fields is fine.

An error would be wrong: the controller can run such a policy, it only will not come to the end
that its author has in mind. `understudy check` prints these as warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from controller.core.policy.manifest import Policy
from controller.core.policy.stages import Ab, Canary, Thompson

_ARMS: Final = 2  # the champion and one candidate: more of them queue


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that cannot work: the field, and why, in one sentence."""

    path: str
    sentence: str


def warnings(policy: Policy) -> tuple[Advice, ...]:
    """All advice on the policy, in the order of the document; empty when it can work."""
    return tuple(advice for check in _CHECKS for advice in check(policy))


def _unjoinable(policy: Policy) -> Iterator[Advice]:
    if policy.spec.reward.join == "unit" and policy.spec.route.unit is None:
        yield Advice(
            "spec.reward.join",
            "rewards are joined by unit, but spec.route.unit names none: no reward can be joined",
        )


def _stages(policy: Policy) -> Iterator[Advice]:
    for index, stage in enumerate(policy.spec.stages):
        path = f"spec.stages[{index}].{stage.kind}"
        if stage.canary is not None:
            yield from _canary(path, stage.canary, policy)
        if stage.ab is not None:
            yield from _ab(path, stage.ab, policy)
        if stage.thompson is not None:
            yield from _thompson(path, stage.thompson)


def _canary(path: str, canary: Canary, policy: Policy) -> Iterator[Advice]:
    if canary.steps[-1] >= 1:
        yield Advice(
            f"{path}.steps[{len(canary.steps) - 1}]",
            "at 100% no champion is left to compare with, so nothing can be proven at this step",
        )
    low, high = policy.spec.reward.range
    if canary.margin >= high - low:
        yield Advice(
            f"{path}.margin",
            f"a margin of {canary.margin:g} tolerates every loss: rewards differ by at most "
            f"{high - low:g}",
        )
    yield from _waits_too_long(f"{path}.max_duration", canary.max_duration, policy)
    needed = canary.min_duration * len(canary.steps)
    if needed > canary.max_duration:
        yield Advice(
            f"{path}.max_duration",
            f"{len(canary.steps)} steps of at least {canary.min_duration:g} s take {needed:g} s, "
            f"but the stage ends after {canary.max_duration:g} s",
        )


def _ab(path: str, ab: Ab, policy: Policy) -> Iterator[Advice]:
    yield from _waits_too_long(f"{path}.max_duration", ab.max_duration, policy)
    if ab.min_duration > ab.max_duration:
        yield Advice(
            f"{path}.max_duration",
            f"the stage ends after {ab.max_duration:g} s, before its least duration of "
            f"{ab.min_duration:g} s",
        )


def _waits_too_long(path: str, max_duration: float, policy: Policy) -> Iterator[Advice]:
    reward = policy.spec.reward
    if reward.window + reward.grace > max_duration:
        yield Advice(
            path,
            f"an outcome is final {reward.window + reward.grace:g} s after its exposure (window "
            f"and grace), but the stage ends after {max_duration:g} s, before the first one",
        )


def _thompson(path: str, thompson: Thompson) -> Iterator[Advice]:
    if thompson.floor * _ARMS >= 1:
        yield Advice(
            f"{path}.floor",
            f"a floor of {thompson.floor:g} for each of {_ARMS} arms leaves nothing to learn with",
        )


def _unproven(policy: Policy) -> Iterator[Advice]:
    if policy.spec.stages[-1].kind == "shadow":
        yield Advice(
            f"spec.stages[{len(policy.spec.stages) - 1}].shadow",
            "the last stage promotes, and no user sees what a shadow answers: the candidate would "
            "be promoted without one reward",
        )


_CHECKS: Final[tuple[Callable[[Policy], Iterator[Advice]], ...]] = (
    _unjoinable,
    _stages,
    _unproven,
)
