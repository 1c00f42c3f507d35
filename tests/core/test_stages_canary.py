"""The canary: each verdict, and what each of them can never come from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.decide import rule
from controller.core.model import Verdict
from tests.core.situations import CERTAIN, arm, guard, situation, stage

STEPS = {"steps": ["5%", "25%", "50%"], "min_duration": "5m", "min_outcomes": 200}
CANARY = stage(canary=STEPS | {"false_promotion": "1%", "max_duration": "1d"})
DAY_S = 86_400.0
LAST = 2


def verdict(**case):
    ruling = rule(CANARY, situation(**case))
    return ruling.verdict, ruling.cause


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({}, (Verdict.ADVANCE, "step_passed")),
        ({"step": 1, "share": 2_500}, (Verdict.ADVANCE, "step_passed")),
        ({"step": LAST}, (Verdict.HOLD, "not_proven")),
        ({"step": LAST, "is_last": False}, (Verdict.ADVANCE, "canary_passed")),
        ({"step": LAST, "log_noninferior": (CERTAIN,)}, (Verdict.PROMOTE, "not_worse")),
        ({"step": 1, "log_noninferior": (CERTAIN,)}, (Verdict.ADVANCE, "step_passed")),
        ({"in_step_s": 299.0}, (Verdict.HOLD, "dwell")),
        ({"in_step_s": 301.0}, (Verdict.ADVANCE, "step_passed")),
        ({"candidate": arm("v2", 199, 0.3)}, (Verdict.HOLD, "min_outcomes")),
        ({"candidate": arm("v2", 200, 0.3)}, (Verdict.ADVANCE, "step_passed")),
        ({"candidate": arm("v2", 0, None)}, (Verdict.HOLD, "min_outcomes")),
        ({"rollout": {"step_outcomes": {"v2": 801}}}, (Verdict.HOLD, "min_outcomes")),
        ({"log_harm": CERTAIN}, (Verdict.ROLL_BACK, "reward_harm")),
        ({"log_errors": CERTAIN}, (Verdict.ROLL_BACK, "errors")),
        ({"log_errors": CERTAIN, "guarded": False}, (Verdict.ADVANCE, "step_passed")),
        ({"sample_ratio": CERTAIN}, (Verdict.HOLD, "sample_ratio")),
        ({"rewards": 0}, (Verdict.HOLD, "no_rewards")),
        (
            {"rewards": 0, "step": LAST, "log_noninferior": (CERTAIN,)},
            (Verdict.HOLD, "no_rewards"),
        ),
        ({"rewards": 0, "log_errors": CERTAIN}, (Verdict.ROLL_BACK, "errors")),
        ({"in_stage_s": DAY_S, "step": LAST}, (Verdict.HOLD, "expired")),
        ({"in_stage_s": DAY_S, "step": 0}, (Verdict.HOLD, "expired")),
    ],
)
def test_each_case_has_its_verdict(case, expected):
    assert verdict(**case) == expected


@pytest.mark.parametrize("step", [0, 1, LAST])
def test_the_split_of_a_step_is_the_steps_share(step):
    ruling = rule(CANARY, situation(step=step))
    share = [500, 2_500, 5_000][step]
    assert ruling.weights == {"v1": 10_000 - share, "v2": share}


def test_a_step_lasts_at_least_until_its_own_exposures_have_closed():
    # Window and grace are longer than the policy's five minutes: they count.
    assert verdict(settle_s=900.0, in_step_s=899.0) == (Verdict.HOLD, "dwell")
    assert verdict(settle_s=900.0, in_step_s=900.0) == (Verdict.ADVANCE, "step_passed")


@pytest.mark.parametrize("proof", [{"log_harm": CERTAIN}, {"log_errors": CERTAIN}])
@pytest.mark.parametrize(
    "otherwise",
    [
        {},
        {"step": LAST, "log_noninferior": (CERTAIN,), "log_superior": CERTAIN},
        {"sample_ratio": CERTAIN},
        {"in_step_s": 0.0},
        {"candidate": arm("v2", 1, 0.0)},
        {"in_stage_s": DAY_S},
    ],
)
def test_harm_beats_everything(proof, otherwise):
    assert verdict(**proof | otherwise)[0] is Verdict.ROLL_BACK


def test_each_way_to_roll_back_has_its_share_of_the_level_that_the_policy_allows():
    # Errors, latency, a second reward, the fast path and the closed prefix spend 3 : 2 : 2 : 2 : 3.
    every = (guard("error_rate"), guard("latency", "p99"), guard("reward", "refund"))

    def least(name, alpha, used=every, *, is_binary=True):
        """Whether an e-value of 1 / alpha on this way alone rolls back."""
        log_e = -math.log(alpha) + 1e-9
        seen = {"guards": used}
        if isinstance(name, int):
            changed = replace(used[name], log_worse=log_e)
            seen = {"guards": (*used[:name], changed, *used[name + 1 :])}
        else:
            seen[name] = log_e
        return verdict(case={"has_fast_path": is_binary}, **seen)[0] is Verdict.ROLL_BACK

    shares = {0: 3, 1: 2, 2: 2, "log_harm_fast": 2, "log_harm": 3}
    for name, share in shares.items():
        assert least(name, 0.01 * share / 12)
        assert not least(name, 0.01 * share / 12 * 1.001)
    # What a policy does not use leaves its share to the others.
    assert least("log_harm", 0.01, (), is_binary=False)
    assert not least("log_harm", 0.01001, (), is_binary=False)
    assert least("log_harm", 0.01 * 3 / 5, ())
    assert least(0, 0.01 * 3 / 6, every[:1], is_binary=False)
    assert not least(0, 0.01 * 3 / 6 * 1.001, every[:1], is_binary=False)


def test_the_next_step_must_not_risk_more_than_the_budget():
    # 25 % of the traffic at a loss of at most 2 % risks 0.5 % of the reward: the default budget.
    assert verdict(risk=0.02)[0] is Verdict.ADVANCE
    held = rule(CANARY, situation(risk=0.0201))
    assert (held.verdict, held.cause) == (Verdict.HOLD, "risk")
    assert "may still be worse by 2.01%" in held.reason
    assert verdict(risk=math.inf) == (Verdict.HOLD, "risk")
    # The last step risks no more than it has already.
    assert verdict(step=LAST, risk=math.inf, log_noninferior=(CERTAIN,))[0] is Verdict.PROMOTE
    bold = stage(canary=STEPS | {"budget": "100%"})
    assert rule(bold, situation(risk=math.inf)).verdict is Verdict.ADVANCE


def test_a_promotion_needs_every_guardrail_proven_to_be_kept():
    proven = {"step": LAST, "log_noninferior": (CERTAIN,)}
    for metric, detail in (("error_rate", ""), ("latency", "p95"), ("reward", "refund")):
        open_ = guard(metric, detail, log_within=math.log(100) - 1e-9)
        assert verdict(**proven, guards=(open_,)) == (Verdict.HOLD, "guardrail_unproven")
        closed = guard(metric, detail, log_within=math.log(100) + 1e-9)
        assert verdict(**proven, guards=(closed,)) == (Verdict.PROMOTE, "not_worse")


def test_a_promotion_needs_as_many_units_as_the_policy_asks_for():
    proven = {"step": LAST, "log_noninferior": (CERTAIN,)}
    assert verdict(**proven, case={"min_units": 1_001}) == (Verdict.HOLD, "min_units")
    assert verdict(**proven, case={"min_units": 1_000})[0] is Verdict.PROMOTE


@pytest.mark.parametrize(
    ("signals", "cause"),
    [
        ({"log_outcomes": CERTAIN}, "sample_ratio"),
        ({"log_dropped": CERTAIN}, "sample_ratio"),
        ({"silent_s": 601.0, "stale_after_s": 600.0}, "stale"),
        ({"join_fall": (0.01, 0.3)}, "join_rate"),
    ],
)
def test_each_signal_holds_whatever_is_proven_and_rolls_nothing_back(signals, cause):
    proven = {"step": LAST, "log_noninferior": (CERTAIN,)}
    assert verdict(**proven, signals=signals) == (Verdict.HOLD, cause)
    assert verdict(log_harm=CERTAIN, signals=signals)[0] is Verdict.ROLL_BACK


@given(
    case=st.fixed_dictionaries(
        {
            "step": st.integers(0, LAST),
            "in_step_s": st.floats(0, 2 * DAY_S),
            "in_stage_s": st.floats(0, 2 * DAY_S),
            "is_last": st.booleans(),
            "candidate": st.integers(0, 10**6).map(lambda n: arm("v2", n, 0.5)),
            "log_superior": st.floats(0, CERTAIN),
            "log_noninferior": st.tuples(st.floats(-CERTAIN, math.log(100) - 1e-9)),
        }
    )
)
def test_nothing_promotes_without_the_evidence_that_it_is_not_worse(case):
    assert rule(CANARY, situation(**case)).verdict is not Verdict.PROMOTE


@given(
    sample_ratio=st.floats(math.log(1e4) + 1e-9, CERTAIN),
    log_noninferior=st.floats(-CERTAIN, CERTAIN),
    log_harm=st.floats(-CERTAIN, 4.0),
    in_stage_s=st.floats(0, 2 * DAY_S),
    step=st.integers(0, LAST),
)
def test_doubt_about_the_data_holds_the_split_and_never_rolls_back(
    sample_ratio, log_noninferior, log_harm, in_stage_s, step
):
    ruling = rule(
        CANARY,
        situation(
            sample_ratio=sample_ratio,
            log_noninferior=(log_noninferior,),
            log_harm=log_harm,
            in_stage_s=in_stage_s,
            step=step,
            share=1_234,
        ),
    )
    assert ruling.verdict is Verdict.HOLD
    assert ruling.weights == {"v1": 8_766, "v2": 1_234}


@pytest.mark.parametrize(
    ("on_expiry", "expected"),
    [
        ("hold", Verdict.HOLD),
        ("promote", Verdict.PROMOTE),
        ("roll_back", Verdict.ROLL_BACK),
    ],
)
def test_when_time_is_up_the_policy_says_what_happens(on_expiry, expected):
    canary = stage(canary=STEPS | {"max_duration": "1d", "on_expiry": on_expiry})
    ruling = rule(canary, situation(in_stage_s=DAY_S, step=1, share=2_500))
    assert (ruling.verdict, ruling.cause) == (expected, "expired")
    assert "undecided after" in ruling.reason
    early = rule(canary, situation(in_stage_s=DAY_S - 1, step=1, share=2_500))
    assert early.verdict is Verdict.ADVANCE


def test_what_is_proven_when_time_is_up_is_promoted_whatever_the_policy_says_of_expiry():
    canary = stage(canary=STEPS | {"max_duration": "1d", "on_expiry": "roll_back"})
    case = situation(in_stage_s=DAY_S, step=LAST, log_noninferior=(CERTAIN,))
    assert rule(canary, case).verdict is Verdict.PROMOTE


def test_time_alone_promotes_nothing_of_which_there_is_no_outcome():
    canary = stage(canary=STEPS | {"max_duration": "1d", "on_expiry": "promote"})
    case = situation(in_stage_s=2 * DAY_S, candidate=arm("v2", 0, None))
    ruling = rule(canary, case)
    assert (ruling.verdict, ruling.cause) == (Verdict.HOLD, "expired")
    assert "no outcome" in ruling.reason


def test_a_hold_says_how_far_it_is():
    few = rule(
        CANARY, situation(candidate=arm("v2", 12, 0.3), rollout={"step_outcomes": {"v2": 5}})
    )
    assert few.reason == "step 1 of 3: 7 of 200 outcomes"
    young = rule(CANARY, situation(in_step_s=60.0))
    assert young.reason == "step 1 of 3: 4 min more"


def test_a_step_of_all_the_traffic_leaves_the_champion_a_place_in_the_split():
    everything = stage(canary={"steps": ["50%", "100%"]})
    assert rule(everything, situation(step=1)).weights == {"v1": 1, "v2": 9_999}
