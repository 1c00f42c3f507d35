"""The shadow stage: it can show that a candidate crashes, never that it is good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.decide import rule
from controller.core.model import Verdict
from tests.core.situations import CERTAIN, situation, stage

SHADOW = stage(shadow={"duration": "5m", "percent": "10%"})


def verdict(*, answers, **case):
    ruling = rule(SHADOW, situation(rollout={"shadow_answers": answers}, **case))
    return ruling.verdict, ruling.cause


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"answers": 9, "in_stage_s": 300.0}, (Verdict.ADVANCE, "shadowed")),
        ({"answers": 9, "in_stage_s": 299.0}, (Verdict.HOLD, "dwell")),
        ({"answers": 1, "in_stage_s": 300.0}, (Verdict.ADVANCE, "shadowed")),
        ({"answers": 0, "in_stage_s": 300.0}, (Verdict.HOLD, "no_answers")),
        ({"answers": 0, "in_stage_s": 1e9}, (Verdict.HOLD, "no_answers")),
        (
            {"answers": 9, "in_stage_s": 1.0, "log_shadow_errors": CERTAIN},
            (Verdict.ROLL_BACK, "shadow_errors"),
        ),
        (
            {"answers": 9, "in_stage_s": 300.0, "log_shadow_errors": CERTAIN},
            (Verdict.ROLL_BACK, "shadow_errors"),
        ),
    ],
)
def test_each_case_has_its_verdict(case, expected):
    assert verdict(**case) == expected


def test_success_without_one_measurement_peer_2_is_impossible():
    for seconds in (300.0, 1e6, 1e9):
        assert verdict(answers=0, in_stage_s=seconds)[0] is Verdict.HOLD


@given(
    answers=st.integers(0, 10**6),
    in_stage_s=st.floats(0, 1e9),
    log_errors=st.floats(0, CERTAIN),
    is_last=st.booleans(),
)
def test_users_get_the_champion_only_and_nothing_is_promoted_by_a_shadow(
    answers, in_stage_s, log_errors, is_last
):
    case = situation(
        in_stage_s=in_stage_s,
        log_shadow_errors=log_errors,
        is_last=is_last,
        rollout={"shadow_answers": answers},
    )
    ruling = rule(SHADOW, case)
    assert ruling.verdict is not Verdict.PROMOTE
    assert ruling.weights == {"v1": 10_000}
    assert ruling.mirror == {"v2": 1_000}
