"""Attribution: which chances an exposure had, known from what it carries. Called by `observe`.

Each exposure of a rollout is given the number of its stratum (see `strata`): by the epoch of the
split that it was routed with and by its segment. The propensity that an exposure states itself
comes first, for it was fixed when the arm was chosen; where there are more than two arms it does
not say how likely the others were, and the epoch must.

Segments are header values, so a client can invent as many as it likes. Values are counted, the
largest get a split of their own, up to the policy's maximum, and keep it while the rollout lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from controller.core import strata
from controller.core.model import BASIS, NO_EPOCH, Bool, Exposures, Float, Int, quick
from controller.core.policy import Policy, Segments
from controller.core.split import is_segment
from controller.core.state import State, evolve

ENOUGH_SIGHTINGS: Final = 100
"""Exposures after which a header value is worth a split of its own."""

MOST_SIGHTINGS: Final = 1_000
"""Header values that are counted at the same time."""

MOST_STATED: Final = BASIS + 1
"""Different propensities that exposures of a rollout may state: every weight that there can be."""


@quick
@dataclass(frozen=True)
class Attributed:
    """What is known of the chances of some exposures; all arrays (n,).

    stratum  int64, row of `State.strata`; -1 unknown
    arm      int64, 0 for the champion of the rollout, 1 + c for candidate c, -1 for other arms
    level    int64, the candidate's share when it was routed, basis points; 0: not to be re-bucketed
    counts   bool, whether it says something of the rollout: it could have got another arm
    """

    stratum: Int
    arm: Int
    level: Int
    counts: Bool


def unattributed(n: int) -> Attributed:
    """Exposures while no rollout is on."""
    nothing = np.full(n, -1, np.int64)
    return Attributed(nothing, nothing, np.zeros(n, np.int64), np.zeros(n, np.bool_))


def attribute(
    policy: Policy, state: State, exposures: Exposures, segment: Int
) -> tuple[State, Attributed]:
    """The exposures' chances; their arms index into `state.arms`, `segment` into its segments."""
    rollout = state.rollout
    if rollout is None or state.estimators is None:
        return state, unattributed(len(exposures.time))
    arm = rollout_arms(state, exposures.arm)
    state, stratum = by_epoch(state, exposures.epoch, segment)
    state, stratum = by_propensity(state, exposures.propensity, arm, stratum)
    level = np.zeros(len(arm), np.int64)
    if policy.spec.route.unit is not None and len(rollout.candidates) == 1:
        known = stratum >= 0
        shares = state.strata.shares[stratum[known], 1]
        level[known] = np.rint(shares * BASIS).astype(np.int64)
    counts = strata.comparing(state.strata, stratum, arm)
    return state, Attributed(stratum, arm, level, counts)


def rollout_arms(state: State, arms: Int) -> Int:
    """State's arms as the rollout's: 0 for the champion, 1 + c for candidate c, else -1."""
    assert state.rollout is not None
    return _places(state.arms, state.rollout.arms)[arms]


@lru_cache(maxsize=4096)
def _places(known: tuple[str, ...], rollout: tuple[str, ...]) -> Int:
    """Where each known arm stands among the rollout's; one more -1 at the end, for arm -1."""
    found = np.full(len(known) + 1, -1, np.int64)
    for place, name in enumerate(rollout):
        if name in known:
            found[known.index(name)] = place
    found.flags.writeable = False
    return found


def by_epoch(state: State, epoch: Int, segment: Int) -> tuple[State, Int]:
    """The stratum of each exposure by the split that it names; -1 where that is not known."""
    if not len(epoch):
        return state, np.empty(0, np.int64)
    is_one = np.count_nonzero(epoch == epoch[0]) == len(epoch)
    if is_one and np.count_nonzero(segment == segment[0]) == len(epoch):
        state, row = _of_split(state, int(epoch[0]), int(segment[0]))
        return state, np.full(len(epoch), row, np.int64)
    pairs, inverse = np.unique(np.stack([epoch, segment]), axis=1, return_inverse=True)
    rows = np.empty(pairs.shape[1], np.int64)
    for i, (number, place) in enumerate(pairs.T.tolist()):
        state, rows[i] = _of_split(state, number, place)
    return state, rows[inverse.ravel()]


def _of_split(state: State, epoch: int, segment: int) -> tuple[State, int]:
    known = state.known.get(epoch)
    if known is None:
        return state, -1
    assert state.rollout is not None
    name = state.segments[segment] if segment >= 0 else ""
    weights = known.segments.get(name, known.weights)
    shares = [weights.get(arm, 0) / BASIS for arm in state.rollout.arms]
    return _placed(state, epoch=epoch, segment=segment, level=0, shares=shares)


def _placed(
    state: State, *, epoch: int, segment: int, level: int, shares: list[float]
) -> tuple[State, int]:
    rows, row = strata.placed(
        state.strata, epoch=epoch, segment=segment, level=level, shares=shares
    )
    return (state if rows is state.strata else evolve(state, strata=rows)), row


def by_propensity(state: State, propensity: Float, arm: Int, stratum: Int) -> tuple[State, Int]:
    """The strata, where exposures of two arms state their own chances: of those.

    Those that would be one too many keep the stratum of their epoch, if that is known.

    propensity  (n,) the chance of the own arm, NaN or 0 where it is not stated
    arm         (n,) as `rollout_arms` gives them
    """
    assert state.rollout is not None
    if len(state.rollout.candidates) != 1:
        return state, stratum
    stated = np.flatnonzero(np.isfinite(propensity) & (propensity > 0.0) & (arm >= 0))
    if not len(stated):
        return state, stratum
    of_candidate = np.where(arm[stated] == 0, 1.0 - propensity[stated], propensity[stated])
    values, inverse = np.unique(np.round(of_candidate, 12), return_inverse=True)
    own = np.flatnonzero((state.strata.epoch == NO_EPOCH) & (state.strata.level == 0))
    known = dict(zip(state.strata.shares[own, 1].tolist(), own.tolist(), strict=True))
    rows = np.full(len(values), -1, np.int64)
    for i, share in enumerate(values.tolist()):
        if share not in known and len(known) < MOST_STATED:
            shares = [round(1.0 - share, 12), share]
            rows_of, known[share] = strata.added(
                state.strata, epoch=NO_EPOCH, segment=-1, level=0, shares=shares
            )
            state = evolve(state, strata=rows_of)
        rows[i] = known.get(share, -1)
    of_stated = rows[inverse]
    found = stratum.copy()
    found[stated[of_stated >= 0]] = of_stated[of_stated >= 0]
    return state, found


def remembered(state: State, epoch: Int, segment: Int, stratum: Int) -> Int:
    """The strata, with those of splits that nobody can name any more, but that were named in time.

    What a partition tells of an exposure when its window closes names the split that it had then.
    """
    forgotten = np.flatnonzero((stratum < 0) & (epoch != NO_EPOCH))
    rows = state.strata
    kept = np.flatnonzero((rows.level == 0) & (rows.epoch != NO_EPOCH))
    if not len(forgotten) or not len(kept):
        return stratum
    width = len(state.segments) + 1
    names, wanted = rows.epoch * width + rows.segment, epoch * width + segment
    order = kept[np.argsort(names[kept])]
    at = np.searchsorted(names[order], wanted[forgotten])
    row = np.append(order, order[-1])[at]
    is_same = names[row] == wanted[forgotten]
    found = stratum.copy()
    found[forgotten[is_same]] = row[is_same]
    return found


def rebased(state: State, stratum: Int, base: Int) -> tuple[State, Int]:
    """The strata of units of which some come back: `base` is the level that they were known at.

    See the head of `strata`; base 0 leaves a unit in the stratum of its split.
    """
    if not np.count_nonzero(base):
        return state, stratum
    again = np.flatnonzero((base > 0) & (stratum >= 0))
    if not len(again):
        return state, stratum
    pairs, inverse = np.unique(np.stack([stratum[again], base[again]]), axis=1, return_inverse=True)
    rows = np.empty(pairs.shape[1], np.int64)
    for i, (row, level) in enumerate(pairs.T.tolist()):
        old = state.strata
        state, rows[i] = _placed(
            state,
            epoch=int(old.epoch[row]),
            segment=int(old.segment[row]),
            level=level,
            shares=strata.conditional(old.shares[row], level).tolist(),
        )
    found = stratum.copy()
    found[again] = rows[inverse.ravel()]
    return state, found


# --- segments ---------------------------------------------------------------------------------


def segment_rule(policy: Policy) -> Segments | None:
    """How the policy's bandit is segmented, if it has one."""
    found = [s.thompson.segments for s in policy.spec.stages if s.thompson and s.thompson.segments]
    return found[0] if found else None


def segmented(
    policy: Policy, state: State, names: tuple[str, ...], segment: Int, weight: Float | None = None
) -> tuple[State, Int]:
    """The segment of each exposure, -1 for none; large header values become segments.

    A value that becomes one now is one from the next micro-batch on: whoever counts a part of the
    exposures can be told before they come.

    segment  (n,) indices into `names`, -1 for none
    weight   (n,) how many exposures each stands for; 1 without it
    """
    if segment_rule(policy) is None or state.rollout is None or not (segment >= 0).any():
        return state, np.full(len(segment), -1, np.int64)
    place = {name: i for i, name in enumerate(state.segments)}
    index = np.array([place.get(name, -1) for name in names] + [-1], np.int64)
    return _sighted(policy, state, sightings(names, segment, weight)), index[segment]


def sightings(names: tuple[str, ...], segment: Int, weight: Float | None = None) -> dict[str, int]:
    """How many exposures carry each header value; the arguments are those of `segmented`."""
    given = segment >= 0
    counts = np.bincount(segment[given], None if weight is None else weight[given], len(names))
    return {names[i]: int(counts[i]) for i in np.flatnonzero(counts).tolist()}


def most_seen(seen: Mapping[str, int]) -> dict[str, int]:
    """The header values that are worth counting, the most frequent first."""
    return dict(sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:MOST_SIGHTINGS])


def _sighted(policy: Policy, state: State, seen: Mapping[str, int]) -> State:
    """The state that has seen header values so many times more."""
    rule, known = segment_rule(policy), state.sightings
    if rule is None or not seen:
        return state
    ranked = most_seen(known | {name: known.get(name, 0) + n for name, n in seen.items()})
    large = [
        name
        for name, count in ranked.items()
        if count >= ENOUGH_SIGHTINGS and name not in state.segments and is_segment(name)
    ]
    free = rule.max - len(state.segments)
    segments = (*state.segments, *large[: max(free, 0)])
    return evolve(state, sightings=ranked, segments=segments)
