"""Units: with which exposures they enter the analysis, and what that gives at the watermark."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.core.join_cases import RULE, Joiner, exposure, reward, run, step

UNITS = replace(RULE, units=True, window_s=5.0, grace_s=2.0, aggregate="sum", high=9.0)
TICKS = range(0, 100, 1)


def seen(time, request, level, *, candidate=False, unit=5, **more):
    """An exposure under a share; stratum and arm tell which one it was."""
    more = {"arm": int(candidate), "is_candidate": candidate} | more
    return replace(exposure(time, request, unit=unit), level=level, **more)


def entries(events, rule=UNITS, clocks=TICKS):
    """(time, base) of all entries."""
    return [(row[0], row[5]) for row in run(events, rule, clocks=clocks)["matured"]]


def test_former_champion_unit_enters_again_at_its_first_exposure_under_a_greater_share():
    events = [seen(0, 1, 500), seen(10, 2, 500), seen(20, 3, 2_500), seen(30, 4, 2_500)]
    assert entries(events) == [(0.0, 0), (20.0, 500)]


def test_unit_enters_again_whichever_arm_it_gets_then_and_never_after_the_candidate():
    events = [seen(0, 1, 500), seen(20, 2, 2_500, candidate=True), seen(40, 3, 5_000)]
    assert entries(events) == [(0.0, 0), (20.0, 500)]


def test_unit_that_entered_as_the_candidates_never_enters_again():
    assert entries([seen(0, 1, 500, candidate=True), seen(20, 2, 2_500)]) == [(0.0, 0)]


def test_share_that_falls_and_rises_again_lets_in_only_above_the_greatest_seen():
    shares = [2_500, 500, 2_500, 5_000]
    events = [seen(20 * i, i + 1, share) for i, share in enumerate(shares)]
    assert entries(events) == [(0.0, 0), (60.0, 2_500)]


def test_without_levels_a_unit_enters_once():
    assert entries([seen(20 * i, i + 1, 0) for i in range(4)]) == [(0.0, 0)]


def test_unit_whose_window_is_still_open_is_left_out_at_that_level_for_good():
    events = [seen(0, 1, 500), seen(5, 2, 2_500), seen(20, 3, 2_500), seen(40, 4, 5_000)]
    assert entries(events) == [(0.0, 0), (40.0, 2_500)]


def test_left_out_unit_that_got_the_candidate_never_enters_again():
    events = [seen(0, 1, 500), seen(4, 2, 2_500, candidate=True), seen(40, 3, 5_000)]
    assert entries(events) == [(0.0, 0)]


@pytest.mark.parametrize("candidate", [False, True])
def test_unit_seen_under_an_unknown_split_never_enters_again_whoever_answered(candidate):
    unknown = seen(10, 2, 0, candidate=candidate, stratum=-1, in_rollout=False)
    assert entries([seen(0, 1, 500), unknown, seen(20, 3, 2_500)]) == [(0.0, 0)]


def test_exposure_outside_the_rollout_uses_its_level_up_but_only_after_the_unit_entered():
    first = seen(0, 1, 2_500, in_rollout=False)
    events = [first, seen(10, 2, 500), seen(20, 3, 2_500, in_rollout=False), seen(30, 4, 2_500)]
    assert entries(events) == [(10.0, 0)]


@pytest.mark.parametrize("clocks", [[50], [8, 50], range(0, 50, 7)])
def test_entries_do_not_depend_on_how_far_the_clock_jumps(clocks):
    shares = [500, 1_000, 2_500, 5_000]
    events = [seen(6 * i, i + 1, share) for i, share in enumerate(shares)]
    events += [reward(6 * i + 1, i, request=i + 1) for i in range(4)]
    got = run(events, UNITS, clocks=clocks)
    bases = [(0.0, 0), (6.0, 500), (12.0, 1_000), (18.0, 2_500)]
    assert [(row[0], row[5]) for row in got["matured"]] == bases
    assert [(row[0], row[7]) for row in got["events"]] == [(6.0 * i, 1.0) for i in range(4)]
    assert [row[6] for row in got["outcomes"]] == [1.0] * 4


def test_each_entry_is_credited_with_what_its_own_window_holds():
    events = [seen(0, 1, 500), seen(3, 2, 500), seen(20, 3, 2_500), seen(22, 4, 2_500)]
    events += [reward(4, 1, request=2), reward(8, 2, request=2), reward(23, 3, request=4)]
    got = run(events, UNITS, clocks=TICKS)
    assert [(row[0], row[6], row[9]) for row in got["outcomes"] if row[5]] == [
        (0.0, 1.0, 0),
        (20.0, 1.0, 500),
    ]
    assert [(row[0], row[5], row[7]) for row in got["events"]] == [(0.0, 0, 4.0), (20.0, 500, 3.0)]


def test_reward_is_never_credited_to_the_entry_that_took_a_forgotten_ones_row():
    joiner = Joiner(replace(UNITS, grace_s=0.0))
    step(joiner, [seen(0, 1, 500), seen(4, 2, 500)], 5.0)
    step(joiner, [seen(6, 3, 2_500)], 6.5)
    got = [step(joiner, [reward(7, 1, request=2)], 8.0), step(joiner, [], 20.0)]
    assert got[0]["events"] == []
    assert [row[6] for row in got[1]["outcomes"] if row[5]] == [0.0]


def test_reward_row_that_a_shorter_window_freed_is_counted_once_for_its_next_reward():
    joiner = Joiner(replace(UNITS, window_s=30.0, grace_s=10.0))
    step(joiner, [exposure(0, 1), reward(20, 1, request=1)], 20.0)
    joiner.rule = replace(joiner.rule, window_s=5.0)
    step(joiner, [], 21.0)
    step(joiner, [seen(15, 2, 0), seen(16, 3, 0), reward(17, 2, request=3)], 22.0)
    got = step(joiner, [], 40.0)
    assert [(row[0], row[6]) for row in got["outcomes"] if row[5]] == [(15.0, 1.0)]
    assert [row[7] for row in got["events"]] == [2.0]


def test_reward_that_a_shorter_window_closed_before_its_time_is_nobodys_event():
    joiner = Joiner(RULE)
    step(joiner, [exposure(0, 1), reward(29, 1, request=1)], 12.0)
    joiner.rule = replace(RULE, window_s=5.0)
    assert [row[3] for row in step(joiner, [], 16.0)["outcomes"]] == [1.0]
    step(joiner, [], 26.0)
    step(joiner, [exposure(27, 2)], 28.0)
    assert step(joiner, [], 40.0)["events"] == []


def test_levels_tell_what_came_so_far():
    joiner = Joiner(UNITS)
    assert joiner.level(5) == 0
    feed = [seen(0, 1, 500), seen(0, 2, 500, unit=6, candidate=True), seen(0, 3, 0, unit=7)]
    step(joiner, feed, 1.0)
    assert [joiner.level(unit) for unit in (0, 5, 6, 7, 8)] == [0, 500, -1, -1, 0]
    step(joiner, [seen(1, 4, 2_500)], 2.0)
    assert joiner.level(5) == 2_500
    joiner.new_rollout()
    assert [joiner.level(unit) for unit in (5, 6, 7)] == [0, 0, 0]


def test_entry_is_told_when_it_comes_and_settled_when_the_watermark_has_passed():
    joiner = Joiner(UNITS)
    assert step(joiner, [seen(0, 1, 500)], 1.0)["entered"] == {0: 0}
    got = step(joiner, [seen(20, 2, 2_500, offset=7)], 22.0)
    assert (got["entered"], [row[0] for row in got["matured"]]) == ({7: 500}, [0.0])
    assert step(joiner, [], 22.5)["matured"] == [(20.0, 0, 0, 5, 0, 500)]


def test_bin_at_entry_comes_out_everywhere():
    events = [seen(0, 1, 500, bin=3), seen(1, 2, 500, bin=4), reward(2, 1, request=2)]
    got = run(events, UNITS, clocks=TICKS)
    assert [row[4] for row in got["matured"]] == [3]
    assert [row[4] for row in got["events"]] == [3]
    assert [row[8] for row in got["outcomes"]] == [3, 4]


# --- events -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("default", "values", "is_event"),
    [
        (0.0, [1.0], True),
        (0.0, [0.0, 1.0], False),
        (0.5, [0.7], True),
        (0.5, [0.5], False),
        (0.5, [0.2, 0.9], False),
        (1.0, [1.0], False),
        (1.0, [0.9], True),
        (1.0, [0.0], True),
    ],
)
def test_first_reward_is_an_event_if_it_is_better_than_none(default, values, is_event):
    rule = replace(RULE, default=default)
    rewards = [reward(1 + i, i + 1, request=1, value=v) for i, v in enumerate(values)]
    (row,) = run([exposure(0, 1), *rewards], rule, clocks=range(0, 60, 5))["events"]
    assert row[6:] == (values[0], 1.0, is_event)


def test_first_reward_is_first_by_event_time_then_by_id_however_it_came():
    joiner = Joiner(RULE)
    step(joiner, [exposure(0, 1), reward(9, 3, request=1, value=0.9)], 9.0)
    step(joiner, [reward(8, 2, request=1, value=0.2), reward(8, 1, request=1, value=0.1)], 12.0)
    assert step(joiner, [], 17.9)["events"] == []
    assert step(joiner, [], 18.0)["events"] == [(0.0, 0, 0, 0, 0, 0, 0.1, 8.0, True)]
    assert step(joiner, [], 60.0)["events"] == []


def test_reward_that_precedes_its_exposure_is_an_event_once_both_have_passed():
    joiner = Joiner(RULE)
    step(joiner, [exposure(5, 1), reward(3, 1, request=1)], 6.0)
    assert step(joiner, [], 14.0)["events"] == []
    (row,) = step(joiner, [], 16.0)["events"]
    assert row[0] == 5.0
    assert row[7] == 0.0


def test_outcome_says_whether_its_unit_had_left_the_risk():
    events = [exposure(0, 1), exposure(0, 2), reward(1, 1, request=1, value=0.0)]
    got = run(events, clocks=range(0, 60, 5))
    assert [row[10] for row in got["outcomes"]] == [True, False]


# --- what is lost, and what was joined --------------------------------------------------------


def test_exposures_and_rewards_that_come_too_late_are_dropped_by_arm():
    joiner = Joiner(RULE)
    step(joiner, [exposure(0, 1, arm=2)], 40.0)
    late = [exposure(9, 2, arm=1), exposure(9, 2, arm=1, offset=1), exposure(0, 1, arm=2)]
    assert step(joiner, late, 41.0)["dropped"] == [(1, 1, True)]
    rewards = [reward(30, 1, request=1), reward(31, 2, request=1), reward(5, 1, request=1)]
    assert step(joiner, rewards, 42.0)["dropped"] == [(2, 2, False)]


def test_reward_that_names_a_unit_can_be_dropped_when_it_is_matched():
    joiner = Joiner(replace(RULE, by="unit"))
    step(joiner, [exposure(0, 1, unit=5, arm=1)], 40.0)
    absorbed = joiner.absorb([], [reward(3, 1, unit=5)])
    assert (absorbed["dropped"], joiner.close(41.0)["dropped"]) == ([], [(1, 1, False)])


def test_joined_rewards_are_counted_by_arm_and_stratum_once():
    joiner = Joiner(RULE)
    events = [exposure(0, i, arm=i % 2) for i in range(1, 6)]
    events += [reward(1, i, request=1 + i % 5) for i in range(1, 8)]
    assert step(joiner, events, 2.0)["joined"] == {(0, 0): 3, (1, 1): 4}
    assert step(joiner, [reward(3, 9, request=1)], 4.0)["joined"] == {(1, 1): 1}
    assert step(joiner, [], 5.0)["joined"] == {}


# --- why it may enter again -------------------------------------------------------------------


def test_candidates_share_among_re_entries_is_the_conditional_one_even_if_it_answers_late():
    """4 000 units on a circle, share 10 %, then 40 %; the candidate's exposures come 1.5 s later.

    (0.4 - 0.1) / (1 - 0.1) = 1/3 of those that enter again; 5 standard errors of 3 600 draws.
    """
    rng = np.random.default_rng(5)
    place, joiner, rows, request = rng.random(4_000), Joiner(UNITS), [], 0
    waiting = []
    for clock in range(1, 60):
        share = 0.1 if clock < 30 else 0.4
        for unit in rng.choice(4_000, 400, replace=False).tolist():
            request += 1
            is_candidate = bool(place[unit] < share)
            e = seen(clock, request, round(share * 1e4), candidate=is_candidate, unit=unit + 1)
            waiting.append((clock + 1.5 * is_candidate, e))
        rows += step(joiner, [e for at, e in waiting if at <= clock], float(clock))["matured"]
        waiting = [(at, e) for at, e in waiting if at > clock]
    arms = np.array([row[1] for row in rows if row[5] == 1_000])
    assert arms.size > 3_000
    assert abs(arms.mean() - 1 / 3) < 5 * np.sqrt(2 / 9 / arms.size)
