"""Names that a client invents: what they make grow is bounded, what is beyond is counted."""

from __future__ import annotations

import time

import pytest

from controller.core.arms import MOST_STRANGERS
from controller.core.attribution import MOST_STATED
from controller.core.model import KeepRejected, Reason
from controller.core.report import report
from tests.core.logs import CANARY, Log, policy, run

POLICY = policy(CANARY)
MANY = 20_000


def with_strangers(count: int, per_tick: int) -> Log:
    """Two real arms, and `count` exposures that each name another arm."""
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.tick(2)
    log.split(3, 2, v1=9_000, v2=1_000)
    for number in range(count):
        if number % per_tick == 0:
            log.tick(4 + number / per_tick)
        log.exposure(4 + number / per_tick, f"x{number}")
    log.exposure(5 + count / per_tick, "v1", epoch=2)
    log.exposure(5 + count / per_tick, "v2", epoch=2)
    log.tick(6 + count / per_tick)
    return log


@pytest.mark.parametrize("per_tick", [MANY, 500])
def test_invented_arms_are_counted_and_kept_but_do_not_grow_the_state(per_tick: int) -> None:
    log = with_strangers(MANY, per_tick)
    began = time.process_time()
    told = run(POLICY, log.lines)
    assert time.process_time() - began < 10, "the time is not quadratic in the names"
    counted = {name for name in told.state.arms if name.startswith("x")}
    # The first ones, in the order of the log, however it is cut.
    assert counted == {f"x{i}" for i in range(MOST_STRANGERS)}
    assert told.state.rejected == {Reason.UNKNOWN_ARM: MANY - MOST_STRANGERS}
    assert len(report(POLICY, told.state).arms) == 2 + MOST_STRANGERS
    kept = [r for e in told.effects if isinstance(e, KeepRejected) for r in e.rejected]
    assert [r.offset for r in kept] == sorted(r.offset for r in kept)
    assert kept[0].detail == f"x{MOST_STRANGERS}"
    totals = dict(zip(told.state.arms, told.state.totals.exposures.tolist(), strict=True))
    assert totals["v1"] == totals["v2"] == 1


def test_a_new_version_is_an_arm_whatever_was_invented_before() -> None:
    log = with_strangers(2 * MOST_STRANGERS, 50)
    log.version(50, "v3")
    log.exposure(51, "v3")
    log.tick(52)
    told = run(POLICY, log.lines)
    assert told.state.totals.exposures[told.state.arms.index("v3")] == 1


def test_stated_propensities_are_as_many_as_there_are_weights() -> None:
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.tick(2)
    count = MOST_STATED + 5_000
    for number in range(count):
        log.exposure(3, "v2", propensity=(number + 1) / (count + 1), unit=f"u{number}")
    log.tick(4)
    began = time.process_time()
    told = run(POLICY, log.lines)
    assert time.process_time() - began < 20, "the time is not quadratic in the propensities"
    assert len(told.state.strata) == MOST_STATED
    assert told.state.unattributed == count - MOST_STATED


def test_header_values_are_counted_up_to_a_bound() -> None:
    stage = {"thompson": {"segments": {"header": "x-country", "max": 3}}}
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.tick(2)
    for number in range(MANY):
        log.exposure(3, "v1", segment=f"s{number}", epoch=2)
    log.tick(4)
    told = run(policy(stage, guardrails=[]), log.lines)
    assert len(told.state.sightings) <= 1_000
    assert told.state.segments == ()


def test_invented_names_of_rewards_are_refused_one_by_one() -> None:
    log = Log()
    log.tick(0)
    for number in range(MANY):
        log.reward(1, f"r{number}", name=f"n{number}")
    log.tick(2)
    told = run(POLICY, log.lines)
    assert told.state.rejected == {Reason.UNKNOWN_NAME: MANY}
