"""The schema of a policy: what a document of the kind `RolloutPolicy` may say.

The models are the only place where a field, its type, its default and its meaning are written
down: errors, JSON Schema and the reference page are made from them. Defaults are written as users
write them (`"5m"`) and validated like any value, so that they are shown that way, too.

Each object lists its rules between fields in `_broken_rules`; see `base` for why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from controller.core.policy.base import Object, broken, given, written
from controller.core.policy.deploy import Deploy, Pace, misfits
from controller.core.policy.quantities import (
    Arm,
    CookieName,
    Duration,
    Endpoint,
    HeaderName,
    Name,
    Namespace,
    Number,
    PositiveDuration,
    Prefix,
    Share,
    Text,
    WebAddress,
)
from controller.core.policy.rewards import Guardrail, Reward
from controller.core.policy.sources import Source
from controller.core.policy.stages import Stage

API_VERSION: Final = "understudy.dev/v1alpha1"
KIND: Final = "RolloutPolicy"
MOST_PARTITIONS: Final = 64


def _at_most(n: int, things: str) -> Any:
    """A bound of a list: what a cluster keeps and checks has one, and one file means one thing."""
    return Field(max_length=n, title=f"a list of at most {n} {things}")


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
    endpoints: Annotated[tuple[Endpoint, ...], _at_most(500, "endpoints")] = ()
    """Where it answers. May be empty where a `version` event or the cluster says so."""


class Candidates(Object):
    """What to do when a version comes while a rollout is on."""

    on_new: Literal["queue", "replace", "join"] = "queue"
    """Wait for its turn; take the place of the present candidates; or join them in an ab or
    thompson stage, and wait in any other."""


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
    """How long no request may have been answered before the rollout holds."""
    join_rate: Share = written("50%")
    """The rollout holds when the share of outcomes with a reward falls below this part of what it
    was before."""


class Gates(Object):
    """What must be so before a candidate may go on."""

    offline: OfflineGate | None = None
    """The offline metric that a candidate must reach before it gets traffic."""
    approval: Literal["none", "before_promote", "every_stage"] = "none"
    """When somebody must approve."""
    freeze: Annotated[tuple[Freeze, ...], _at_most(50, "times")] = ()
    """Times in which nothing is promoted."""
    cooldown: Duration = written("10m")
    """The pause after a rollback; the same version is not tried again."""


class Notification(Object):
    """Who is told, and of what."""

    webhook: WebAddress
    """The address that is called."""
    on: Annotated[
        tuple[Literal["promoted", "rolled_back", "holding"], ...], _at_most(3, "phases")
    ] = ("promoted", "rolled_back")
    """The phases that are told."""


class Spec(Object):
    """What one model's rollouts look like."""

    route: Route
    """Which requests belong to this model."""
    champion: Champion
    """The version that serves at first."""
    reward: Reward
    """What says how good an answer was."""
    guardrails: Annotated[tuple[Guardrail, ...], _at_most(50, "guardrails")] = ()
    """Metrics with bounds that a candidate must not cross."""
    stages: Annotated[
        tuple[Stage, ...],
        Field(min_length=1, max_length=20, title="a list of at least one stage, and at most 20"),
    ]
    """The stages in order; the success of the last one promotes."""
    candidates: Candidates = written({})
    """How versions that come during a rollout are treated."""
    gates: Gates = written({})
    """Conditions apart from the evidence of the stages."""
    health: DataHealth = written({})
    """When the data are not to be trusted."""
    sources: Annotated[tuple[Source, ...], _at_most(20, "sources")] = ()
    """Topics of yours from which events are read, beside those that are posted."""
    deploy: Deploy | None = None
    """Where the model's versions run; without it they are processes that somebody else runs."""
    notify: Annotated[tuple[Notification, ...], _at_most(20, "webhooks")] = ()
    """Who is told of phases."""
    partitions: Annotated[
        int,
        Field(
            strict=True,
            ge=1,
            le=MOST_PARTITIONS,
            title=f"a whole number from 1 to {MOST_PARTITIONS}",
        ),
    ] = 1
    """Over how many logs the model's events are split, each joined by one worker; 1: they stand in
    the model's own log, and the controller joins them itself."""

    @field_validator("guardrails")
    @classmethod
    def _consistent(
        cls, guardrails: tuple[Guardrail, ...], info: ValidationInfo
    ) -> tuple[Guardrail, ...]:
        reward = info.data.get("reward")  # absent when it is faulty itself
        seen: set[tuple[str, str | None]] = set()
        faults = []
        for index, guardrail in enumerate(guardrails):
            watched = (guardrail.metric, guardrail.event)
            if watched in seen:
                expected = "one guardrail for each metric, and for each reward event"
                faults.append(broken(expected, guardrail, index))
            seen.add(watched)
            if reward is not None and not guardrail.as_reward(reward).has_default_inside:
                expected = "a default inside the range, each its own or the reward's"
                faults.append(broken(expected, guardrail, index))
        if faults:
            raise ValidationError.from_exception_data("guardrails", faults)
        return guardrails

    @field_validator("candidates")
    @classmethod
    def _joinable(cls, candidates: Candidates, info: ValidationInfo) -> Candidates:
        stages = info.data.get("stages", ())  # absent when one is faulty itself
        if candidates.on_new == "join" and stages and not any(s.can_be_joined for s in stages):
            expected = "queue or replace, or an ab or thompson stage that can be joined"
            fault = broken(expected, candidates.on_new, "on_new")
            raise ValidationError.from_exception_data("candidates", [fault])
        return candidates

    @field_validator("deploy")
    @classmethod
    def _carried(cls, deploy: Deploy | None, info: ValidationInfo) -> Deploy | None:
        if deploy is None:
            return None
        found = list(misfits(deploy, info.data.get("stages", ())))
        candidates = info.data.get("candidates")
        if deploy.kserve is not None and candidates is not None and candidates.on_new == "join":
            expected = "kubernetes, or no `join` in spec.candidates: KServe splits between two"
            found.append(("kserve", expected))
        if found:
            faults = [broken(text, getattr(deploy, field), field) for field, text in found]
            raise ValidationError.from_exception_data("deploy", faults)
        return deploy

    @field_validator("partitions")
    @classmethod
    def _mergeable(cls, partitions: int, info: ValidationInfo) -> int:
        if partitions > 1 and (expected := _unmergeable(info.data)) is not None:
            fault = broken(f"1, or {expected}", partitions)
            raise ValidationError.from_exception_data("partitions", [fault])
        return partitions


def _unmergeable(spec: Mapping[str, Any]) -> str | None:
    """What a policy would have to say so that sums of partitions can be added up, if it does not.

    Fields that are faulty themselves are not there.
    """
    route, reward = spec.get("route"), spec.get("reward")
    if route is not None and route.unit is not None:
        return (
            "no spec.route.unit: a unit is judged once, by one who sees all its requests, and a "
            "partition sees some"
        )
    if reward is not None and reward.join == "unit":
        return "request_id in spec.reward.join: an event is where its request id says"
    return None


class Metadata(Object):
    """The model's name; the rest is Kubernetes' own and changes no decision."""

    name: Name
    """The name of the model."""
    namespace: Namespace | None = None
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

    @property
    def namespace(self) -> str:
        """The namespace of the model's arms: that of `deploy`, or the policy's own."""
        own = self.spec.deploy.namespace if self.spec.deploy is not None else None
        return own or self.metadata.namespace or "default"

    @property
    def pace(self) -> Pace:
        """The times of `deploy`; the defaults where there is none, as in a replay."""
        return self.spec.deploy.pace if self.spec.deploy is not None else Pace()

    @cached_property
    def identity(self) -> int:
        """What the policy hashes to: its fields hold mappings, which do not hash by themselves."""
        return hash(self.model_dump_json())

    def __hash__(self) -> int:
        return self.identity

    @cached_property
    def reward_guardrails(self) -> tuple[Guardrail, ...]:
        """The guardrails that watch a reward event of their own, in order."""
        return tuple(guard for guard in self.spec.guardrails if guard.metric == "reward")

    @cached_property
    def side_rewards(self) -> tuple[Reward, ...]:
        """The reward that each of `reward_guardrails` watches."""
        return tuple(guard.as_reward(self.spec.reward) for guard in self.reward_guardrails)

    @cached_property
    def all_rewards(self) -> tuple[Reward, ...]:
        """The model's reward, then those of guardrails: one joiner each."""
        return (self.spec.reward, *self.side_rewards)
