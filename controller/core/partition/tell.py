"""What comes out of a partition's joiners, as rows of sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from controller.core import estimate
from controller.core.attribution import most_seen, segment_rule, sightings
from controller.core.batch import MicroBatch
from controller.core.case import latency_bound
from controller.core.estimate.bandit import PARTS, delay_bins
from controller.core.estimate.histogram import BINS as LATENCY_BINS
from controller.core.join import Absorbed, Closed, Dropped, JoinExposures
from controller.core.mirrored import copies_of
from controller.core.model import NO_EPOCH, Bool, Float, Int, Tallies
from controller.core.partition.table import Partition, groups
from controller.core.policy import Policy


def rows_of(
    policy: Policy,
    partition: Partition,
    micro: MicroBatch,
    came: tuple[JoinExposures, Absorbed, Bool],
    closed: Sequence[Closed],
) -> tuple[Tallies, tuple[str, ...]]:
    """What became certain with a tick, and what the rows' segments index into.

    came    what was taken in, what became of it, and which of it had failed
    closed  of each of the policy's rewards
    """
    absorbed = came[1]
    whole, names = _seen(policy, partition, micro)
    for part in (
        *_answered(policy, partition, micro, came),
        *_mirrored(micro),
        *_lost(partition, absorbed, closed[0]),
        *_moved(policy, partition, closed[0]),
        *_outcomes(policy, partition, closed),
    ):
        whole = whole.followed_by(part) if len(part.time) else whole
    return whole, names


def _rows(
    partition: Partition,
    keys: tuple[Int, Int, *tuple[Int | Float, ...]],
    time: Float,
    **sums: Float | Int | Bool,
) -> tuple[Tallies, Int]:
    """One row for each group of (stratum, arm, more), the sums in it, and the groups.

    time  of each of the units that are summed; that of a group is that of its first
    """
    first, group = groups(*keys)
    columns = {name: np.bincount(group, column, len(first)) for name, column in sums.items()}
    stratum, arm = keys[0][first], keys[1][first]
    known = stratum >= 0
    epoch = np.full(len(first), NO_EPOCH, np.int64)
    propensity = np.full(len(first), np.nan)
    segment = np.full(len(first), -1, np.int64)
    epoch[known] = partition.epochs[stratum[known]]
    segment[known] = partition.segment[stratum[known]]
    propensity[known] = partition.propensities[stratum[known]]
    propensity[propensity == 0.0] = np.nan
    rows = Tallies.of(
        len(first),
        time=time[first],
        epoch=epoch,
        propensity=propensity,
        segment=segment,
        arm=arm,
        **columns,
    )
    return rows, group


def _seen(
    policy: Policy, partition: Partition, micro: MicroBatch
) -> tuple[Tallies, tuple[str, ...]]:
    """Exposures by the header value that they carry, where some become segments; and the names."""
    exposures, names = micro.exposures, partition.segments
    if segment_rule(policy) is None:
        return Tallies.of(0), names
    seen = most_seen(sightings(micro.names, exposures.segment))
    names = tuple(dict.fromkeys((*names, *seen)))
    place = {name: i for i, name in enumerate(names)}
    # They are of no arm; that of a split is known to whoever takes them in.
    arm = next((i for i, arm in enumerate(partition.arms) if arm in micro.tick.arms), 0)
    rows = Tallies.of(
        len(seen),
        time=np.full(len(seen), partition.clock),
        arm=np.full(len(seen), arm),
        segment=[place[name] for name in seen],
        sighted=list(seen.values()),
    )
    return rows, names


def _answered(
    policy: Policy,
    partition: Partition,
    micro: MicroBatch,
    came: tuple[JoinExposures, Absorbed, Bool],
) -> Iterator[Tallies]:
    """Requests that were answered, and how long it took; a row has the time of its latest."""
    exposures, absorbed, is_failed = came
    accepted = np.flatnonzero(absorbed.accepted)
    time, is_failed = exposures.time[accepted], is_failed[accepted]
    keys = (exposures.stratum[accepted], exposures.arm[accepted])
    n = np.ones(len(accepted))
    rows, group = _rows(
        partition, keys, time, exposures=n, errors=is_failed, entered=n, entered_errors=is_failed
    )
    latest = np.full(len(rows.time), -np.inf)
    np.maximum.at(latest, group, time)
    rows = replace(rows, time=latest)
    yield rows
    if (increase := _increase(policy, micro)) is not None:
        yield _timed(rows, group, micro.exposures.latency_ms[accepted], increase)


def _increase(policy: Policy, micro: MicroBatch) -> float | None:
    """The increase of latency that is tolerated: the rollout began with it, or it may begin so."""
    if micro.tick.increase is not None:
        return micro.tick.increase
    bound = latency_bound(policy)
    return None if bound is None else bound[1]


def _timed(answered: Tallies, group: Int, ms: Float, increase: float) -> Tallies:
    """Answers that say how long they took, by bin; `group` is the row in which each is answered."""
    timed = np.flatnonzero(np.isfinite(ms))
    pace, borne = (estimate.latency_bins(ms[timed], by) for by in (0.0, increase))
    # One number for each kind of answer: sorting by three columns would cost more than the join.
    kind = (group[timed] * LATENCY_BINS + pace) * LATENCY_BINS + borne
    kinds, n = np.unique(kind, return_counts=True)
    row, pace = np.divmod(kinds // LATENCY_BINS, LATENCY_BINS)
    return Tallies.of(
        len(kinds),
        time=answered.time[row],
        epoch=answered.epoch[row],
        propensity=answered.propensity[row],
        segment=answered.segment[row],
        arm=answered.arm[row],
        timed=n,
        pace=pace,
        pace_borne=kinds % LATENCY_BINS,
        increase=np.full(len(kinds), increase),
    )


def _mirrored(micro: MicroBatch) -> Iterator[Tallies]:
    """Answers to copies that no user saw."""
    if not len(micro.shadows.arm):
        return
    arm, n, bad = copies_of(micro.shadows)
    time = np.full(len(arm), float(micro.shadows.time.max()))
    yield Tallies.of(len(arm), time=time, arm=arm, copies=n, copy_errors=bad)


def _lost(partition: Partition, absorbed: Absorbed, closed: Closed) -> Iterator[Tallies]:
    """Rewards that were in time, and what was not."""
    joined = closed.joined
    time = np.full(len(joined.arm), partition.clock)
    yield _rows(partition, (joined.stratum, joined.arm), time, credited=joined.count)[0]
    for part in (absorbed.dropped, closed.dropped):
        yield _dropped(partition, part)


def _dropped(partition: Partition, part: Dropped) -> Tallies:
    time = np.full(len(part.arm), partition.clock)
    return _rows(
        partition,
        (part.stratum, part.arm),
        time,
        late_exposures=part.is_exposure,
        late_rewards=~part.is_exposure,
    )[0]


def _since(policy: Policy, partition: Partition, time: Float) -> Float:
    """The begin of the stretch of exposures to which each of these belongs.

    A stretch lies between two watermarks, and in one of the bandit's sixteenths of a window.
    """
    width = policy.spec.reward.window / PARTS
    edges = np.append(-np.inf, partition.marks)
    since: Float = np.maximum(
        edges[np.searchsorted(partition.marks, time, side="right")], np.floor(time / width) * width
    )
    return since


def _moved(policy: Policy, partition: Partition, closed: Closed) -> Iterator[Tallies]:
    """Exposures that became at risk, and their first rewards."""
    part = closed.matured
    since = _since(policy, partition, part.time)
    ones = np.ones(len(part.time))
    rows, group = _rows(partition, (part.stratum, part.arm, since), since, matured=ones)
    mean = np.bincount(group, part.time - since, len(rows.time)) / np.maximum(rows.matured, 1.0)
    yield replace(rows, time=rows.time + np.maximum(mean, 0.0))
    events = closed.events
    since = _since(policy, partition, events.time)
    value = np.where(events.is_event, events.value, 0.0)
    finer: tuple[Int | Float, ...] = (since,)
    if any(stage.thompson for stage in policy.spec.stages):
        bins = delay_bins(events.delay, policy.spec.reward.window)
        finer = (since, np.where(events.is_event, bins, -1), value)
    is_event = events.is_event.astype(np.float64)
    rows, group = _rows(
        partition,
        (events.stratum, events.arm, *finer),
        since,
        events=is_event,
        event_value=value,
        lapsed=1.0 - is_event,
    )
    waited = np.bincount(group, events.delay * is_event, len(rows.time))
    yield replace(rows, delay=waited / np.maximum(rows.events, 1.0))


def _outcomes(policy: Policy, partition: Partition, closed: Sequence[Closed]) -> Iterator[Tallies]:
    """Exposures whose window has ended, for each of the rewards."""
    for i, (reward, each) in enumerate(zip(policy.all_rewards, closed, strict=True)):
        part = each.outcomes
        since = _since(policy, partition, part.time)
        finer = (since,) if reward.is_binary else (since, part.value)
        ones = np.ones(len(part.time))
        rows, _ = _rows(
            partition,
            (part.stratum, part.arm, *finer),
            since,
            outcomes=ones,
            analysed=ones,
            joined=part.joined,
            value=part.value,
            analysed_value=part.value,
            square=part.value**2,
            lapsed=~part.scored if i == 0 else np.zeros(len(ones)),
        )
        yield replace(rows, reward=np.full(len(rows.time), i))
