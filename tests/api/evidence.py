"""Evidence in the shape in which the core tells it, of rollouts that never were."""

from __future__ import annotations

import math
from typing import TypeAlias

from controller.core.model import Json, Report
from controller.core.sentences import candidate_document, guard_rows, sentences

Row: TypeAlias = dict[str, Json]

CLAIM = {"canary": ("not_worse", "not worse by the margin"), "thompson": ("better", "better")}


def condition(candidate: str, cause: str, name: str, then: str, *, log_e: float, of: float) -> Row:
    """One condition whose e-value must reach `of`."""
    evidence = math.exp(log_e)
    return {
        "candidate": candidate,
        "cause": cause,
        "name": name,
        "evidence": evidence,
        "threshold": of,
        "reached": evidence >= of,
        "then": then,
    }


def conditions(report: Report) -> list[Row]:
    """Every condition of every candidate; a candidate's evidence grows with its outcomes."""
    rows: list[Row] = []
    outcomes = {arm.arm: arm.units for arm in report.arms}
    cause, name = CLAIM.get(report.stage, CLAIM["canary"])
    for arm in report.candidates:
        grown = outcomes[arm] / 150
        rows += [
            condition(
                arm, "reward_harm", "worse reward, outcomes that are final", "roll_back",
                log_e=-0.4 * grown, of=333.3,
            ),
            condition(
                arm, "reward_fast", "worse reward, as it comes in", "roll_back",
                log_e=0.8, of=500.0,
            ),
            condition(
                arm, "errors", "more than allowed: errors", "roll_back", log_e=1.9, of=333.3
            ),
            condition(
                arm, "latency", "more than allowed: latency p95", "roll_back", log_e=-2.0, of=500.0
            ),
            condition(arm, cause, name, "promote", log_e=min(2.5, grown), of=100.0),
            condition(
                arm, "guardrail_unproven", "within the bound: errors", "promote",
                log_e=2 * grown, of=100.0,
            ),
            condition(
                arm, "guardrail_unproven", "within the bound: latency p95", "promote",
                log_e=1.1, of=100.0,
            ),
        ]  # fmt: skip
    every = ", ".join(report.candidates)
    for what in ("exposures", "outcomes", "dropped events"):
        name = f"sample ratio of {what}"
        rows.append(condition(every, "sample_ratio", name, "hold", log_e=-0.7, of=10_000.0))
    return rows


def evidence(report: Report) -> Row:
    """What a decision keeps of a report's rollout."""
    seen = {arm.arm: arm for arm in report.arms}

    def figures(name: str) -> Row:
        arm = seen[name]
        return {
            "arm": name,
            "n": arm.units,
            "mean": arm.mean,
            "interval": None if arm.interval is None else list(arm.interval),
            "answers": arm.exposures,
            "errors": arm.errors,
        }

    def candidate(name: str) -> Row:
        lift = report.lift[name]
        upper = lift.upper if math.isfinite(lift.upper) else None
        return {
            "candidate": figures(name),
            "lift": {"estimate": lift.estimate, "interval": [lift.lower, upper]},
            "risk": 0.02,
            "guardrails": guardrails(),
            "shadow": None,
            "p_best": 0.93 if report.stage == "thompson" else None,
            "loss": 0.001 if report.stage == "thompson" else None,
            "capped": 0.0,
        }

    first, *others = map(candidate, report.candidates)
    told: list[Json] = [*conditions(report)]
    return {
        "champion": figures(report.champion),
        **first,
        "conditions": told,
        "others": [*others],
        "rejected": dict(report.rejected),
        "unattributed": 0,
    }


def guardrails() -> list[Json]:
    """What the two guardrails saw."""
    return [
        {
            "metric": "error_rate", "detail": "", "champion": 0.0025, "candidate": 0.003,
            "max_increase": 0.01, "limit_ms": None, "log_e": {"worse": 1.9, "within": 3.1},
        },
        {
            "metric": "latency", "detail": "p95", "champion": 0.051, "candidate": 0.043,
            "max_increase": 0.2, "limit_ms": 84.2, "log_e": {"worse": -2.0, "within": 1.1},
        },
    ]  # fmt: skip


def explanation(report: Report, last: Row | None) -> Row:
    """What is explained of the present; the claim and a guardrail are on their way."""
    kept = evidence(report) if report.candidates else {}
    seen = [kept, *kept.get("others", [])] if kept else []  # type: ignore[misc]
    told = conditions(report) if report.candidates else []
    for row in told:
        row["requests_left"] = _left(row)
        row["holds"] = row["cause"] in {"not_worse", "better"} and not row["reached"]
    rows: Row = {
        "model": report.model,
        "time": report.time,
        "phase": report.phase.value,
        "stage": report.stage,
        "step": report.step,
        "verdict": report.verdict.value,
        "cause": report.cause,
        "reason": report.reason,
        "champion": kept.get("champion"),
        "candidates": [candidate_document(one) for one in seen],
        "conditions": [*told],
        "guardrails": [row for one in seen for row in guard_rows(one)],
    }
    return {
        **rows,
        "sentences": [*sentences(rows)],
        "health": dict(report.health),
        "last_decision": last,
    }


def _left(row: Row) -> int | None:
    if row["then"] != "promote" or row["name"] == "within the bound: latency p95":
        return None
    return 0 if row["reached"] else 5_200
