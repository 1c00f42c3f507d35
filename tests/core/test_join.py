"""The promises of the reward joiner, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.core import join
from controller.core.model import Reason
from tests.core import join_cases
from tests.core.join_cases import RULE, Joiner, columns, exposure, reward


def step(joiner, batch, clock, rows, reasons):
    """Outcomes (without unit, bin, base and scored) and reasons so far."""
    got = join_cases.step(joiner, batch, clock)
    return rows + [row[:7] for row in got["outcomes"]], reasons | got["refused"]


def run(events, rule=RULE, *, clocks):
    got = join_cases.run(events, rule, clocks=clocks)
    return [row[:7] for row in got["outcomes"]], got["refused"]


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


@pytest.mark.parametrize(("each", "total"), [(3.0, 5.0), (-3.0, -4.0), (1.0, 2.0)])
def test_a_sum_is_capped_at_both_ends_of_the_range(each, total):
    rule = replace(RULE, aggregate="sum", low=-4.0, high=5.0)
    events = [exposure(0, 1)]
    events += [reward(i, i, request=1, value=each, offset=i) for i in (1, 2)]
    rows, reasons = run(events, rule, clocks=[0, 60])
    assert (rows[0][3], rows[0][6]) == (total, total)
    assert reasons == {}


def test_a_reward_that_precedes_its_exposure_counts_once_until_that_is_closed():
    joiner = Joiner(replace(RULE, aggregate="sum", high=5.0))
    early = [reward(10, 7, request=1), exposure(20, 1, offset=1)]
    rows, reasons = step(joiner, early, 20.0, [], {})
    rows, reasons = step(joiner, [], 51.0, rows, reasons)
    again = [reward(10, 7, request=1, offset=2)]
    rows, reasons = step(joiner, again, 59.9, rows, reasons)
    rows, reasons = step(joiner, [], 60.0, rows, reasons)
    assert rows == [(20.0, 0, 0, 1.0, True, True, 1.0)]
    assert reasons == {2: "duplicate"}


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
    absorbed = joiner.absorb(batch, [])
    assert absorbed["accepted"] == {2}
    assert absorbed["refused"] == {1: "late"}


def test_exposures_that_waited_out_an_outage_are_counted_whatever_the_next_tick_says():
    joiner = Joiner(RULE)
    joiner.close(20.0)
    batch = [exposure(21, 1, offset=1), exposure(4000, 2, offset=2)]
    absorbed = joiner.absorb(batch, [reward(22, 7, request=1)])
    assert absorbed["accepted"] == {1, 2}
    assert absorbed["refused"] == {}
    closed = joiner.close(4000.0)
    rows, refused = closed["outcomes"], closed["refused"]
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
        joiner.table,
        RULE,
        columns(join.JoinExposures, []),
        columns(join.JoinRewards, [reward(1, 7, unit=3)]),
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
        batch = join.JoinExposures(
            zeros, time, keys, keys, zeros, zeros, zeros == 0, zeros, zeros == 1, zeros
        )
        join.absorb(table, RULE, batch, join.JoinRewards.none())
        join.close(table, RULE, float(tick))
        sizes.append(table.nbytes)
    assert sizes[-1] < 1.2 * sizes[100]
    assert int(table.pending.sum()) == 500 * 40 + 1


def test_a_snapshot_keeps_the_row_of_each_exposure():
    joiner = Joiner(RULE)
    step(joiner, [exposure(0, i) for i in range(1, 50)], 1.0, [], {})
    step(joiner, [exposure(60, 99)], 60.0, [], {})
    before = {name: array.copy() for name, array in joiner.table.to_arrays().items()}
    step(joiner, [], 75.0, [], {})
    arrays = joiner.table.to_arrays()
    live = np.setdiff1d(np.arange(50), arrays["exposure.free"])
    assert arrays["exposure.request"][live].tolist() == [99]
    assert arrays["exposure.request"].tolist() == before["exposure.request"].tolist()
    again = join.Table.from_arrays(arrays).to_arrays()
    assert {n: a.tolist() for n, a in again.items()} == {n: a.tolist() for n, a in arrays.items()}
