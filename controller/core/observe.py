"""The data half of a tick: from events to evidence. Called by the engine only.

Each exposure is first attributed to the split that it was routed with, then joined; what becomes of
it feeds the estimators as sums per stratum: `Cells` for what is yes or no, a `Sample` where amounts
matter, a `Flow` of entries and first rewards. Rewards are judged on the closed prefix, and, to roll
back early, as they come; errors, latency and the sample ratio are known when an exposure comes and
are counted at once. Where a unit is declared, each of these counts a unit once, at its first
exposure in the rollout (and again when a grown share has drawn its arm anew).

`Tallies` are such sums from another joiner. They join the stream here, so that a partition's
worker (see `merge`), a simulation and our own joiner are told apart by nothing behind this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from controller.core import join
from controller.core.arms import counted
from controller.core.attribution import Attributed, attribute, segmented
from controller.core.batch import MicroBatch, select
from controller.core.counting import (
    add_closed,
    count_answers,
    count_dropped,
    count_flow,
    count_latency,
    count_outcomes,
    settled,
)
from controller.core.join import Absorbed, Dropped, JoinExposures, JoinRewards, JoinRule
from controller.core.merge import merge
from controller.core.mirrored import count_mirrored
from controller.core.model import (
    NO_EPOCH,
    Exposures,
    Int,
    Phase,
    Reason,
    Rejected,
    Rewards,
    SplitEvent,
    TalliesEvent,
)
from controller.core.policy import Policy, Reward
from controller.core.state import KnownSplit, State, evolve, with_arms, with_split
from controller.core.tallies import observe_tallies


@lru_cache(maxsize=1024)
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


@lru_cache(maxsize=1024)
def join_rules(policy: Policy) -> tuple[JoinRule, ...]:
    """The settings of each of the policy's joiners."""
    return tuple(join_rule(policy, reward) for reward in policy.all_rewards)


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


def observe(
    policy: Policy, state: State, micro: MicroBatch, refused: Sequence[Rejected] = ()
) -> tuple[State, tuple[Rejected, ...]]:
    """Take in a micro-batch and close what is due; gives the events that could not be used.

    refused  those of the micro-batch of which that is known already
    """
    rejected = [*micro.rejected, *refused]
    dropped: list[Dropped] = []
    if len(micro.exposures.time) or len(micro.rewards.time) or len(micro.shadows.time):
        state = _taken_in(policy, state, micro, rejected, dropped)
    for i, rule in enumerate(join_rules(policy)):
        closed = join.close(state.joins[i], rule, state.clock)
        if len(closed.refused.offset):
            rejected += closed.refused.listed()
        state = add_closed(policy, state, i, closed.outcomes)
        state, closed = settled(state, closed)
        state = count_outcomes(policy, state, i, closed.outcomes)
        if i == 0:
            state = count_flow(policy, state, closed)
            state = count_dropped(state, [*dropped, closed.dropped], closed.joined)
    if len(micro.tallies.time):
        state = observe_tallies(policy, state, micro)
    state, repeated = merge(policy, state, micro)
    rejected += repeated
    if state.phase in (Phase.PROMOTING, Phase.ROLLING_BACK):
        state = _with_exposed_epoch(state, micro)
    # Only now: what is told of a unit counts from the next micro-batch on, so that it was known
    # before the arm that answers the unit could have a part in it.
    if len(micro.covariates.unit):
        beyond = state.covariates.learn(micro.covariates.unit, micro.covariates.value)
        refused_at = micro.covariates.offset[beyond].tolist()
        rejected += [Rejected(offset, Reason.TOO_MANY_UNITS) for offset in refused_at]
    return _counted(state, rejected), tuple(rejected)


def _with_exposed_epoch(state: State, micro: MicroBatch) -> State:
    """The latest split under which a request was answered; one that says none is dated."""
    exposures, known = micro.exposures, state.known.get(state.in_force_epoch)
    told = [event.rows.epoch for event in micro.control if isinstance(event, TalliesEvent)]
    epochs = np.concatenate([exposures.epoch, micro.tallies.epoch, *told])
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
    state, exposures, strange = _translated(state, micro.names, micro.exposures)
    rejected += strange
    state, segment = segmented(policy, state, micro.names, exposures.segment)
    state, attributed = attribute(policy, state, exposures, segment)
    rewards, unknown = named(policy, micro)
    rejected += unknown
    exposed = (exposures, attributed, _bins(state, exposures))
    rules = join_rules(policy)
    first = _absorb(state, 0, rules[0], exposed, rewards[0])
    rejected += first.refused.listed()
    dropped.append(first.dropped)
    for i, rule in enumerate(rules[1:], 1):
        found = _absorb(state, i, rule, exposed, rewards[i])
        # Each joiner meets every exposure; that one is refused is said once.
        rejected += found.refused.of_rewards().listed()
    state = _answered(state, exposed, first)
    if len(micro.shadows.arm):
        return count_mirrored(state, micro, select(exposures, first.accepted))
    return state


@lru_cache(maxsize=4096)
def _translation(names: tuple[str, ...], arms: tuple[str, ...]) -> Int:
    """The place of each name among the arms; -1: it is none of them."""
    place = {name: i for i, name in enumerate(arms)}
    found = np.array([place.get(name, -1) for name in names], np.int64)
    found.flags.writeable = False
    return found


def _translated(
    state: State, names: tuple[str, ...], exposures: Exposures
) -> tuple[State, Exposures, list[Rejected]]:
    """Exposures whose arms index into `state.arms`, and those of arms that are one too many."""
    if not len(exposures.arm):
        return state, exposures, []
    known = _translation(names, state.arms)[exposures.arm]
    if not np.count_nonzero(known < 0):  # as nearly always
        return state, _with_arm(exposures, known), []
    used, first = np.unique(exposures.arm, return_index=True)
    used = used[np.argsort(first, kind="stable")]  # as the log has them, however it was cut
    found, strangers = counted(state.arms, state.versions, [names[i] for i in used])
    state = with_arms(state, found)
    place = {name: i for i, name in enumerate(state.arms)}
    translation = np.full(len(names), -1, dtype=np.int64)
    translation[used] = [place.get(names[i], -1) for i in used]
    arm = translation[exposures.arm]
    if not strangers:
        return state, replace(exposures, arm=arm), []
    strange = arm < 0
    rejected = [
        Rejected(offset, Reason.UNKNOWN_ARM, names[name])
        for offset, name in zip(
            exposures.offset[strange].tolist(), exposures.arm[strange].tolist(), strict=True
        )
    ]
    return state, select(replace(exposures, arm=arm), ~strange), rejected


def _with_arm(exposures: Exposures, arm: Int) -> Exposures:
    return Exposures(
        exposures.offset,
        exposures.time,
        exposures.request,
        exposures.unit,
        arm,
        exposures.epoch,
        exposures.propensity,
        exposures.status,
        exposures.latency_ms,
        exposures.segment,
    )


def named(policy: Policy, micro: MicroBatch) -> tuple[list[Rewards], list[Rejected]]:
    """The rewards that each joiner asks for, and those that none does."""
    rewards = micro.rewards
    if not len(rewards.name):
        return [rewards] * len(policy.all_rewards), []
    found, wanted = [], np.zeros(len(rewards.name), np.bool_)
    for reward in policy.all_rewards:
        place = micro.names.index(reward.event) if reward.event in micro.names else -1
        mask = rewards.name == place
        wanted |= mask
        is_all = np.count_nonzero(mask) == len(mask)
        found.append(rewards if is_all else select(rewards, mask))
    if np.count_nonzero(wanted) == len(wanted):
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
    if not np.count_nonzero(accepted):
        return state
    lost = int(np.count_nonzero(accepted & (attributed.stratum < 0)))
    times = exposures.time[accepted]
    state = evolve(
        state,
        last_exposure=max(state.last_exposure, float(times[times.argmax()])),
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
