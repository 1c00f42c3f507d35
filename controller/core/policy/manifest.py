"""The schema of a policy: what a document of the kind `RolloutPolicy` may say.

The models are the only place where a field, its type, its default and its meaning are written
down: errors, JSON Schema and the reference page are made from them. Defaults are written as users
write them (`"5m"`) and validated like any value, so that they are shown that way, too.

Each object lists its rules between fields in `_broken_rules`; see `base` for why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from controller.core.policy.base import Object, given, written
from controller.core.policy.quantities import (
    Arm,
    CookieName,
    Count,
    Duration,
    Endpoint,
    HeaderName,
    Name,
    Number,
    OpenShare,
    Port,
    PositiveDuration,
    PositiveShare,
    Prefix,
    Quantile,
    Share,
    Text,
    WebAddress,
)

API_VERSION: Final = "understudy.dev/v1alpha1"
KIND: Final = "RolloutPolicy"


class Unit(Object):
    """What is randomised: the value of a header, or of a cookie."""

    header: HeaderName | None = None
    """The header that names the user, session or device."""
    cookie: CookieName | None = None
    """The cookie that names the user, session or device."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        if given(values, "header", "cookie") != 1:
            yield "exactly one of header and cookie"


class Route(Object):
    """Which requests belong to this model, and how they are treated."""

    prefix: Prefix
    """Requests whose path begins with this belong to the model."""
    unit: Unit | None = None
    """What is randomised; without it each request is its own unit."""
    timeout: PositiveDuration = written("15s")
    """How long a model server may take to answer."""


class Champion(Object):
    """The version that serves when nothing else is decided."""

    version: Arm
    """The name of the version that serves before the first promotion."""
    endpoints: tuple[Endpoint, ...] = ()
    """Where it answers. May be empty where a `version` event or the cluster says so."""


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if not low < high:
        raise ValueError("two numbers [low, high] with low < high, such as [0, 1]")
    return limits


def _ordered_or_none(limits: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if limits is None else _ordered(limits)


class Reward(Object):
    """The event that says how good an answer was."""

    event: Text
    """The name of the reward event."""
    window: PositiveDuration = written("30s")
    """The attribution window: how long after an exposure a reward still counts for it."""
    range: Annotated[
        tuple[Number, Number],
        AfterValidator(_ordered),
        Field(title="two numbers [low, high] with low < high, such as [0, 1]"),
    ] = written([0, 1])
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
    """Whether a value is a yes or no (or a share of yes), or an amount. `auto`: the former when the
    range is [0, 1]."""
    min_units: Count = 1
    """How many distinct units of a candidate must have been judged before it can be promoted."""
    contamination: Share = written("0%")
    """The share of rewards that may be forged without leading to a wrong verdict."""

    @property
    def is_binary(self) -> bool:
        """Whether values are yes or no, or a share of it."""
        return self.kind == "binary" or (self.kind == "auto" and self.range == (0, 1))

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        limits = values.get("range")
        low = limits[0] if isinstance(limits, list | tuple) and limits else 0
        if values.get("kind") == "binary" and low != 0:
            yield "a range that begins at 0, such as [0, 1], with kind binary"

    @field_validator("default")
    @classmethod
    def _inside(cls, default: float, info: ValidationInfo) -> float:
        limits = info.data.get("range")  # absent when it is faulty itself
        if limits is not None and not limits[0] <= default <= limits[1]:
            raise ValueError("a number inside the range")
        return default


class Guardrail(Object):
    """A metric with a bound that must not be crossed."""

    metric: Literal["error_rate", "latency", "reward"]
    """What is watched: failed answers, slow answers, or another reward event."""
    max_increase: Share
    """The tolerated increase over the champion; relative for latency, else absolute."""
    quantile: Quantile | None = None
    """The quantile of latency that is compared; with metric latency only."""
    event: Text | None = None
    """The name of the reward event that is compared; with metric reward only."""
    window: PositiveDuration | None = None
    """Its attribution window; without it that of the reward. With metric reward only."""
    default: Number | None = None
    """The value of an exposure without such an event; without it that of the reward. With metric
    reward only."""
    range: Annotated[
        tuple[Number, Number] | None,
        AfterValidator(_ordered_or_none),
        Field(title="two numbers [low, high] with low < high, such as [0, 1]"),
    ] = None
    """Its least and greatest value; without it those of the reward. With metric reward only."""
    aggregate: Literal["first", "last", "sum", "max", "mean"] | None = None
    """What becomes of several such events for one exposure; without it as for the reward. With
    metric reward only."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        metric = values.get("metric")
        if (metric == "latency") != (given(values, "quantile") == 1):
            yield "a quantile with metric latency, and with no other"
        if (metric == "reward") != (given(values, "event") == 1):
            yield "an event with metric reward, and with no other"
        if metric != "reward" and given(values, "window", "default", "range", "aggregate"):
            yield "window, default, range and aggregate with metric reward only"


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
        Field(min_length=1, title="a list of shares that rise, such as [1%, 5%, 25%, 50%]"),
        AfterValidator(_rising),
    ]
    """The candidate's share of the units, step by step."""
    min_duration: Duration = written("5m")
    """The least time that each step lasts."""
    min_outcomes: Count = 200
    """How many outcomes of the candidate each step needs."""
    margin: OpenShare = written("1%")
    """The absolute loss of reward that is tolerated (non-inferiority)."""
    false_rollback: OpenShare = written("1%")
    """The chance, over the whole stage, to roll back a candidate that is not worse."""
    false_promotion: OpenShare = written("1%")
    """The chance to promote a candidate that is worse by more than the margin."""
    budget: Share = written("0.5%")
    """The share of all reward that a step may put at risk: the next step is taken when its share
    times the greatest loss that the evidence leaves possible is at most this."""
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
    """How many segments have a split of their own, the largest first; the rest share the pooled."""


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


class Candidates(Object):
    """What to do when a version comes while a rollout is on."""

    on_new: Literal["queue", "replace", "join"] = "queue"
    """Wait for its turn, take the present candidate's place, or join it (ab and thompson)."""


class OfflineGate(Object):
    """A candidate's registered metric must reach this before it gets traffic."""

    metric: Text
    """The name of a metric that versions are registered with."""
    min: Number | None = None
    """The least value."""
    max_drop: Share | None = None
    """The greatest absolute drop below the champion's value."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        if not given(values, "min", "max_drop"):
            yield "at least one of min and max_drop"


class Freeze(Object):
    """A time in which nothing is promoted."""

    cron: Text
    """When it begins, as five cron fields."""
    duration: PositiveDuration
    """How long it lasts."""


class DataHealth(Object):
    """When the data are not to be trusted, and the rollout holds."""

    stale_after: PositiveDuration = written("10m")
    """How long no request may have been answered."""
    join_rate: Share = written("50%")
    """The share of outcomes with a reward must not fall below this part of what it was before."""


class Gates(Object):
    """What must be so before a candidate may go on."""

    offline: OfflineGate | None = None
    """The offline metric that a candidate must reach before it gets traffic."""
    approval: Literal["none", "before_promote", "every_stage"] = "none"
    """When somebody must approve."""
    freeze: tuple[Freeze, ...] = ()
    """Times in which nothing is promoted."""
    cooldown: Duration = written("10m")
    """The pause after a rollback; the same version is not tried again."""


class KubernetesTarget(Object):
    """Where the model runs in a cluster."""

    namespace: Name
    """The namespace of the model's deployments."""
    service: Name
    """The service of the champion."""
    port: Port
    """The port at which the model servers answer."""
    retain: Duration = written("1h")
    """How long a champion that was replaced stays up."""


class Deploy(Object):
    """What carries out a promotion."""

    kubernetes: KubernetesTarget | None = None
    """Promote by the Kubernetes API."""


class Notification(Object):
    """Who is told, and of what."""

    webhook: WebAddress
    """The address that is called."""
    on: tuple[Literal["promoted", "rolled_back", "holding"], ...] = ("promoted", "rolled_back")
    """The phases that are told."""


class Spec(Object):
    """What one model's rollouts look like."""

    route: Route
    """Which requests belong to this model."""
    champion: Champion
    """The version that serves at first."""
    reward: Reward
    """What says how good an answer was."""
    guardrails: tuple[Guardrail, ...] = ()
    """Metrics with bounds that a candidate must not cross."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, title="a list of at least one stage")]
    """The stages in order; the success of the last one promotes."""
    candidates: Candidates = written({})
    """How versions that come during a rollout are treated."""
    gates: Gates = written({})
    """Conditions apart from the evidence of the stages."""
    health: DataHealth = written({})
    """When the data are not to be trusted."""
    deploy: Deploy | None = None
    """What carries out a promotion; without it the router alone does."""
    notify: tuple[Notification, ...] = ()
    """Who is told of phases."""


class Metadata(Object):
    """The model's name; the rest is Kubernetes' own and changes no decision."""

    name: Name
    """The name of the model."""
    namespace: Name | None = None
    """The namespace of the manifest."""
    labels: dict[str, str] = Field(default={})
    """Labels of the manifest."""
    annotations: dict[str, str] = Field(default={})
    """Annotations of the manifest."""


class Policy(Object):
    """The policy of one model."""

    apiVersion: Literal["understudy.dev/v1alpha1"]  # noqa: N815 - Kubernetes' spelling
    """The version of this format."""
    kind: Literal["RolloutPolicy"]
    """The kind of document."""
    metadata: Metadata
    """The model's name."""
    spec: Spec
    """What its rollouts look like."""

    @property
    def model(self) -> str:
        """The model's name."""
        return self.metadata.name
