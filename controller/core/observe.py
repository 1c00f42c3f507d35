"""The data half of a tick: from events to evidence. Called by the engine only.

Each exposure is first attributed to the split that it was routed with, then joined; what becomes of
it feeds the estimators as sums per stratum: `Cells` for what is yes or no, a `Sample` where amounts
matter, a `Flow` of entries and first rewards. Rewards are judged on the closed prefix, and, to roll
back early, as they come; errors, latency and the sample ratio are known when an exposure comes and
are counted at once. Where a unit is declared, each of these counts a unit once, at its first
exposure in the rollout (and again when a grown share has drawn its arm anew).

`Tallies` are such sums from another joiner. They join the stream here, so that a partition's
worker, a simulation and our own joiner are told apart by nothing behind this module.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controller.core import join
from controller.core.attribution import Attributed, attribute, segmented
from controller.core.batch import MicroBatch, select
from controller.core.counting import (
    add_closed,
    count_answers,
    count_dropped,
    count_flow,
    count_latency,
    count_mirrored,
    count_outcomes,
    settled,
)
from controller.core.join import Absorbed, Dropped, JoinExposures, JoinRewards, JoinRule
from controller.core.model import (
    NO_EPOCH,
    Exposures,
    Int,
    Phase,
    Reason,
    Rejected,
    Rewards,
    SplitEvent,
)
from controller.core.policy import Policy, Reward
from controller.core.state import KnownSplit, State, evolve, with_arms, with_split
from controller.core.tallies import observe_tallies


def join_rule(policy: Policy, reward: Reward) -> JoinRule:
    """The joiner's settings for one of the policy's rewards."""
    low, high = reward.range
    return JoinRule(
        window_s=reward.window,
        grace_s=policy.spec.reward.grace,
        default=reward.default,
        low=low,
        high=high,
        aggregate=reward.aggregate,
        by=policy.spec.reward.join,
        units=policy.spec.route.unit is not None,
    )


def learn_splits(policy: Policy, state: State, micro: MicroBatch) -> State:
    """Splits that came into force: epochs that exposures may name."""
    for event in micro.control:
        if not isinstance(event, SplitEvent):
            continue
        known = KnownSplit(event.epoch, event.time, event.weights, event.segments)
        state = with_split(state, known, grace_s=policy.spec.reward.grace)
        if event.epoch >= state.in_force_epoch:
            state = evolve(state, in_force_epoch=event.epoch, in_force=event.weights)
    return state


def observe(policy: Policy, state: State, micro: MicroBatch) -> tuple[State, tuple[Rejected, ...]]:
    """Take in a micro-batch and close what is due; gives the events that could not be used."""
    rejected = list(micro.rejected)
    dropped: list[Dropped] = []
    if len(micro.exposures.time) or len(micro.rewards.time) or len(micro.shadows.time):
        state = _taken_in(policy, state, micro, rejected, dropped)
    for i, reward in enumerate(policy.all_rewards):
        closed = join.close(state.joins[i], join_rule(policy, reward), state.clock)
        rejected += closed.refused.listed()
        state = add_closed(policy, state, i, closed.outcomes)
        state, closed = settled(state, closed)
        state = count_outcomes(policy, state, i, closed.outcomes)
        if i == 0:
            state = count_flow(policy, state, closed)
            state = count_dropped(state, [*dropped, closed.dropped], closed.joined)
    if len(micro.tallies.time):
        state = observe_tallies(policy, state, micro)
    if state.phase in (Phase.PROMOTING, Phase.ROLLING_BACK):
        state = _with_exposed_epoch(state, micro)
    # Only now: what is told of a unit counts from the next micro-batch on, so that it was known
    # before the arm that answers the unit could have a part in it.
    if len(micro.covariates.unit):
        state.covariates.learn(micro.covariates.unit, micro.covariates.value)
    return _counted(state, rejected), tuple(rejected)


def _with_exposed_epoch(state: State, micro: MicroBatch) -> State:
    """The latest split under which a request was answered; one that says none is dated."""
    exposures, known = micro.exposures, state.known.get(state.in_force_epoch)
    epochs = np.concatenate([exposures.epoch, micro.tallies.epoch])
    exposed = max(state.exposed_epoch, int(epochs.max(initial=NO_EPOCH)))
    unnamed = exposures.time[exposures.epoch == NO_EPOCH]
    if known is not None and len(unnamed) and float(unnamed.max()) >= known.since:
        exposed = max(exposed, known.epoch)
    return evolve(state, exposed_epoch=exposed)


def _taken_in(
    policy: Policy,
    state: State,
    micro: MicroBatch,
    rejected: list[Rejected],
    dropped: list[Dropped],
) -> State:
    """Give exposures and rewards to the joiners; adds to what was refused and what was lost."""
    state, exposures = _translated(state, micro.names, micro.exposures)
    state, segment = segmented(policy, state, micro.names, exposures.segment)
    state, attributed = attribute(policy, state, exposures, segment)
    rewards, unknown = _named(policy, micro)
    rejected += unknown
    exposed = (exposures, attributed, _bins(state, exposures))
    first = _absorb(state, 0, join_rule(policy, policy.spec.reward), exposed, rewards[0])
    rejected += first.refused.listed()
    dropped.append(first.dropped)
    for i, reward in enumerate(policy.side_rewards, 1):
        found = _absorb(state, i, join_rule(policy, reward), exposed, rewards[i])
        # Each joiner meets every exposure; that one is refused is said once.
        rejected += found.refused.of_rewards().listed()
    state = _answered(state, exposed, first)
    return count_mirrored(state, micro, select(exposures, first.accepted))


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


def _named(policy: Policy, micro: MicroBatch) -> tuple[list[Rewards], list[Rejected]]:
    """The rewards that each joiner asks for, and those that none does."""
    rewards = micro.rewards
    found, wanted = [], np.zeros(len(rewards.name), np.bool_)
    for reward in policy.all_rewards:
        place = micro.names.index(reward.event) if reward.event in micro.names else -1
        mask = rewards.name == place
        wanted |= mask
        found.append(rewards if mask.all() else select(rewards, mask))
    if wanted.all():
        return found, []
    others = select(rewards, ~wanted)
    return found, [
        Rejected(int(offset), Reason.UNKNOWN_NAME, micro.names[int(name)])
        for offset, name in zip(others.offset, others.name, strict=True)
    ]


def _bins(state: State, exposures: Exposures) -> Int:
    """The covariate bin of each exposure's unit, from 1; 0 where nothing is known of it."""
    bins = np.zeros(len(exposures.time), np.int64)
    if state.spec is None or not state.spec.cuts or not len(bins):
        return bins
    value = state.covariates.find(exposures.unit)
    known = np.isfinite(value)
    bins[known] = 1 + np.searchsorted(np.array(state.spec.cuts), value[known], side="right")
    return bins


def _absorb(
    state: State,
    i: int,
    rule: JoinRule,
    exposed: tuple[Exposures, Attributed, Int],
    rewards: Rewards,
) -> Absorbed:
    exposures, attributed, bins = exposed
    return join.absorb(
        state.joins[i],
        rule,
        JoinExposures(
            offset=exposures.offset,
            time=exposures.time,
            request=exposures.request,
            unit=exposures.unit,
            arm=exposures.arm,
            stratum=attributed.stratum,
            in_rollout=attributed.counts,
            level=attributed.level,
            is_candidate=attributed.arm > 0,
            bin=bins,
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


def _answered(
    state: State, exposed: tuple[Exposures, Attributed, Int], absorbed: Absorbed
) -> State:
    """Count the exposures and their errors; feed what is known as soon as an answer is."""
    exposures, attributed, bins = exposed
    accepted = absorbed.accepted
    if not accepted.any():
        return state
    lost = int(np.count_nonzero(accepted & (attributed.stratum < 0)))
    state = evolve(
        state,
        last_exposure=max(state.last_exposure, float(exposures.time[accepted].max())),
        unattributed=state.unattributed + (lost if state.rollout else 0),
    )
    state = count_answers(state, exposures, attributed, absorbed, bins)
    if state.spec is not None and state.spec.latency is not None:
        state = count_latency(state, exposures, attributed, absorbed)
    return state


def _counted(state: State, rejected: list[Rejected]) -> State:
    if not rejected:
        return state
    counts = dict(state.rejected)
    for event in rejected:
        counts[event.reason] = counts.get(event.reason, 0) + 1
    return evolve(state, rejected=counts)
