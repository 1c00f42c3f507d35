"""What counts as evidence, and what never does."""

from __future__ import annotations

import json

import pytest

from controller.core.model import Phase, Verdict
from controller.core.report import evidence_summary
from tests.core.logs import CANARY, Log, Traffic, drive, policy, run

POLICY = policy(CANARY)
UNITS = policy(CANARY, route={"prefix": "/m/", "unit": {"header": "x-user"}})


def begun() -> Log:
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(5)
    return log


def answered(told):
    """Answers of champion and candidate that entered the analysis."""
    champion, _, candidate, _ = told.state.estimators.errors.waiting.seen[0]
    return champion, candidate


def test_a_candidate_that_fails_every_request_goes_within_a_few_ticks():
    # No outcome has closed: window and grace are longer than this whole rollout.
    slow = policy(CANARY, reward={"event": "click", "window": "1h", "grace": "5s"})
    log = begun()
    traffic = Traffic({"v1": 0.3, "v2": 0.3}, fails={"v2": 1.0}, rate=20)
    told = drive(slow, log, traffic, seconds=30, seed=1, start=5)
    (end,) = [d for d in told.decisions if d.verdict is Verdict.ROLL_BACK]
    assert end.cause == "errors"
    assert end.time <= 25.0
    assert end.evidence["candidate"]["n"] == 0
    assert told.state.split.weights == {"v1": 10_000}


def test_equal_failures_of_both_arms_roll_nobody_back():
    log = begun()
    traffic = Traffic({"v1": 0.3, "v2": 0.3}, fails={"v1": 0.2, "v2": 0.2}, rate=20)
    told = drive(POLICY, log, traffic, seconds=100, seed=2, start=5)
    assert Verdict.ROLL_BACK not in [d.verdict for d in told.decisions]


def test_no_traffic_for_hours_holds_and_says_so():
    log = begun()
    log.ticks(10, 600, 10)
    told = run(POLICY, log.lines)
    assert told.state.phase is Phase.RAMPING
    assert told.state.said.reason == "step 1 of 2: 0 of 20 outcomes"
    log.ticks(700, 20_000, 100)
    told = run(POLICY, log.lines)
    assert told.state.phase is Phase.HOLDING
    assert told.state.said.reason == "no request was answered for 5.55 h: nothing is known"
    # Whatever the policy says of a time that is over: an outage is not evidence.
    for on_expiry in ("hold", "promote", "roll_back"):
        used = policy({"canary": CANARY["canary"] | {"on_expiry": on_expiry}})
        assert run(used, log.lines).state.split.weights == {"v1": 9_000, "v2": 1_000}
    told = run(policy(health={"stale_after": "1d"}), log.lines)
    assert told.state.said.reason == "undecided after 60 min: hold v2"
    assert told.splits == [{"v1": 10_000}, {"v1": 9_000, "v2": 1_000}]


@pytest.mark.parametrize(
    "stage",
    [
        CANARY,
        {"ab": {"min_duration": "30s", "share": "50%"}},
        {"thompson": {"min_outcomes": 50, "max_loss": "100%"}},
    ],
    ids=["canary", "ab", "thompson"],
)
def test_when_every_reward_is_missing_nothing_is_proven(stage):
    # The pipe of the rewards is broken: all outcomes are the default. That says nothing.
    used, log = policy(stage), begun()
    told = drive(used, log, Traffic({"v1": 0.0, "v2": 0.0}, rate=60), seconds=500, seed=3, start=5)
    ends = [d for d in told.decisions if d.verdict in (Verdict.PROMOTE, Verdict.ROLL_BACK)]
    assert ends == []
    assert told.state.said.cause == "no_rewards"
    assert "no reward" in told.state.said.reason


def test_when_rewards_arrive_after_all_the_rollout_goes_on():
    log = begun()
    told = drive(POLICY, log, Traffic({"v1": 0.0, "v2": 0.0}, rate=30), seconds=60, seed=4, start=5)
    assert told.state.phase is Phase.HOLDING
    drive(
        POLICY,
        log,
        Traffic({"v1": 0.3, "v2": 0.5}, rate=30),
        seconds=150,
        seed=5,
        start=65,
        told=told,
    )
    assert told.state.phase is Phase.RAMPING
    assert "step_passed" in told.causes


def test_propensities_in_the_exposures_are_enough():
    # Another router's log: no epochs, each exposure says how likely its arm was.
    log = begun()
    for i in range(1_000):
        arm, p = ("v2", 0.1) if i % 10 == 0 else ("v1", 0.9)
        log.exposure(5 + i / 100, arm, propensity=p)
    log.ticks(20, 40)
    told = run(POLICY, log.lines)
    assert told.state.unattributed == 0
    assert evidence_summary(POLICY, told.state)["candidate"]["n"] == 100
    assert evidence_summary(POLICY, told.state)["champion"]["n"] == 900
    assert evidence_summary(POLICY, told.state)["sample_ratio"]["exposures"] < 1


def test_exposures_with_neither_epoch_nor_propensity_are_counted_and_never_analysed():
    log = begun()
    for i in range(500):
        log.exposure(5 + i / 100, "v2" if i % 2 else "v1")
    log.ticks(20, 60)
    told = run(POLICY, log.lines)
    assert told.state.unattributed == 500
    assert told.state.totals.exposures.sum() == 500
    assert evidence_summary(POLICY, told.state)["candidate"]["n"] == 0
    assert evidence_summary(POLICY, told.state)["unattributed"] == 500
    assert answered(told) == (0, 0)


def test_epochs_go_on_above_those_that_a_foreign_log_has_used():
    log = Log()
    log.split(0, 40, v1=10_000)
    log.tick(1)
    log.version(2)
    log.tick(5)
    told = run(POLICY, log.lines)
    assert [d.epoch for d in told.decisions] == [41, 42]
    log.split(6, 77, v1=9_500, v2=500)
    log.exposure(7, "v2", epoch=77)
    log.command(8, "rollback", by="ana")
    log.tick(10)
    told = run(POLICY, log.lines)
    assert told.state.unattributed == 0
    assert told.decisions[-1].epoch == 78


def test_a_unit_enters_once_at_its_first_exposure():
    log = begun()
    for i in range(600):
        user = i % 60
        log.exposure(5 + i / 60, "v2" if user % 10 == 0 else "v1", epoch=2, unit=f"u{user}")
    log.ticks(20, 60)
    told = run(UNITS, log.lines)
    assert answered(told) == (54, 6)
    assert told.state.totals.exposures.sum() == 600
    seen = evidence_summary(POLICY, told.state)
    assert (seen["champion"]["n"], seen["candidate"]["n"]) == (54, 6)
    assert answered(run(POLICY, log.lines)) == (540, 60)


def test_exposures_of_before_the_rollout_say_nothing_about_the_candidate():
    log = Log()
    log.tick(0)
    for i in range(300):
        log.exposure(1 + i / 100, "v1", epoch=1)
    log.tick(5)
    log.version(6)
    log.ticks(10, 60)
    told = run(POLICY, log.lines)
    assert answered(told) == (0, 0)
    assert told.state.sums[0].outcomes.sum() == 300


def test_arms_that_did_not_get_their_traffic_hold_the_rollout_and_roll_nothing_back():
    log = begun()
    for i in range(3_000):
        log.exposure(5 + i / 300, "v2" if i % 2 else "v1", epoch=2)  # 50/50, the split says 90/10
        if i % 4:
            log.reward(6 + i / 300, f"r{i + 1}")
    log.ticks(20, 100)
    told = run(POLICY, log.lines)
    assert told.state.phase is Phase.HOLDING
    assert told.state.said.cause == "sample_ratio"
    assert told.state.split.weights == {"v1": 9_000, "v2": 1_000}


def test_no_split_ever_changes_without_a_decision_that_says_the_same_weights():
    log = begun()
    drive(POLICY, log, Traffic({"v1": 0.2, "v2": 0.5}, rate=20), seconds=120, seed=7, start=5)
    told = run(POLICY, log.lines)
    by_number = {d.number: d for d in told.decisions}
    for effect in told.effects:
        if hasattr(effect, "split"):
            decision = by_number[effect.decision]
            assert decision.weights == effect.split.weights
            assert decision.epoch == effect.split.epoch
    assert [d.number for d in told.decisions] == list(range(1, len(told.decisions) + 1))


def test_a_reward_of_another_name_is_turned_away_and_counted():
    log = begun()
    request = log.exposure(6, "v1", epoch=2)
    log.reward(7, request, name="refund")
    log.reward(8, request, value=7, id="out")
    log.ticks(10, 40)
    told = run(POLICY, log.lines)
    assert told.state.rejected == {"unknown_name": 1, "out_of_range": 1}
    assert told.state.sums[0].value.sum() == 0
    dead = [r for e in told.effects if hasattr(e, "rejected") for r in e.rejected]
    lines = [json.loads(log.lines[r.offset]) for r in dead]
    assert [line.get("id") for line in lines] == ["w-r1", "out"]
