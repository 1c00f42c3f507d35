"""Tallies: sums that another joiner made of a model's events. Called by `observe`.

They take the place of the events that they count and nothing else: the same totals, the same
`Cells` and `Flow`, the same estimators.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controller.core import estimate, strata
from controller.core.attribution import (
    by_epoch,
    by_propensity,
    remembered,
    rollout_arms,
    segmented,
)
from controller.core.batch import MicroBatch
from controller.core.case import judged_reward
from controller.core.counting import cells_of, count_dropped, latency_cells
from controller.core.estimate.health import update_join_rate
from controller.core.join import Dropped, Joined
from controller.core.mirrored import count_copies
from controller.core.model import NO_EPOCH, Float, Flow, Int, Sample, Tallies
from controller.core.policy import Policy
from controller.core.state import State, Sums, Totals, evolve, with_arms
from controller.core.strata import comparing


def observe_tallies(policy: Policy, state: State, micro: MicroBatch) -> State:
    """Take in what other joiners counted in this micro-batch."""
    tallies = micro.tallies
    used = np.unique(tallies.arm)
    state = with_arms(state, tuple(micro.names[i] for i in used))
    translation = np.zeros(len(micro.names), np.int64)
    translation[used] = [state.arms.index(micro.names[i]) for i in used]
    arms = translation[tallies.arm]
    return count_tallies(policy, state, replace(tallies, arm=arms), micro.names, state.clock)


def count_tallies(
    policy: Policy, state: State, tallies: Tallies, names: tuple[str, ...], clock: float
) -> State:
    """Take in what other joiners counted up to a tick.

    tallies  whose arms index into the state's, and whose segments into `names`
    clock    of that tick, which may be an earlier one
    """
    arms = tallies.arm
    for i in range(len(policy.all_rewards)):
        state = _closed(policy, state, i, tallies, arms)
    state = _added(state, tallies, arms)
    if state.rollout is None or state.estimators is None or state.spec is None:
        return state
    arm = rollout_arms(state, arms)
    sighted = tallies.sighted if clock >= state.rollout.started else np.zeros(len(arms))
    state, segment = segmented(policy, state, names, tallies.segment, sighted)
    state, stratum = by_epoch(state, tallies.epoch, segment)
    stratum = remembered(state, tallies.epoch, segment, stratum)
    state, stratum = by_propensity(state, tallies.propensity, arm, stratum)
    lost = float(tallies.exposures[stratum < 0].sum())
    state = evolve(state, unattributed=state.unattributed + round(lost))
    state = _with_copies(state, tallies, arms)
    state = _with_paces(state, tallies, (stratum, arm), clock)
    counts = comparing(state.strata, stratum, arm) & _of_rollout(state, tallies)
    rows = np.flatnonzero(counts)
    if len(rows):
        state = _fed(policy, state, tallies.pick(rows), (stratum[rows], arm[rows]), clock)
    return _with_dropped(state, tallies, (stratum, arms))


def _of_rollout(state: State, tallies: Tallies) -> np.ndarray:
    """Whether rows can be of the present rollout: an exposure of an earlier one never is."""
    assert state.rollout is not None
    dated = np.where(
        tallies.epoch == NO_EPOCH,
        tallies.time >= state.rollout.started,
        tallies.epoch >= state.partitions.first_epoch,
    )
    return np.asarray(dated, np.bool_)


def _by_arm(arms: Int, column: Float, size: int) -> Float:
    return np.bincount(arms, column, size).astype(np.float64)


def _whole(arms: Int, column: Float, size: int) -> Int:
    counts: Int = np.rint(_by_arm(arms, column, size)).astype(np.int64)
    return counts


def _closed(policy: Policy, state: State, i: int, tallies: Tallies, arms: Int) -> State:
    """What closed for reward `i`, over the life of the log."""
    rows = np.flatnonzero((tallies.reward == i) & (tallies.outcomes > 0.0))
    if not len(rows):
        return state
    arms, closed = arms[rows], tallies.pick(rows)
    n_arms, old = len(state.arms), state.sums[i]
    sums = Sums(
        outcomes=old.outcomes + _whole(arms, closed.outcomes, n_arms),
        value=old.value + _by_arm(arms, closed.value, n_arms),
        square=old.square + _by_arm(arms, closed.square, n_arms),
    )
    state = evolve(state, sums=(*state.sums[:i], sums, *state.sums[i + 1 :]))
    if i > 0:
        return state
    joined, outcomes = float(closed.joined.sum()), float(closed.outcomes.sum())
    least = policy.spec.health.join_rate
    return evolve(
        state,
        rewarded=state.rewarded + (round(joined) if state.rollout else 0),
        join_rate=update_join_rate(state.join_rate, outcomes, joined, least=least),
    )


def _added(state: State, tallies: Tallies, arms: Int) -> State:
    """The totals with the requests that the tallies count."""
    answered, n_arms = tallies.exposures > 0, len(state.arms)
    if not answered.any():
        return state
    return evolve(
        state,
        totals=Totals(
            exposures=state.totals.exposures + _whole(arms, tallies.exposures, n_arms),
            errors=state.totals.errors + _whole(arms, tallies.errors, n_arms),
        ),
        last_exposure=max(state.last_exposure, float(tallies.time[answered].max())),
    )


def _with_copies(state: State, tallies: Tallies, arms: Int) -> State:
    """Mirrored requests beside the champion's answers to the same traffic."""
    if not tallies.copies.any():
        return state
    assert state.rollout is not None
    champion = arms == state.arms.index(state.rollout.champion)
    answers = (float(tallies.exposures[champion].sum()), float(tallies.errors[champion].sum()))
    copies = {
        state.arms[i]: (
            float(tallies.copies[arms == i].sum()),
            float(tallies.copy_errors[arms == i].sum()),
        )
        for i in np.unique(arms[tallies.copies > 0.0]).tolist()
    }
    return count_copies(state, copies, answers)


def _with_paces(state: State, tallies: Tallies, places: tuple[Int, Int], clock: float) -> State:
    """How long answers took; what was told for another bound than the rollout's is not compared."""
    spec, estimators = state.spec, state.estimators
    if spec is None or spec.latency is None or estimators is None or not tallies.timed.any():
        return state
    assert state.rollout is not None
    stratum, arm = places
    timed, pace = tallies.timed, np.where(arm > 0, tallies.pace_borne, tallies.pace)
    rows = np.flatnonzero(
        (timed > 0.0)
        & (tallies.increase == spec.latency[1])
        & comparing(state.strata, stratum, arm)
        & _of_rollout(state, tallies)
    )
    cells = latency_cells(
        state, stratum=stratum[rows], arm=arm[rows], bins=pace[rows], n=timed[rows]
    )
    ours = np.flatnonzero((arm == 0) & (timed > 0.0) & (clock >= state.rollout.started))
    champion = estimate.latency_counted(pace[ours], timed[ours])
    estimators = estimate.observe_latency(spec, estimators, cells, champion)
    return evolve(state, estimators=estimators)


def _with_dropped(state: State, tallies: Tallies, places: tuple[Int, Int]) -> State:
    """Rewards that were joined in time, and what came too late, by arm."""
    stratum, arms = places
    parts = []
    for column, is_exposure in ((tallies.late_exposures, True), (tallies.late_rewards, False)):
        rows = np.flatnonzero(column > 0.0)
        again = np.repeat(rows, np.rint(column[rows]).astype(np.int64))
        parts.append(Dropped(arms[again], stratum[again], np.full(len(again), is_exposure)))
    some = np.flatnonzero(tallies.credited > 0.0)
    credited = np.rint(tallies.credited[some]).astype(np.int64)
    return count_dropped(state, parts, Joined(arms[some], stratum[some], credited))


def _fed(
    policy: Policy, state: State, tallies: Tallies, places: tuple[Int, Int], clock: float
) -> State:
    """Feed the estimators with rows that compare the rollout's arms."""
    spec, estimators = state.spec, state.estimators
    assert spec is not None
    assert estimators is not None
    stratum, arm = places
    if tallies.entered.any():
        some = np.flatnonzero(tallies.entered)
        answers = cells_of(
            state.strata,
            stratum=stratum[some],
            arm=arm[some],
            n=tallies.entered[some],
            s=tallies.entered_errors[some],
        )
        estimators = estimate.observe_answers(spec, estimators, answers)
        estimators = estimate.observe_units(spec, estimators, answers)
        state = evolve(state, estimators=estimators)
    for i in range(len(policy.all_rewards)):
        rows = np.flatnonzero((tallies.reward == i) & (tallies.analysed > 0.0))
        if len(rows):
            state = _judged(policy, state, i, tallies.pick(rows), (stratum[rows], arm[rows]))
    if judged_reward(policy, state, 0) is None:
        return state
    return _flowing(policy, state, tallies, places, clock)


def _judged(
    policy: Policy, state: State, i: int, closed: Tallies, places: tuple[Int, Int]
) -> State:
    """Feed the estimators of reward `i` with outcomes."""
    spec, estimators, place = state.spec, state.estimators, judged_reward(policy, state, i)
    if spec is None or estimators is None or place is None:
        return state
    stratum, arm = places
    reward, cells, sample = policy.all_rewards[i], None, None
    if reward.is_binary:
        scaled = closed.analysed_value / reward.range[1]
        cells = cells_of(state.strata, stratum=stratum, arm=arm, n=closed.analysed, s=scaled)
    else:
        sample = _sample(state, closed, places)
    if i == 0:
        last = float(closed.time.max())
        estimators = estimate.observe_outcomes(spec, estimators, cells, sample, last)
    else:
        estimators = estimate.observe_reward(spec, estimators, place - 1, cells, sample)
    return evolve(state, estimators=estimators)


def _sample(state: State, closed: Tallies, places: tuple[Int, Int]) -> Sample:
    """Amounts, one by one: the outcomes of a row have the same value."""
    n = np.rint(closed.analysed).astype(np.int64)
    stratum, arm = (np.repeat(column, n) for column in places)
    pi = strata.pis(state.strata, stratum)
    others = np.arange(1, pi.shape[1] + 1)
    pi[(arm[:, np.newaxis] > 0) & (arm[:, np.newaxis] != others)] = np.nan
    value = np.repeat(closed.analysed_value / n, n)
    return Sample(arm=arm, stratum=stratum, bin=np.zeros(len(arm), np.int64), pi=pi, value=value)


def _flowing(
    policy: Policy, state: State, tallies: Tallies, places: tuple[Int, Int], clock: float
) -> State:
    """Feed the fast path and the bandit."""
    spec, estimators = state.spec, state.estimators
    assert spec is not None
    assert estimators is not None
    of_first = tallies.reward == 0
    closed = np.where(of_first, tallies.analysed, 0.0)
    moving = tallies.matured + tallies.events + tallies.lapsed + closed > 0.0
    rows = np.flatnonzero(moving & of_first)
    if not len(rows):
        return state
    stratum, arm = places[0][rows], places[1][rows]
    part = tallies.pick(rows)
    flow = Flow(
        stratum=stratum,
        segment=state.strata.segment[stratum],
        arm=arm,
        time=part.time,
        matured=part.matured,
        events=part.events,
        event_value=part.event_value,
        delay=part.delay,
        lapsed=part.lapsed,
        closed=part.analysed,
        value=part.analysed_value,
        square=part.square,
    )
    watermark = clock - policy.spec.reward.grace
    return evolve(state, estimators=estimate.observe_flow(spec, estimators, flow, watermark))
