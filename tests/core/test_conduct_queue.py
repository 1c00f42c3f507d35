"""Which version is tried, when, and never twice; and one rollout through several stages."""

from __future__ import annotations

import pytest

from controller.core.model import Phase, Verdict
from tests.core.logs import CANARY, Log, Traffic, drive, policy, run


def gated(**gate):
    return policy(CANARY, gates={"cooldown": "0s", "offline": {"metric": "accuracy"} | gate})


def registered(policy, *, champion=None, candidate=None, end=60.0):
    log = Log()
    log.tick(0)
    if champion is not None:
        log.version(1, "v1", "champion", metrics={"accuracy": champion})
    log.version(2, "v2", metrics={"accuracy": candidate} if candidate is not None else None)
    log.ticks(5, end)
    return log, run(policy, log.lines)


def test_versions_are_tried_in_the_order_in_which_they_came():
    log = Log()
    log.tick(0)
    for name in ("v2", "v3", "v4"):
        log.version(1, name)
    for start in (0.0, 5.0, 10.0):
        log.tick(start)
    for time in (21.0, 121.0, 221.0):
        log.command(time, "rollback", by="ana")
        log.ticks(time + 4, time + 95)
    told = run(policy(CANARY), log.lines)
    assert [d.candidate for d in told.decisions if d.cause == "started"] == ["v2", "v3", "v4"]
    rollouts = [d.rollout for d in told.decisions if d.cause == "started"]
    assert rollouts == ["m-1", "m-2", "m-3"]


def test_a_version_that_comes_during_a_rollout_waits():
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.tick(5)
    log.version(6, "v3")
    log.ticks(10, 100)
    told = run(policy(CANARY), log.lines)
    assert told.state.rollout.live[0] == "v2"
    assert told.state.queue == ("v3",)


@pytest.mark.parametrize("again", ["v1", "v2", "v3"])
def test_a_version_that_is_known_to_the_rollout_is_not_queued_again(again):
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.version(2, "v3")
    log.tick(5)
    log.version(6, again)
    log.tick(10)
    assert run(policy(CANARY), log.lines).state.queue == ("v3",)


def test_a_version_that_was_rolled_back_is_not_tried_again():
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.tick(5)
    log.command(6, "rollback", by="ana")
    log.ticks(10, 100)
    log.version(101, "v2")
    log.ticks(105, 200)
    told = run(policy(CANARY), log.lines)
    assert told.state.phase is Phase.ROLLED_BACK
    assert told.state.queue == ()
    assert told.causes.count("started") == 1


def test_the_next_version_waits_until_the_cooldown_is_over():
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.version(2, "v3")
    log.tick(5)
    log.command(6, "rollback", by="ana")
    log.ticks(10, 1_000)
    told = run(policy(CANARY, gates={"cooldown": "10m"}), log.lines)
    started = [d.time for d in told.decisions if d.cause == "started"]
    assert started == [5.0, 610.0]
    assert "v3 starts in" in next(d.reason for d in told.decisions if d.cause == "cooldown")


def test_a_candidate_below_the_gate_is_refused_before_any_traffic():
    _, told = registered(gated(min=0.8), candidate=0.79)
    refused = told.decisions[1]
    assert (refused.verdict, refused.cause) == (Verdict.ROLL_BACK, "offline_gate")
    assert refused.reason == "accuracy of v2 is 0.79, below the gate's 0.8"
    assert told.splits == [{"v1": 10_000}]
    assert told.state.tried == ("v2",)


@pytest.mark.parametrize(
    ("gate", "champion", "candidate", "starts"),
    [
        ({"min": 0.8}, None, 0.8, True),
        ({"max_drop": 0.01}, 0.90, 0.895, True),
        ({"max_drop": 0.01}, 0.90, 0.885, False),
        ({"max_drop": 0.01}, 0.90, 0.99, True),
        ({"min": 0.8, "max_drop": 0.01}, 0.75, 0.79, False),
        ({"min": 0.8, "max_drop": 0.01}, 0.95, 0.85, False),
    ],
)
def test_the_gate_compares_with_its_bound_and_with_the_champion(gate, champion, candidate, starts):
    _, told = registered(gated(**gate), champion=champion, candidate=candidate)
    assert ("started" in told.causes) is starts
    assert (told.state.phase is Phase.ROLLED_BACK) is not starts


@pytest.mark.parametrize(
    ("gate", "champion", "candidate"),
    [({"min": 0.8}, None, None), ({"max_drop": 0.01}, None, 0.9)],
)
def test_a_missing_metric_holds_says_so_once_and_is_waited_for(gate, champion, candidate):
    log, told = registered(gated(**gate), champion=champion, candidate=candidate, end=600)
    assert told.causes == ["start", "offline_gate"]
    assert told.state.said.cause == "offline_gate"
    assert "has no registered metric accuracy" in told.decisions[-1].reason
    log.version(601, "v1", "champion", metrics={"accuracy": 0.9})
    log.version(601, "v2", metrics={"accuracy": 0.9})
    log.ticks(605, 620)
    assert "started" in run(gated(**gate), log.lines).causes


def test_a_refused_version_is_not_booked_under_the_rollout_before_it():
    log = Log()
    log.tick(0)
    log.version(1, "v2", metrics={"accuracy": 0.9})
    log.tick(5)
    log.command(6, "rollback", by="ana")
    log.ticks(10, 100)
    log.version(101, "v3", metrics={"accuracy": 0.1})
    log.tick(105)
    told = run(gated(min=0.8), log.lines)
    refused = told.decisions[-1]
    assert refused.cause == "offline_gate"
    assert (refused.rollout, refused.candidate, refused.stage) == ("", "", "")


def test_one_rollout_goes_through_its_stages_in_order():
    stages = (
        {"shadow": {"duration": "10s", "percent": "20%"}},
        CANARY,
        {"ab": {"share": "40%", "min_duration": "30s", "alpha": "5%"}},
    )
    used, log = policy(*stages), Log()
    log.tick(0)
    log.version(1)
    log.add("shadow", 6, model="m", request_id="s1", arm="v2")
    traffic = Traffic({"v1": 0.3, "v2": 0.5}, rate=30)
    told = drive(used, log, traffic, seconds=10, seed=3)
    log.add("shadow", 11, model="m", request_id="s2", arm="v2")
    told = drive(used, log, traffic, seconds=200, seed=4, start=10)
    moved = [
        (d.stage, d.step, d.weights.get("v2", 0)) for d in told.decisions if d.verdict != "hold"
    ]
    assert moved == [
        ("shadow", 0, 0),
        ("canary", 0, 1_000),
        ("canary", 1, 5_000),
        ("ab", 0, 4_000),
        ("ab", 0, 10_000),
    ]
    assert told.state.phase is Phase.PROMOTED
    assert told.state.champion == "v2"


def test_the_promoted_version_is_the_champion_of_the_next_rollout():
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(5)
    log.command(6, "promote", by="ana")
    log.ticks(10, 100)
    log.version(101, "v3")
    log.ticks(105, 120)
    told = run(policy(CANARY), log.lines)
    assert told.state.split.weights == {"v2": 9_000, "v3": 1_000}
    assert told.state.rollout.champion == "v2"


def test_the_next_rollout_waits_for_the_routers_but_not_for_ever():
    log = Log()
    log.tick(0)
    log.version(1)
    log.version(1, "v3")
    log.tick(5)
    log.command(6, "rollback", by="ana")
    log.ticks(10, 200)
    told = run(policy(CANARY), log.lines)
    unconfirmed = [d.time for d in told.decisions if d.cause == "started"]
    assert unconfirmed == [5.0, 70.0]  # sixty seconds after the rollback of second 10
    confirmed = Log()
    confirmed.tick(0)
    confirmed.version(1)
    confirmed.version(1, "v3")
    confirmed.tick(5)
    confirmed.command(6, "rollback", by="ana")
    confirmed.tick(10)
    confirmed.split(11, 3, v1=10_000)
    confirmed.ticks(15, 30)
    told = run(policy(CANARY), confirmed.lines)
    assert [d.time for d in told.decisions if d.cause == "started"] == [5.0, 15.0]
