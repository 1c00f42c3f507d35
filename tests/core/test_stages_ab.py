"""The A/B test: better, worse, futile, undecided; and never before its time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.decide import rule
from controller.core.model import Lift, Verdict
from tests.core.situations import CERTAIN, evidence, situation, stage

DAY_S = 86_400.0
AB = stage(ab={"share": "50%", "alpha": "5%", "min_effect": "1%"})
TWO_WEEKS = {"in_stage_s": 14 * DAY_S}
SMALL = Lift(0.001, -0.002, 0.0099)


def verdict(**case):
    ruling = rule(AB, situation(**TWO_WEEKS | case))
    return ruling.verdict, ruling.cause


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({}, (Verdict.HOLD, "not_proven")),
        ({"log_superior": CERTAIN}, (Verdict.PROMOTE, "better")),
        ({"log_superior": CERTAIN, "is_last": False}, (Verdict.ADVANCE, "better")),
        ({"log_superior": math.log(20) + 1e-9}, (Verdict.PROMOTE, "better")),
        ({"log_superior": math.log(20) - 1e-9}, (Verdict.HOLD, "not_proven")),
        ({"log_superior": CERTAIN, "in_stage_s": 7 * DAY_S - 1}, (Verdict.HOLD, "dwell")),
        ({"log_superior": CERTAIN, "in_stage_s": 7 * DAY_S}, (Verdict.PROMOTE, "better")),
        ({"lift": SMALL}, (Verdict.ROLL_BACK, "futile")),
        ({"lift": SMALL, "in_stage_s": 7 * DAY_S - 1}, (Verdict.HOLD, "dwell")),
        ({"lift": Lift(0.005, -0.01, 0.01)}, (Verdict.HOLD, "not_proven")),
        ({"log_harm": CERTAIN}, (Verdict.ROLL_BACK, "reward_harm")),
        ({"log_harm": CERTAIN, "in_stage_s": 1.0}, (Verdict.ROLL_BACK, "reward_harm")),
        ({"log_errors": CERTAIN, "in_stage_s": 1.0}, (Verdict.ROLL_BACK, "errors")),
        ({"log_harm": CERTAIN, "log_superior": CERTAIN}, (Verdict.ROLL_BACK, "reward_harm")),
        ({"log_harm": CERTAIN, "sample_ratio": CERTAIN}, (Verdict.HOLD, "sample_ratio")),
        ({"sample_ratio": CERTAIN}, (Verdict.HOLD, "sample_ratio")),
        ({"sample_ratio": CERTAIN, "log_superior": CERTAIN}, (Verdict.HOLD, "sample_ratio")),
        ({"sample_ratio": CERTAIN, "lift": SMALL}, (Verdict.HOLD, "sample_ratio")),
        ({"in_stage_s": 28 * DAY_S}, (Verdict.HOLD, "expired")),
        ({"in_stage_s": 28 * DAY_S, "log_superior": CERTAIN}, (Verdict.PROMOTE, "better")),
    ],
)
def test_each_case_has_its_verdict(case, expected):
    assert verdict(**case) == expected


def test_the_candidate_gets_the_share_and_the_champion_the_rest():
    ruling = rule(stage(ab={"share": "20%"}), situation())
    assert ruling.weights == {"v1": 8_000, "v2": 2_000}


def test_it_lasts_until_the_first_exposures_have_closed_even_without_a_minimum():
    ab = stage(ab={"min_duration": "0s"})
    early = situation(in_stage_s=89.0, settle_s=90.0, log_superior=CERTAIN)
    ripe = situation(in_stage_s=90.0, settle_s=90.0, log_superior=CERTAIN)
    assert rule(ab, early).cause == "dwell"
    assert rule(ab, ripe).verdict is Verdict.PROMOTE


@given(
    in_stage_s=st.floats(0, 100 * DAY_S),
    log_superior=st.floats(-CERTAIN, math.log(20) - 1e-9),
    upper=st.floats(-1, 10),
    p_best=st.floats(0, 1),
)
def test_nothing_promotes_without_evidence_that_it_is_better(
    in_stage_s, log_superior, upper, p_best
):
    case = situation(
        in_stage_s=in_stage_s,
        log_superior=log_superior,
        lift=Lift(0.0, -1.0, upper),
        p_best=p_best,
    )
    assert rule(AB, case).verdict is not Verdict.PROMOTE


def test_a_lift_that_nothing_is_known_of_is_not_shown_as_a_number():
    ruling = rule(AB, situation(**TWO_WEEKS, lift=Lift(None, -1.0, math.inf)))
    assert "lift unknown" in ruling.reason


def test_several_candidates_share_evenly_and_the_one_with_most_proof_wins():
    other = evidence("v3", log_superior=math.log(40) + 2e-6, multiplicity=2)
    case = situation(other, **TWO_WEEKS, log_superior=math.log(40) + 1e-6, multiplicity=2)
    ruling = rule(AB, case)
    assert (ruling.verdict, ruling.candidate) == (Verdict.PROMOTE, "v3")
    assert ruling.weights == {"v1": 5_000, "v2": 2_500, "v3": 2_500}
    # 1 / alpha is enough for one candidate, not for the better of two
    weak = evidence("v3", log_superior=math.log(40) - 1e-6, multiplicity=2)
    held = rule(AB, situation(weak, **TWO_WEEKS, multiplicity=2))
    assert (held.verdict, held.cause) == (Verdict.HOLD, "not_proven")


def test_a_futile_candidate_leaves_the_others():
    other = evidence("v3", lift=SMALL)
    ruling = rule(AB, situation(other, **TWO_WEEKS))
    assert (ruling.verdict, ruling.cause, ruling.candidate) == (Verdict.ROLL_BACK, "futile", "v3")


def test_where_less_is_better_a_lift_below_zero_is_the_gain():
    small = Lift(-0.001, -0.0099, 0.002)
    minimised = {"case": {"is_minimised": True}}
    assert verdict(lift=small, **minimised) == (Verdict.ROLL_BACK, "futile")
    assert verdict(lift=Lift(-0.005, -0.02, 0.0), **minimised) == (Verdict.HOLD, "not_proven")


@pytest.mark.parametrize(
    ("recent", "is_minimised", "expected"),
    [
        (Lift(-0.05, -0.08, -0.02), False, (Verdict.HOLD, "novelty")),
        (Lift(-0.01, -0.03, 0.01), False, (Verdict.PROMOTE, "better")),
        (None, False, (Verdict.PROMOTE, "better")),
        (Lift(0.05, 0.02, 0.08), True, (Verdict.HOLD, "novelty")),
        (Lift(-0.05, -0.08, -0.02), True, (Verdict.PROMOTE, "better")),
    ],
)
def test_what_the_last_week_speaks_against_is_not_promoted(recent, is_minimised, expected):
    case = {"recent": (recent,), "is_minimised": is_minimised}
    assert verdict(log_superior=CERTAIN, case=case) == expected
