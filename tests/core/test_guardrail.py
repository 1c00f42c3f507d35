"""Harm, doubt and proof, at their thresholds; and sentences that people can read."""

from __future__ import annotations

import math

import pytest

from controller.core.decide.conditions import Condition, all_conditions, harm, progress
from controller.core.decide.guardrail import doubt, harmed
from controller.core.model import Verdict
from tests.core.situations import CERTAIN, arm, evidence, guard, situation, stage


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
def test_proof_begins_where_ville_allows_it(alpha):
    threshold = math.log(1 / alpha)
    assert Condition("v2", "c", "n", threshold + 1e-9, alpha, "promote").is_met
    assert not Condition("v2", "c", "n", threshold - 1e-9, alpha, "promote").is_met


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("n_rewards", [0, 1, 3])
def test_the_ways_to_fail_spend_the_level_once(alpha, is_binary, n_rewards):
    rewards = [guard("reward", f"event {i}") for i in range(n_rewards)]
    seen = evidence(guards=(guard("error_rate"), guard("latency", "p99"), *rewards))
    ways = harm(situation(case={"has_fast_path": is_binary}), seen, alpha)
    assert len(ways) == 3 + is_binary + n_rewards
    assert sum(way.alpha for way in ways) == pytest.approx(alpha)


def test_the_sample_ratio_holds_from_ten_thousand_to_one():
    assert doubt(situation(sample_ratio=math.log(9_999))) is None
    ruling = doubt(situation(sample_ratio=math.log(10_001)))
    assert (ruling.verdict, ruling.cause) == (Verdict.HOLD, "sample_ratio")


def test_without_any_outcome_missing_rewards_are_no_news():
    none = {"candidate": arm("v2", 0, None), "champion": arm("v1", 0, None)}
    assert doubt(situation(rewards=0, **none)) is None
    assert doubt(situation(rewards=0)).cause == "no_rewards"
    assert doubt(situation(rewards=1)) is None


def test_the_sentences_give_the_numbers():
    bad = arm("v2", 200, 0.1, errors=30)
    errors = harmed(situation(log_errors=CERTAIN, candidate=bad), 0.01)
    assert errors.reason == (
        "v2 fails 15.0% of its requests, v1 0.0%: more than the guardrail allows"
    )
    reward = harmed(situation(log_harm=CERTAIN, candidate=bad), 0.01)
    assert reward.reason.startswith("v2 earns less than v1: 0.1 against 0.3 on 200 outcomes")
    seen = {"champion": 0.05, "candidate": 0.09, "limit_ms": 12.5}
    slow = guard("latency", "p95", log_worse=CERTAIN, **seen)
    latency = harmed(situation(guards=(slow,)), 0.01)
    assert latency.cause == "latency"
    assert latency.reason == (
        "v2 is slower than v1 at p95: 9.00% of its answers take longer than 12.5 ms, 5.00% of the "
        "champion's longer than its own: more than the guardrail allows"
    )
    refunds = guard("reward", "refund", log_worse=CERTAIN, champion=0.01, candidate=0.05)
    assert (
        "more refund than v1, 0.05 against 0.01"
        in harmed(situation(guards=(refunds,)), 0.01).reason
    )
    assert progress(math.log(50), 0.01) == "evidence 50 of 100"
    assert progress(1e6, 0.01).endswith("of 100")


@pytest.mark.parametrize("kind", ["shadow", "canary", "ab", "thompson"])
def test_what_a_stage_decides_by_is_what_it_can_show(kind):
    settings = {"steps": ["50%"]} if kind == "canary" else {}
    rows = all_conditions(stage(**{kind: settings}), situation(evidence("v3")))
    assert {row.candidate for row in rows} >= {"v2", "v3"}
    assert {row.then for row in rows} == (
        {"roll_back"} if kind == "shadow" else {"promote", "roll_back", "hold"}
    )
