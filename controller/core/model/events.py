"""What the log tells: events, one by one or as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from controller.core.model.tallies import Tallies, TalliesEvent
from controller.core.model.values import quick
from controller.core.model.words import Float, Int, Key, Operation, Presence, Reason, Role


@quick
@dataclass(frozen=True)
class Exposures:
    """Requests that were answered by an arm; all arrays (n,), in log order.

    offset      int64
    time        float64, epoch seconds at which the request came
    request     uint64, xxh64 of the request id
    unit        uint64, xxh64 of the unit, 0 when the request is its own unit
    arm         int64, index into the batch's `names`
    epoch       int64, NO_EPOCH when not given
    propensity  float64 in (0, 1], NaN when not given
    status      int64, HTTP status; 0 when the user got no answer
    latency_ms  float64, NaN when not given
    segment     int64, index into the batch's `names`; -1 when not given
    """

    offset: Int
    time: Float
    request: Key
    unit: Key
    arm: Int
    epoch: Int
    propensity: Float
    status: Int
    latency_ms: Float
    segment: Int


@quick
@dataclass(frozen=True)
class Rewards:
    """Values that users gave; all arrays (n,), in log order.

    offset   int64
    time     float64, epoch seconds at which the user acted
    id       uint64, xxh64 of the reward's id (of its content where it has none)
    request  uint64, xxh64 of the request id, 0 when the reward names a unit only
    unit     uint64, xxh64 of the unit, 0 when the reward names a request only
    name     int64, index into the batch's `names`
    value    float64, finite
    """

    offset: Int
    time: Float
    id: Key
    request: Key
    unit: Key
    name: Int
    value: Float


@dataclass(frozen=True, slots=True)
class Covariates:
    """What was known of units before they entered a rollout; all arrays (n,), in log order.

    offset  int64
    unit    uint64, xxh64 of the unit
    value   float64, finite
    """

    offset: Int
    unit: Key
    value: Float


@dataclass(frozen=True, slots=True)
class SplitEvent:
    """A split is in force at the routers; `segments` as in `Split`."""

    offset: int
    time: float
    epoch: int
    weights: dict[str, int]
    segments: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionEvent:
    """A version of the model exists and may receive traffic in `role`."""

    offset: int
    time: float
    version: str
    role: Role
    parent: str | None = None
    endpoints: tuple[str, ...] = ()
    trained_at: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    covariates: dict[str, float] = field(default_factory=dict)
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class CapacityEvent:
    """How much of an arm runs in the cluster, from now on.

    ready     replicas that answer
    replicas  replicas that are wanted
    limit     the most that whoever scales the arm allows; None: no such bound
    """

    offset: int
    time: float
    arm: str
    state: Presence
    ready: int = 0
    replicas: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class CommandEvent:
    """An operator asks for something."""

    offset: int
    time: float
    command: Operation
    by: str = ""
    reason: str = ""
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """The wall clock, as an event. The only thing that moves time forward.

    policy      in a partition's log: digest of the policy that the partition is joined under
    partitions  in a model's log: from now on events are split over so many logs; 0: as before
    arms        in a partition's log: those to which routers may have sent requests
    epoch       in a partition's log: the last split that exposures may name; 0: it does not say
    segments    in a partition's log: header values that are segments
    increase    in a partition's log: the increase of latency that the rollout tolerates, whatever
                the policy says by now; None: as the policy says
    """

    offset: int
    time: float
    policy: str = ""
    partitions: int = 0
    arms: tuple[str, ...] = ()
    epoch: int = 0
    segments: tuple[str, ...] = ()
    increase: float | None = None


ControlEvent: TypeAlias = (
    SplitEvent | VersionEvent | CapacityEvent | CommandEvent | TalliesEvent | Tick
)


@quick
@dataclass(frozen=True)
class EventBatch:
    """Consecutive events of one model's log, as columns.

    `start` is the offset of the first event and `start + count` that of the first event after
    the batch. `names` is the dictionary of the columns `arm` and `name`. `shadows` are answers of
    mirrored requests, which no user saw. `control` stands in log order. `rejected` are events that
    could not even be decoded. `covariates` and `tallies` are None where there are none.
    """

    start: int
    count: int
    names: tuple[str, ...]
    exposures: Exposures
    rewards: Rewards
    shadows: Exposures
    control: tuple[ControlEvent, ...]
    rejected: tuple[Rejected, ...] = ()
    covariates: Covariates | None = None
    tallies: Tallies | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """One event that could not be used."""

    offset: int
    reason: Reason
    detail: str = ""
