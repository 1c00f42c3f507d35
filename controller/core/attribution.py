"""Attribution: which chances an exposure had, known from what it carries. Called by `observe`.

Each exposure of a rollout is given the number of its stratum (see `strata`): by the epoch of the
split that it was routed with and by its segment. The propensity that an exposure states itself
comes first, for it was fixed when the arm was chosen; where there are more than two arms it does
not say how likely the others were, and the epoch must.

Segments are header values, so a client can invent as many as it likes. Values are counted, the
largest get a split of their own, up to the policy's maximum, and keep it while the rollout lasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from controller.core import strata
from controller.core.model import BASIS, NO_EPOCH, Bool, Exposures, Float, Int
from controller.core.policy import Policy, Segments
from controller.core.split import is_segment
from controller.core.state import State, evolve

ENOUGH_SIGHTINGS: Final = 100
"""Exposures after which a header value is worth a split of its own."""

MOST_SIGHTINGS: Final = 1_000
"""Header values that are counted at the same time."""


@dataclass(frozen=True, slots=True)
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
    if len(rollout.candidates) == 1 and np.isfinite(exposures.propensity).any():
        state = _by_propensity(state, exposures.propensity, arm, stratum)
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
    found = np.full(len(state.arms) + 1, -1, np.int64)
    for place, name in enumerate(state.rollout.arms):
        if name in state.arms:
            found[state.arms.index(name)] = place
    return found[arms]


def by_epoch(state: State, epoch: Int, segment: Int) -> tuple[State, Int]:
    """The stratum of each exposure by the split that it names; -1 where that is not known."""
    found = np.full(len(epoch), -1, np.int64)
    if not len(epoch):
        return state, found
    if (epoch == epoch[0]).all() and (segment == segment[0]).all():
        state, row = _of_split(state, int(epoch[0]), int(segment[0]))
        found[:] = row
        return state, found
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
    shares = np.array([weights.get(arm, 0) / BASIS for arm in state.rollout.arms])
    return _placed(state, epoch=epoch, segment=segment, level=0, shares=shares)


def _placed(
    state: State, *, epoch: int, segment: int, level: int, shares: Float
) -> tuple[State, int]:
    rows, row = strata.placed(
        state.strata, epoch=epoch, segment=segment, level=level, shares=shares
    )
    return (state if rows is state.strata else evolve(state, strata=rows)), row


def _by_propensity(state: State, propensity: Float, arm: Int, stratum: Int) -> State:
    """Writes into `stratum` the strata of exposures of two arms that state their own chances."""
    stated = np.isfinite(propensity) & (arm >= 0)
    of_candidate = np.where(arm[stated] == 0, 1.0 - propensity[stated], propensity[stated])
    values, inverse = np.unique(np.round(of_candidate, 12), return_inverse=True)
    rows = np.empty(len(values), np.int64)
    for i, share in enumerate(values.tolist()):
        shares = np.array([round(1.0 - share, 12), share])
        state, rows[i] = _placed(state, epoch=NO_EPOCH, segment=-1, level=0, shares=shares)
    stratum[stated] = rows[inverse]
    return state


def rebased(state: State, stratum: Int, base: Int) -> tuple[State, Int]:
    """The strata of units of which some come back: `base` is the level that they were known at.

    See the head of `strata`; base 0 leaves a unit in the stratum of its split.
    """
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
            shares=strata.conditional(old.shares[row], level),
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

    `segment` indexes into `names`; `weight` is how many exposures each stands for, 1 without it.
    """
    rule = segment_rule(policy)
    given = segment >= 0
    if rule is None or state.rollout is None or not given.any():
        return state, np.full(len(segment), -1, np.int64)
    counts = np.bincount(segment[given], None if weight is None else weight[given], len(names))
    seen = dict(state.sightings)
    for i in np.flatnonzero(counts).tolist():
        seen[names[i]] = seen.get(names[i], 0) + int(counts[i])
    ranked = sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:MOST_SIGHTINGS]
    large = [
        name
        for name, count in ranked
        if count >= ENOUGH_SIGHTINGS and name not in state.segments and is_segment(name)
    ]
    free = rule.max - len(state.segments)
    segments = (*state.segments, *large[: max(free, 0)])
    index = np.array(
        [segments.index(name) if name in segments else -1 for name in names] + [-1], np.int64
    )
    return evolve(state, sightings=dict(ranked), segments=segments), index[segment]
