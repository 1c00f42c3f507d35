"""The Thompson stage: weights follow the posterior, the end follows the evidence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.decide import rule
from controller.core.model import Verdict
from tests.core.situations import CERTAIN, arm, evidence, situation, stage

THOMPSON = stage(
    thompson={"floor": "1%", "update_every": "30s", "max_loss": "0.1%", "min_outcomes": 500}
)
BEST = {"p_best": 0.995, "loss": 0.0005, "log_superior": CERTAIN}


def verdict(**case):
    ruling = rule(THOMPSON, situation(**case))
    return ruling.verdict, ruling.cause


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({}, (Verdict.HOLD, "exploring")),
        (BEST, (Verdict.PROMOTE, "better")),
        (BEST | {"is_last": False}, (Verdict.ADVANCE, "better")),
        (BEST | {"p_best": 0.9899}, (Verdict.HOLD, "exploring")),
        (BEST | {"loss": 0.00101}, (Verdict.HOLD, "exploring")),
        (BEST | {"log_superior": math.log(100) - 1e-6}, (Verdict.HOLD, "exploring")),
        (BEST | {"log_superior": math.log(100) + 1e-6}, (Verdict.PROMOTE, "better")),
        (BEST | {"candidate": arm("v2", 499, 0.4)}, (Verdict.HOLD, "exploring")),
        (BEST | {"rollout": {"stage_outcomes": {"v2": 501}}}, (Verdict.HOLD, "exploring")),
        (BEST | {"rollout": {"stage_outcomes": {"v2": 500}}}, (Verdict.PROMOTE, "better")),
        (BEST | {"log_harm": CERTAIN}, (Verdict.ROLL_BACK, "reward_harm")),
        (BEST | {"log_errors": CERTAIN}, (Verdict.ROLL_BACK, "errors")),
        (BEST | {"sample_ratio": CERTAIN}, (Verdict.HOLD, "sample_ratio")),
        ({"sample_ratio": CERTAIN, "log_harm": CERTAIN}, (Verdict.HOLD, "sample_ratio")),
    ],
)
def test_each_case_has_its_verdict(case, expected):
    assert verdict(**case) == expected


def share(**case):
    weights = rule(THOMPSON, situation(**case)).weights
    assert sum(weights.values()) == 10_000
    return weights["v2"]


@pytest.mark.parametrize(("p_best", "expected"), [(0.0, 100), (0.5, 5_000), (1.0, 9_900)])
def test_the_share_is_the_probability_to_be_best_between_the_floors(p_best, expected):
    # floor + (1 - 2 floor) P, with a floor of 1 %
    assert share(p_best=p_best, in_step_s=31.0) == expected


def test_weights_are_renewed_no_more_often_than_the_policy_says():
    assert share(p_best=0.9, in_step_s=29.9, share=5_000) == 5_000
    assert share(p_best=0.9, in_step_s=30.0, share=5_000) == 8_920


def test_the_first_weights_of_the_stage_do_not_wait():
    # The split was last changed by the stage before, ten seconds ago.
    assert share(p_best=0.9, in_stage_s=5.0, in_step_s=10.0, share=500) == 8_920


def test_a_change_too_small_to_see_makes_no_new_split():
    assert share(p_best=0.504, in_step_s=60.0, share=5_000) == 5_000
    assert share(p_best=0.506, in_step_s=60.0, share=5_000) == 5_059


@given(p_best=st.floats(0, 1), floor=st.sampled_from(["0%", "0.004%", "1%", "50%", "100%"]))
def test_both_arms_always_keep_some_traffic_to_be_judged_by(p_best, floor):
    # Without it neither a mistake nor an improvement could ever be seen again.
    thompson = stage(thompson={"floor": floor})
    weights = rule(thompson, situation(p_best=p_best, in_step_s=60.0)).weights
    assert set(weights) == {"v1", "v2"}
    assert min(weights.values()) >= 1
    assert sum(weights.values()) == 10_000


def test_several_candidates_share_the_traffic_by_their_probability_to_be_best():
    third = evidence("v3", p_best=0.6)
    weights = rule(THOMPSON, situation(third, p_best=0.3, in_step_s=31.0)).weights
    # floor + (1 - 3 floor) P
    assert weights == {"v1": 1_070, "v2": 3_010, "v3": 5_920}


def test_the_leader_of_several_must_beat_the_level_divided_by_their_number():
    leader = {"p_best": 0.995, "loss": 0.0005, "multiplicity": 2}
    other = evidence("v3", p_best=0.001, multiplicity=2)
    held = rule(THOMPSON, situation(other, **leader, log_superior=math.log(200) - 1e-6))
    assert held.verdict is Verdict.HOLD
    won = rule(THOMPSON, situation(other, **leader, log_superior=math.log(200) + 1e-6))
    assert (won.verdict, won.candidate) == (Verdict.PROMOTE, "v2")


def test_a_candidate_that_does_harm_leaves_alone():
    other = evidence("v3", log_harm=CERTAIN)
    ruling = rule(THOMPSON, situation(other))
    assert (ruling.verdict, ruling.candidate) == (Verdict.ROLL_BACK, "v3")


def test_each_segment_has_the_weights_of_its_own_posterior():
    segmented = stage(thompson={"segments": {"header": "x-country"}})
    case = {"segments": {"DE": (0.9, 0.1), "FR": (0.0, 1.0)}}
    ruling = rule(segmented, situation(p_best=0.5, in_step_s=31.0, case=case))
    assert ruling.weights == {"v1": 5_000, "v2": 5_000}
    assert ruling.segments == {"DE": {"v1": 8_920, "v2": 1_080}, "FR": {"v1": 100, "v2": 9_900}}
    early = rule(segmented, situation(p_best=0.5, in_step_s=29.0, case=case))
    assert early.segments is None


SEGMENTED = stage(thompson={"segments": {"header": "x-country"}, "max_loss": "0.1%"})


@pytest.mark.parametrize("harm", ["log_harm", "log_harm_fast"])
def test_a_candidate_that_is_better_in_some_segment_is_steered_and_not_rolled_back(harm):
    split = {"segments": {"DE": (0.01, 0.99), "FR": (1.0, 0.0)}, "has_fast_path": True}
    kept = rule(SEGMENTED, situation(**{harm: CERTAIN}, case=split))
    assert (kept.verdict, kept.cause) == (Verdict.HOLD, "exploring")
    nowhere = split | {"segments": {"DE": (0.9, 0.1), "FR": (1.0, 0.0)}}
    assert rule(SEGMENTED, situation(**{harm: CERTAIN}, case=nowhere)).verdict is Verdict.ROLL_BACK
    # What breaks a guardrail breaks it everywhere.
    broken = rule(SEGMENTED, situation(log_errors=CERTAIN, case=split))
    assert (broken.verdict, broken.cause) == (Verdict.ROLL_BACK, "errors")


def test_a_candidate_is_not_promoted_to_a_segment_in_which_the_champion_is_the_best():
    split = {"segments": {"DE": (0.0, 1.0), "FR": (0.995, 0.005)}}
    held = rule(SEGMENTED, situation(**BEST, case=split))
    assert (held.verdict, held.cause) == (Verdict.HOLD, "segments")
    assert "v1 is the best in FR" in held.reason
    agreed = {"segments": {"DE": (0.0, 1.0), "FR": (0.6, 0.4)}}
    assert rule(SEGMENTED, situation(**BEST, case=agreed)).verdict is Verdict.PROMOTE
