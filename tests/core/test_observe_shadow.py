"""Mirrored answers: compared with the champion's, and never more than what was seen."""

from __future__ import annotations

import pytest

from controller.core.model import Phase
from tests.core.logs import CANARY, MODEL, Log, policy, run

SHADOW = {"shadow": {"duration": "1m", "percent": "20%"}}
POLICY = policy(SHADOW, CANARY)


def shadowed(*, copies, failing=0, champion_fails=0, ticks=20, times=1):
    """50 answers of the champion per tick of 5 s, and some of the candidate."""
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(2)
    for tick in range(ticks):
        start = 2.0 + 5 * tick
        for i in range(50):
            status = 500 if i < champion_fails else 200
            log.exposure(start + i / 20, "v1", epoch=2, status=status)
        for i in range(copies):
            status = 500 if i < failing else 200
            log.add(
                "shadow",
                start + i / 20,
                model=MODEL,
                request_id=f"s{tick}-{i}",
                arm="v2",
                status=status,
            )
        log.tick(start + 5)
    repeated = [line for line in log.lines for _ in range(times if b"request_id" in line else 1)]
    return run(POLICY, repeated)


def test_copies_that_never_came_are_no_evidence_against_the_candidate():
    # Peer failure 1: a mirror that does not work is not a candidate that does not work.
    told = shadowed(copies=0)
    assert told.state.phase is Phase.SHADOWING
    assert told.causes[-1] == "no_answers"
    assert "no mirrored request was answered" in told.decisions[-1].reason


@pytest.mark.parametrize("copies", [1, 3, 10, 50])
def test_however_many_copies_came_a_sound_candidate_passes(copies):
    told = shadowed(copies=copies)
    assert "shadowed" in told.causes
    assert told.state.phase is Phase.RAMPING


def test_a_candidate_that_fails_copies_is_rolled_back_before_users_see_it():
    told = shadowed(copies=10, failing=6)
    (end,) = [d for d in told.decisions if d.verdict == "roll_back"]
    assert end.cause == "shadow_errors"
    assert all("v2" not in weights for weights in told.splits)


def test_a_candidate_that_fails_when_the_champion_fails_too_is_not_rolled_back():
    told = shadowed(copies=10, failing=2, champion_fails=10)
    assert "shadow_errors" not in told.causes


def test_answers_that_are_sent_twice_count_once():
    case = {"copies": 10, "failing": 1, "champion_fails": 5, "ticks": 6}
    once, twice = shadowed(**case), shadowed(**case, times=2)
    assert once.state.rollout.shadow_answers == twice.state.rollout.shadow_answers == 60
    wealth = [told.state.estimators.shadow.wealth.log_wealth.tolist() for told in (once, twice)]
    assert wealth[0] == wealth[1]
