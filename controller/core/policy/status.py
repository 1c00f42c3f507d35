"""The status of a policy's object in a cluster: where the model stands, as `kubectl get` shows it.

Only its shape, from which the CRD is made; `deploy/status.py` fills it in. Times are RFC 3339.
Everything is short: who wants every number asks the API, `/v1/models/{model}/arms`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=1_024)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Generation = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]
BasisPoints = Annotated[int, Field(ge=0, le=10_000)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Condition(_Shape):
    """One thing that is so, or is not, or is not known."""

    type: Annotated[str, Field(max_length=316)]
    """Valid, Ready, Progressing or Healthy."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    observedGeneration: Generation | None = None  # noqa: N815 - Kubernetes' spelling
    """The generation of the policy that this was said of."""
    lastTransitionTime: Time  # noqa: N815 - Kubernetes' spelling
    """When the status changed last."""
    reason: Annotated[str, Field(min_length=1, max_length=1_024)]
    """Why, in one CamelCase word."""
    message: Annotated[str, Field(max_length=32_768)]
    """Why, in a sentence."""


class SplitStatus(_Shape):
    """How the traffic is split."""

    epoch: Annotated[int, Field(json_schema_extra={"format": "int64"})]
    """The number of the split that is wanted."""
    epochInForce: Annotated[int, Field(json_schema_extra={"format": "int64"})]  # noqa: N815
    """The number of the split that every router has accepted."""
    weights: dict[str, BasisPoints]
    """The weight of each arm that is wanted, in basis points: 10 000 are all requests."""


class ArmEvidence(_Shape):
    """What was seen of one arm."""

    arm: Annotated[str, Field(max_length=63)]
    """The version."""
    role: Literal["champion", "candidate"]
    """What it is to the rollout."""
    exposures: Annotated[int, Field(json_schema_extra={"format": "int64"})]
    """Requests that it answered."""
    outcomes: Annotated[int, Field(json_schema_extra={"format": "int64"})]
    """Exposures whose attribution window has closed."""
    mean: Annotated[str, Field(max_length=32)] | None = None
    """The mean reward."""
    interval: Annotated[str, Field(max_length=64)] | None = None
    """Its confidence sequence."""


class EvidenceStatus(_Shape):
    """The evidence in short; renewed now and then, and whenever the phase or the split changes."""

    time: Time
    """The clock of the log when this was so."""
    arms: Annotated[tuple[ArmEvidence, ...], Field(max_length=100)] = ()
    """What was seen of each arm, the champion first."""


class Status(_Shape):
    """Where the model stands. Written by Understudy, and by nobody else."""

    observedGeneration: Generation | None = None  # noqa: N815 - Kubernetes' spelling
    """The generation of the policy that this status speaks of."""
    model: Annotated[str, Field(max_length=63)] | None = None
    """The model that this policy rolls out; absent while the policy is not in force."""
    phase: Annotated[str, Field(max_length=32)] | None = None
    """Where the rollout is."""
    stage: Annotated[str, Field(max_length=32)] | None = None
    """The kind of the stage: shadow, canary, ab or thompson."""
    step: Annotated[str, Field(max_length=64)] | None = None
    """The stage, and of a canary the step and how many there are, such as canary 2/4."""
    champion: Annotated[str, Field(max_length=63)] | None = None
    """The version that serves when nothing else is decided."""
    candidate: Annotated[str, Field(max_length=640)] | None = None
    """The versions that are in the rollout."""
    weight: Annotated[str, Field(max_length=16)] | None = None
    """The candidates' share of the requests that is wanted."""
    lift: Annotated[str, Field(max_length=64)] | None = None
    """The candidate's relative lift over the champion, with its confidence sequence."""
    split: SplitStatus | None = None
    """How the traffic is split."""
    evidence: EvidenceStatus | None = None
    """The evidence in short."""
    verdict: Annotated[str, Field(max_length=32)] | None = None
    """What the evidence asks for now: advance, hold, promote or roll_back."""
    reason: Text | None = None
    """Why, in one sentence with the numbers."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """Valid, Ready, Progressing and Healthy."""
