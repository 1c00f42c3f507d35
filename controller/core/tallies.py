"""Tallies: sums that another joiner made of a model's events. Called by `observe`.

They take the place of the events that they count and nothing else: the same totals, the same
`Cells` and `Flow`, the same estimators.
"""

from __future__ import annotations

import numpy as np

from controller.core import estimate
from controller.core.attribution import by_epoch, rollout_arms, segmented
from controller.core.batch import MicroBatch, select
from controller.core.counting import cells_of
from controller.core.estimate.health import update_join_rate
from controller.core.model import Cells, Float, Flow, Int, Tallies
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
    state = _added(policy, state, tallies, arms)
    if state.rollout is None or state.estimators is None or state.spec is None:
        return state
    state, segment = segmented(policy, state, micro.names, tallies.segment, tallies.exposures)
    state, stratum = by_epoch(state, tallies.epoch, segment)
    arm = rollout_arms(state, arms)
    lost = float(tallies.exposures[stratum < 0].sum())
    state = evolve(state, unattributed=state.unattributed + round(lost))
    rows = np.flatnonzero(comparing(state.strata, stratum, arm))
    if not len(rows):
        return state
    return _fed(policy, state, select(tallies, rows), stratum[rows], arm[rows])


def _added(policy: Policy, state: State, tallies: Tallies, arms: Int) -> State:
    """The totals with what the tallies count."""
    n_arms, old = len(state.arms), state.sums[0]

    def by_arm(column: Float) -> Float:
        return np.bincount(arms, column, n_arms).astype(np.float64)

    def whole(column: Float) -> Int:
        counts: Int = np.rint(by_arm(column)).astype(np.int64)
        return counts

    answered = tallies.exposures > 0
    latest = float(tallies.time[answered].max()) if answered.any() else state.last_exposure
    # A sum of squares needs the values; of what is yes or no it is the sum.
    sums = Sums(
        outcomes=old.outcomes + whole(tallies.outcomes),
        value=old.value + by_arm(tallies.value),
        square=old.square + by_arm(tallies.value),
    )
    joined, outcomes = float(tallies.joined.sum()), float(tallies.outcomes.sum())
    return evolve(
        state,
        totals=Totals(
            exposures=state.totals.exposures + whole(tallies.exposures),
            errors=state.totals.errors + whole(tallies.errors),
        ),
        sums=(sums, *state.sums[1:]),
        last_exposure=max(state.last_exposure, latest),
        rewarded=state.rewarded + (round(joined) if state.rollout else 0),
        join_rate=update_join_rate(
            state.join_rate, outcomes, joined, least=policy.spec.health.join_rate
        ),
    )


def _fed(policy: Policy, state: State, tallies: Tallies, stratum: Int, arm: Int) -> State:
    spec, estimators = state.spec, state.estimators
    assert spec is not None
    assert estimators is not None
    high = policy.spec.reward.range[1]

    def cells(n: Float, s: Float) -> Cells:
        some = np.flatnonzero(n)
        return cells_of(state.strata, stratum=stratum[some], arm=arm[some], n=n[some], s=s[some])

    if tallies.entered.any():
        answers = cells(tallies.entered, tallies.entered_errors)
        estimators = estimate.observe_answers(spec, estimators, answers)
        estimators = estimate.observe_units(spec, estimators, answers)
    if tallies.analysed.any():
        closed = cells(tallies.analysed, tallies.analysed_value / high)
        last = float(tallies.time[tallies.analysed > 0].max())
        estimators = estimate.observe_outcomes(spec, estimators, closed, None, last)
    flow = Flow(
        stratum=stratum,
        segment=state.strata.segment[stratum],
        arm=arm,
        time=tallies.time,
        matured=tallies.matured,
        events=tallies.events,
        event_value=tallies.events * high,
        delay=tallies.delay,
        lapsed=tallies.lapsed,
        closed=tallies.analysed,
        value=tallies.analysed_value,
        square=tallies.analysed_value * high,
    )
    watermark = state.clock - policy.spec.reward.grace
    estimators = estimate.observe_flow(spec, estimators, flow, watermark)
    return evolve(state, estimators=estimators)
