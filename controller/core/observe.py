"""The data half of a tick: from events to evidence. Called by the engine only.

Each exposure is first attributed to the split that it was routed with, then joined; what closes
feeds the estimators as counts per conditional propensity (`Cell`). Rewards are judged on the closed
prefix; errors and the sample ratio are known when an exposure comes and are counted at once. Where
a unit is declared, all three count a unit once, at its first exposure in the rollout.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controller.core import estimate, join
from controller.core.batch import MicroBatch, select
from controller.core.join import JoinExposures, JoinRewards, JoinRule
from controller.core.model import (
    NO_EPOCH,
    Bool,
    Cell,
    Exposures,
    Float,
    Int,
    Outcomes,
    Reason,
    Rejected,
    Rewards,
    SplitEvent,
)
from controller.core.policy import Policy
from controller.core.state import State, with_arms, with_split, with_stratum

FAILED_FROM = 500
"""HTTP statuses from here on, and 0 (the user got no answer), are errors of the arm."""


def join_rule(policy: Policy) -> JoinRule:
    """The joiner's settings."""
    reward = policy.spec.reward
    low, high = reward.range
    return JoinRule(
        window_s=reward.window,
        grace_s=reward.grace,
        default=reward.default,
        low=low,
        high=high,
        aggregate=reward.aggregate,
        by=reward.join,
        units=policy.spec.route.unit is not None,
    )


def learn_splits(state: State, micro: MicroBatch) -> State:
    """Splits that came into force: epochs that exposures may name."""
    for event in micro.control:
        if not isinstance(event, SplitEvent):
            continue
        state = with_split(state, event.epoch, event.weights)
        if event.epoch >= state.in_force_epoch:
            state = replace(state, in_force_epoch=event.epoch, in_force=event.weights)
    return state


def observe(policy: Policy, state: State, micro: MicroBatch) -> tuple[State, tuple[Rejected, ...]]:
    """Take in a micro-batch and close what is due; gives the events that could not be used."""
    state, exposures = _translated(state, micro.names, micro.exposures)
    rewards, unknown = _named(policy, micro)
    state, strata = _attributed(state, exposures)
    in_rollout = _in_rollout(state, strata, exposures.arm)
    rule = join_rule(policy)
    absorbed = join.absorb(
        state.join,
        rule,
        JoinExposures(
            offset=exposures.offset,
            time=exposures.time,
            request=exposures.request,
            unit=exposures.unit,
            arm=exposures.arm,
            stratum=strata,
            in_rollout=in_rollout,
        ),
        JoinRewards(
            offset=rewards.offset,
            time=rewards.time,
            id=rewards.id,
            request=rewards.request,
            unit=rewards.unit,
            value=rewards.value,
        ),
    )
    state = _answered(state, exposures, strata, absorbed.accepted, absorbed.entered)
    state = _mirrored(state, micro, select(exposures, absorbed.accepted))
    outcomes, expired = join.close(state.join, rule, state.clock)
    state = _closed(policy, state, outcomes)
    rejected = (
        *micro.rejected,
        *unknown,
        *absorbed.refused.listed(),
        *expired.listed(),
    )
    return _counted(state, rejected), rejected


def _translated(
    state: State, names: tuple[str, ...], exposures: Exposures
) -> tuple[State, Exposures]:
    """Exposures whose arms index into `state.arms`."""
    if not len(exposures.arm):
        return state, exposures
    used = np.unique(exposures.arm)
    state = with_arms(state, tuple(names[i] for i in used))
    translation = np.zeros(len(names), dtype=np.int64)
    translation[used] = [state.arms.index(names[i]) for i in used]
    return state, replace(exposures, arm=translation[exposures.arm])


def _named(policy: Policy, micro: MicroBatch) -> tuple[Rewards, tuple[Rejected, ...]]:
    """The rewards that the policy asks for, and those that it does not."""
    rewards, event = micro.rewards, policy.spec.reward.event
    wanted = micro.names.index(event) if event in micro.names else -1
    mask = rewards.name == wanted
    if mask.all():
        return rewards, ()
    others = select(rewards, ~mask)
    rejected = tuple(
        Rejected(int(offset), Reason.UNKNOWN_NAME, micro.names[int(name)])
        for offset, name in zip(others.offset, others.name, strict=True)
    )
    return select(rewards, mask), rejected


def _attributed(state: State, exposures: Exposures) -> tuple[State, Int]:
    """The stratum of each exposure, -1 where neither its epoch nor its propensity says it.

    The propensity that an exposure carries comes first: it was fixed when the arm was chosen. With
    more than two arms it does not say how likely the others were, and the epoch must.
    """
    strata = np.full(len(exposures.time), -1, dtype=np.int64)
    for epoch in np.unique(exposures.epoch):
        index = state.by_epoch.get(int(epoch), -1)
        if index >= 0:
            strata[exposures.epoch == epoch] = index
    stated = np.isfinite(exposures.propensity)
    rollout = state.rollout
    if rollout is None or not stated.any():
        return state, strata
    for arm, other in (
        (rollout.candidate, rollout.champion),
        (rollout.champion, rollout.candidate),
    ):
        if arm not in state.arms:
            continue
        rows = stated & (exposures.arm == state.arms.index(arm))
        rows &= _of_two_arms(state, strata)
        state = _by_propensity(state, exposures, rows, (arm, other), strata)
    return state, strata


def _of_two_arms(state: State, strata: Int) -> Bool:
    """Whether the split behind each stratum had at most two arms, so that one share says both."""
    few = np.array([len(s.shares) <= 2 for s in state.strata] + [True])
    return few[strata]


def _by_propensity(
    state: State, exposures: Exposures, rows: Bool, arms: tuple[str, str], strata: Int
) -> State:
    """Writes into `strata` the strata of exposures that state their own propensity."""
    values, inverse = np.unique(exposures.propensity[rows], return_inverse=True)
    indices = np.empty(len(values), dtype=np.int64)
    for i, value in enumerate(values):
        share = round(float(value), 12)
        state, indices[i] = with_stratum(
            state, NO_EPOCH, {arms[0]: share, arms[1]: round(1 - share, 12)}
        )
    strata[rows] = indices[inverse]
    return state


def _in_rollout(state: State, strata: Int, arms: Int) -> Bool:
    """Exposures whose split could have given either arm of the present rollout."""
    rollout = state.rollout
    if rollout is None or state.estimators is None:
        return np.zeros(len(strata), dtype=np.bool_)
    pi = _conditional(state)
    live = np.append((pi > 0) & (pi < 1), False)
    of_the_two = np.isin(arms, _pair(state))
    return live[strata] & of_the_two


def _pair(state: State) -> list[int]:
    """Indices of champion and candidate, in this order; -2 for one that was never seen."""
    rollout = state.rollout
    assert rollout is not None
    names = (rollout.champion, rollout.candidate)
    return [state.arms.index(name) if name in state.arms else -2 for name in names]


def _conditional(state: State) -> Float:
    """(n_strata,) probability of the candidate given that it was the champion or that candidate."""
    rollout = state.rollout
    assert rollout is not None
    shares = [
        (s.shares.get(rollout.champion, 0), s.shares.get(rollout.candidate, 0))
        for s in state.strata
    ]
    return np.array([c / (c + k) if c + k else 0.0 for k, c in shares], dtype=np.float64)


def _cells(state: State, strata: Int, arms: Int, values: Float) -> tuple[Cell, ...]:
    """Counts per stratum of the exposures given, which are all of the present rollout."""
    if not len(strata):
        return ()
    champion, candidate = _pair(state)
    pi = _conditional(state)
    n = len(state.strata)
    counts = {}
    for arm in (champion, candidate):
        rows = arms == arm
        counts[arm] = (
            np.bincount(strata[rows], minlength=n),
            np.bincount(strata[rows], weights=values[rows], minlength=n),
        )
    (n0, s0), (n1, s1) = counts[champion], counts[candidate]
    return tuple(
        Cell(float(pi[i]), float(n0[i]), float(s0[i]), float(n1[i]), float(s1[i]))
        for i in np.flatnonzero(n0 + n1)
    )


def _answered(
    state: State, exposures: Exposures, strata: Int, accepted: Bool, entered: Bool
) -> State:
    """Count the exposures and their errors; feed the error guardrail and the sample ratio."""
    failed = _failed(exposures.status)
    n_arms = len(state.arms)
    totals = replace(
        state.totals,
        exposures=state.totals.exposures + _count(exposures.arm[accepted], n_arms),
        errors=state.totals.errors + _count(exposures.arm[accepted & failed], n_arms),
    )
    lost = int(np.count_nonzero(accepted & (strata < 0))) if state.rollout else 0
    state = replace(state, totals=totals, unattributed=state.unattributed + lost)
    if state.estimators is None or state.spec is None or not entered.any():
        return state
    cells = _cells(state, strata[entered], exposures.arm[entered], failed[entered].astype(float))
    estimators = estimate.observe_answers(state.spec, state.estimators, cells)
    return replace(state, estimators=estimate.observe_units(state.spec, estimators, cells))


def _mirrored(state: State, micro: MicroBatch, exposures: Exposures) -> State:
    """Count the answers to mirrored requests beside the champion's answers to the same traffic.

    Compared are the answers that came, not those that the mirror's share promised: copies that the
    log lost, or that nobody made, say nothing about the candidate. So pi is the candidate's part of
    this micro-batch's answers, and a micro-batch without any is passed over.
    """
    rollout = state.rollout
    if rollout is None or state.estimators is None or state.spec is None:
        return state
    if not state.split.mirror.get(rollout.candidate) or rollout.candidate not in micro.names:
        return state
    rows = np.flatnonzero(micro.shadows.arm == micro.names.index(rollout.candidate))
    rows = rows[np.unique(micro.shadows.request[rows], return_index=True)[1]]
    if not len(rows):
        return state
    champion = exposures.arm == _pair(state)[0]
    copies, answers = _failed(micro.shadows.status[rows]), _failed(exposures.status[champion])
    cell = Cell(
        pi=len(copies) / (len(copies) + len(answers)),
        n0=float(len(answers)),
        s0=float(np.count_nonzero(answers)),
        n1=float(len(copies)),
        s1=float(np.count_nonzero(copies)),
    )
    seen = replace(rollout, shadow_answers=rollout.shadow_answers + len(copies))
    if not len(answers):
        return replace(state, rollout=seen)
    estimators = estimate.observe_shadow(state.spec, state.estimators, cell)
    return replace(state, rollout=seen, estimators=estimators)


def _failed(status: Int) -> Bool:
    is_failed: Bool = (status >= FAILED_FROM) | (status == 0)
    return is_failed


def _closed(policy: Policy, state: State, outcomes: Outcomes) -> State:
    """Count what closed; feed the reward's estimators with what is analysed."""
    if not len(outcomes.time):
        return state
    n_arms = len(state.arms)
    totals = replace(
        state.totals,
        outcomes=state.totals.outcomes + _count(outcomes.arm, n_arms),
        value=state.totals.value + np.bincount(outcomes.arm, outcomes.value, n_arms),
    )
    state = replace(state, totals=totals)
    of_rollout = _in_rollout(state, outcomes.stratum, outcomes.arm)
    rewarded = int(np.count_nonzero(of_rollout & outcomes.joined))
    state = replace(state, rewarded=state.rewarded + rewarded)
    rows = outcomes.analysed & of_rollout
    if state.estimators is None or state.spec is None or not rows.any():
        return state
    scaled = outcomes.analysed_value[rows] / policy.spec.reward.range[1]
    cells = _cells(state, outcomes.stratum[rows], outcomes.arm[rows], scaled)
    last = float(outcomes.time[-1])
    estimators = estimate.observe_outcomes(state.spec, state.estimators, cells, last)
    return replace(state, estimators=estimators)


def _count(arms: Int, n_arms: int) -> Int:
    return np.bincount(arms, minlength=n_arms)


def _counted(state: State, rejected: tuple[Rejected, ...]) -> State:
    if not rejected:
        return state
    counts = dict(state.rejected)
    for event in rejected:
        counts[event.reason] = counts.get(event.reason, 0) + 1
    return replace(state, rejected=counts)
