"""What goes into a partition's joiners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controller.core import join
from controller.core.arms import counted
from controller.core.attribution import MOST_STATED
from controller.core.batch import MicroBatch, select
from controller.core.counting import failed
from controller.core.join import Absorbed, JoinExposures, JoinRewards, JoinRule, Table
from controller.core.model import (
    NO_EPOCH,
    Bool,
    Exposures,
    Float,
    Int,
    Reason,
    Rejected,
    Rewards,
    evolved,
)
from controller.core.observe import join_rule, named
from controller.core.partition.table import Partition, groups
from controller.core.policy import Policy, Reward
from controller.core.state import place_of


def taken_in(
    policy: Policy, partition: Partition, micro: MicroBatch, rejected: list[Rejected]
) -> tuple[Partition, tuple[JoinExposures, Absorbed, Bool]]:
    """Give exposures and rewards to the joiners; what became of them, and which had failed.

    Adds to what was refused.

    micro  with arms of the partition, see `with_arms`
    """
    partition, stratum = _with_strata(partition, micro)
    exposures = _joinable(micro.exposures, stratum)
    rewards, unknown = named(policy, micro)
    rejected += unknown
    first = None
    for i, reward in enumerate(policy.all_rewards):
        rule, asked = rule_of(policy, reward), _rewards(rewards[i])
        found = join.absorb(partition.joins[i], rule, exposures, asked)
        if first is None:
            first = found
            rejected += found.refused.listed()
        else:
            # Each joiner meets every exposure; that one is refused is said once.
            rejected += found.refused.of_rewards().listed()
    assert first is not None
    return partition, (exposures, first, failed(micro.exposures.status))


def rule_of(policy: Policy, reward: Reward) -> JoinRule:
    """As for the model, where each request is its own unit: so it is in all that is partitioned.

    A policy that was edited may say otherwise while its partitions still drain.
    """
    return replace(join_rule(policy, reward), by="request_id", units=False)


def with_rewards(policy: Policy, partition: Partition) -> Partition:
    """The partition with a joiner for each reward of a policy that may have been edited since."""
    wanted = tuple(reward.event for reward in policy.all_rewards)
    if partition.rewards == wanted:
        return partition
    known = partition.rewards
    places = [place_of(known, wanted, i) if known else None for i in range(len(wanted))]
    joins = tuple(Table() if at is None else partition.joins[at] for at in places)
    return evolved(partition, rewards=wanted, joins=joins)


def with_arms(
    partition: Partition, micro: MicroBatch
) -> tuple[Partition, MicroBatch, list[Rejected]]:
    """The micro-batch with arms of the partition, and exposures of arms that are one too many.

    New arms are added in the order in which the log has them.
    """
    names, both = micro.names, (micro.exposures, micro.shadows)
    used, first = np.unique(np.concatenate([each.arm for each in both]), return_index=True)
    used = used[np.argsort(first, kind="stable")].tolist()
    found, _ = counted(partition.arms, micro.tick.arms, [names[i] for i in used])
    arms = tuple(dict.fromkeys((*partition.arms, *found)))
    place = {name: i for i, name in enumerate(arms)}
    translation = np.full(len(names), -1, np.int64)
    translation[used] = [place.get(names[i], -1) for i in used]
    exposures, shadows = (_of_arms(each, translation) for each in both)
    strange = np.flatnonzero(translation[micro.exposures.arm] < 0)
    pairs = zip(
        micro.exposures.offset[strange].tolist(),
        micro.exposures.arm[strange].tolist(),
        strict=True,
    )
    rejected = [Rejected(offset, Reason.UNKNOWN_ARM, names[name]) for offset, name in pairs]
    micro = replace(micro, exposures=exposures, shadows=shadows)
    return evolved(partition, arms=arms), micro, rejected


def _of_arms(exposures: Exposures, translation: Int) -> Exposures:
    arm = translation[exposures.arm]
    found = replace(exposures, arm=arm)
    return found if (arm >= 0).all() else select(found, arm >= 0)


def _with_strata(partition: Partition, micro: MicroBatch) -> tuple[Partition, Int]:
    """The stratum of each exposure: what it says of its split, and its segment.

    A split that was not made yet is none. Of chances that exposures state themselves there are at
    most as many as there are weights; what is one too many says nothing.
    """
    n, exposures, tick = len(partition.epochs), micro.exposures, micro.tick
    is_made = (exposures.epoch <= tick.epoch) | (tick.epoch == 0)
    epoch = np.where(is_made, exposures.epoch, NO_EPOCH)
    stated = np.nan_to_num(np.round(exposures.propensity, 12), nan=0.0)
    partition, own = _with_segments(partition, micro)
    first, inverse = groups(epoch, stated, own)
    epochs = np.append(partition.epochs, epoch[first])
    chances = np.append(partition.propensities, stated[first])
    segment = np.append(partition.segment, own[first])
    row = _alike(epochs, chances, segment)
    room = MOST_STATED - np.count_nonzero(partition.propensities)
    beyond = np.flatnonzero((row >= n) & (chances > 0.0))[max(room, 0) :]
    if len(beyond):
        chances[beyond] = 0.0
        row = _alike(epochs, chances, segment)
    kept = np.append(np.arange(n), np.unique(row[row >= n]))
    partition = evolved(
        partition, epochs=epochs[kept], propensities=chances[kept], segment=segment[kept]
    )
    return partition, np.searchsorted(kept, row[n:])[inverse]


def _with_segments(partition: Partition, micro: MicroBatch) -> tuple[Partition, Int]:
    """The segment of each exposure, -1 for none, of those that the tick names."""
    segments = tuple(dict.fromkeys((*partition.segments, *micro.tick.segments)))
    place = {name: segments.index(name) for name in micro.tick.segments}
    index = np.array([place.get(name, -1) for name in micro.names] + [-1], np.int64)
    return evolved(partition, segments=segments), index[micro.exposures.segment]


def _alike(*keys: Int | Float) -> Int:
    """The first row that has the same keys, of each row."""
    first, group = groups(*keys)
    return first[group]


def _joinable(exposures: Exposures, stratum: Int) -> JoinExposures:
    n = len(stratum)
    return JoinExposures(
        offset=exposures.offset,
        time=exposures.time,
        request=exposures.request,
        unit=exposures.unit,
        arm=exposures.arm,
        stratum=stratum,
        in_rollout=np.ones(n, np.bool_),
        level=np.zeros(n, np.int64),
        is_candidate=np.zeros(n, np.bool_),
        bin=np.zeros(n, np.int64),
    )


def _rewards(rewards: Rewards) -> JoinRewards:
    return JoinRewards(
        offset=rewards.offset,
        time=rewards.time,
        id=rewards.id,
        request=rewards.request,
        unit=rewards.unit,
        value=rewards.value,
    )


def with_mark(policy: Policy, partition: Partition) -> Partition:
    """The partition whose watermarks go up to this tick's, and back to the oldest that counts."""
    last = partition.marks[-1] if len(partition.marks) else -np.inf
    mark = max(float(last), partition.clock - policy.spec.reward.grace)
    longest_s = max(reward.window for reward in policy.all_rewards)
    marks = np.append(partition.marks, mark)
    first = int(np.searchsorted(marks, mark - longest_s, side="right")) - 1
    return evolved(partition, marks=marks[max(first, 0) :])
