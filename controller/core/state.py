"""The state of one model: what the fold over its log has made so far.

`state = fold(step, events)`. Everything here is derived from the log and the policy alone. The
joiner's table is the one part that is changed in place, because it may hold ten million exposures:
a state given to `engine.step` is used up by it, like a value that moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, get_type_hints

import numpy as np

from controller.core.decide.phases import IN_ROLLOUT, RESTING
from controller.core.estimate import Estimators, EstimatorSpec
from controller.core.join import Table
from controller.core.model import (
    BASIS,
    EventBatch,
    Float,
    Int,
    Phase,
    Rollout,
    Split,
    Verdict,
    Version,
)
from controller.core.policy import Policy


@dataclass(frozen=True, slots=True)
class Stratum:
    """The split that an exposure was routed with: arm -> probability, at most 1 in all."""

    epoch: int
    shares: dict[str, float]


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts per arm over the life of the log; all arrays (n_arms,), indexed like `State.arms`.

    exposures, errors, outcomes  int64: answered requests, failed ones, closed exposures
    value                                float64: sum of the outcomes' values
    """

    exposures: Int
    errors: Int
    outcomes: Int
    value: Float

    def grown(self, n_arms: int) -> Totals:
        """The same counts with room for `n_arms` arms."""
        missing = n_arms - len(self.exposures)
        if not missing:
            return self
        more = np.zeros(missing, dtype=np.int64)
        return Totals(
            exposures=np.concatenate([self.exposures, more]),
            errors=np.concatenate([self.errors, more]),
            outcomes=np.concatenate([self.outcomes, more]),
            value=np.concatenate([self.value, more.astype(np.float64)]),
        )


@dataclass(frozen=True, slots=True)
class Said:
    """The last ruling, for people, whether or not it was worth a decision."""

    verdict: Verdict = Verdict.HOLD
    cause: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """Where a model stands.

    offset         of the next event to fold; the events in `waiting` lie before it
    clock          time of the last tick, -inf before the first
    resume_phase   the phase to return to after `paused`
    paused_at      when the last pause began
    split          the split that is wanted; epoch 0 before the first
    in_force       epoch -> weights last confirmed by the routers
    strata, by_epoch  splits that exposures were routed with, and epoch -> index into them
    arms           names behind the arm columns
    spec           the estimators' settings, fixed when the rollout began
    recorded       (phase, cause) of the last decision that was recorded
    decisions      number of decisions recorded
    rejected       reason -> number of events that could not be used
    unattributed   exposures of the present rollout without a known split
    """

    model: str
    offset: int
    clock: float
    phase: Phase
    champion: str
    versions: dict[str, Version]
    join: Table
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
    strata: tuple[Stratum, ...] = ()
    by_epoch: dict[int, int] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    spec: EstimatorSpec | None = None
    estimators: Estimators | None = None
    decisions: int = 0
    said: Said = Said()
    recorded: tuple[str, str] = ("", "")
    changed_at: float = 0.0
    cooldown_until: float = float("-inf")
    rejected: dict[str, int] = field(default_factory=dict)
    unattributed: int = 0
    waiting: tuple[EventBatch, ...] = ()

    @property
    def is_judging(self) -> bool:
        """Whether a candidate is being judged; `rollout` outlives that, until the next one."""
        was_resting = self.phase is Phase.PAUSED and self.resume_phase in RESTING
        return self.rollout is not None and self.phase in IN_ROLLOUT and not was_resting


def initial(policy: Policy) -> State:
    """The state before the first event: the policy's champion serves everything."""
    champion = policy.spec.champion
    return State(
        model=policy.model,
        offset=0,
        clock=float("-inf"),
        phase=Phase.IDLE,
        champion=champion.version,
        versions={champion.version: Version(champion.version, champion.endpoints)},
        join=Table(),
        totals=_no_totals(),
        split=Split(0, champion.version, {champion.version: BASIS}, salt=f"{policy.model}/0:"),
    )


def _no_totals() -> Totals:
    empty = np.zeros(0, dtype=np.int64)
    return Totals(empty, empty, empty, empty.astype(np.float64))


def with_arms(state: State, names: tuple[str, ...]) -> State:
    """The state with an index for each of `names`."""
    new = tuple(dict.fromkeys(name for name in names if name not in state.arms))
    if not new:
        return state
    arms = state.arms + new
    return replace(state, arms=arms, totals=state.totals.grown(len(arms)))


def with_stratum(state: State, epoch: int, shares: dict[str, float]) -> tuple[State, int]:
    """The state with a stratum of these shares, and the stratum's index."""
    stratum = Stratum(epoch, shares)
    known = state.by_epoch.get(epoch)
    if known is not None and state.strata[known] == stratum:
        return state, known
    if stratum in state.strata:
        return state, state.strata.index(stratum)
    return replace(state, strata=(*state.strata, stratum)), len(state.strata)


def with_split(state: State, epoch: int, weights: dict[str, int]) -> State:
    """The state in which `epoch` names these weights."""
    shares = {arm: weight / BASIS for arm, weight in weights.items()}
    state, index = with_stratum(state, epoch, shares)
    return replace(
        state,
        by_epoch={**state.by_epoch, epoch: index},
        last_epoch=max(state.last_epoch, epoch),
    )


# --- snapshots --------------------------------------------------------------------------------


def _image_class() -> type[Any]:
    """`State` without what waits for its tick, and with the joiner's table as plain arrays."""
    hints = get_type_hints(State) | {"join": dict[str, np.ndarray]}
    names = [f.name for f in fields(State) if f.name != "waiting"]
    return make_dataclass("Image", [(n, hints[n]) for n in names], frozen=True, slots=True)


IMAGE = _image_class()
"""The type of a snapshot."""


def image(state: State) -> Any:
    """The state as a value that can be written down; events that wait are read again."""
    values = {f.name: getattr(state, f.name) for f in fields(IMAGE)}
    offset = state.waiting[0].start if state.waiting else state.offset
    return IMAGE(**values | {"offset": offset, "join": state.join.to_arrays()})


def revived(snapshot: Any) -> State:
    """The state behind an `image`; it goes on exactly as the one that was written down."""
    values = {f.name: getattr(snapshot, f.name) for f in fields(IMAGE)}
    return State(**values | {"join": Table.from_arrays(snapshot.join)})
