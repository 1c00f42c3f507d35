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
from controller.core.batch import MicroBatch
from controller.core.case import judged_reward
from controller.core.estimate.health import update_join_rate
from controller.core.join import Absorbed, Closed, Dropped, Joined
from controller.core.model import Bool, Cells, Exposures, Float, Flow, Int, Outcomes, Sample
from controller.core.policy import Policy
from controller.core.state import State, Sums, Totals, evolve
from controller.core.strata import Strata

FAILED_FROM: Final = 500
"""HTTP statuses from here on, and 0 (the user got no answer), are errors of the arm."""

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
    s: Float,
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
    s: Float,
) -> tuple[Cells, ...]:
    """The same of several values of the same units: `s` is (values, units)."""
    n_arms = rows.shares.shape[1]
    place, local = _local(stratum, bin)
    key = local * n_arms + arm
    size = len(place) * n_arms
    trials = np.bincount(key, n, size).reshape(-1, n_arms).astype(np.float64)
    pi = strata.pis(rows, place[:, 0])
    both = np.isfinite(pi) & (trials[:, :1] + trials[:, 1:] > 0.0)
    row, candidate = np.nonzero(both)
    columns = {
        "candidate": candidate,
        "stratum": place[row, 0],
        "bin": place[row, 1],
        "pi": pi[row, candidate],
        "n0": trials[row, 0],
        "n1": trials[row, 1 + candidate],
    }
    found = []
    for value in s:
        good = np.bincount(key, value, size).reshape(-1, n_arms).astype(np.float64)
        found.append(Cells(**columns, s0=good[row, 0], s1=good[row, 1 + candidate]))
    return tuple(found)


def _local(stratum: Int, bins: Int | None) -> tuple[Int, Int]:
    """Distinct (stratum, bin) as rows, and which of them each unit has."""
    if (
        len(stratum)
        and bins is None
        and stratum[0] == stratum[-1]
        and (stratum == stratum[0]).all()
    ):
        return np.array([[stratum[0], 0]]), np.zeros(len(stratum), np.int64)
    joint = stratum * 128 if bins is None else stratum * 128 + bins
    found, local = np.unique(joint, return_inverse=True)
    return np.stack([found // 128, found % 128], axis=1), local


# --- answers ----------------------------------------------------------------------------------


def count_answers(
    state: State, exposures: Exposures, attributed: Attributed, absorbed: Absorbed, bins: Int
) -> State:
    """Count answered requests; feed the error guardrail and the sample ratio."""
    accepted, entered = absorbed.accepted, absorbed.entered
    is_failed = failed(exposures.status)
    n_arms = len(state.arms)
    totals = Totals(
        exposures=state.totals.exposures + np.bincount(exposures.arm[accepted], minlength=n_arms),
        errors=state.totals.errors
        + np.bincount(exposures.arm[accepted & is_failed], minlength=n_arms),
    )
    state = evolve(state, totals=totals)
    spec, estimators = state.spec, state.estimators
    if estimators is None or spec is None or not entered.any():
        return state
    state, stratum = rebased(state, attributed.stratum[entered], absorbed.base[entered])
    cells = cells_of(
        state.strata,
        stratum=stratum,
        arm=attributed.arm[entered],
        bin=bins[entered] if bins.any() else None,
        s=is_failed[entered].astype(np.float64),
    )
    estimators = estimate.observe_answers(spec, estimators, cells)
    return evolve(state, estimators=estimate.observe_units(spec, estimators, cells))


def count_latency(
    state: State, exposures: Exposures, attributed: Attributed, absorbed: Absorbed
) -> State:
    """Feed the latency guardrail: which answers took longer than the champion's quantiles."""
    spec, estimators = state.spec, state.estimators
    timed = absorbed.accepted & np.isfinite(exposures.latency_ms)
    if spec is None or estimators is None or not timed.any():
        return state
    rows = np.flatnonzero(timed & absorbed.entered)
    state, stratum = rebased(state, attributed.stratum[rows], absorbed.base[rows])
    limits = estimate.latency_limits(spec, estimators)
    arm, ms = attributed.arm[rows], exposures.latency_ms[rows]
    slower = ms > np.where(arm > 0, limits[:, 1:], limits[:, :1])
    cells = cells_of_each(state.strata, stratum=stratum, arm=arm, s=slower.astype(np.float64))
    champion = exposures.latency_ms[timed & (attributed.arm == 0)]
    estimators = estimate.observe_latency(spec, estimators, cells, champion)
    return evolve(state, estimators=estimators)


def count_mirrored(state: State, micro: MicroBatch, exposures: Exposures) -> State:
    """Count the answers to mirrored requests beside the champion's answers to the same traffic.

    Compared are the answers that came, not those that the mirror's share promised: copies that the
    log lost, or that nobody made, say nothing about the candidate. So pi is the candidate's part of
    this micro-batch's answers, and a micro-batch without any is passed over.
    """
    rollout = state.rollout
    if rollout is None or state.estimators is None or state.spec is None:
        return state
    mirrored = [name for name in rollout.live if state.split.mirror.get(name)]
    if not mirrored or mirrored[0] not in micro.names:
        return state
    candidate = mirrored[0]
    rows = np.flatnonzero(micro.shadows.arm == micro.names.index(candidate))
    rows = rows[np.unique(micro.shadows.request[rows], return_index=True)[1]]
    if not len(rows):
        return state
    champion = exposures.arm == state.arms.index(rollout.champion)
    copies, answers = failed(micro.shadows.status[rows]), failed(exposures.status[champion])
    seen = replace(rollout, shadow_answers=rollout.shadow_answers + len(copies))
    if not len(answers):
        return evolve(state, rollout=seen)
    zero = np.zeros(1, np.int64)
    cells = Cells(
        candidate=np.array([rollout.candidates.index(candidate)]),
        stratum=zero,
        bin=zero,
        pi=np.array([len(copies) / (len(copies) + len(answers))]),
        n0=np.array([float(len(answers))]),
        s0=np.array([float(np.count_nonzero(answers))]),
        n1=np.array([float(len(copies))]),
        s1=np.array([float(np.count_nonzero(copies))]),
    )
    estimators = estimate.observe_shadow(state.spec, state.estimators, cells)
    return evolve(state, rollout=seen, estimators=estimators)


def settled(state: State, closed: Closed) -> tuple[State, Closed]:
    """What became certain, with the strata of units that came back."""
    parts = {}
    for name in ("outcomes", "matured", "events"):
        part = getattr(closed, name)
        if not (part.base > 0).any() or state.rollout is None:
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
        outcomes=old.outcomes + np.bincount(arm, minlength=n_arms),
        value=old.value + np.bincount(arm, outcomes.value, n_arms),
        square=old.square + np.bincount(arm, outcomes.value**2, n_arms),
    )
    state = evolve(state, sums=(*state.sums[:i], sums, *state.sums[i + 1 :]))
    if i > 0:
        return state
    joined = float(np.count_nonzero(outcomes.joined))
    rewarded = int(np.count_nonzero(outcomes.analysed & (outcomes.joined | outcomes.scored)))
    return evolve(
        state,
        rewarded=state.rewarded + rewarded,
        join_rate=update_join_rate(
            state.join_rate, float(len(arm)), joined, least=policy.spec.health.join_rate
        ),
    )


def count_outcomes(policy: Policy, state: State, i: int, outcomes: Outcomes) -> State:
    """Feed the estimators of reward `i` with the outcomes that are analysed."""
    spec, estimators = state.spec, state.estimators
    if spec is None or estimators is None or not outcomes.analysed.any():
        return state
    place = judged_reward(policy, state, i)
    if place is None:
        return state
    arm = rollout_arms(state, outcomes.arm)
    rows = np.flatnonzero(outcomes.analysed & (outcomes.stratum >= 0) & (arm >= 0))
    if not len(rows):
        return state
    arm, stratum = arm[rows], outcomes.stratum[rows]
    value, bins = outcomes.analysed_value[rows], outcomes.bin[rows].astype(np.int64)
    reward = policy.all_rewards[i]
    cells, sample = None, None
    if reward.is_binary:
        scaled = value / reward.range[1]
        binned = bins if bins.any() else None
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
    parts = [
        make(state, closed)
        for make, rows in (
            (_matured, closed.matured.arm),
            (_events, closed.events.arm),
            (_ended, closed.outcomes.arm),
        )
        if len(rows)
    ]
    if not parts:
        return state
    flow = parts[0] if len(parts) == 1 else _stacked(parts)
    estimators = estimate.observe_flow(
        state.spec, state.estimators, flow, state.clock - policy.spec.reward.grace
    )
    return evolve(state, estimators=estimators)


def _flow(state: State, rows: tuple[Int, Int, Float], **columns: Float) -> Flow:
    """A flow of the units (stratum, state's arm, time) that are of the rollout."""
    stratum, arm, time = rows
    arm = rollout_arms(state, arm)
    of_rollout = np.flatnonzero((stratum >= 0) & (arm >= 0))
    none = np.zeros(len(of_rollout))
    names = ("matured", "events", "event_value", "delay", "lapsed", "closed", "value", "square")
    filled = {name: columns[name][of_rollout] if name in columns else none for name in names}
    stratum = stratum[of_rollout]
    return Flow(
        stratum=stratum,
        segment=state.strata.segment[stratum],
        arm=arm[of_rollout],
        time=time[of_rollout],
        **filled,
    )


def _matured(state: State, closed: Closed) -> Flow:
    rows = closed.matured
    return _flow(state, (rows.stratum, rows.arm, rows.time), matured=np.ones(len(rows.arm)))


def _events(state: State, closed: Closed) -> Flow:
    rows = closed.events
    is_event = rows.is_event.astype(np.float64)
    return _flow(
        state,
        (rows.stratum, rows.arm, rows.time),
        events=is_event,
        event_value=np.where(rows.is_event, rows.value, 0.0),
        delay=rows.delay,
        lapsed=1.0 - is_event,
    )


def _ended(state: State, closed: Closed) -> Flow:
    rows = closed.outcomes
    some = np.flatnonzero(rows.analysed)
    value = rows.analysed_value[some]
    return _flow(
        state,
        (rows.stratum[some], rows.arm[some], rows.time[some]),
        lapsed=(~rows.scored[some]).astype(np.float64),
        closed=np.ones(len(some)),
        value=value,
        square=value**2,
    )


def _stacked(parts: list[Flow]) -> Flow:
    names = Flow.__dataclass_fields__
    return Flow(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


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
    return np.concatenate([counts, np.zeros(size - len(counts))])


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
