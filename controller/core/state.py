"""The state of one model: what the fold over its log has made so far.

`state = fold(step, events)`. Everything here is derived from the log and the policy alone. The
joiner's table is the one part that is changed in place, because it may hold ten million exposures:
a state given to `engine.step` is used up by it, like a value that moved.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from functools import partial
from typing import Any, TypeVar, get_type_hints

import numpy as np

from controller.core import strata
from controller.core.decide.phases import IN_ROLLOUT, RESTING
from controller.core.estimate import Estimators, EstimatorSpec
from controller.core.estimate.health import JoinRate
from controller.core.join import CovariateTable, Table
from controller.core.model import (
    BASIS,
    Capacity,
    EarlierArms,
    EventBatch,
    Float,
    Int,
    Intent,
    Leaving,
    Partitions,
    Phase,
    Rollout,
    Split,
    Verdict,
    Version,
    evolved,
    quick,
)
from controller.core.policy import Policy
from controller.core.strata import Strata

Column = TypeVar("Column", Int, Float)


@dataclass(frozen=True, slots=True)
class KnownSplit:
    """A split that exposures may name; `since` is when it came into force, event time."""

    epoch: int
    since: float
    weights: dict[str, int]
    segments: dict[str, dict[str, int]] = field(default_factory=dict)


@quick
@dataclass(frozen=True)
class Totals:
    """Counts per arm over the life of the log; all arrays (n_arms,), indexed like `State.arms`.

    exposures, errors  int64: answered requests, failed ones
    """

    exposures: Int
    errors: Int


@quick
@dataclass(frozen=True)
class Sums:
    """Closed exposures per arm over the life of the log, of one reward; all arrays (n_arms,).

    outcomes       int64, how many
    value, square  float64, sum of their values, and of the values' squares
    """

    outcomes: Int
    value: Float
    square: Float


@quick
@dataclass(frozen=True)
class Said:
    """The last ruling, for people, whether or not it was worth a decision."""

    verdict: Verdict = Verdict.HOLD
    cause: str = ""
    reason: str = ""
    candidate: str = ""


@dataclass(frozen=True, slots=True)
class Steering:
    """What the bandit thought when it was last asked: it is asked once per `update_every`.

    at        event time
    arms      the champion and the live candidates
    best      P(best) of each of `arms`
    losses    what promoting each of them loses on average, relative; 0 for the champion
    segments  header value -> P(best) of each of `arms`
    """

    at: float
    arms: tuple[str, ...]
    best: tuple[float, ...]
    losses: tuple[float, ...]
    segments: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """Where a model stands. Without slots, so that `evolve` can copy it in one go.

    offset         of the next event to fold; the events in `waiting` lie before it
    clock          time of the last tick, -inf before the first
    rewards        events: the policy's own reward first, then those of guardrails
    joins, sums    of each of `rewards`
    covariates     what is known of units from before they came
    resume_phase   the phase to return to after `paused`
    paused_at      when the last pause began
    split          the split that is wanted; epoch 0 before the first
    in_force       weights last confirmed by the routers
    known          epoch -> split, of those that exposures may still name
    strata         chances of the present rollout's exposures
    arms           names behind the arm columns
    forgotten      sums of arms that are remembered no more, see `core.arms`
    segments       values of the segments' header that have a split of their own, oldest first
    sightings      exposures of the rollout by header value, of those seen most
    spec           the estimators' settings, fixed when the rollout began
    recorded       (phase, cause) of the last decision that was recorded
    decisions      number of decisions recorded
    rejected       reason -> number of events that could not be used
    unattributed   exposures of the present rollout without a known split
    rewarded       closed exposures of the present rollout to which a reward was joined
    joined         (1 + C,) float64, rewards joined in time in the present rollout, by its arms
    steering       what the bandit thought last; None where none is running
    join_rate      what share of the outcomes has a reward, now and before
    last_exposure  time of the latest exposure, -inf before the first
    exposed_epoch  the latest split that a request was answered under, while one settles
    previous       the champion before this one, which `undo` brings back; "" where there is none
    partitions     what is joined elsewhere, see `core.merge`

    Of models in a cluster only:
    capacities     what is known of the arms that run there
    full           replicas that serve everything, while some are asked for; else 0
    asked          arm -> replicas that were asked for, of those that were not given back yet
    waits          arm -> since when it has been waited for
    leaving        arms that lost their traffic, and are scaled down when their time has come
    intent         what an operator asked for, and has to wait
    """

    model: str
    offset: int
    clock: float
    phase: Phase
    champion: str
    versions: dict[str, Version]
    rewards: tuple[str, ...]
    joins: tuple[Table, ...]
    sums: tuple[Sums, ...]
    covariates: CovariateTable
    totals: Totals
    split: Split
    in_force_epoch: int = 0
    in_force: dict[str, int] = field(default_factory=dict)
    last_epoch: int = 0
    resume_phase: Phase | None = None
    paused_at: float = 0.0
    tried: tuple[str, ...] = ()
    queue: tuple[str, ...] = ()
    rollout: Rollout | None = None
    rollouts: int = 0
    known: dict[int, KnownSplit] = field(default_factory=dict)
    strata: Strata = field(default_factory=partial(strata.none, 2))
    arms: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    sightings: dict[str, int] = field(default_factory=dict)
    spec: EstimatorSpec | None = None
    estimators: Estimators | None = None
    decisions: int = 0
    said: Said = Said()
    recorded: tuple[str, str] = ("", "")
    changed_at: float = 0.0
    cooldown_until: float = float("-inf")
    rejected: dict[str, int] = field(default_factory=dict)
    unattributed: int = 0
    rewarded: int = 0
    joined: Float = field(default_factory=partial(np.zeros, 2))
    join_rate: JoinRate = field(default_factory=JoinRate)
    last_exposure: float = float("-inf")
    steering: Steering | None = None
    exposed_epoch: int = 0
    previous: str = ""
    capacities: dict[str, Capacity] = field(default_factory=dict)
    full: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)
    leaving: tuple[Leaving, ...] = ()
    intent: Intent | None = None
    waiting: tuple[EventBatch, ...] = ()
    partitions: Partitions = field(default_factory=Partitions)
    forgotten: EarlierArms = field(default_factory=EarlierArms)

    @property
    def is_judging(self) -> bool:
        """Whether a candidate is being judged; `rollout` outlives that, until the next one."""
        was_resting = self.phase is Phase.PAUSED and self.resume_phase in RESTING
        return self.rollout is not None and self.phase in IN_ROLLOUT and not was_resting


def initial(policy: Policy) -> State:
    """The state before the first event: the policy's champion serves everything."""
    champion = policy.spec.champion
    rewards = _events(policy)
    none = np.zeros(0, dtype=np.int64)
    return State(
        model=policy.model,
        offset=0,
        clock=float("-inf"),
        phase=Phase.IDLE,
        champion=champion.version,
        versions={champion.version: Version(champion.version, champion.endpoints)},
        rewards=rewards,
        joins=tuple(Table() for _ in rewards),
        sums=tuple(Sums(none, none.astype(float), none.astype(float)) for _ in rewards),
        covariates=CovariateTable(),
        totals=Totals(none, none),
        split=Split(0, champion.version, {champion.version: BASIS}, salt=f"{policy.model}/0:"),
    )


def with_rewards(policy: Policy, state: State) -> State:
    """The state with a joiner for each reward of a policy that may have been edited since."""
    wanted = _events(policy)
    if state.rewards == wanted:
        return state
    zeros = np.zeros(len(state.arms))
    none = Sums(zeros.astype(np.int64), zeros, zeros)
    places = [place_of(state.rewards, wanted, i) for i in range(len(wanted))]
    return replace(
        state,
        rewards=wanted,
        joins=tuple(Table() if at is None else state.joins[at] for at in places),
        sums=tuple(none if at is None else state.sums[at] for at in places),
    )


def _events(policy: Policy) -> tuple[str, ...]:
    return tuple(reward.event for reward in policy.all_rewards)


def place_of(known: tuple[str, ...], wanted: tuple[str, ...], i: int) -> int | None:
    """Where reward `i` of `wanted` stands among the known ones; the first is a kind of its own."""
    if i == 0:
        return 0 if known[0] == wanted[0] else None
    return 1 + known[1:].index(wanted[i]) if wanted[i] in known[1:] else None


def with_arms(state: State, names: tuple[str, ...]) -> State:
    """The state with an index for each of `names`."""
    new = tuple(dict.fromkeys(name for name in names if name not in state.arms))
    if not new:
        return state
    more = len(new)
    return replace(
        state,
        arms=state.arms + new,
        totals=Totals(_longer(state.totals.exposures, more), _longer(state.totals.errors, more)),
        sums=tuple(
            Sums(_longer(s.outcomes, more), _longer(s.value, more), _longer(s.square, more))
            for s in state.sums
        ),
    )


def evolve(state: State, **changes: Any) -> State:
    """The state with these fields changed: what `replace` gives, at a tenth of its price.

    A tick changes the state some twenty times, and `replace` walks over all fields each time.
    """
    return evolved(state, **changes)


def _longer(column: Column, more: int) -> Column:
    return np.concatenate([column, np.zeros(more, column.dtype)])


KNOWN_S = 600.0
"""How long beyond the grace a split that was followed by another is still known."""


def with_split(state: State, known: KnownSplit, *, grace_s: float) -> State:
    """The state in which the epoch names this split; those that nobody can name are forgotten."""
    # What a partition tells late was routed long ago.
    oldest = min(state.clock, state.partitions.clock) - grace_s - KNOWN_S
    splits = sorted((state.known | {known.epoch: known}).values(), key=lambda k: k.epoch)
    ends = [later.since for later in splits[1:]] + [float("inf")]
    return replace(
        state,
        known={k.epoch: k for k, end in zip(splits, ends, strict=True) if end >= oldest},
        last_epoch=max(state.last_epoch, known.epoch),
    )


def oldest_needed(state: State) -> int:
    """The offset of the oldest event that a fold which goes on from an `image` may ask for.

    A reward that waits for its exposure may be refused, and is kept with its text then. The event
    before the first that is not folded in tells the log from others.
    """
    offset = state.waiting[0].start if state.waiting else state.offset
    waits = [w.offset for table in state.joins for w in (table.waiting, table.unit_waiting)]
    oldest = [int(column.min()) for column in waits if column.size]
    return max(0, min([offset - 1, *oldest]))


# --- snapshots --------------------------------------------------------------------------------


def _image_class() -> type[Any]:
    """`State` without what waits for its tick, and with the joiners' tables as plain arrays."""
    arrays = dict[str, np.ndarray]
    hints = get_type_hints(State) | {"joins": tuple[arrays, ...], "covariates": arrays}
    kept = [f for f in fields(State) if f.name != "waiting"]
    return make_dataclass(
        "Image", [(f.name, hints[f.name], default_of(f)) for f in kept], frozen=True, slots=True
    )


def default_of(of: Field[Any]) -> Any:
    """The default of a field, so that a snapshot from before it was added can be read."""
    return field(default=of.default, default_factory=of.default_factory)


IMAGE = _image_class()
"""The type of a snapshot. A field that an older snapshot does not have gets its default in `State`:
where the log was trimmed, a snapshot that cannot be read any more would be the end of its model."""


def image(state: State) -> Any:
    """The state as a value that can be written down; events that wait are read again.

    Its arrays are views: good until the state is used up.
    """
    values = {f.name: getattr(state, f.name) for f in fields(IMAGE)}
    offset = state.waiting[0].start if state.waiting else state.offset
    joins = tuple(table.to_arrays() for table in state.joins)
    covariates = state.covariates.to_arrays()
    return IMAGE(**values | {"offset": offset, "joins": joins, "covariates": covariates})


def revived(snapshot: Any) -> State:
    """The state behind an `image`; it goes on exactly as the one that was written down.

    Uses up the image's arrays.
    """
    joins = tuple(Table.from_arrays(arrays) for arrays in snapshot.joins)
    return _with(snapshot, joins, CovariateTable.from_arrays(snapshot.covariates))


def shown(snapshot: Any) -> State:
    """The same for reports only: of its tables there are the counts, and no row."""
    joins = tuple(Table.counts_of(arrays) for arrays in snapshot.joins)
    return _with(snapshot, joins, CovariateTable())


def _with(snapshot: Any, joins: tuple[Table, ...], covariates: CovariateTable) -> State:
    values = {f.name: getattr(snapshot, f.name) for f in fields(IMAGE)}
    partitions = replace(snapshot.partitions, held=snapshot.partitions.held.whole())
    tables = {"joins": joins, "covariates": covariates, "partitions": partitions}
    return State(**values | tables)
