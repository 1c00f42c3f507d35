"""The reward joiner against a brute-force oracle, and its promises one by one."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import join
from controller.core.model import Reason


def _load_oracle():
    spec = importlib.util.spec_from_file_location(
        "join_oracle", Path(__file__).with_name("join_oracle.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["join_oracle"] = module
    spec.loader.exec_module(module)
    return module


oracle = _load_oracle()
Exp, Rew = oracle.Exp, oracle.Rew

RULE = join.JoinRule(window_s=30.0, grace_s=10.0, default=0.0, low=0.0, high=1.0)


def exposure(time, request, *, unit=0, arm=0, in_rollout=True, offset=0):
    return Exp(offset, float(time), request, unit, arm, arm, in_rollout)


def reward(time, id_, *, request=0, unit=0, value=1.0, offset=0):
    return Rew(offset, float(time), id_, request, unit, value)


def exposure_columns(rows):
    def column(name, kind):
        return np.array([getattr(e, name) for e in rows], kind)

    return join.JoinExposures(
        column("offset", np.int64),
        column("time", np.float64),
        column("request", np.uint64),
        column("unit", np.uint64),
        column("arm", np.int64),
        column("stratum", np.int64),
        column("in_rollout", np.bool_),
    )


def reward_columns(rows):
    def column(name, kind):
        return np.array([getattr(r, name) for r in rows], kind)

    return join.JoinRewards(
        column("offset", np.int64),
        column("time", np.float64),
        column("id", np.uint64),
        column("request", np.uint64),
        column("unit", np.uint64),
        column("value", np.float64),
    )


class Joiner:
    """Feeds objects to the joiner and gives back plain tuples and words."""

    def __init__(self, rule):
        self.rule = rule
        self.table = join.Table()

    def absorb(self, exposures, rewards):
        e, r = exposure_columns(exposures), reward_columns(rewards)
        absorbed = join.absorb(self.table, self.rule, e, r)
        return set(e.offset[absorbed.accepted].tolist()), words(absorbed.refused)

    def close(self, clock):
        outcomes, refused = join.close(self.table, self.rule, clock)
        return rows_of(outcomes), words(refused)

    def new_rollout(self):
        self.table = join.new_rollout(self.table)

    def restart(self):
        self.table = join.Table.from_arrays(self.table.to_arrays())


def words(refused):
    listed = refused.listed()
    assert sum(refused.counts().values()) == len(listed)
    assert all(r.detail for r in listed)
    return {r.offset: r.reason.value for r in listed}


def rows_of(o):
    columns = (o.time, o.arm, o.stratum, o.value, o.joined, o.analysed, o.analysed_value)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def run(events, rule=RULE, *, clocks):
    """Outcomes and reasons when each event comes at the first of `clocks` that is not before it."""
    joiner = Joiner(rule)
    rows, reasons, done = [], {}, -np.inf
    for clock in clocks:
        batch = [e for e in events if done < e.time <= clock]
        done = clock
        rows, reasons = step(joiner, batch, clock, rows, reasons)
    return rows, reasons


def step(joiner, batch, clock, rows, reasons):
    exposures = [e for e in batch if isinstance(e, Exp)]
    _, refused = joiner.absorb(exposures, [r for r in batch if isinstance(r, Rew)])
    closed, also = joiner.close(clock)
    return rows + closed, reasons | refused | also


# --- random event sets ------------------------------------------------------------------------

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
    one = st.tuples(st.one_of(exposure_events, reward_events), delays)
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


def fresh(batch):
    return [replace(e, rewards=[]) if isinstance(e, Exp) else e for e in batch]


def feed(machine, clock, batch):
    exposures = [e for e in fresh(batch) if isinstance(e, Exp)]
    return machine.absorb(exposures, [r for r in batch if isinstance(r, Rew)])


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.one_of(logs(), crowds()), st.integers(0, 30))
def test_the_joiner_agrees_with_brute_force_and_survives_restarts(log, rollout_at):
    rule, batches = log
    truth, plain, restarted = oracle.Oracle(rule), Joiner(rule), Joiner(rule)
    for number, (clock, batch) in enumerate(batches):
        if number == rollout_at:
            for machine in (truth, plain, restarted):
                machine.new_rollout()
        expected = feed(truth, clock, batch)
        assert feed(plain, clock, batch) == expected
        assert feed(restarted, clock, batch) == expected
        restarted.restart()
        expected = truth.close(clock)
        assert plain.close(clock) == expected
        assert restarted.close(clock) == expected
        restarted.restart()
        check_counts(truth, plain.table)
        check_counts(truth, restarted.table)


def check_counts(truth, table):
    pending = [e.arm for e in truth.known.values() if e.closed_at is None]
    for arm in range(3):
        assert at(table.pending, arm) == pending.count(arm)
        assert at(table.joined, arm) == truth.joined.get(arm, 0)


def at(counts, arm):
    return int(counts[arm]) if arm < counts.size else 0


def distinct(batch):
    """Without what makes equal keys differ: copies are copies, whichever of them comes first."""
    seen = {}
    for e in batch:
        seen.setdefault((type(e), e.request if isinstance(e, Exp) else e.id), e)
    return list(seen.values())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(logs(), st.randoms(use_true_random=False))
def test_the_order_inside_a_micro_batch_makes_no_difference(log, rng):
    rule, batches = log
    one, other = Joiner(rule), Joiner(rule)
    for clock, batch in batches:
        mixed = list(batch)
        rng.shuffle(mixed)
        assert feed(one, clock, batch) == feed(other, clock, mixed)
        assert one.close(clock) == other.close(clock)


@st.composite
def displaced_logs(draw):
    """(rule, events, arrivals, other arrivals): every event comes at most `grace` after its time.

    No reward precedes its exposure: a skewed clock uses up the grace that displacement needs.
    """
    rule = replace(draw(rules), grace_s=10.0)
    crowd = st.integers(1, draw(st.sampled_from([1, 4])))
    own_unit = st.builds(replace, exposure_events, unit=crowd)
    exposures = distinct(draw(st.lists(own_unit, min_size=5, max_size=25)))
    known = st.sampled_from([0, *(e.request for e in exposures)])
    good = st.builds(replace, reward_events, request=known, unit=crowd, value=st.just(0.5))
    rewards = distinct(draw(st.lists(good, max_size=40)))
    born = {e.request: e.time for e in exposures}
    rewards = [r for r in rewards if r.request == 0 or r.time >= born.get(r.request, 0.0)]
    events = [replace(e, offset=i) for i, e in enumerate([*exposures, *rewards])]
    copies = [replace(e) for e in events if draw(st.integers(0, 9)) == 0]
    delay = st.integers(0, 40).map(lambda d: d / 4)
    size = len(events) + len(copies)
    arrivals = [draw(st.lists(delay, min_size=size, max_size=size)) for _ in range(2)]
    return rule, [*events, *copies], arrivals


@settings(max_examples=120, deadline=None, derandomize=True)
@given(displaced_logs())
def test_events_displaced_within_the_grace_give_the_same_outcomes(case):
    rule, events, arrivals = case
    results = []
    for delay, period in zip(arrivals, (1.0, 3.0), strict=True):
        joiner, rows = Joiner(rule), []
        for clock in np.arange(0.0, 110.0, period).tolist():
            # A tick that comes late by up to a period must not use up the grace.
            batch = [
                e
                for e, d in zip(events, delay, strict=True)
                if clock - period < min(e.time + d, e.time + 10.0 - period) <= clock
            ]
            feed(joiner, clock, batch)
            rows += joiner.close(clock)[0]
        results.append(sorted(rows))
    assert results[0] == results[1]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(logs())
def test_nothing_is_lost_every_event_is_counted_once(log):
    rule, batches = log
    joiner, refused, accepted, closed = Joiner(rule), {}, 0, 0
    for clock, batch in batches:
        kept, no = feed(joiner, clock, batch)
        rows, also = joiner.close(clock)
        assert not set(no) & set(also)
        accepted, closed, refused = accepted + len(kept), closed + len(rows), refused | no | also
    total = sum(len(batch) for _, batch in batches)
    waiting = joiner.table.waiting.time.size + joiner.table.unit_waiting.time.size
    assert accepted == closed + int(joiner.table.pending.sum())
    assert total == accepted + int(joiner.table.joined.sum()) + len(refused) + waiting


# --- promises, one by one ---------------------------------------------------------------------


def test_late_reward_is_not_attributed():
    events = [exposure(0, 1), reward(31, 7, request=1, offset=1)]
    rows, reasons = run(events, clocks=range(0, 60, 5))
    assert rows == [(0.0, 0, 0, 0.0, False, True, 0.0)]
    assert reasons == {1: "late"}


def test_reward_at_the_very_end_of_the_window_counts():
    rows, reasons = run([exposure(0, 1), reward(30, 7, request=1)], clocks=range(0, 60, 5))
    assert rows[0][3:5] == (1.0, True)
    assert reasons == {}


def test_reward_of_a_closed_exposure_is_late_then_orphan_when_the_exposure_is_forgotten():
    joiner = Joiner(RULE)
    step(joiner, [exposure(0, 1)], 0.0, [], {})
    _, reasons = step(joiner, [], 40.0, [], {})
    _, reasons = step(joiner, [reward(5, 7, request=1, offset=1)], 45.0, [], {})
    assert reasons == {1: "late"}
    step(joiner, [], 50.0, [], {})
    _, reasons = step(joiner, [reward(5, 8, request=1, offset=2)], 55.0, [], {})
    assert reasons == {2: "orphan"}


def test_reward_that_comes_before_its_exposure_waits_for_it():
    joiner = Joiner(RULE)
    rows, reasons = step(joiner, [reward(2, 7, request=1)], 3.0, [], {})
    rows, reasons = step(joiner, [exposure(1, 1)], 11.0, rows, reasons)
    rows, reasons = step(joiner, [], 41.0, rows, reasons)
    assert rows == [(1.0, 0, 0, 1.0, True, True, 1.0)]
    assert reasons == {}


def test_orphan_is_counted_when_the_grace_is_over_and_not_before():
    joiner = Joiner(RULE)
    assert step(joiner, [reward(2, 7, request=1, offset=3)], 11.9, [], {})[1] == {}
    assert step(joiner, [], 12.0, [], {})[1] == {3: "orphan"}


def test_early_reward_is_joined_within_the_grace_and_late_beyond_it():
    events = [exposure(20, 1), reward(10, 7, request=1), reward(9.9, 8, request=1, offset=9)]
    rows, reasons = run(events, clocks=[20, 70])
    assert rows[0][4]
    assert reasons == {9: "late"}


def test_duplicate_exposure_and_duplicate_reward_count_once():
    rule = replace(RULE, aggregate="sum", high=5.0)
    events = [exposure(1, 1), exposure(2, 1, arm=1, offset=1)]
    events += [reward(3, 7, request=1, offset=2), reward(3, 7, request=1, offset=3)]
    events += [reward(9, 7, request=1, offset=4), exposure(9, 1, offset=5)]
    rows, reasons = run(events, rule, clocks=range(0, 60, 4))
    assert rows == [(1.0, 0, 0, 1.0, True, True, 1.0)]
    assert reasons == {1: "duplicate", 3: "duplicate", 4: "duplicate", 5: "duplicate"}


def test_exposure_older_than_the_grace_is_late():
    joiner = Joiner(RULE)
    batch = [exposure(9.9, 1, offset=1), exposure(10, 2, offset=2)]
    joiner.close(20.0)
    assert joiner.absorb(batch, []) == ({2}, {1: "late"})


def test_exposures_that_waited_out_an_outage_are_counted_whatever_the_next_tick_says():
    joiner = Joiner(RULE)
    joiner.close(20.0)
    batch = [exposure(21, 1, offset=1), exposure(4000, 2, offset=2)]
    assert joiner.absorb(batch, [reward(22, 7, request=1)]) == ({1, 2}, {})
    rows, refused = joiner.close(4000.0)
    assert [row[0] for row in rows] == [21.0]
    assert rows[0][4]
    assert refused == {}


def test_values_outside_the_range_are_refused_not_clipped():
    values = [-0.1, 1.1, float("nan"), float("inf"), float("-inf")]
    events = [exposure(0, 1)]
    events += [reward(1, 10 + i, request=1, value=v, offset=i) for i, v in enumerate(values)]
    rows, reasons = run(events, clocks=[5, 60])
    assert reasons == dict.fromkeys(range(5), "out_of_range")
    assert not rows[0][4]


def test_reward_that_names_only_a_unit_is_an_orphan_under_request_id():
    joiner = Joiner(RULE)
    join_refused = join.absorb(
        joiner.table, RULE, exposure_columns([]), reward_columns([reward(1, 7, unit=3)])
    ).refused
    assert join_refused.counts() == {Reason.ORPHAN: 1}
    assert "request_id" in join_refused.listed()[0].detail


def test_unit_reward_belongs_to_the_last_exposure_before_it():
    rule = replace(RULE, by="unit")
    events = [exposure(t, t, unit=5) for t in (1, 4, 8)] + [reward(6, 7, unit=5)]
    rows, _ = run(events, rule, clocks=range(0, 60, 3))
    assert [row[4] for row in rows] == [False, True, False]


def test_unit_reward_at_the_very_moment_of_the_exposure_counts():
    rule = replace(RULE, by="unit")
    rows, _ = run([exposure(4, 1, unit=5), reward(4, 7, unit=5)], rule, clocks=[5, 20, 60])
    assert rows[0][4]


def test_unit_reward_never_reaches_the_exposure_that_took_a_forgotten_ones_row():
    joiner = Joiner(replace(RULE, by="unit", window_s=5.0))
    step(joiner, [exposure(0, 1, unit=5)], 5.0, [], {})
    step(joiner, [], 15.0, [], {})
    joiner.restart()
    step(joiner, [], 25.0, [], {})
    batch = [exposure(26, 2, unit=6), reward(27, 7, unit=5, offset=9)]
    rows, reasons = step(joiner, batch, 28.0, [], {})
    rows, reasons = step(joiner, [], 50.0, rows, reasons)
    assert reasons == {9: "orphan"}
    assert [row[4] for row in rows] == [False]


def test_unit_reward_finds_its_exposure_after_a_restart():
    joiner = Joiner(replace(RULE, by="unit"))
    step(joiner, [exposure(0, 1, unit=5), exposure(1, 2, unit=5)], 5.0, [], {})
    step(joiner, [], 15.0, [], {})
    joiner.restart()
    rows, reasons = step(joiner, [reward(14, 7, unit=5), reward(0.5, 8, unit=5)], 16.0, [], {})
    rows, reasons = step(joiner, [], 60.0, rows, reasons)
    assert [row[4] for row in rows] == [True, True]
    assert reasons == {}


def test_rewards_of_exposures_from_before_a_rollout_never_count_for_its_units():
    joiner = Joiner(replace(RULE, units=True))
    step(joiner, [exposure(5, 2, unit=5)], 6.0, [], {})
    joiner.new_rollout()
    batch = [exposure(4, 1, unit=5), reward(6, 7, request=2)]
    rows, _ = step(joiner, batch, 7.0, [], {})
    rows, _ = step(joiner, [], 60.0, rows, {})
    assert [row[5:] for row in rows] == [(True, 0.0), (False, 1.0)]


def test_unit_enters_once_with_everything_it_did_within_the_window():
    rule = replace(RULE, units=True, aggregate="sum", high=9.0)
    events = [exposure(0, 1, unit=5), exposure(20, 2, unit=5, arm=1), exposure(50, 3, unit=5)]
    events += [reward(3, 7, request=1), reward(25, 8, request=2), reward(35, 9, request=2)]
    rows, reasons = run(events, rule, clocks=range(0, 100, 5))
    assert reasons == {}
    assert [row[5] for row in rows] == [True, False, False]
    assert [row[3] for row in rows] == [1.0, 2.0, 0.0]
    assert rows[0][6] == 2.0


def test_new_rollout_lets_units_enter_again_and_never_analyses_old_exposures():
    rule = replace(RULE, units=True)
    joiner = Joiner(rule)
    rows, _ = step(joiner, [exposure(0, 1, unit=5), exposure(0, 2)], 1.0, [], {})
    joiner.new_rollout()
    rows, _ = step(joiner, [exposure(2, 3, unit=5)], 3.0, rows, {})
    rows, _ = step(joiner, [], 60.0, rows, {})
    assert [row[5] for row in rows] == [False, False, True]


def test_root_that_comes_late_takes_over_whatever_the_later_exposure_was_given():
    rule = replace(RULE, units=True)
    joiner = Joiner(rule)
    step(joiner, [exposure(5, 2, unit=5), reward(6, 7, request=2)], 7.0, [], {})
    rows, _ = step(joiner, [exposure(4, 1, unit=5, arm=1)], 9.0, [], {})
    rows, _ = step(joiner, [], 60.0, rows, {})
    assert rows == [(4.0, 1, 1, 0.0, False, True, 1.0), (5.0, 0, 0, 1.0, True, False, 1.0)]


def test_root_that_takes_over_gets_only_what_lies_in_its_own_window():
    joiner = Joiner(replace(RULE, units=True, window_s=5.0))
    step(joiner, [exposure(5, 2, unit=5), reward(9.5, 7, request=2)], 9.0, [], {})
    rows, _ = step(joiner, [exposure(4, 1, unit=5)], 10.0, [], {})
    rows, _ = step(joiner, [], 60.0, rows, {})
    assert [row[3] for row in rows] == [0.0, 1.0]
    assert [row[6] for row in rows] == [0.0, 1.0]


def test_reward_joined_before_the_root_is_known_counts_for_the_root():
    joiner = Joiner(replace(RULE, units=True))
    stray = exposure(5, 2, unit=5, in_rollout=False)
    step(joiner, [stray, reward(6, 7, request=2)], 7.0, [], {})
    rows, _ = step(joiner, [exposure(4, 1, unit=5)], 9.0, [], {})
    rows, _ = step(joiner, [], 60.0, rows, {})
    assert [row[5:] for row in rows] == [(True, 1.0), (False, 1.0)]


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("first", 0.2), ("last", 0.7), ("max", 0.9), ("sum", 1.0), ("mean", 0.6)],
)
def test_aggregates_follow_event_time_and_sums_are_capped(aggregate, expected):
    rule = replace(RULE, aggregate=aggregate)
    events = [exposure(0, 1), reward(9, 3, request=1, value=0.7)]
    events += [reward(5, 1, request=1, value=0.2), reward(7, 2, request=1, value=0.9)]
    rows, _ = run(events, rule, clocks=[5, 8, 60])
    assert rows[0][3] == pytest.approx(expected, abs=1e-15)


# --- failures of admired systems (see docs: what others got wrong) ----------------------------


def test_peer_failure_7_reward_of_seven_tenths_is_not_truncated():
    events = [exposure(0, i, arm=1) for i in range(1, 11)]
    events += [reward(1, i, request=i, value=0.7) for i in range(1, 11)]
    rows, _ = run(events, clocks=[5, 60])
    assert [row[3] for row in rows] == [0.7] * 10


def test_peer_failure_7_counts_survive_the_process():
    joiner = Joiner(RULE)
    step(joiner, [exposure(0, 1, arm=1), reward(1, 7, request=1, value=0.7)], 5.0, [], {})
    joiner.restart()
    assert joiner.table.joined.tolist() == [0, 1]
    assert step(joiner, [], 60.0, [], {})[0] == [(0.0, 1, 1, 0.7, True, True, 0.7)]


def test_peer_failure_8_feedback_reaches_the_arm_that_answered_or_is_counted_as_lost():
    events = [exposure(i % 3, i, arm=i % 2) for i in range(1, 101)]
    events += [reward(3 + i % 5, i, request=i, offset=i) for i in range(1, 121)]
    joiner = Joiner(RULE)
    rows, reasons = step(joiner, events, 8.0, [], {})
    rows, reasons = step(joiner, [], 60.0, rows, reasons)
    assert joiner.table.joined.tolist() == [50, 50]
    assert reasons == dict.fromkeys(range(101, 121), "orphan")
    assert all(row[4] for row in rows)


# --- what it costs ----------------------------------------------------------------------------


def test_memory_does_not_grow_in_a_steady_stream_even_with_an_exposure_from_the_future():
    table, rng = join.Table(), np.random.default_rng(1)
    sizes = []
    for tick in range(1, 400):
        keys = rng.integers(1, 2**63, 500).astype(np.uint64)
        time = np.full(500, float(tick))
        time[0] = 1e9 if tick == 20 else tick
        zeros = np.zeros(500, np.int64)
        batch = join.JoinExposures(zeros, time, keys, keys, zeros, zeros, zeros == 0)
        join.absorb(table, RULE, batch, join.JoinRewards.none())
        join.close(table, RULE, float(tick))
        sizes.append(table.nbytes)
    assert sizes[-1] < 1.2 * sizes[100]
    assert int(table.pending.sum()) == 500 * 40 + 1


def test_snapshot_holds_live_rows_only():
    joiner = Joiner(RULE)
    step(joiner, [exposure(0, i) for i in range(1, 50)], 1.0, [], {})
    step(joiner, [exposure(60, 99)], 60.0, [], {})
    step(joiner, [], 75.0, [], {})
    arrays = joiner.table.to_arrays()
    assert arrays["exposure.request"].tolist() == [99]
