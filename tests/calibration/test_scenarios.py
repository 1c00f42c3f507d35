"""Every null scene of docs/decision-quality.md at its level, by the whole engine.

Each scene is met by a candidate that equals the champion and by one that is worse by the margin at
every moment. The policy grants 1 % for either mistake. Runs are made until it is sure that they
come no more often than that (`wald`): a true level of 1 % fails once in ten thousand, one of 12 %
passes once in 50; where events are taken one by one, one of 30 % passes once in 25. The seeds are
fixed. That the other verdicts come is asserted, too: a controller that never moves makes no mistake
either.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from scipy.stats import binom

from tests.bench import ours, scenes
from tests.calibration import wald

SEED, EVENTS, AT_ONCE = 7, 24, 5
SURE = {"alpha": scenes.ALPHA, "wrong": 1e-4}
BY_COUNTS_SURE = SURE | {"broken": 0.12, "missed": 0.02}
EVENT_LEVEL_SURE = SURE | {"broken": 0.3, "missed": 0.04}
BY_COUNTS = [name for name in scenes.NULLS if name not in scenes.EVENT_LEVEL]


def verdicts(name: str, kind: str) -> Iterator[str]:
    for first in count(0, AT_ONCE):
        numbers = range(first, first + AT_ONCE)
        yield from (end.verdict for end in ours.ends(name, kind, numbers, seed=SEED))


def most(runs: int) -> int:
    return int(binom.isf(1e-4, runs, scenes.ALPHA))


def check(name: str, kind: str, sure: dict[str, float], *, right: str, wrong: str) -> None:
    found: list[str] = []

    def mistakes() -> Iterator[bool]:
        for verdict in verdicts(name, kind):
            found.append(verdict)
            yield verdict == wrong

    assert wald.is_kept(mistakes(), **sure)
    assert found.count(right) >= 0.8 * len(found)


def check_equal(name: str, sure: dict[str, float]) -> None:
    check(name, "equal", sure, right="promoted", wrong="rolled_back")


def check_worse(name: str, sure: dict[str, float]) -> None:
    check(name, "harmful", sure, right="rolled_back", wrong="promoted")


@pytest.mark.parametrize("name", BY_COUNTS)
def test_an_equal_candidate_is_promoted_and_not_rolled_back(name):
    check_equal(name, BY_COUNTS_SURE)


@pytest.mark.parametrize("name", BY_COUNTS)
def test_a_candidate_worse_by_the_margin_is_rolled_back_and_not_promoted(name):
    check_worse(name, BY_COUNTS_SURE)


@pytest.mark.parametrize("name", scenes.EVENT_LEVEL)
def test_disturbed_events_do_not_harm_an_equal_candidate(name):
    check_equal(name, EVENT_LEVEL_SURE)


@pytest.mark.parametrize("name", scenes.EVENT_LEVEL)
def test_disturbed_events_do_not_help_a_worse_candidate(name):
    check_worse(name, EVENT_LEVEL_SURE)


def test_a_drift_that_is_common_to_all_arms_moves_no_bandit_to_a_verdict():
    ends = ours.ends("common_drift", "equal", range(EVENTS), seed=SEED)
    wrong = sum(end.verdict != "undecided" for end in ends)
    assert wrong <= 2 * most(EVENTS)
    # Nor does it start exploring: equal arms share the day's traffic evenly, in the mean of runs.
    share = sum(end.on_candidate for end in ends) / sum(end.requests for end in ends)
    assert 0.25 <= share <= 0.75


@pytest.mark.parametrize(("name", "effect"), [("flat", -0.1), ("baseline_falls", 0.0)])
def test_the_lifts_interval_holds_the_truth_at_every_look_of_a_day(name, effect):
    held = ours.covered(name, effect, range(12), seed=SEED)
    assert len(held) - sum(held) <= binom.isf(1e-4, len(held), 0.05)


def test_a_ramp_with_late_labels_is_ended_by_harm_and_not_by_lateness():
    worse = ours.ramps(-0.2, range(10), seed=SEED)
    equal = ours.ramps(0.0, range(20), seed=SEED)
    caught = [trace.caught("fast", by=240.0) or trace.caught("closed", by=240.0) for trace in worse]
    assert sum(caught) >= 7
    alarms = [trace.caught("fast") or trace.caught("closed") for trace in equal]
    assert sum(alarms) <= most(len(equal))
    # The counter's view of the same ramps: rewards of young requests are still to come.
    assert sum(np.nanmin(trace.naive[trace.minutes > 76]) < -0.2 for trace in equal) >= 18


def test_a_late_regression_is_noticed_within_120_000_requests():
    ends = ours.late(range(20), seed=SEED)
    in_time = [end.verdict == "rolled_back" and end.requests <= 320_000 for end in ends]
    too_soon = [end.verdict == "rolled_back" and end.requests < scenes.GOOD for end in ends]
    assert sum(in_time) - sum(too_soon) >= 18
    assert sum(too_soon) <= most(len(ends))
