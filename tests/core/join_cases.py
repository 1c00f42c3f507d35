"""What the tests of the joiner share: events by hand, the joiner in tuples, random logs."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from hypothesis import strategies as st

from controller.core import join
from tests.core.join_oracle import Exp, Rew

RULE = join.JoinRule(window_s=30.0, grace_s=10.0, default=0.0, low=0.0, high=1.0)


def exposure(time, request, *, unit=0, arm=0, in_rollout=True, offset=0, **more):
    return Exp(offset, float(time), request, unit, arm, arm, in_rollout, **more)


def reward(time, id_, *, request=0, unit=0, value=1.0, offset=0):
    return Rew(offset, float(time), id_, request, unit, value)


KEYS = dict.fromkeys(("id", "request", "unit"), np.uint64)
KINDS = KEYS | dict.fromkeys(("time", "value"), np.float64)
KINDS |= dict.fromkeys(("in_rollout", "is_candidate"), np.bool_)


def columns(kind, rows):
    """Events as the joiner takes them: `kind` is JoinExposures or JoinRewards."""
    names = [f.name for f in fields(kind)]
    return kind(*(np.array([getattr(r, n) for r in rows], KINDS.get(n, np.int64)) for n in names))


def plain(table):
    """Columns as a list of tuples."""
    parts = [getattr(table, f.name).tolist() for f in fields(table)]
    return list(zip(*parts, strict=True))


class Joiner:
    """Feeds objects to the joiner and gives back plain tuples and words, as the oracle does."""

    def __init__(self, rule):
        self.rule = rule
        self.table = join.Table()

    def absorb(self, exposures, rewards):
        e, r = columns(join.JoinExposures, exposures), columns(join.JoinRewards, rewards)
        absorbed = join.absorb(self.table, self.rule, e, r)
        enters = absorbed.entered
        assert not absorbed.base[~enters].any()
        assert not (enters & ~absorbed.accepted).any()
        return {
            "accepted": set(e.offset[absorbed.accepted].tolist()),
            "entered": dict(zip(e.offset[enters].tolist(), absorbed.base[enters], strict=True)),
            "dropped": sorted(plain(absorbed.dropped)),
            "refused": words(absorbed.refused),
        }

    def close(self, clock):
        closed = join.close(self.table, self.rule, clock)
        return {
            "matured": plain(closed.matured),
            "events": plain(closed.events),
            "outcomes": plain(closed.outcomes),
            "dropped": sorted(plain(closed.dropped)),
            "joined": {(arm, stratum): n for arm, stratum, n in plain(closed.joined)},
            "refused": words(closed.refused),
        }

    def level(self, unit):
        return int(join.levels(self.table, np.array([unit], np.uint64))[0])

    def new_rollout(self):
        self.table = join.new_rollout(self.table)

    def restart(self):
        self.table = join.Table.from_arrays(self.table.to_arrays())


def words(refused):
    listed = refused.listed()
    assert sum(refused.counts().values()) == len(listed)
    assert all(r.detail for r in listed)
    return {r.offset: r.reason.value for r in listed}


def feed(machine, batch):
    """Events of one micro-batch, taken in by the joiner or by the oracle."""
    exposures = [replace(e, rewards=[]) for e in batch if isinstance(e, Exp)]
    return machine.absorb(exposures, [r for r in batch if isinstance(r, Rew)])


def step(joiner, batch, clock):
    """One micro-batch and its tick: everything that came out."""
    absorbed = feed(joiner, batch)
    closed = joiner.close(clock)
    refused = absorbed["refused"] | closed["refused"]
    dropped = absorbed["dropped"] + closed["dropped"]
    return absorbed | closed | {"refused": refused, "dropped": dropped}


def run(events, rule=RULE, *, clocks):
    """What came out in all, if each event comes at the first of `clocks` that is not before it."""
    joiner, steps, done = Joiner(rule), [], -np.inf
    for clock in clocks:
        batch = [e for e in events if done < e.time <= clock]
        done = clock
        steps.append(step(joiner, batch, clock))
    return together(steps)


def together(steps):
    """What several steps gave, one after the other."""
    whole = {name: [] for name in ("matured", "events", "outcomes", "dropped")}
    whole |= {"refused": {}, "entered": {}}
    for one in steps:
        for name, part in whole.items():
            whole[name] = part | one[name] if isinstance(part, dict) else part + one[name]
    return whole


# --- random logs --------------------------------------------------------------------------------

times = st.integers(0, 240).map(lambda t: t / 4)
rules = st.builds(
    join.JoinRule,
    window_s=st.sampled_from([0.0, 5.0, 20.0]),
    grace_s=st.sampled_from([0.0, 3.0, 10.0]),
    default=st.sampled_from([0.0, 0.25]),
    low=st.just(0.0),
    high=st.just(1.0),
    aggregate=st.sampled_from(["first", "last", "sum", "max", "mean"]),
    by=st.sampled_from(["request_id", "unit"]),
    units=st.booleans(),
)
requests = st.integers(1, 25)
units = st.integers(0, 4)
exposure_events = st.builds(
    Exp,
    offset=st.just(0),
    time=times,
    request=requests,
    unit=units,
    arm=st.integers(0, 2),
    stratum=st.integers(-1, 2),
    in_rollout=st.sampled_from([True, True, True, False]),
    level=st.sampled_from([0, 500, 1_000, 2_500]),
    is_candidate=st.sampled_from([False, False, False, True]),
    bin=st.integers(0, 3),
)
reward_events = st.builds(
    Rew,
    offset=st.just(0),
    time=times,
    id=st.integers(1, 40),
    request=st.one_of(st.just(0), requests),
    unit=units,
    value=st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.0, 0.0, 1.5, float("nan"), float("inf")]),
)
delays = st.integers(0, 60).map(lambda d: d / 4)


@st.composite
def crowds(draw):
    """A log in which two units do nearly everything, so that roots move and rewards pile up."""
    rule = replace(draw(rules), units=True, window_s=5.0, grace_s=10.0, high=9.0)
    rule = replace(rule, aggregate=draw(st.sampled_from(["sum", "last"])))
    tight = st.integers(0, 60).map(lambda t: t / 4)
    exposures = st.builds(
        replace, exposure_events, time=tight, request=st.integers(1, 6), unit=st.integers(1, 2)
    )
    rewards = st.builds(
        replace,
        reward_events,
        time=tight,
        id=st.integers(1, 1_000),
        request=st.one_of(st.just(0), st.integers(1, 6)),
        unit=st.integers(1, 2),
        value=st.sampled_from([0.1, 0.2, 0.7]),
    )
    one = st.tuples(st.one_of(exposures, rewards, rewards), delays)
    return rule, batches_of(draw(st.lists(one, min_size=10, max_size=40)), 2.0, 60.0)


@st.composite
def logs(draw):
    """(rule, batches): each batch is (clock, events); events come up to 15 s after their time."""
    exposures = exposure_events
    if draw(st.booleans()):
        exposures = st.builds(replace, exposure_events, level=st.just(0))
    one = st.tuples(st.one_of(exposures, reward_events), delays)
    period = draw(st.sampled_from([2.0, 5.0, 15.0]))
    return draw(rules), batches_of(draw(st.lists(one, max_size=60)), period, 100.0)


def batches_of(delayed, period, end):
    """Events as they arrive, numbered, cut at every tick."""
    arrived = sorted(delayed, key=lambda pair: pair[0].time + pair[1])
    batches, offset, clock = [], 0, period
    while arrived or clock < end:
        batch = []
        while arrived and arrived[0][0].time + arrived[0][1] <= clock:
            batch.append(replace(arrived.pop(0)[0], offset=offset))
            offset += 1
        batches.append((clock, batch))
        clock += period
    return batches


SPLITS = [0, 500, 1_000, 2_500, 5_000]


@st.composite
def ramps(draw):
    """A log in which few units come again and again while the candidate's share goes up and down.

    As a rule a unit is the candidate's from some share on; now and then the router breaks it.
    """
    rule = replace(draw(rules), units=True, window_s=draw(st.sampled_from([2.0, 5.0])))
    shares = draw(st.lists(st.sampled_from(SPLITS), min_size=3, max_size=8))
    own_share = draw(st.lists(st.sampled_from([400, 2_000, 4_000, 9_000]), min_size=3, max_size=3))
    delayed = []
    for request in range(1, draw(st.integers(5, 30))):
        time, unit = draw(st.integers(0, 240)) / 4, draw(st.integers(1, 3))
        level = shares[int(time) * len(shares) // 61]
        is_broken = draw(st.integers(0, 15)) == 0
        e = Exp(
            offset=0,
            time=time,
            request=request,
            unit=unit,
            arm=int((own_share[unit - 1] < level) != is_broken),
            stratum=level,
            in_rollout=draw(st.integers(0, 9)) > 0,
            level=level,
            is_candidate=(own_share[unit - 1] < level) != is_broken,
            bin=unit,
        )
        delayed.append((e, draw(delays)))
        if draw(st.booleans()):
            late = draw(st.integers(-4, 12)) / 4
            value = draw(st.sampled_from([0.0, 0.25, 1.0]))
            delayed.append((Rew(0, time + late, request, request, unit, value), draw(delays)))
    return rule, batches_of(delayed, draw(st.sampled_from([1.0, 5.0, 30.0])), 100.0)
