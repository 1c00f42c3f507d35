"""Versions: how many of them are remembered, and what becomes of those that are not."""

from __future__ import annotations

import time

from controller.core.arms import MOST_VERSIONS
from controller.core.model import KeepRejected, Phase, Reason
from controller.core.report import report
from controller.core.state import image, revived
from tests.core.logs import CANARY, Log, Told, fold, policy, run

POLICY = policy(CANARY)
MANY = 20_000


def begun() -> Told:
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.tick(2)
    log.split(3, 2, v1=9_000, v2=1_000)
    log.tick(4)
    return run(POLICY, log.lines)


def test_versions_beyond_those_that_are_needed_are_counted_and_kept_not_remembered() -> None:
    told, log, began = begun(), Log(), time.process_time()
    for number in range(MANY):
        log.version(5, f"c{number}", covariates={f"u{number}": 1.0})
    log.tick(6)
    fold(POLICY, told, log.lines)
    assert time.process_time() - began < 20, "the time is not quadratic in the versions"
    refused = MANY + 2 - MOST_VERSIONS
    assert told.state.rejected == {Reason.TOO_MANY_VERSIONS: refused}
    assert len(told.state.versions) == len(told.state.arms) == MOST_VERSIONS
    assert len(told.state.queue) == MOST_VERSIONS - 2
    kept = [r for e in told.effects if isinstance(e, KeepRejected) for r in e.rejected]
    assert [r.detail for r in kept] == [f"c{i}" for i in range(MANY - refused, MANY)]
    assert len(told.state.covariates.values()) == MANY - refused, "nor is what it says of units"
    # What is said of one that is known counts.
    log = Log()
    log.version(7, "v2", metrics={"accuracy": 0.9})
    log.tick(8)
    fold(POLICY, told, log.lines)
    assert told.state.versions["v2"].metrics == {"accuracy": 0.9}


def test_versions_with_which_nothing_goes_on_are_forgotten_oldest_first() -> None:
    told = begun()
    for tick in range(3 * MOST_VERSIONS // 20):
        log = Log(requests=100 * tick)
        for number in range(20 * tick, 20 * tick + 20):
            log.version(5 + tick, f"c{number}", role="champion")  # announced, never a candidate
            log.exposure(5.5 + tick, "v1", epoch=2)
        if tick == 0:
            log.exposure(5.5, "c7")
        log.tick(6 + tick)
        fold(POLICY, told, log.lines)
        told.state = revived(image(told.state)) if tick % 20 == 0 else told.state
    state, total = told.state, 3 * MOST_VERSIONS
    assert Reason.TOO_MANY_VERSIONS not in state.rejected
    assert MOST_VERSIONS // 2 < len(state.versions) <= MOST_VERSIONS
    assert f"c{total - 1}" in state.versions
    assert f"c{total - MOST_VERSIONS // 2}" in state.versions
    assert "c7" not in state.versions
    assert {"v1", "v2"} <= state.versions.keys()
    assert set(state.arms) <= state.versions.keys()
    totals = dict(zip(state.arms, state.totals.exposures.tolist(), strict=True))
    assert totals["v1"] == total, "the others keep their counts"
    earlier = report(POLICY, state).earlier
    assert earlier is not None
    shown = len(report(POLICY, state).arms)
    assert (earlier.exposures, earlier.outcomes) == (1, 1), "what was counted is not lost"
    assert earlier.arms + shown == total + 2


def test_a_version_whose_requests_are_open_is_not_forgotten() -> None:
    told, log = begun(), Log()
    log.version(5, "late", role="champion")
    log.tick(6)
    for number in range(MOST_VERSIONS - 3):
        log.version(7, f"c{number}", role="champion")
    log.tick(8)
    log.exposure(9, "late")
    log.tick(10)
    log.version(11, "one too many", role="champion")
    log.tick(12)
    fold(POLICY, told, log.lines)
    assert "late" in told.state.versions
    assert "c0" not in told.state.versions
    log = Log(requests=50)
    log.ticks(15, 30)
    fold(POLICY, told, log.lines)
    place = told.state.arms.index("late")
    assert told.state.sums[0].outcomes[place] == 1


def test_a_forgotten_candidate_that_is_announced_again_is_new() -> None:
    told, log = begun(), Log()
    for time_s, name in ((10, "v3"), (400, "")):
        log.command(time_s, "rollback")
        log.tick(time_s + 1)
        fold(POLICY, told, log.lines)
        log = Log()
        log.split(time_s + 2, told.state.split.epoch, v1=10_000)
        log.ticks(time_s + 3, time_s + 303, 10)
        if name:
            log.version(time_s + 304, name)
        log.version(time_s + 305, "v2")
        log.tick(time_s + 306)
        fold(POLICY, told, log.lines)
        log = Log()
    assert told.state.phase is Phase.ROLLED_BACK, "v2 was tried"
    for number in range(MOST_VERSIONS):
        log.version(2_000, f"c{number}", role="champion")
    log.tick(2_001)
    log.version(2_002, "v2")
    log.tick(2_003)
    fold(POLICY, told, log.lines)
    assert told.state.rollout is not None
    assert told.state.rollout.candidates == ("v2",)
    assert told.state.phase is Phase.RAMPING
