"""The shapes of bodies, which forbid unknown fields."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from controller.core.model import Json
from controller.core.policy.quantities import Arm, Endpoint

Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Unit: TypeAlias = Annotated[str, Field(min_length=1, max_length=512)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


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
