"""Harm, doubt and proof, at their thresholds; and sentences that people can read."""

from __future__ import annotations

import math

import pytest

from controller.core.decide.guardrail import ERROR_SHARE, doubt, harm, progress, proven
from controller.core.model import Verdict
from tests.core.situations import CERTAIN, arm, situation


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
def test_proof_begins_where_ville_allows_it(alpha):
    threshold = math.log(1 / alpha)
    assert proven(threshold + 1e-9, alpha)
    assert not proven(threshold - 1e-9, alpha)


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
def test_the_ways_to_fail_spend_the_level_once(alpha):
    # The least e-value of each that rolls back; their levels must sum to alpha.
    reward, errors = (1 - ERROR_SHARE) * alpha, ERROR_SHARE * alpha
    assert reward + errors == pytest.approx(alpha)
    for name, level in (("log_harm", reward), ("log_errors", errors)):
        over, under = -math.log(level) + 1e-9, -math.log(level) - 1e-9
        assert harm(situation(**{name: over}), alpha).verdict is Verdict.ROLL_BACK
        assert harm(situation(**{name: under}), alpha) is None


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
    errors = harm(situation(log_errors=CERTAIN, candidate=bad), 0.01)
    assert errors.reason == (
        "v2 fails 15.0% of its requests, v1 0.0%: more than the guardrail allows"
    )
    reward = harm(situation(log_harm=CERTAIN, candidate=bad), 0.01)
    assert reward.reason.startswith("v2 earns less than v1: 0.1 against 0.3 on 200 outcomes")
    assert progress(math.log(50), 0.01) == "evidence 50 of 100"
    assert progress(1e6, 0.01).endswith("of 100")
