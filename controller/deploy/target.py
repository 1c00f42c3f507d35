"""The two doors to a cluster: what is found there, and what is done to it.

An `Order` is one effect of a decision, with all that a target may need to know. A `Target` carries
it out and reads back what came of it; the same order again changes nothing. What a `Discovery`
finds is compared with what was known and becomes events of the log (`news`), so that a
decision that depended on the cluster can be derived again without one. Where an object carries the
split, `Standing` says what has become of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from controller.core.model import PointService, Scale, SetRole, Version
from controller.core.policy import Policy

Found: TypeAlias = Literal["known", "unknown", "gone"]
"""known: seen; unknown: the API server cannot be reached; gone: its Deployment was deleted."""


State: TypeAlias = Literal["in force", "waiting", "refused", "changed"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a wanted split stands.

    in force  the object says so and so does its controller
    waiting   nobody has said so yet
    refused   the controller says no
    changed   the object does not say what was written
    """

    state: State
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """One effect to carry out.

    versions  what is known of the model's arms, by name
    reason    the sentence of the decision that wants it
    """

    model: str
    policy: Policy
    effect: Scale | SetRole | PointService
    versions: Mapping[str, Version]
    champion: str
    reason: str


class Target(Protocol):
    """Whatever the models run on."""

    def carry_out(self, order: Order) -> None:
        """Act and read back. Idempotent, synchronous: it is called in a thread.

        Raises `Retryable`, `Conflict` (another writer owns the field) or `Permanent`.
        """
        ...


@dataclass(frozen=True, slots=True)
class FoundArm:
    """One arm as the cluster has it.

    ready      replicas that answer
    replicas   replicas that are wanted
    limit      how many it can have at most, where somebody says so
    endpoints  ready ones, as `ip:port`, sorted
    role       the label that an earlier `SetRole` gave it
    """

    version: str
    state: Found
    ready: int
    replicas: int
    limit: int | None = None
    endpoints: tuple[str, ...] = ()
    parent: str | None = None
    trained_at: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    uri: str | None = None
    role: str | None = None


class Discovery(Protocol):
    """Whatever knows the arms of a model."""

    @property
    def is_known(self) -> bool:
        """Whether the cluster has been looked at since the start."""
        ...

    def found(self, policy: Policy, versions: Mapping[str, Version]) -> Mapping[str, FoundArm]:
        """The arms of the policy's model by version; cheap, never waits for the cluster."""
        ...
