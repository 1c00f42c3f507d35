"""The shapes of bodies and answers; the OpenAPI document is made of them.

Bodies forbid unknown fields. Answers are built from a `Report` by `of`. JSON has no infinity, so
an interval without an upper end carries `null` there, and a number that is not one is `null`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from controller.core.model import ArmReport, Json, Lift, Phase, Report, Role, Verdict
from controller.core.policy.quantities import Arm, Endpoint

Interval: TypeAlias = tuple[float | None, float | None]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Unit: TypeAlias = Annotated[str, Field(min_length=1, max_length=512)]


def finite(value: Json) -> JsonValue:
    """`value` with every number that JSON cannot say replaced by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """The base of what is answered."""

    model_config = ConfigDict(extra="forbid")


# --- answers ----------------------------------------------------------------------------------


class ArmView(Answer):
    """One arm: totals over the life of the log; units, mean and interval of the rollout."""

    arm: str
    role: Role
    weight: int = Field(description="wanted share of the traffic, basis points")
    weight_in_force: int = Field(description="share that the routers have accepted, basis points")
    exposures: int
    outcomes: int = Field(description="exposures whose attribution window has closed")
    pending: int = Field(description="exposures whose attribution window is open")
    rewards: int = Field(description="rewards joined to an exposure")
    mean: float | None = Field(description="null while nothing was seen")
    interval: Interval | None = Field(description="confidence sequence of the mean")
    errors: int
    units: int = Field(description="what mean and interval are made of")
    ready: int | None = Field(description="replicas that answer; null outside of a cluster")
    replicas: int | None = Field(description="replicas that are wanted; null outside of a cluster")

    @classmethod
    def of(cls, arm: ArmReport) -> ArmView:
        """One arm of a report."""
        low_high = arm.interval
        return cls(
            arm=arm.arm,
            role=arm.role,
            weight=arm.weight,
            weight_in_force=arm.weight_in_force,
            exposures=arm.exposures,
            outcomes=arm.outcomes,
            pending=arm.pending,
            rewards=arm.rewards,
            mean=_number(arm.mean),
            interval=None if low_high is None else (_number(low_high[0]), _number(low_high[1])),
            errors=arm.errors,
            units=arm.units,
            ready=arm.ready,
            replicas=arm.replicas,
        )


class LiftView(Answer):
    """Relative lift of a candidate over the champion; null is "unknown" or "unbounded"."""

    estimate: float | None
    interval: Interval

    @classmethod
    def of(cls, lift: Lift) -> LiftView:
        """The lift of one candidate."""
        return cls(
            estimate=None if lift.estimate is None else _number(lift.estimate),
            interval=(_number(lift.lower), _number(lift.upper)),
        )


class Summary(Answer):
    """Where a model stands, in one line."""

    model: str
    time: float = Field(description="of the report, epoch seconds")
    phase: Phase
    stage: str = Field(description="kind of the present stage; empty when no rollout is on")
    step: int = Field(description="index of the canary's step, from 0")
    epoch: int
    epoch_in_force: int
    verdict: Verdict
    cause: str
    reason: str = Field(description="why it moved, or why it did not, in one sentence")
    champion: str
    candidate: str | None = Field(description="the first of the candidates, if there is one")
    candidates: list[str] = Field(description="those that are in the present rollout")
    queue: list[str]

    @classmethod
    def of(cls, report: Report) -> Summary:
        """The line of one report."""
        return cls.model_validate(_summary(report))


class ModelReport(Summary):
    """Where a model stands, with its arms: the dashboard's source."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "digits", "time": 1795423624.0, "phase": "ramping",
                    "stage": "canary", "step": 1, "epoch": 17, "epoch_in_force": 17,
                    "verdict": "hold", "cause": "outcomes", "reason": "212 of 400 outcomes",
                    "champion": "v1", "candidate": "v2", "candidates": ["v2"], "queue": [],
                    "arms": [
                        {
                            "arm": "v1", "role": "champion", "weight": 9500,
                            "weight_in_force": 9500, "exposures": 4012, "outcomes": 3900,
                            "pending": 112, "rewards": 1209, "mean": 0.31,
                            "interval": [0.29, 0.33], "errors": 0, "units": 3900,
                            "ready": 6, "replicas": 6,
                        }
                    ],
                    "lift": {"v2": {"estimate": 0.04, "interval": [-0.01, 0.09]}},
                    "segments": {"SE": {"v1": 2000, "v2": 8000}},
                    "health": {
                        "sample_ratio": "ok", "sample_ratio_evidence": 0.4, "silent_s": 0.2,
                        "join_rate": {"now": 0.02, "before": 0.11},
                        "unattributed": 0, "split": "in force",
                    },
                    "rejected": {"orphan": 3, "late": 1},
                }
            ]
        }
    )  # fmt: skip

    arms: list[ArmView]
    lift: dict[str, LiftView]
    segments: dict[str, dict[str, int]] = Field(
        description="weights of their own by header value, basis points"
    )
    health: dict[str, JsonValue]
    rejected: dict[str, int] = Field(description="events that could not be used, by reason")

    @classmethod
    def of(cls, report: Report) -> ModelReport:
        """The whole report."""
        return cls.model_validate(
            {
                **_summary(report),
                "arms": [ArmView.of(arm) for arm in report.arms],
                "lift": {arm: LiftView.of(lift) for arm, lift in report.lift.items()},
                "segments": report.segments,
                "health": {key: finite(value) for key, value in report.health.items()},
                "rejected": report.rejected,
            }
        )


def _summary(report: Report) -> dict[str, JsonValue]:
    return {name: _plain(getattr(report, name)) for name in Summary.model_fields}


def _plain(value: JsonValue | tuple[str, ...]) -> JsonValue:
    return list(value) if isinstance(value, tuple) else value


class Models(Answer):
    """Every model, and the state of the router."""

    models: list[Summary]
    router: dict[str, JsonValue]


class Decisions(Answer):
    """Decisions of a model; each is one verdict that was written down."""

    model: str
    decisions: list[dict[str, JsonValue]]


class Track(Answer):
    """One arm over the times of a `History`; null where the arm was not there."""

    weight: list[int | None]
    mean: list[float | None]
    lower: list[float | None]
    upper: list[float | None]


class History(Answer):
    """Recent reports as columns, oldest first: what the plots are drawn from."""

    model: str
    time: list[float]
    arms: dict[str, Track]

    @classmethod
    def of(cls, model: str, reports: list[Report]) -> History:
        """The columns of these reports."""
        names = dict.fromkeys(arm.arm for report in reports for arm in report.arms)
        rows = [{arm.arm: ArmView.of(arm) for arm in report.arms} for report in reports]
        return cls(
            model=model,
            time=[report.time for report in reports],
            arms={name: _track([row.get(name) for row in rows]) for name in names},
        )


def _track(arms: list[ArmView | None]) -> Track:
    ends = [(None, None) if a is None or a.interval is None else a.interval for a in arms]
    return Track(
        weight=[None if a is None else a.weight_in_force for a in arms],
        mean=[None if a is None else a.mean for a in arms],
        lower=[low for low, _ in ends],
        upper=[high for _, high in ends],
    )


class RejectedEvent(Answer):
    """An event of a body that was not accepted, by its place in the body, from 0."""

    index: int
    error: str


class Intake(Answer):
    """What became of a body of events. The accepted ones are durable."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"accepted": 2, "rejected": [{"index": 1, "error": "there is no model 'x'"}]}
            ]
        }
    )

    accepted: int
    rejected: list[RejectedEvent]


class Assignment(Answer):
    """The arm of one unit."""

    unit: str | None
    arm: str
    epoch: int
    propensity: float
    request_id: str | None = Field(
        description="to be sent with exposure and reward; made for requests without a unit"
    )
    segment: str | None = Field(
        description="to be sent with the exposure; null where the given value is no segment"
    )


class Assignments(Answer):
    """The arms of several units, in the order of the request."""

    assignments: list[Assignment]


class Probe(Answer):
    """The answer of a health probe that succeeded."""

    status: Literal["alive", "ready", "standby"]
    components: dict[str, bool | str] = Field(default_factory=dict)
    routers: int | None = Field(default=None, description="how many routers are connected")


class Problem(BaseModel):
    """RFC 9457: what went wrong, for people and programs."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:understudy:problem:unknown-model", "title": "Not Found",
                    "status": 404, "instance": "/v1/models/x", "known": ["digits"],
                    "detail": "There is no model 'x'. Known models: digits.",
                }
            ]
        },
    )  # fmt: skip

    type: str
    title: str
    status: int
    detail: str
    instance: str


# --- bodies -----------------------------------------------------------------------------------


class Command(_Body):
    """Why an operator asks for something, and who asks."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "incident 12"}]})

    reason: str = Field(default="", max_length=2_000)
    by: str = Field(
        default="", max_length=200, description="who asks; the client's address if left out"
    )
    version: Arm | None = Field(
        default=None, description="the candidate meant, where there are several"
    )


class Candidate(_Body):
    """A version that may receive traffic: the fields of a `version` event."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": "v2", "parent": "v1", "endpoints": ["127.0.0.1:9002"],
                    "trained_at": "2026-11-20T00:00:00Z", "metrics": {"accuracy": 0.94},
                    "uri": "s3://models/digits/v2",
                }
            ]
        }
    )  # fmt: skip

    version: Arm
    type: Literal["version"] = "version"
    model: str | None = Field(default=None, description="if given, that of the path")
    time: Finite | AwareDatetime | None = Field(default=None, description="now if left out")
    role: Literal["candidate"] = "candidate"
    parent: Arm | None = None
    endpoints: list[Endpoint] = Field(default_factory=list)
    trained_at: str | None = Field(default=None, max_length=100)
    metrics: dict[str, Finite] = Field(default_factory=dict)
    uri: str | None = Field(default=None, min_length=1, max_length=2048)
    covariates: dict[Unit, Finite] = Field(
        default_factory=dict,
        description="unit -> what was known of it beforehand, such as its mean reward; it sharpens "
        "the comparison and biases nothing",
    )

    def event(self) -> dict[str, Json]:
        """The version event's fields that were given, without `type` and `model`."""
        fields: dict[str, Json] = self.model_dump(exclude={"type", "model", "time"})
        if self.time is not None:
            fields["time"] = self.time if isinstance(self.time, float) else self.time.timestamp()
        if not self.covariates:
            del fields["covariates"]
        return {key: value for key, value in fields.items() if value is not None}


class AssignmentQuery(_Body):
    """One `unit` or several `units`; null is a request that is a unit of its own."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"unit": "u1"}, {"units": ["u1"]}, {"unit": "u1", "segment": "de"}]
        }
    )

    unit: Unit | None = None
    units: list[Unit | None] | None = Field(default=None, max_length=10_000)
    segment: str | None = Field(
        default=None, description="the value of the policy's header of segments, as it was received"
    )

    @model_validator(mode="after")
    def _one_of(self) -> AssignmentQuery:
        if self.units is not None and "unit" in self.model_fields_set:
            raise ValueError("either unit or units, not both")
        return self
