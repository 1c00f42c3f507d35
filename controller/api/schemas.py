"""The shapes of answers; with `reports` and `bodies`, the OpenAPI document is made of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Answer(BaseModel):
    """The base of what is answered."""

    model_config = ConfigDict(extra="forbid")


class Decisions(Answer):
    """Decisions of a model; each is one verdict that was written down."""

    model: str
    decisions: list[dict[str, JsonValue]]


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
