"""Counting: rows of events -> the sums that the estimators take. Called by `observe`.

The only sums that matter are per stratum, arm and covariate bin (see `Cells`), so a micro-batch of
a hundred thousand events reaches the estimators as a handful of rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from controller.core import estimate, strata
from controller.core.attribution import Attributed, rebased, rollout_arms
from controller.core.case import judged_reward
from controller.core.estimate.health import update_join_rate
from controller.core.join import Absorbed, Closed, Dropped, Joined
from controller.core.model import Bool, Cells, Exposures, Float, Flow, Int, Outcomes, Sample
from controller.core.policy import Policy
from controller.core.state import State, Sums, Totals, evolve
from controller.core.strata import Strata

FAILED_FROM: Final = 500
"""HTTP statuses from here on, and 0 (the user got no answer), are errors of the arm."""

_ZERO: Final = np.zeros(1, np.int64)

_NONE: Final = np.zeros(0)

NO_CELLS: Final = Cells(_ZERO[:0], _ZERO[:0], _ZERO[:0], _NONE, _NONE, _NONE, _NONE, _NONE)

ENOUGH_JOINED: Final = 100.0
"""Rewards that were joined before the share of an arm among them is known well enough."""


def failed(status: Int) -> Bool:
    """Whether an answer is an error of its arm."""
    is_failed: Bool = (status >= FAILED_FROM) | (status == 0)
    return is_failed


def cells_of(  # noqa: PLR0913 - columns
    rows: Strata,
    *,
    stratum: Int,
    arm: Int,
    bin: Int | None = None,  # noqa: A002 - the column's name
    n: Float | None = None,
    s: Float | Bool,
) -> Cells:
    """The sums of units that all are of the rollout: `n` trials each (1 without it), `s` good."""
    (cells,) = cells_of_each(rows, stratum=stratum, arm=arm, bin=bin, n=n, s=s[np.newaxis])
    return cells


def cells_of_each(  # noqa: PLR0913 - columns
    rows: Strata,
    *,
    stratum: Int,
    arm: Int,
    bin: Int | None = None,  # noqa: A002 - the column's name
    n: Float | None = None,
    s: Float | Bool,
) -> tuple[Cells, ...]:
    """The same of several values of the same units: `s` is (values, units)."""
    n_arms = rows.shares.shape[1]
    own_stratum, own_bin, local = _local(stratum, bin)
    key = arm if len(own_stratum) == 1 else local * n_arms + arm
    size = len(own_stratum) * n_arms
    trials = np.bincount(key, n, size).reshape(-1, n_arms)
    pi = strata.pis(rows, own_stratum)
    both = np.isfinite(pi) & (trials[:, :1] + trials[:, 1:] > 0)
    row, candidate = both.nonzero()
    other = 1 + candidate
    stratum, bins, pi = own_stratum[row], own_bin[row], pi[both]
    n0, n1 = trials[:, 0][row].astype(np.float64), trials[row, other].astype(np.float64)
    found = []
    for value in s:
        good = np.bincount(key, value, size).reshape(-1, n_arms).astype(np.float64, copy=False)
        found.append(Cells(candidate, stratum, bins, pi, n0, good[:, 0][row], n1, good[row, other]))
    return tuple(found)


def _local(stratum: Int, bins: Int | None) -> tuple[Int, Int, Int]:
    """Distinct pairs of stratum and bin, as two columns, and which of them each unit has."""
    if bins is None and len(stratum) and np.count_nonzero(stratum == stratum[0]) == len(stratum):
        return stratum[:1], _ZERO, np.zeros(len(stratum), np.int64)
    joint = stratum * 128 if bins is None else stratum * 128 + bins
    found, local = np.unique(joint, return_inverse=True)
    return found // 128, found % 128, local


# --- answers ----------------------------------------------------------------------------------


def count_answers(
    state: State, exposures: Exposures, attributed: Attributed, absorbed: Absorbed, bins: Int
) -> State:
    """Count answered requests; feed the error guardrail and the sample ratio."""
    accepted = absorbed.accepted
    is_failed = failed(exposures.status)
    n_arms, known = len(state.arms), state.totals
    totals = Totals(
        exposures=known.exposures + np.bincount(exposures.arm[accepted], None, n_arms),
        errors=known.errors + np.bincount(exposures.arm[accepted & is_failed], None, n_arms),
    )
    spec, estimators, entered = state.spec, state.estimators, absorbed.entered.nonzero()[0]
    if estimators is None or spec is None or not len(entered):
        return evolve(state, totals=totals)
    state, stratum = rebased(state, attributed.stratum[entered], absorbed.base[entered])
    cells = cells_of(
        state.strata,
        stratum=stratum,
        arm=attributed.arm[entered],
        bin=bins[entered] if np.count_nonzero(bins) else None,
        s=is_failed[entered],
    )
    estimators = estimate.observe_answers(spec, estimators, cells)
    estimators = estimate.observe_units(spec, estimators, cells)
    return evolve(state, totals=totals, estimators=estimators)


def count_latency(
    state: State, exposures: Exposures, attributed: Attributed, absorbed: Absorbed
) -> State:
    """Feed the latency guardrail: which answers took longer than the champion's quantiles."""
    spec, estimators = state.spec, state.estimators
    timed = np.flatnonzero(absorbed.accepted & np.isfinite(exposures.latency_ms))
    if spec is None or spec.latency is None or estimators is None or not len(timed):
        return state
    arm = attributed.arm[timed]
    increase = np.where(arm > 0, spec.latency[1], 0.0)
    bins = estimate.latency_bins(exposures.latency_ms[timed], increase)
    entered = absorbed.entered[timed]
    rows = timed[entered]
    state, stratum = rebased(state, attributed.stratum[rows], absorbed.base[rows])
    cells = latency_cells(state, stratum=stratum, arm=arm[entered], bins=bins[entered])
    champion = estimate.latency_counted(bins[arm == 0])
    estimators = estimate.observe_latency(spec, estimators, cells, champion)
    return evolve(state, estimators=estimators)


def latency_cells(
    state: State, *, stratum: Int, arm: Int, bins: Int, n: Float | None = None
) -> tuple[Cells, ...]:
    """Per watched quantile which answers took longer, those of candidates than is tolerated.

    n  how many each row stands for; 1 without it
    """
    assert state.spec is not None
    assert state.estimators is not None
    limits = estimate.latency_limits(state.spec, state.estimators)
    known = np.array([limit for limit in limits if limit is not None], np.int64)
    slower: Float = (bins > known[:, np.newaxis]) * (np.ones(1) if n is None else n)
    found = iter(cells_of_each(state.strata, stratum=stratum, arm=arm, n=n, s=slower))
    return tuple(NO_CELLS if limit is None else next(found) for limit in limits)


def settled(state: State, closed: Closed) -> tuple[State, Closed]:
    """What became certain, with the strata of units that came back."""
    parts = {}
    for name in ("outcomes", "matured", "events"):
        part = getattr(closed, name)
        if state.rollout is None or not np.count_nonzero(part.base):
            continue
        state, stratum = rebased(state, part.stratum, part.base)
        parts[name] = replace(part, stratum=stratum)
    return state, replace(closed, **parts) if parts else closed


# --- outcomes ---------------------------------------------------------------------------------


def add_closed(policy: Policy, state: State, i: int, outcomes: Outcomes) -> State:
    """Count what closed for reward `i`, over the life of the log."""
    if not len(outcomes.time):
        return state
    n_arms, old, arm = len(state.arms), state.sums[i], outcomes.arm
    sums = Sums(
        outcomes=old.outcomes + np.bincount(arm, None, n_arms),
        value=old.value + np.bincount(arm, outcomes.value, n_arms),
        square=old.square + np.bincount(arm, outcomes.value**2, n_arms),
    )
    every = (*state.sums[:i], sums, *state.sums[i + 1 :])
    if i > 0:
        return evolve(state, sums=every)
    joined = float(np.count_nonzero(outcomes.joined))
    rewarded = int(np.count_nonzero(outcomes.analysed & (outcomes.joined | outcomes.scored)))
    return evolve(
        state,
        sums=every,
        rewarded=state.rewarded + rewarded,
        join_rate=update_join_rate(
            state.join_rate, float(len(arm)), joined, least=policy.spec.health.join_rate
        ),
    )


def count_outcomes(policy: Policy, state: State, i: int, outcomes: Outcomes) -> State:
    """Feed the estimators of reward `i` with the outcomes that are analysed."""
    spec, estimators = state.spec, state.estimators
    if spec is None or estimators is None or not len(outcomes.time):
        return state
    place = judged_reward(policy, state, i)
    if place is None:
        return state
    arm = rollout_arms(state, outcomes.arm)
    rows = (outcomes.analysed & (outcomes.stratum >= 0) & (arm >= 0)).nonzero()[0]
    if not len(rows):
        return state
    arm, stratum = arm[rows], outcomes.stratum[rows]
    value, bins = outcomes.analysed_value[rows], outcomes.bin[rows]
    reward = policy.all_rewards[i]
    cells, sample = None, None
    if reward.is_binary:
        scaled = value / reward.range[1]
        binned = bins if np.count_nonzero(bins) else None
        cells = cells_of(state.strata, stratum=stratum, arm=arm, bin=binned, s=scaled)
    else:
        pi = strata.pis(state.strata, stratum)
        others = np.arange(1, pi.shape[1] + 1)
        pi[(arm[:, np.newaxis] > 0) & (arm[:, np.newaxis] != others)] = np.nan
        sample = Sample(arm=arm, stratum=stratum, bin=bins, pi=pi, value=value)
    if i == 0:
        last = float(outcomes.time[-1])
        estimators = estimate.observe_outcomes(spec, estimators, cells, sample, last)
    else:
        estimators = estimate.observe_reward(spec, estimators, place - 1, cells, sample)
    return evolve(state, estimators=estimators)


def count_flow(policy: Policy, state: State, closed: Closed) -> State:
    """Feed the fast path and the bandit: who entered, who gave a first reward, who closed."""
    if state.spec is None or state.estimators is None or judged_reward(policy, state, 0) is None:
        return state
    if not (len(closed.matured.arm) or len(closed.events.arm) or len(closed.outcomes.arm)):
        return state
    estimators = estimate.observe_flow(
        state.spec, state.estimators, _flow(state, closed), state.clock - policy.spec.reward.grace
    )
    return evolve(state, estimators=estimators)


def _flow(state: State, closed: Closed) -> Flow:
    """The units of the rollout that entered, then those with a first reward, then those closed."""
    matured, events, outcomes = closed.matured, closed.events, closed.outcomes
    some = outcomes.analysed.nonzero()[0]
    parts = ((matured, None), (events, None), (outcomes, some))
    rows = [
        (part.stratum, part.arm, part.time)
        if chosen is None
        else (part.stratum[chosen], part.arm[chosen], part.time[chosen])
        for part, chosen in parts
    ]
    stratum, arm, time = (np.concatenate(column) for column in zip(*rows, strict=True))
    first, end = len(matured.arm), len(matured.arm) + len(events.arm)
    columns = np.zeros((8, len(stratum)))
    columns[0, :first] = 1.0  # matured
    if end > first:
        columns[1, first:end] = events.is_event
        columns[2, first:end] = np.where(events.is_event, events.value, 0.0)
        columns[3, first:end] = events.delay
        columns[4, first:end] = 1.0 - events.is_event  # lapsed
    if len(some):
        value = outcomes.analysed_value[some]
        columns[4, end:] = ~outcomes.scored[some]
        columns[5, end:] = 1.0  # closed
        columns[6, end:] = value
        columns[7, end:] = value**2
    arm = rollout_arms(state, arm)
    ours = (stratum >= 0) & (arm >= 0)
    if np.count_nonzero(ours) < len(ours):
        stratum, arm, time = stratum[ours], arm[ours], time[ours]
        columns = columns.compress(ours, axis=1)
    return Flow(stratum, state.strata.segment[stratum], arm, time, *columns)


def count_dropped(state: State, dropped: list[Dropped], joined: Joined) -> State:
    """Feed the sample ratio of what came too late to be used, and remember what did not.

    Exposures are lost by chance, or not, in the proportion in which they were routed; rewards in
    that of the rewards that were in time: an arm that earns more loses more, and that is no fault.
    """
    spec, estimators = state.spec, state.estimators
    if spec is None or estimators is None or state.rollout is None:
        return state
    if len(joined.arm):
        counts = _by_arm(state, joined)
        state = evolve(state, joined=_padded(state.joined, len(counts)) + counts)
    lost = [part for part in dropped if len(part.arm)]
    if not lost:
        return state
    for part in lost:
        for cells in (_lost_exposures(state, part), _lost_rewards(state, part)):
            if len(cells.pi):
                estimators = estimate.observe_dropped(spec, estimators, cells)
    return evolve(state, estimators=estimators)


def _lost_exposures(state: State, part: Dropped) -> Cells:
    arm = rollout_arms(state, part.arm)
    rows = np.flatnonzero((arm >= 0) & (part.stratum >= 0) & part.is_exposure)
    nothing = np.zeros(len(rows))
    return cells_of(state.strata, stratum=part.stratum[rows], arm=arm[rows], s=nothing)


def _lost_rewards(state: State, part: Dropped) -> Cells:
    arm = rollout_arms(state, part.arm)
    counts = np.bincount(arm[(arm >= 0) & ~part.is_exposure], minlength=len(state.joined))
    return _reward_cells(state.joined, counts.astype(np.float64))


def _by_arm(state: State, joined: Joined) -> Float:
    assert state.rollout is not None
    arm = rollout_arms(state, joined.arm)
    ours = arm >= 0
    counts = np.bincount(arm[ours], joined.count[ours], len(state.rollout.arms))
    return counts.astype(np.float64)


def _padded(counts: Float, size: int) -> Float:
    more = size - len(counts)
    return np.concatenate([counts, np.zeros(more)]) if more else counts


def _reward_cells(joined: Float, dropped: Float) -> Cells:
    both = joined[0] + joined[1:]
    good = (both >= ENOUGH_JOINED) & (joined[0] > 0) & (joined[1:] > 0)
    good &= dropped[0] + dropped[1:] > 0
    candidate = np.flatnonzero(good)
    zero = np.zeros(len(candidate))
    return Cells(
        candidate=candidate,
        stratum=zero.astype(np.int64),
        bin=zero.astype(np.int64),
        pi=joined[1 + candidate] / both[candidate],
        n0=np.full(len(candidate), dropped[0]),
        s0=zero,
        n1=dropped[1 + candidate],
        s1=zero,
    )
