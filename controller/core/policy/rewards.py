"""The part of a policy's schema that says what is measured: the reward, and the guardrails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from controller.core.policy.base import Object, given, written
from controller.core.policy.quantities import (
    Amount,
    Count,
    Number,
    PositiveDuration,
    Quantile,
    Share,
    Text,
)

MOST: Final = 1e100
"""The greatest value of a reward: sums of squares of greater ones are no numbers any more."""


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if not low < high:
        raise ValueError("two numbers [low, high] with low < high, such as [0, 1]")
    if low < -MOST or high > MOST:
        raise ValueError(f"two numbers from -{MOST:g} to {MOST:g}")
    return limits


Limits: TypeAlias = Annotated[
    tuple[Number, Number],
    AfterValidator(_ordered),
    Field(title="two numbers [low, high] with low < high, such as [0, 1]"),
]


class Reward(Object):
    """The event that says how good an answer was."""

    event: Text
    """The name of the reward event."""
    window: PositiveDuration = written("30s")
    """The attribution window: how long after an exposure a reward still counts for it."""
    range: Limits = written([0, 1])
    """The least and the greatest value; what lies outside is rejected and counted."""
    default: Annotated[Number, Field(title="a number inside the range")] = written(0)
    """The value of an exposure whose window closed without a reward."""
    aggregate: Literal["first", "last", "sum", "max", "mean"] = "first"
    """What becomes of several rewards for one exposure."""
    join: Literal["request_id", "unit"] = "request_id"
    """How a reward finds its exposure: by request id, or as the unit's last one in the window."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether more is better, or less."""
    grace: PositiveDuration = written("60s")
    """How long an event may come after its place in the log."""
    kind: Literal["auto", "binary", "continuous"] = "auto"
    """Whether a value is a yes or no (or a share of it), or an amount; auto: the former where the
    range is [0, 1]."""
    min_units: Count = 1
    """How many distinct units of a candidate must have been judged before it can be promoted."""
    contamination: Share = written("0%")
    """The share of units whose reward may be forged without leading to a wrong verdict. Above 0%
    rewards are judged only once their window has closed."""

    @property
    def is_binary(self) -> bool:
        """Whether values are yes or no, or a share of it."""
        return self.kind == "binary" or (self.kind == "auto" and self.range == (0, 1))

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        limits = values.get("range")
        low = limits[0] if isinstance(limits, list | tuple) and limits else 0
        begins_elsewhere = isinstance(low, int | float) and low != 0
        if values.get("kind") == "binary" and begins_elsewhere:
            yield "a range that begins at 0, such as [0, 1], with kind binary"

    @field_validator("default")
    @classmethod
    def _inside(cls, default: float, info: ValidationInfo) -> float:
        limits = info.data.get("range")  # absent when it is faulty itself
        if limits is not None and not limits[0] <= default <= limits[1]:
            raise ValueError("a number inside the range")
        return default

    @property
    def has_default_inside(self) -> bool:
        """Whether the range allows the default; so it is in every reward that was parsed."""
        low, high = self.range
        return low <= self.default <= high


class Guardrail(Object):
    """A metric with a bound that must not be crossed."""

    metric: Literal["error_rate", "latency", "reward"]
    """What is watched: failed answers, slow answers, or another reward event."""
    max_increase: Amount
    """The tolerated increase over the champion: relative for latency, else absolute; of a reward in
    its own unit."""
    quantile: Quantile | None = None
    """The quantile of latency that is compared; with metric latency only."""
    event: Text | None = None
    """The name of the reward event that is compared; with metric reward only."""
    window: PositiveDuration | None = None
    """The attribution window of these events, if not that of the reward; with metric reward
    only."""
    default: Number | None = None
    """The value of an exposure without such an event, if not that of the reward; with metric reward
    only."""
    range: Limits | None = None
    """The least and the greatest value of such an event, if not those of the reward; with metric
    reward only."""
    aggregate: Literal["first", "last", "sum", "max", "mean"] | None = None
    """What becomes of several such events for one exposure, if not as with the reward; with metric
    reward only."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        metric = values.get("metric")
        if (metric == "latency") != (given(values, "quantile") == 1):
            yield "a quantile with metric latency, and with no other"
        if (metric == "reward") != (given(values, "event") == 1):
            yield "an event with metric reward, and with no other"
        if metric != "reward" and given(values, "window", "default", "range", "aggregate"):
            yield "window, default, range and aggregate with metric reward only"

    @field_validator("max_increase")
    @classmethod
    def _share(cls, increase: float, info: ValidationInfo) -> float:
        if increase > 1 and info.data.get("metric", "reward") != "reward":
            raise ValueError("a share from 0% to 100%, such as 5% or 0.05, with this metric")
        return increase

    def as_reward(self, reward: Reward) -> Reward:
        """The reward event that is compared; what was left out is as with the model's `reward`."""
        own = {
            name: value
            for name in ("event", "window", "default", "range", "aggregate")
            if (value := getattr(self, name)) is not None
        }
        return reward.model_copy(update=own | {"kind": "auto", "direction": "minimize"})
