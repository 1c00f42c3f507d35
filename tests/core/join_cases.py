"""What the tests of the joiner share: events by hand, the joiner in tuples, random logs."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import strategies as st

from controller.core import join
from controller.core.join import chains, index
from controller.core.join.store import FEW
from tests.core import compact
from tests.core.join_oracle import Exp, Rew

EACH_WAY = pytest.mark.parametrize("few", [0, FEW], ids=["arrays", "one by one"])


@contextmanager
def up_to(few):
    """So many keys or rewards of a call are taken one by one."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (index, chains):
            patch.setattr(module, "FEW", few)
        yield


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

    def upgrade(self):
        """A restart from the snapshot that 0.2.0 would have written."""
        self.table = join.Table.from_arrays(compact.to_arrays(self.table))


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


SHARES = [0, 500, 1_000, 2_500, 5_000]
SEEDS = st.integers(0, 2**32 - 1).map(random.Random)


def ramp(rng):
    """(rule, events) while the candidate's share goes up and down and few units come and go.

    As a rule a unit is the candidate's from some share on; now and then the router breaks it.
    """
    rule = join.JoinRule(
        window_s=rng.choice([0.0, 2.0, 5.0, 12.0]),
        grace_s=rng.choice([0.0, 3.0, 10.0]),
        default=rng.choice([0.0, 0.25, 1.0]),
        low=0.0,
        high=1.0,
        aggregate=rng.choice(["first", "last", "sum", "max", "mean"]),
        by=rng.choice(["request_id", "unit"]),
        units=True,
    )
    shares = rng.choices(SHARES, k=rng.randint(3, 8))
    if rng.random() < 0.5:
        shares.sort()
    own_share = rng.choices([400, 2_000, 4_000, 9_000], k=5)
    events = []
    for request in range(1, rng.randint(20, 60)):
        time, unit = rng.randint(0, 240) / 4, rng.choice([0, 1, 1, 2, 2, 3, 4])
        share = shares[int(time) * len(shares) // 61]
        is_candidate = (own_share[unit] < share) != (rng.random() < 0.04)
        events.append(
            Exp(
                offset=len(events),
                time=time,
                request=request if rng.random() < 0.95 else rng.randint(1, request),
                unit=unit,
                arm=int(is_candidate),
                stratum=share if rng.random() < 0.97 else -1,
                in_rollout=rng.random() < 0.9,
                level=share,
                is_candidate=is_candidate,
                bin=rng.randint(0, 3),
            )
        )
        events += [_answer(rng, time, request, unit) for _ in range(rng.choice([0, 1, 1, 3]))]
    return rule, [replace(e, offset=i) for i, e in enumerate(events)]


def _answer(rng, time, request, unit):
    at = time + rng.randint(-2 if rng.random() < 0.2 else 0, 30) / 4
    name = 0 if rng.random() < 0.2 else request
    return Rew(0, at, rng.randint(1, 500), name, unit, rng.choice([0.0, 0.25, 0.7, 1.0]))


def arriving(rng, rule, events):
    """Micro-batches of events most of which are displaced by no more than the grace."""
    delayed = [(e, rng.choice([0, 1, 1, 1, 4]) * rng.random() * rule.grace_s) for e in events]
    return batches_of(delayed, rng.choice([1.0, 5.0, 30.0]), 100.0)


def ramps():
    """Logs of ramps, without a choice that could be made smaller: they are dense, not minimal."""
    return SEEDS.map(lambda rng: _arrived(rng, *ramp(rng)))


def _arrived(rng, rule, events):
    return rule, arriving(rng, rule, events)
