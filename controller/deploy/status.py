"""Where a model stands -> the status of its RolloutPolicy. Pure.

    Valid        the policy can be used; else its message names the field
    Ready        the split that is wanted is in force at every router
    Progressing  a rollout is on and goes on; else why not
    Healthy      nothing needs a human: the data can be trusted, and nothing that Understudy uses
                 or changes refuses

`lastTransitionTime` is when a condition's status changed, and nothing else moves it. A status is
told with its `news`: what people must see at once. The rest is numbers that move with every
request; they are written now and then. A status in which only they changed has the same news.

Rejected: the whole report as status. Every reader of the object would load it, each change of a
count is a write to etcd, and the API has it already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from controller.core.decide.phases import ACTIVE, RESTING
from controller.core.model import BASIS, ArmReport, Json, Lift, Phase, Report, worries
from controller.core.policy import Policy
from controller.core.sentences import change, ends
from controller.deploy.objects import Object

ConditionStatus: TypeAlias = Literal["True", "False", "Unknown"]

_LONGEST_SENTENCE: Final = 1_024
_LONGEST_MESSAGE: Final = 4_096
_MOST_ARMS: Final = 100
_WAITING: Final = frozenset({"capacity"})
"""Causes for which a stage that runs cannot go on by itself."""


@dataclass(frozen=True, slots=True)
class Validity:
    """Whether a policy can be used; `message` names field, what was found and what was expected."""

    is_valid: bool
    reason: str
    message: str


VALID: Final = Validity(is_valid=True, reason="Accepted", message="the policy is in force")


@dataclass(frozen=True, slots=True)
class Told:
    """A status, and the part of it that is news."""

    status: Object
    news: str


@dataclass(frozen=True, slots=True)
class _Condition:
    type: str
    status: ConditionStatus
    reason: str
    message: str


def told(  # noqa: PLR0913 - a status has these parts
    report: Report,
    policy: Policy,
    validity: Validity,
    *,
    generation: int,
    before: Mapping[str, Json],
    now: float,
    conflict: str | None = None,
) -> Told:
    """The status of an object whose policy is in force: its present one, or the one before.

    before    the status that was told last, for the times of transitions
    now       wall clock, seconds
    conflict  another writer owns what would be changed for the model
    """
    rows = [_valid(validity), _ready(report), _progressing(report), _healthy(report, conflict)]
    conditions = [_dated(row, before, now, generation) for row in rows]
    head: Object = {"observedGeneration": generation, "conditions": conditions}
    status = head | _standing(report, policy)
    status["evidence"] = _renewed(status["evidence"], before)
    return Told(status, _news(status, rows, report.cause))


def without(validity: Validity, *, generation: int, before: Mapping[str, Json], now: float) -> Told:
    """The status of an object of which no policy is in force."""
    rows = [_valid(validity), *_absent("False", "NotInForce", validity.message)]
    conditions = [_dated(row, before, now, generation) for row in rows]
    status: Object = {"observedGeneration": generation, "conditions": conditions}
    return Told(status, _news(status, rows, ""))


def unread(validity: Validity, *, generation: int, before: Mapping[str, Json], now: float) -> Told:
    """The status of an object whose policy is in force and whose model has not been read yet.

    After a restart it goes on saying what it said: nothing of it has become untrue by that.
    """
    kept = {str(row.get("type")): row for row in _objects(before.get("conditions"))}
    rows = [_valid(validity)]
    conditions = [_dated(rows[0], before, now, generation)]
    for row in _absent("Unknown", "NotYetRead", "the model has not been read yet"):
        rows.append(row)
        conditions.append(kept.get(row.type) or _dated(row, before, now, generation))
    status: Object = {**before, "observedGeneration": generation, "conditions": conditions}
    return Told(status, _news(status, rows, ""))


def _news(status: Object, rows: Sequence[_Condition], cause: str) -> str:
    """Everything but numbers that move with every request, and sentences that hold such numbers."""
    calm = {k: v for k, v in status.items() if k not in {"evidence", "lift", "reason"}}
    spoken = {"Valid"} | {row.type for row in rows if row.type == "Healthy"}
    calm["conditions"] = [
        [row.type, row.status, row.reason, row.message if row.type in spoken else ""]
        for row in rows
    ]
    return json.dumps([calm, cause], sort_keys=True)


def _standing(report: Report, policy: Policy) -> Object:
    candidates = report.candidates
    weight = sum(arm.weight for arm in report.arms if arm.arm in candidates)
    lift = report.lift.get(report.candidate) if report.candidate else None
    found: dict[str, Json] = {
        "model": report.model,
        "phase": report.phase.value,
        "stage": report.stage or None,
        "step": _step(report, policy),
        "champion": report.champion,
        "candidate": ", ".join(candidates)[:640] or None,
        "weight": f"{100 * weight / BASIS:g}%" if candidates else None,
        "lift": _lift(lift) if lift is not None else None,
        "split": {
            "epoch": report.epoch,
            "epochInForce": report.epoch_in_force,
            "weights": {arm.arm: arm.weight for arm in report.arms if arm.weight},
        },
        "evidence": {
            "time": timestamp(report.time),
            "arms": [_evidence(arm) for arm in report.arms[:_MOST_ARMS]],
        },
        "verdict": report.verdict.value,
        "reason": report.reason[:_LONGEST_SENTENCE],
    }
    return {key: value for key, value in found.items() if value is not None}


def _renewed(evidence: Object, before: Mapping[str, Json]) -> Object:
    """Evidence has a new time only when it is new, so a model without traffic is never written."""
    old = before.get("evidence")
    return old if isinstance(old, dict) and old.get("arms") == evidence["arms"] else evidence


def _step(report: Report, policy: Policy) -> str | None:
    if not report.stage:
        return None
    canary = next(
        (s.canary for s in policy.spec.stages if s.canary is not None and s.kind == report.stage),
        None,
    )
    if canary is None:
        return report.stage
    return f"{report.stage} {report.step + 1}/{len(canary.steps)}"


def _lift(lift: Lift) -> str:
    if lift.estimate is None:
        return "unknown"
    interval = ends([_finite(lift.lower), _finite(lift.upper)])
    return f"{change(lift.estimate)} ({interval})"


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _evidence(arm: ArmReport) -> dict[str, Json]:
    found: dict[str, Json] = {
        "arm": arm.arm,
        "role": arm.role.value,
        "exposures": arm.exposures,
        "outcomes": arm.outcomes,
    }
    if arm.mean is not None:
        found["mean"] = f"{arm.mean:.4g}"
    if arm.interval is not None:
        low, high = arm.interval
        found["interval"] = f"{low:.4g} to {high:.4g}"
    return found


def timestamp(seconds: float) -> str:
    """RFC 3339, whole seconds, as Kubernetes writes times."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- conditions -------------------------------------------------------------------------------


def _valid(validity: Validity) -> _Condition:
    return _Condition("Valid", _word(is_so=validity.is_valid), validity.reason, validity.message)


def _absent(is_so: ConditionStatus, reason: str, message: str) -> Iterator[_Condition]:
    for name in ("Ready", "Progressing", "Healthy"):
        yield _Condition(name, is_so, reason, message)


def _ready(report: Report) -> _Condition:
    if report.epoch_in_force >= report.epoch:
        text = f"split {report.epoch} is in force"
        return _Condition("Ready", "True", "SplitInForce", text)
    split = str(report.health.get("split", "not yet confirmed by the router"))
    reason = "SplitRefused" if split.startswith("refused") else "SplitPending"
    text = f"split {report.epoch} is wanted, {report.epoch_in_force} is in force: {split}"
    return _Condition("Ready", "False", reason, text)


def _progressing(report: Report) -> _Condition:
    phase = report.phase
    if phase is Phase.HOLDING or (phase in ACTIVE and report.cause in _WAITING):
        return _Condition("Progressing", "False", camel(report.cause), report.reason)
    is_moving = phase not in RESTING and phase is not Phase.PAUSED
    return _Condition("Progressing", _word(is_so=is_moving), camel(phase.value), report.reason)


def _healthy(report: Report, conflict: str | None) -> _Condition:
    if conflict is not None:
        return _Condition("Healthy", "False", "Conflict", conflict)
    for worry in worries(report.health):
        if worry.is_wrong:
            return _Condition("Healthy", "False", camel(worry.name), worry.sentence)
    if report.phase is Phase.HOLDING:
        return _Condition("Healthy", "False", "Holding", report.reason)
    return _Condition("Healthy", "True", "AsExpected", "nothing needs a human")


def _word(*, is_so: bool) -> ConditionStatus:
    return "True" if is_so else "False"


def camel(word: str) -> str:
    """`rolled_back` as Kubernetes writes reasons: `RolledBack`."""
    return "".join(part.capitalize() for part in word.split("_"))


def _dated(row: _Condition, before: Mapping[str, Json], now: float, generation: int) -> Object:
    since = timestamp(now)
    for old in _objects(before.get("conditions")):
        if old.get("type") == row.type and old.get("status") == row.status:
            since = str(old.get("lastTransitionTime") or since)
    return {
        "type": row.type,
        "status": row.status,
        "observedGeneration": generation,
        "lastTransitionTime": since,
        "reason": row.reason,
        "message": row.message[:_LONGEST_MESSAGE],
    }


def _objects(value: Json) -> list[dict[str, Json]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
