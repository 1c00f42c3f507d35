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
from xxhash import xxh64_intdigest

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


def key(text: str) -> int:
    """The uint64 under which columns carry a text: its xxh64 (seed 0), 0 for no text."""
    return (xxh64_intdigest(text.encode()) or 1) if text else 0


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
class Tallies:
    """What somebody else's joiner counted: sums over exposures that share their columns.

    A partition's worker, or a simulation, joins events itself and sends these instead of the
    events; they are the same sums that this model's own joiner makes of a micro-batch. All arrays
    (n,), in any order.

    offset    int64
    time      float64, epoch seconds of the exposures (their middle)
    epoch     int64, the split that they were routed with
    segment   int64, index into the batch's `names`; -1: none
    arm       int64, index into the batch's `names`
    exposures, errors              answered requests; failed ones
    entered, entered_errors        of these, those with which a unit enters the analysis
    matured                        analysed units whose exposure the watermark has reached
    events, delay                  of these, units whose first reward above the default came now;
                                   seconds from the exposures to these rewards, on average
    outcomes, joined, value        closed exposures; those with a reward; sum of their values
    analysed, analysed_value       of these, those that are analysed; sum of their values
    lapsed                         analysed units that closed without an event
    All counts are float64.
    """

    offset: Int
    time: Float
    epoch: Int
    segment: Int
    arm: Int
    exposures: Float
    errors: Float
    entered: Float
    entered_errors: Float
    matured: Float
    events: Float
    delay: Float
    outcomes: Float
    joined: Float
    value: Float
    analysed: Float
    analysed_value: Float
    lapsed: Float


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


# --- split ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Split:
    """Who gets what: arm -> weight in basis points, summing to BASIS.

    `anchors` places each candidate on the circle of units (see `core.split`), in the order in
    which candidates joined; the champion fills what they leave. `mirror` is the share in basis
    points of requests that are copied to an arm whose answers no user sees.

    `segments` are weights of their own for requests whose header `segment_header` has that value;
    all others get `weights`, the pooled split.
    """

    epoch: int
    champion: str
    weights: dict[str, int]
    salt: str
    anchors: tuple[str, ...] = ()
    mirror: dict[str, int] = field(default_factory=dict)
    segment_header: str = ""
    segments: dict[str, dict[str, int]] = field(default_factory=dict)


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
              the first exposure of each unit in the rollout, and its re-entries
    analysed_value  float64, the value that enters: `value`, or the unit's aggregated reward within
              the window after its first exposure
    unit      uint64, xxh64 of the unit, 0 where there is none
    bin       int64, covariate bin that the exposure came with; 0 unknown
    base      int64, basis points: the level from which its unit re-entered the analysis (see
              `core.join.levels`); 0 for a first entry and for what is not analysed
    scored    bool, whether it had its row in `core.join.Events`, now or before: then it is no
              longer at risk, and does not lapse by closing
    """

    time: Float
    arm: Int
    stratum: Int
    value: Float
    joined: Bool
    analysed: Bool
    analysed_value: Float
    unit: Key
    bin: Int
    base: Int
    scored: Bool


@dataclass(frozen=True, slots=True)
class Cells:
    """Counts of one micro-batch that are alike in everything the e-processes look at.

    All arrays (m,), in any order.

    candidate  int64, index into the rollout's candidates
    stratum    int64, what was routed with one split; only equality has a meaning
    bin        int64, covariate bin of the units; 0: nothing known of them
    pi         float64, probability of the candidate given that it was the champion or the candidate
    n0, s0     float64, champion: number of trials, sum of values in [0, 1]
    n1, s1     float64, candidate: the same
    """

    candidate: Int
    stratum: Int
    bin: Int
    pi: Float
    n0: Float
    s0: Float
    n1: Float
    s1: Float


@dataclass(frozen=True, slots=True)
class Sample:
    """Analysed outcomes of one micro-batch, of a reward that is an amount; in exposure order.

    arm      (n,) int64, 0 for the champion, 1 + c for candidate c of the rollout
    stratum  (n,) int64, as in `Cells`
    bin      (n,) int64, as in `Cells`
    pi       (n, C) float64, as in `Cells` for each candidate; NaN where the row says nothing of it
    value    (n,) float64, as it was reported
    """

    arm: Int
    stratum: Int
    bin: Int
    pi: Float
    value: Float


@dataclass(frozen=True, slots=True)
class Flow:
    """What became of analysed units in one micro-batch: entries, first rewards, ends.

    All arrays (m,), in any order. A unit is at risk from `matured` until `events` or `lapsed`.

    stratum, arm  int64, as in `Sample`
    segment       int64, index into the state's segments; -1: none
    time          float64, epoch seconds of the exposures
    matured       units whose exposure the watermark reached now
    events        units whose first reward above the default came now; `event_value` their sum,
                  `delay` the mean seconds from exposure to reward
    lapsed        units that closed, or got a reward not above the default, without an event
    closed, value, square  units that closed now; sum of their values and of the values' squares
    """

    stratum: Int
    segment: Int
    arm: Int
    time: Float
    matured: Float
    events: Float
    event_value: Float
    delay: Float
    lapsed: Float
    closed: Float
    value: Float
    square: Float


# --- estimate -> decide -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """What was seen of one arm in the rollout, in the reward's own unit.

    n, total, mean  analysed outcomes, the sum of their values, its mean (None before the first)
    interval        a confidence sequence for the mean, valid at all times at once; None as above
    """

    arm: str
    n: int
    total: float
    mean: float | None
    interval: tuple[float, float] | None
    errors: int
    answers: int


@dataclass(frozen=True, slots=True)
class Lift:
    """Relative lift of a candidate over the champion: (mean1 / mean0) - 1, more or less reward.

    `estimate` is None when too little was seen; the interval is a confidence sequence, valid at
    all times at once, and may be unbounded above.
    """

    estimate: float | None
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class GuardEvidence:
    """What the estimators say of one guardrail, or of the errors of mirrored requests.

    metric        "error_rate", "latency" or "reward"
    detail        of a latency the quantile whose e-value is largest, such as "p99"; of a second
                  reward its event; else ""
    log_worse     null: the candidate is within the bound. With restarts; rolls back
    log_within    null: it is at or beyond the bound. Evidence that it may be promoted
    champion, candidate   what was seen: the error rate; the mean of the second reward; of a latency
                  the share of the champion's answers slower than its own quantile `detail`, and of
                  the candidate's slower than `limit_ms`. None where nothing was seen
    max_increase  the tolerated increase: relative of a latency, else absolute
    limit_ms      of a latency: (1 + max_increase) times the champion's quantile `detail`
    """

    metric: str
    detail: str
    log_worse: float
    log_within: float
    champion: float | None
    candidate: float | None
    max_increase: float
    limit_ms: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateEvidence:
    """What the estimators say of one candidate against the champion.

    All `log_*` are natural logarithms of e-values; evidence against the named null is complete at
    `log(1 / alpha)`. "Worse" and "better" respect the reward's direction.

    risk             greatest relative loss that the interval of the lift still allows, >= 0; inf
                     where it allows any
    log_harm         null: the candidate is not worse. Of the closed prefix, with restarts
    log_harm_fast    the same null, of rewards as they come (log-rank), with restarts; 0 where the
                     reward has no events
    log_superior     null: the candidate is not better
    log_noninferior  per stage of the policy: null: it is worse by at least that stage's margin
                     (stages without a margin carry 0)
    guards           errors, latency, each second reward, in this order, those that are asked for
    shadow           errors of mirrored requests; None where errors are not guarded
    log_better       of each candidate of the rollout: null: this one is not better than that; 0
                     against itself, and where the reward is an amount
    p_best, loss     posterior probability to be best; expected loss of promoting, relative; NaN
                     where the policy has no bandit
    capped           share of the outcomes that were cut at the cap (see `estimate.betting`)
    multiplicity     candidates that ever were in this rollout: promotion needs this many times
                     the evidence
    """

    champion: ArmSummary
    candidate: ArmSummary
    lift: Lift
    risk: float
    log_harm: float
    log_harm_fast: float
    log_superior: float
    log_noninferior: tuple[float, ...]
    guards: tuple[GuardEvidence, ...]
    shadow: GuardEvidence | None
    log_better: tuple[float, ...]
    p_best: float
    loss: float
    capped: float
    multiplicity: int


@dataclass(frozen=True, slots=True)
class Growth:
    """Evidence that one more analysed unit brings on average, in nats, if all stays as it seems.

    A unit is one of the champion's or the candidate's. Zero or less: the condition will not be met.

    noninferior  per stage of the policy; 0 where the stage has no margin
    within       per guardrail, in the order of `CandidateEvidence.guards`
    """

    superior: float
    noninferior: tuple[float, ...]
    within: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the data can be trusted: signals hold a rollout, they never roll back.

    Log e-values against "arms got the traffic that the splits say", the largest over candidates.

    log_exposures  of the units as they were assigned
    log_outcomes   of the closed outcomes
    log_dropped    of the events that came too late to count, against those that did count
    """

    log_exposures: float
    log_outcomes: float
    log_dropped: float


@dataclass(frozen=True, slots=True)
class Signals:
    """Whether the data can be trusted: signals hold a rollout, they never roll back.

    log_exposures, log_outcomes, log_dropped  log e-values against "arms got, closed and lost what
                  the splits say"; the largest of the candidates'
    rewards       closed exposures of the rollout to which a reward was joined
    join_fall     (now, before): shares of outcomes with a reward, where it fell too far; else None
    silent_s      seconds since a request was answered; what is too many stands in stale_after_s
    """

    log_exposures: float
    log_outcomes: float
    log_dropped: float
    rewards: int
    join_fall: tuple[float, float] | None = None
    silent_s: float = 0.0
    stale_after_s: float = float("inf")


# --- decide -> shell --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rollout:
    """The way of a candidate, or of several at once, through the stages.

    candidates      in the order in which they joined; those in `dropped` are out again
    stage, step     indices from 0 into the policy's stages and into a canary's steps
    started, stage_started, step_started   event times
    stage_outcomes, step_outcomes  analysed units of each candidate when the stage, the step began
    resume_phase    the phase to return to after `paused`
    """

    id: str
    candidates: tuple[str, ...]
    champion: str
    salt: str
    stage: int
    step: int
    started: float
    stage_started: float
    step_started: float
    dropped: tuple[str, ...] = ()
    stage_outcomes: dict[str, int] = field(default_factory=dict)
    step_outcomes: dict[str, int] = field(default_factory=dict)
    shadow_answers: int = 0
    weights_updated: float = 0.0
    resume_phase: Phase | None = None

    @property
    def live(self) -> tuple[str, ...]:
        """The candidates that are still in."""
        return tuple(name for name in self.candidates if name not in self.dropped)

    @property
    def arms(self) -> tuple[str, ...]:
        """The champion, then every candidate that ever was in: what estimators count by."""
        return (self.champion, *self.candidates)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a stage function answers: a verdict, the weight it wants, and why.

    cause    a short constant word: decisions are recorded when it changes
    reason   one sentence with the numbers, for people
    weights  the split wanted from now on; None leaves it as it is
    segments weights of their own, by header value
    candidate  whom the verdict means, where there are several
    """

    verdict: Verdict
    cause: str
    reason: str
    weights: dict[str, int] | None = None
    mirror: dict[str, int] | None = None
    segments: dict[str, dict[str, int]] | None = None
    candidate: str = ""


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
    """Where a model stands, for people: contract 4.4, `/v1/models/{model}/arms`.

    candidate  the first of `candidates`: those that are in the rollout now
    segments   splits of their own by header value, basis points, where the policy has segments
    """

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
    candidates: tuple[str, ...]
    queue: tuple[str, ...]
    arms: tuple[ArmReport, ...]
    lift: dict[str, Lift]
    segments: dict[str, dict[str, int]]
    health: dict[str, Json]
    rejected: dict[str, int]
