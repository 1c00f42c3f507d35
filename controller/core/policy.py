"""The policy of a model: its schema, and how a document becomes one. No file access.

A document is at the same time a Kubernetes manifest of the kind `RolloutPolicy`. Unknown fields
are errors. Durations become seconds (float), shares become fractions (float) as they are parsed.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

API_VERSION = "understudy.dev/v1alpha1"
KIND = "RolloutPolicy"

_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SHARE = re.compile(r"\d+(?:\.\d+)?%")


def _duration_s(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _UNITS_S[match[2]]
    raise ValueError("a duration with its unit, such as 30s, 10m, 36h or 7d")


def _share(value: object) -> object:
    if isinstance(value, str) and _SHARE.fullmatch(value.strip()):
        return float(value.strip()[:-1]) / 100
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ValueError("a share such as 5% or 0.05")


Duration: TypeAlias = Annotated[float, BeforeValidator(_duration_s), Field(ge=0)]
PositiveDuration: TypeAlias = Annotated[float, BeforeValidator(_duration_s), Field(gt=0)]
Share: TypeAlias = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]
OpenShare: TypeAlias = Annotated[float, BeforeValidator(_share), Field(gt=0, lt=1)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
Arm: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=63)]
Endpoint: TypeAlias = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Unit(_Model):
    """What is randomised: the value of a header, or of a cookie."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None
    cookie: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Unit:
        if (self.header is None) == (self.cookie is None):
            raise ValueError("exactly one of header and cookie")
        return self


class Route(_Model):
    """Which requests belong to this model, and how they are treated."""

    prefix: Annotated[str, Field(pattern=r"^/")]
    unit: Unit | None = None
    timeout: PositiveDuration = 15.0


class Champion(_Model):
    """The version that serves when nothing else is decided."""

    version: Arm
    endpoints: tuple[Endpoint, ...] = ()


class Reward(_Model):
    """The event that says how good an answer was."""

    event: Annotated[str, Field(min_length=1)]
    window: PositiveDuration = 30.0
    default: float = 0.0
    range: tuple[float, float] = (0.0, 1.0)
    aggregate: Literal["first", "last", "sum", "max", "mean"] = "first"
    join: Literal["request_id", "unit"] = "request_id"
    direction: Literal["maximize", "minimize"] = "maximize"
    grace: PositiveDuration = 60.0
    """How long an event may come after its place in the log."""

    @model_validator(mode="after")
    def _ordered(self) -> Reward:
        low, high = self.range
        if not low < high:
            raise ValueError("a range [low, high] with low < high")
        if not low <= self.default <= high:
            raise ValueError("a default inside the range")
        return self


class Guardrail(_Model):
    """A metric with a bound that must not be crossed."""

    metric: Literal["error_rate", "latency", "reward"]
    max_increase: Share
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    event: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Guardrail:
        if (self.metric == "latency") != (self.quantile is not None):
            raise ValueError("a quantile with metric latency, and with no other")
        if (self.metric == "reward") != (self.event is not None):
            raise ValueError("an event with metric reward, and with no other")
        return self


class Shadow(_Model):
    """Copies requests to the candidate; no user sees its answers."""

    duration: PositiveDuration = 300.0
    percent: OpenShare | Annotated[Share, Field(gt=0)] = 0.1


class Canary(_Model):
    """Raises the candidate's share step by step, as long as it does no harm."""

    steps: Annotated[tuple[Annotated[Share, Field(gt=0)], ...], Field(min_length=1)]
    min_duration: Duration = 300.0
    min_outcomes: Annotated[int, Field(ge=1)] = 200
    margin: OpenShare = 0.01
    false_rollback: OpenShare = 0.01
    false_promotion: OpenShare = 0.01
    max_duration: PositiveDuration = 86_400.0
    on_expiry: Literal["hold", "promote", "roll_back"] = "hold"

    @model_validator(mode="after")
    def _rising(self) -> Canary:
        if any(b <= a for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("steps that rise")
        return self


class Ab(_Model):
    """Splits a fixed share evenly among the candidates until the evidence is complete."""

    share: Annotated[Share, Field(gt=0)] = 0.5
    alpha: OpenShare = 0.05
    min_effect: OpenShare = 0.01
    min_duration: Duration = 604_800.0
    max_duration: PositiveDuration = 2_419_200.0


class Thompson(_Model):
    """Gives each arm the share that equals its probability to be the best."""

    floor: Share = 0.01
    update_every: PositiveDuration = 30.0
    half_life: PositiveDuration = 86_400.0
    promote_probability: OpenShare = 0.99
    max_loss: Share = 0.001
    min_outcomes: Annotated[int, Field(ge=1)] = 500


class Stage(_Model):
    """One step of a policy: exactly one of the four kinds."""

    shadow: Shadow | None = None
    canary: Canary | None = None
    ab: Ab | None = None
    thompson: Thompson | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Stage:
        if sum(s is not None for s in (self.shadow, self.canary, self.ab, self.thompson)) != 1:
            raise ValueError("exactly one of shadow, canary, ab and thompson")
        return self

    @property
    def kind(self) -> Literal["shadow", "canary", "ab", "thompson"]:
        """The name of the stage's kind."""
        if self.shadow is not None:
            return "shadow"
        if self.canary is not None:
            return "canary"
        return "ab" if self.ab is not None else "thompson"


class Candidates(_Model):
    """What to do when a version comes while a rollout is on."""

    on_new: Literal["queue", "replace", "join"] = "queue"


class OfflineGate(_Model):
    """A candidate's registered metric must reach this before it gets traffic."""

    metric: Annotated[str, Field(min_length=1)]
    min: float | None = None
    max_drop: Share | None = None


class Freeze(_Model):
    """A time in which nothing is promoted."""

    cron: str
    duration: PositiveDuration


class Gates(_Model):
    """What must be so before a candidate may go on."""

    offline: OfflineGate | None = None
    approval: Literal["none", "before_promote", "every_stage"] = "none"
    freeze: tuple[Freeze, ...] = ()
    cooldown: Duration = 600.0


class KubernetesTarget(_Model):
    """Where the model runs in a cluster."""

    namespace: str
    service: str
    port: Annotated[int, Field(ge=1, le=65535)]
    retain: Duration = 3_600.0


class Deploy(_Model):
    """What carries out a promotion."""

    kubernetes: KubernetesTarget | None = None


class Notification(_Model):
    """Who is told, and of what."""

    webhook: Annotated[str, Field(pattern=r"^https?://")]
    on: tuple[Literal["promoted", "rolled_back", "holding"], ...] = ("promoted", "rolled_back")


class Spec(_Model):
    """What one model's rollouts look like."""

    route: Route
    champion: Champion
    reward: Reward
    guardrails: tuple[Guardrail, ...] = ()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    candidates: Candidates = Candidates()
    gates: Gates = Gates()
    deploy: Deploy | None = None
    notify: tuple[Notification, ...] = ()


class Metadata(_Model):
    """The model's name; labels and annotations are Kubernetes' own."""

    name: Name
    namespace: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Policy(_Model):
    """The policy of one model."""

    apiVersion: Literal["understudy.dev/v1alpha1"]  # noqa: N815 - Kubernetes' spelling
    kind: Literal["RolloutPolicy"]
    metadata: Metadata
    spec: Spec

    @property
    def model(self) -> str:
        """The model's name."""
        return self.metadata.name


def parse(text: str, source: str) -> Policy:
    """The policy that a YAML document describes; `source` names it in errors.

    Raises:
        PolicyError: with every fault found, each with its line.
    """
    raise NotImplementedError(text, source)
