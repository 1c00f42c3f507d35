"""The vocabulary: the values that pass between the rooms of the house.

Two kinds of value live here. Small ones (a split, a decision, an effect) are frozen dataclasses.
Large ones (exposures, rewards, outcomes) are *columns*: one NumPy array per field, all of one
length, in log order. Text that serves as a key (request id, unit, reward id) is carried as its
xxh64, 0 for "absent"; the text itself stays in the event log, found again by its offset.

An *offset* is the number of an event in the log of its model, counted from 0.
Times are epoch seconds (float64), shares are basis points (int, 10 000 is everything).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

BASIS = 10_000
"""Basis points in a whole."""

NO_EPOCH = -1
"""The epoch of an exposure that does not say which split it was routed with."""

Int: TypeAlias = NDArray[np.int64]
Key: TypeAlias = NDArray[np.uint64]
Float: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]
if TYPE_CHECKING:
    Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
else:
    Json = Any  # msgspec, which decodes snapshots by these annotations, has no recursive types


class Role(StrEnum):
    """What an arm is to the rollout."""

    CHAMPION = "champion"
    CANDIDATE = "candidate"


class Phase(StrEnum):
    """Where a rollout is. The transitions stand in `core.decide.phases`."""

    IDLE = "idle"
    SHADOWING = "shadowing"
    RAMPING = "ramping"
    TESTING = "testing"
    EXPLORING = "exploring"
    HOLDING = "holding"
    PROMOTING = "promoting"
    PROMOTED = "promoted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    PAUSED = "paused"


class Verdict(StrEnum):
    """What a decision says."""

    ADVANCE = "advance"
    HOLD = "hold"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class Operation(StrEnum):
    """What an operator may ask for."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    UNDO = "undo"


class Reason(StrEnum):
    """Why an event could not be used: the words under which events are counted."""

    DUPLICATE = "duplicate"
    LATE = "late"
    ORPHAN = "orphan"
    OUT_OF_RANGE = "out_of_range"
    MALFORMED = "malformed"
    UNKNOWN_NAME = "unknown_name"


# --- events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
class SplitEvent:
    """A split is in force at the routers."""

    offset: int
    time: float
    epoch: int
    weights: dict[str, int]


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
    """The wall clock, as an event. The only thing that moves time forward."""

    offset: int
    time: float


ControlEvent: TypeAlias = SplitEvent | VersionEvent | CommandEvent | Tick


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Consecutive events of one model's log, as columns.

    `start` is the offset of the first event and `start + count` that of the first event after
    the batch. `names` is the dictionary of the columns `arm` and `name`. `shadows` are answers of
    mirrored requests, which no user saw. `control` stands in log order. `rejected` are events that
    could not even be decoded.
    """

    start: int
    count: int
    names: tuple[str, ...]
    exposures: Exposures
    rewards: Rewards
    shadows: Exposures
    control: tuple[ControlEvent, ...]
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """One event that could not be used."""

    offset: int
    reason: Reason
    detail: str = ""


# --- split ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Split:
    """Who gets what: arm -> weight in basis points, summing to BASIS.

    `anchors` places each candidate on the circle of units (see `core.split`), in the order in
    which candidates joined; the champion fills what they leave. `mirror` is the share in basis
    points of requests that are copied to an arm whose answers no user sees.
    """

    epoch: int
    champion: str
    weights: dict[str, int]
    salt: str
    anchors: tuple[str, ...] = ()
    mirror: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """What is known of one version of the model."""

    name: str
    endpoints: tuple[str, ...] = ()
    parent: str | None = None
    trained_at: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


# --- join -> estimate -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Exposures that were closed, in exposure order; all arrays (n,).

    time      float64, of the exposure
    arm       int64, index into the state's arms
    stratum   int64, index into the state's strata: the split it was routed with; -1 unknown
    value     float64, the aggregated reward, or the default
    joined    bool, whether a reward was joined
    analysed  bool, whether it enters the inference: each exposure of a rollout without units, else
              the first exposure of each unit in the rollout
    analysed_value  float64, the value that enters: `value`, or the unit's aggregated reward within
              the window after its first exposure
    """

    time: Float
    arm: Int
    stratum: Int
    value: Float
    joined: Bool
    analysed: Bool
    analysed_value: Float


@dataclass(frozen=True, slots=True)
class Cell:
    """Counts of one micro-batch at one conditional propensity: what the e-processes feed on.

    pi      probability of the candidate given that it was the champion or that candidate
    n0, s0  champion: number of trials, sum of values in [0, 1]
    n1, s1  candidate: the same
    """

    pi: float
    n0: float
    s0: float
    n1: float
    s1: float


# --- estimate -> decide -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """What was seen of one arm in the rollout."""

    arm: str
    n: int
    total: float
    mean: float | None
    interval: tuple[float, float] | None
    errors: int
    answers: int


@dataclass(frozen=True, slots=True)
class Lift:
    """Relative lift of a candidate over the champion: (mean1 / mean0) - 1.

    `estimate` is None when too little was seen; the interval is a confidence sequence, valid at
    all times at once, and may be unbounded above.
    """

    estimate: float | None
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class CandidateEvidence:
    """What the estimators say of one candidate against the champion.

    All `log_*` are natural logarithms of e-values; evidence against the named null is complete at
    `log(1 / alpha)`.

    log_harm         null: the candidate is not worse
    log_superior     null: the candidate is not better
    log_noninferior  per stage of the policy: null: it is worse by at least that stage's margin
                     (stages without a margin carry 0)
    log_errors       null: its error rate exceeds the champion's by no more than `max_increase`
    p_best, loss     posterior probability to be best; expected loss of promoting, relative; NaN
                     where the policy has no bandit
    """

    champion: ArmSummary
    candidate: ArmSummary
    lift: Lift
    log_harm: float
    log_superior: float
    log_noninferior: tuple[float, ...]
    log_errors: float
    log_shadow_errors: float
    p_best: float
    loss: float


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the data can be trusted: signals hold a rollout, they never roll back.

    log_sample_ratio  log e-value against "arms got the traffic that the splits say"
    rewards           closed exposures of the rollout to which a reward was joined
    """

    log_sample_ratio: float
    rewards: int


# --- decide -> shell --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rollout:
    """One candidate's way through the stages.

    stage, step     indices from 0 into the policy's stages and into a canary's steps
    started, stage_started, step_started   event times
    stage_outcomes, step_outcomes  analysed units of the candidate when the stage, the step began
    resume_phase    the phase to return to after `paused`
    """

    id: str
    candidate: str
    champion: str
    salt: str
    stage: int
    step: int
    started: float
    stage_started: float
    step_started: float
    stage_outcomes: int = 0
    step_outcomes: int = 0
    shadow_answers: int = 0
    weights_updated: float = 0.0
    resume_phase: Phase | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a stage function answers: a verdict, the weight it wants, and why.

    cause    a short constant word: decisions are recorded when it changes
    reason   one sentence with the numbers, for people
    weights  the split wanted from now on; None leaves it as it is
    """

    verdict: Verdict
    cause: str
    reason: str
    weights: dict[str, int] | None = None
    mirror: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict that is written down: enough to explain it and to derive it again.

    number counts the decisions of a model from 1; offset is that of the tick that made it.
    stage is empty and step 0 when no rollout is on; step is the index of a canary's step, from 0.
    """

    number: int
    time: float
    offset: int
    model: str
    rollout: str
    candidate: str
    stage: str
    step: int
    phase: Phase
    verdict: Verdict
    cause: str
    reason: str
    epoch: int
    weights: dict[str, int]
    evidence: dict[str, Json]
    evidence_digest: str
    policy_digest: str
    seed: int


@dataclass(frozen=True, slots=True)
class SetSplit:
    """Give the routers this split; done when every connected router has accepted it.

    decision  the number of the decision that wants it
    """

    decision: int
    split: Split


@dataclass(frozen=True, slots=True)
class KeepRejected:
    """Keep these events in the dead-letter table."""

    rejected: tuple[Rejected, ...]


Effect: TypeAlias = SetSplit | KeepRejected


def weights_sentence(weights: Mapping[str, int]) -> str:
    """A split for people: `v1 95 %, v2 5 %`."""
    return ", ".join(f"{arm} {weight / 100:g} %" for arm, weight in weights.items())


# --- what people see --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArmReport:
    """One arm, for people: totals over the life of the log, mean and interval of the rollout.

    units, mean, interval  of what is analysed (see `Outcomes.analysed`) in the present rollout, or
                           of all outcomes when no rollout is on
    """

    arm: str
    role: Role
    weight: int
    weight_in_force: int
    exposures: int
    outcomes: int
    pending: int
    rewards: int
    errors: int
    units: int
    mean: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Report:
    """Where a model stands, for people: contract 4.4, `/v1/models/{model}/arms`."""

    model: str
    time: float
    phase: Phase
    stage: str
    step: int
    epoch: int
    epoch_in_force: int
    verdict: Verdict
    cause: str
    reason: str
    champion: str
    candidate: str | None
    queue: tuple[str, ...]
    arms: tuple[ArmReport, ...]
    lift: dict[str, Lift]
    health: dict[str, Json]
    rejected: dict[str, int]
