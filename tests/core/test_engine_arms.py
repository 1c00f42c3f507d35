"""Several candidates: joining, leaving, winning; and one that takes another's place."""

from __future__ import annotations

import pytest

from controller.core.explain import explanation
from controller.core.model import Phase, Verdict
from controller.core.report import report
from tests.core.logs import CANARY, Log, Traffic, drive, policy, run

AB = {"ab": {"share": "60%", "min_duration": "30s", "max_duration": "1h", "min_effect": "5%"}}
JOIN = policy(AB, candidates={"on_new": "join"}, guardrails=[])
THOMPSON = {"thompson": {"update_every": "10s", "min_outcomes": 200, "max_loss": "5%"}}
BANDIT = policy(THOMPSON, candidates={"on_new": "join"}, guardrails=[])


def offered(*names):
    log = Log()
    log.tick(0)
    for name in names:
        log.version(1, name)
    log.tick(2)
    return log


def test_candidates_that_wait_together_start_together_and_share_evenly():
    told = run(JOIN, offered("v2", "v3", "v4").lines)
    assert told.causes == ["start", "started", "joined", "joined"]
    assert told.state.rollout.live == ("v2", "v3", "v4")
    assert told.state.split.weights == {"v1": 4_000, "v2": 2_000, "v3": 2_000, "v4": 2_000}
    assert told.state.queue == ()


def test_a_candidate_that_joins_later_begins_with_no_evidence_and_keeps_the_others():
    log = offered("v2")
    traffic = Traffic({"v1": 0.3, "v2": 0.3, "v3": 0.3}, rate=20)
    told = drive(JOIN, log, traffic, seconds=60, seed=1, start=5)
    before = report(JOIN, told.state)
    log.version(66, "v3")
    begin = len(log.lines) - 1
    told = drive(JOIN, log, traffic, seconds=60, seed=2, start=67, told=told)
    assert begin < len(log.lines)
    # The version line itself was not folded by `drive`; fold the whole log again.
    again = run(JOIN, log.lines)
    assert again.state.rollout.live == ("v2", "v3")
    seen = report(JOIN, again.state)
    n = {arm.arm: arm.units for arm in seen.arms}
    assert n["v2"] > {arm.arm: arm.units for arm in before.arms}["v2"] > 0
    assert set(seen.lift) == {"v2", "v3"}


def test_the_worse_of_two_leaves_alone_and_the_better_is_promoted():
    log = offered("v2", "v3")
    traffic = Traffic({"v1": 0.3, "v2": 0.05, "v3": 0.6}, rate=40)
    told = drive(JOIN, log, traffic, seconds=400, seed=3, start=5)
    (out,) = [d for d in told.decisions if d.verdict is Verdict.ROLL_BACK]
    assert (out.candidate, out.phase) == ("v2", Phase.TESTING)
    assert out.weights == {"v1": 4_000, "v3": 6_000}
    (end,) = [d for d in told.decisions if d.verdict is Verdict.PROMOTE]
    assert (end.candidate, end.cause) == ("v3", "better")
    assert told.state.champion == "v3"
    assert told.state.split.weights == {"v3": 10_000}
    assert told.state.tried == ("v2",)


def test_when_the_last_of_several_leaves_the_rollout_is_over():
    log = offered("v2", "v3")
    traffic = Traffic({"v1": 0.5, "v2": 0.05, "v3": 0.05}, rate=40)
    told = drive(JOIN, log, traffic, seconds=300, seed=4, start=5)
    outs = [d for d in told.decisions if d.verdict is Verdict.ROLL_BACK]
    assert {d.candidate for d in outs} == {"v2", "v3"}
    assert [d.phase for d in outs] == [Phase.TESTING, Phase.ROLLING_BACK]
    assert told.state.split.weights == {"v1": 10_000}
    assert set(told.state.tried) == {"v2", "v3"}


def test_a_bandit_of_three_arms_follows_the_best_and_promotes_it():
    log = offered("v2", "v3")
    traffic = Traffic({"v1": 0.2, "v2": 0.2, "v3": 0.5}, rate=40)
    told = drive(BANDIT, log, traffic, seconds=300, seed=5, start=5)
    (end,) = [d for d in told.decisions if d.verdict is Verdict.PROMOTE]
    assert end.candidate == "v3"
    names = [row["name"] for row in end.evidence["conditions"] if row["candidate"] == "v3"]
    assert "better than v2" in names
    shares = [s["v3"] for s in told.splits if "v3" in s and len(s) > 1]
    assert max(shares) > 8_000


def test_nobody_joins_a_canary_even_where_a_later_stage_may_be_joined():
    used = policy(CANARY, AB, candidates={"on_new": "join"})
    told = run(used, offered("v2", "v3").lines)
    assert told.state.rollout.live == ("v2",)
    assert told.state.queue == ("v3",)


def test_a_stage_after_several_goes_on_with_the_winner_alone():
    used = policy(AB, CANARY, candidates={"on_new": "join"}, guardrails=[])
    log = offered("v2", "v3")
    traffic = Traffic({"v1": 0.3, "v2": 0.3, "v3": 0.6}, rate=40)
    told = drive(used, log, traffic, seconds=200, seed=6, start=5)
    (step,) = [d for d in told.decisions if d.cause == "better"]
    assert (step.verdict, step.candidate) == (Verdict.ADVANCE, "v3")
    assert told.state.rollout.live == ("v3",) or told.state.champion == "v3"
    assert "v2" in told.state.tried


def test_the_newest_version_takes_the_place_of_the_candidate():
    used = policy(CANARY, candidates={"on_new": "replace"})
    log = offered("v2")
    log.tick(5)
    log.version(6, "v3")
    log.version(6, "v4")
    log.tick(10)
    told = run(used, log.lines)
    last = told.decisions[-1]
    assert (last.verdict, last.cause) == (Verdict.ADVANCE, "replaced")
    assert "in place of v2, v3" in last.reason
    assert told.state.rollout.live == ("v4",)
    assert told.state.rollout.id == "m-2"
    assert told.state.split.weights == {"v1": 9_000, "v4": 1_000}
    assert told.state.tried == ("v2", "v3")
    assert told.state.phase is Phase.RAMPING


def test_a_version_that_the_gate_refuses_replaces_nobody():
    gates = {"cooldown": "0s", "offline": {"metric": "accuracy", "min": 0.8}}
    used = policy(CANARY, candidates={"on_new": "replace"}, gates=gates)
    log = Log()
    log.tick(0)
    log.version(1, "v2", metrics={"accuracy": 0.9})
    log.tick(2)
    log.version(3, "v3", metrics={"accuracy": 0.1})
    log.tick(5)
    told = run(used, log.lines)
    assert told.state.rollout.live == ("v2",)
    assert told.state.tried == ("v3",)
    assert "below the gate" in told.decisions[-1].reason
    # One without the metric waits for it, and replaces when it has come.
    log.version(6, "v4")
    log.tick(10)
    assert run(used, log.lines).state.rollout.live == ("v2",)
    log.version(11, "v4", metrics={"accuracy": 0.95})
    log.tick(15)
    assert run(used, log.lines).state.rollout.live == ("v4",)


@pytest.mark.parametrize(
    ("version", "verdict", "words"),
    [
        (None, Verdict.HOLD, "does not say which of v2, v3"),
        ("v9", Verdict.HOLD, "v9 is no candidate now"),
        ("v3", Verdict.PROMOTE, "promote by ana"),
    ],
)
def test_an_operator_says_which_of_several_is_promoted(version, verdict, words):
    log = offered("v2", "v3")
    log.command(3, "promote", by="ana", version=version)
    log.tick(5)
    told = run(JOIN, log.lines)
    assert told.decisions[-1].verdict is verdict
    assert words in told.decisions[-1].reason
    assert told.state.champion == ("v3" if version == "v3" else "v1")


def test_an_operator_may_roll_back_one_of_several_or_all():
    log = offered("v2", "v3")
    log.command(3, "rollback", by="ana", version="v2")
    log.tick(5)
    told = run(JOIN, log.lines)
    assert told.state.rollout.live == ("v3",)
    assert told.state.split.weights == {"v1": 4_000, "v3": 6_000}
    log.command(6, "rollback", by="ana")
    log.tick(10)
    told = run(JOIN, log.lines)
    assert told.state.split.weights == {"v1": 10_000}
    assert told.state.phase is Phase.ROLLING_BACK


def test_a_unit_keeps_its_arm_while_others_come_and_go():
    # Anchors stand in the order of joining, also for those who have left.
    log = offered("v2", "v3", "v4")
    log.command(3, "rollback", by="ana", version="v3")
    log.tick(5)
    told = run(JOIN, log.lines)
    assert told.state.split.anchors == ("v2", "v3", "v4")
    assert told.state.split.weights == {"v1": 4_000, "v2": 3_000, "v4": 3_000}


def test_of_several_candidates_those_found_to_be_better_are_named():
    # Nobody is promoted before a day is over; two of three are better all the same.
    slow = {"ab": AB["ab"] | {"min_duration": "1d", "max_duration": "2d"}}
    used = policy(slow, candidates={"on_new": "join"}, guardrails=[])
    traffic = Traffic({"v1": 0.2, "v2": 0.6, "v3": 0.2, "v4": 0.6}, rate=40)
    told = drive(used, offered("v2", "v3", "v4"), traffic, seconds=200, seed=9, start=5)
    explained = explanation(used, told.state)
    assert explained["discoveries"] == ["v2", "v4"]
    assert any("found to be better" in text for text in explained["sentences"])
    one = drive(used, offered("v2"), traffic, seconds=60, seed=9, start=5)
    assert explanation(used, one.state)["discoveries"] == []
