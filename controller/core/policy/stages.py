"""The part of a policy's schema that says how a candidate gets its traffic: the stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from controller.core.policy.base import Object, given, written
from controller.core.policy.quantities import (
    Count,
    Duration,
    HeaderName,
    OpenShare,
    PositiveAmount,
    PositiveDuration,
    PositiveShare,
    Share,
)


class Shadow(Object):
    """Copies requests to the candidate; no user sees its answers."""

    duration: PositiveDuration = written("5m")
    """How long requests are copied."""
    percent: PositiveShare = written("10%")
    """The share of requests that is copied."""


def _rising(steps: tuple[float, ...]) -> tuple[float, ...]:
    if any(after <= before for before, after in pairwise(steps)):
        raise ValueError("steps that rise, such as [1%, 5%, 25%, 50%]")
    return steps


class Canary(Object):
    """Raises the candidate's share step by step, as long as it does no harm."""

    steps: Annotated[
        tuple[PositiveShare, ...],
        Field(
            min_length=1,
            max_length=100,
            title="a list of shares that rise, such as [1%, 5%, 25%, 50%]",
        ),
        AfterValidator(_rising),
    ]
    """The candidate's share of the units, step by step."""
    min_duration: Duration = written("5m")
    """The least time that each step lasts."""
    min_outcomes: Count = 200
    """How many outcomes of the candidate each step needs."""
    margin: PositiveAmount = written("1%")
    """The loss of reward that is tolerated, in the reward's own unit (non-inferiority)."""
    false_rollback: OpenShare = written("1%")
    """The chance, over the whole stage, to roll back a candidate that is not worse."""
    false_promotion: OpenShare = written("1%")
    """The chance to promote a candidate that is worse by more than the margin."""
    budget: Share = written("0.5%")
    """The part of all reward that a step may put at risk: it is taken once its share times the
    greatest relative loss that the evidence leaves possible is at most this."""
    max_duration: PositiveDuration = written("1d")
    """When the stage ends without enough evidence."""
    on_expiry: Literal["hold", "promote", "roll_back"] = "hold"
    """What happens then."""


class Ab(Object):
    """Splits a fixed share evenly among the candidates until the evidence is complete."""

    share: PositiveShare = written("50%")
    """The share of the units that the candidates get together."""
    alpha: OpenShare = written("5%")
    """The chance to promote a candidate that is not better."""
    min_effect: OpenShare = written("1%")
    """The smallest effect worth detecting."""
    min_duration: Duration = written("7d")
    """The least time that the test lasts: whole weeks where traffic is weekly."""
    max_duration: PositiveDuration = written("28d")
    """When the test ends without enough evidence."""


class Segments(Object):
    """Requests that are steered apart from each other: one split per value of a header."""

    header: HeaderName
    """The header whose value names the segment."""
    max: Count = 20
    """How many segments get a split of their own, those with most traffic first; all other requests
    get the pooled one."""


class Thompson(Object):
    """Gives each arm the share that equals its probability to be the best."""

    floor: Share = written("1%")
    """The share that every arm keeps, so that a late improvement can be seen."""
    update_every: PositiveDuration = written("30s")
    """How often the weights are renewed."""
    half_life: PositiveDuration = written("1d")
    """After this time an outcome counts half."""
    promote_probability: OpenShare = written("99%")
    """The probability to be the best that a candidate needs."""
    max_loss: Share = written("0.1%")
    """The expected relative loss of promoting that is tolerated."""
    min_outcomes: Count = 500
    """How many outcomes of the candidate are needed before it can be promoted."""
    segments: Segments | None = None
    """Learn and steer per segment; without it all requests are alike."""


class Stage(Object):
    """One step of a policy: exactly one of the four kinds."""

    shadow: Shadow | None = None
    """Copy requests to the candidate; no user sees its answers."""
    canary: Canary | None = None
    """Raise the candidate's share step by step."""
    ab: Ab | None = None
    """Compare at a fixed share."""
    thompson: Thompson | None = None
    """Let the share follow the evidence."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        if given(values, "shadow", "canary", "ab", "thompson") != 1:
            yield "exactly one of shadow, canary, ab and thompson, with its settings or {}"

    @property
    def kind(self) -> Literal["shadow", "canary", "ab", "thompson"]:
        """The name of the stage's kind."""
        if self.shadow is not None:
            return "shadow"
        if self.canary is not None:
            return "canary"
        return "ab" if self.ab is not None else "thompson"

    @property
    def can_be_joined(self) -> bool:
        """Whether more candidates may join while it is on."""
        return self.ab is not None or self.thompson is not None
