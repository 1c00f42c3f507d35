"""What people see: true, complete, and without numbers where nothing is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from controller.core.model import EarlierArms, Phase, Role
from controller.core.report import PAST, conditions, evidence_summary, report, rounded
from controller.core.state import Totals, initial, with_arms
from tests.core.logs import CANARY, Log, Traffic, drive, policy, run

POLICY = policy(CANARY)


def ramp(seconds=40.0):
    log = Log()
    log.tick(0)
    log.version(1)
    log.version(1, "v3")
    return drive(POLICY, log, Traffic({"v1": 0.3, "v2": 0.3}, rate=20), seconds=seconds, seed=3)


def test_before_the_first_event_the_champion_has_everything_and_nothing_is_known():
    seen = report(POLICY, initial(POLICY))
    (champion,) = seen.arms
    assert (champion.arm, champion.role, champion.weight) == ("v1", Role.CHAMPION, 10_000)
    assert (champion.exposures, champion.mean, champion.interval) == (0, None, None)
    assert seen.candidate is None
    assert seen.lift == {}


def test_a_rollout_is_shown_with_both_arms_and_the_queue():
    told = ramp()
    seen = report(POLICY, told.state)
    assert (seen.phase, seen.stage, seen.candidate) == (Phase.RAMPING, "canary", "v2")
    assert seen.queue == ("v3",)
    assert seen.reason == told.state.said.reason
    assert [arm.arm for arm in seen.arms] == ["v1", "v2", "v3"]
    assert sum(arm.weight for arm in seen.arms) == 10_000
    assert sum(arm.exposures for arm in seen.arms) == told.state.totals.exposures.sum()
    for arm in seen.arms:
        assert arm.exposures == arm.outcomes + arm.pending
        assert arm.rewards <= arm.exposures
    assert set(seen.lift) == {"v2"}
    lift = seen.lift["v2"]
    assert lift.lower <= lift.estimate <= lift.upper


def test_arms_that_are_over_since_long_are_told_together():
    told = ramp()
    state = with_arms(told.state, tuple(f"old{i}" for i in range(PAST + 5)))
    is_old = np.arange(len(state.arms)) >= len(told.state.arms)
    totals = state.totals
    state = replace(state, totals=Totals(totals.exposures + 7 * is_old, totals.errors + is_old))
    seen = report(POLICY, state)
    assert [arm.arm for arm in seen.arms[:3]] == ["v1", "old10", "old100"]
    assert {arm.arm for arm in seen.arms} == {*state.arms} - {f"old{i}" for i in range(5)}
    assert seen.earlier == EarlierArms(arms=5, exposures=35, outcomes=0, rewards=0, errors=5)
    # One that is in a split again is shown again.
    split = replace(state.split, weights={**state.split.weights, "old0": 0, "old1": 1})
    assert "old1" in {arm.arm for arm in report(POLICY, replace(state, split=split)).arms}
    assert report(POLICY, told.state).earlier is None


def test_the_weight_in_force_is_what_the_routers_confirmed():
    log = Log()
    log.tick(0)
    log.split(1, 1, v1=10_000)
    log.version(2)
    log.tick(5)
    told = run(POLICY, log.lines)
    seen = {arm.arm: (arm.weight, arm.weight_in_force) for arm in report(POLICY, told.state).arms}
    assert seen == {"v1": (9_000, 10_000), "v2": (1_000, 0)}
    assert report(POLICY, told.state).health["split"] == "not yet confirmed by the router"
    log.split(6, 2, v1=9_000, v2=1_000)
    log.tick(10)
    told = run(POLICY, log.lines)
    seen = {arm.arm: (arm.weight, arm.weight_in_force) for arm in report(POLICY, told.state).arms}
    assert seen == {"v1": (9_000, 9_000), "v2": (1_000, 1_000)}
    assert report(POLICY, told.state).health["split"] == "in force"


def test_a_paused_model_at_rest_shows_no_candidate():
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(5)
    log.command(6, "promote", by="ana")
    log.ticks(10, 100)
    log.command(101, "pause", by="ana")
    log.tick(105)
    seen = report(POLICY, run(POLICY, log.lines).state)
    assert seen.phase is Phase.PAUSED
    assert seen.champion == "v2"
    assert seen.candidate is None


@pytest.mark.parametrize(
    ("stage", "name"),
    [(CANARY, "not worse by the margin"), ({"ab": {}}, "better"), ({"thompson": {}}, "better")],
)
def test_each_condition_that_may_move_the_rollout_is_listed(stage, name):
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(5)
    used = policy(stage)
    rows = conditions(used, run(used, log.lines).state)
    assert [(row["name"], row["then"]) for row in rows] == [
        ("worse reward, outcomes that are final", "roll_back"),
        ("worse reward, as it comes in", "roll_back"),
        ("more than allowed: errors", "roll_back"),
        (name, "promote"),
        ("within the bound: errors", "promote"),
        ("sample ratio of exposures", "hold"),
        ("sample ratio of outcomes", "hold"),
        ("sample ratio of dropped events", "hold"),
    ]
    assert not any(row["reached"] for row in rows)
    assert all(row["evidence"] == pytest.approx(1.0) for row in rows)
    assert all(row["threshold"] > 1 for row in rows)


def test_without_a_rollout_there_is_no_evidence_and_no_condition():
    state = initial(POLICY)
    assert evidence_summary(POLICY, state) == {}
    assert conditions(POLICY, state) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 / 3, 0.333333333),
        (123456789.123, 123456789.0),
        (math.inf, None),
        (-math.inf, None),
        (math.nan, None),
        (0.0, 0.0),
    ],
)
def test_numbers_keep_nine_digits_and_what_is_not_finite_is_null(value, expected):
    assert rounded(value) == expected


def test_a_model_paused_at_rest_shows_no_stage_of_the_rollout_that_is_over():
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.tick(2)
    log.command(3, "rollback")
    log.tick(4)
    log.command(70, "pause")
    log.tick(71)
    state = run(policy(CANARY), log.lines).state
    shown = report(policy(CANARY), state)
    assert (shown.phase, shown.stage, shown.candidate) == (Phase.PAUSED, "", None)
