"""Explanations in plain words, of what a ledger kept; also of one that kept little."""

from __future__ import annotations

from typing import Any

from controller.core.model import Json
from controller.core.sentences import decision_explanation

CHAMPION: dict[str, Json] = {"arm": "v1", "n": 4_000, "mean": 0.31, "interval": [0.29, 0.33]}


def candidate(arm: str, **more: Json) -> dict[str, Json]:
    figures: dict[str, Json] = {"arm": arm, "n": 1_200, "mean": 0.35, "interval": [0.3, 0.4]}
    return {"candidate": figures, "lift": {"estimate": 0.129, "interval": [-0.02, None]}, **more}


def guard(metric: str, detail: str, **more: Json) -> dict[str, Json]:
    seen: dict[str, Json] = {"champion": 0.01, "candidate": 0.02, "max_increase": 0.005}
    return {"metric": metric, "detail": detail, **seen, **more}


def explained(**evidence: Json) -> dict[str, Any]:
    return decision_explanation(
        {"number": 3, "verdict": "roll_back", "reason": "v2 is worse", "evidence": evidence}
    )


def test_the_verdict_comes_first_then_the_arms() -> None:
    found = explained(champion=CHAMPION, **candidate("v2", p_best=0.9))
    verdict, arms = found["sentences"]
    assert verdict == "roll back: v2 is worse"
    assert arms == (
        "v2 earned 0.35 on 1,200 outcomes; v1 earned 0.31 on 4,000 outcomes; "
        "lift +12.90% (-2.00% to no upper end); best with probability 0.9"
    )


def test_each_of_several_candidates_is_told_with_its_guardrails() -> None:
    refund = guard("reward", "refund")
    latency = guard("latency", "p95", limit_ms=84.25, max_increase=0.2)
    others: list[Json] = [candidate("v3", guardrails=[latency])]
    found = explained(champion=CHAMPION, **candidate("v2", guardrails=[refund]), others=others)
    assert [row["arm"] for row in found["candidates"]] == ["v2", "v3"]
    assert [row["arm"] for row in found["guardrails"]] == ["v2", "v3"]
    of_v2, of_v3 = found["sentences"][-2:]
    assert of_v2 == "v2: refund 0.02, of the champion 0.01; 0.005 more is allowed"
    assert of_v3 == (
        "v3: 2% of its answers took more than 84.25 ms, which is the champion's p95 and 20%; "
        "of the champion's answers 1% took more than its p95"
    )


def test_mirrored_requests_are_told_apart_from_those_of_users() -> None:
    found = explained(champion=CHAMPION, **candidate("v2", shadow=guard("error_rate", "")))
    assert found["sentences"][-1] == (
        "v2: errors of mirrored requests 2%, of the champion 1%; 0.5% more is allowed"
    )


def test_a_condition_is_told_with_its_threshold_and_whether_it_is_reached() -> None:
    row: dict[str, Json] = {
        "candidate": "v2", "name": "worse reward", "evidence": 512.0, "threshold": 333.3,
        "reached": True, "then": "roll_back", "cause": "reward_harm",
    }  # fmt: skip
    promote = row | {"name": "better", "reached": False, "then": "promote"}
    found = explained(champion=CHAMPION, **candidate("v2"), conditions=[row, promote])
    assert found["sentences"][-2:] == [
        "v2: worse reward, evidence 512 of 333.3 to roll back: reached",
        "v2: better, evidence 512 of 333.3 to promote",  # a decision foretells nothing
    ]


def test_an_arm_without_an_outcome_and_an_unknown_lift_are_no_numbers() -> None:
    nothing: dict[str, Json] = {"arm": "v2", "n": 0, "mean": None, "interval": None}
    lift: dict[str, Json] = {"estimate": None, "interval": [None, None]}
    found = explained(champion=CHAMPION, candidate=nothing, lift=lift)
    assert found["sentences"] == [
        "roll back: v2 is worse",
        "v2 has no outcome yet; v1 earned 0.31 on 4,000 outcomes",
    ]


def test_a_decision_without_evidence_is_its_reason() -> None:
    found = explained()
    assert found["sentences"] == ["roll back: v2 is worse"]
    assert (found["champion"], found["candidates"], found["conditions"]) == (None, [], [])
