"""What passes from those who decide to the shell, and what a rollout is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from controller.core.model.events import Rejected
from controller.core.model.splits import Split
from controller.core.model.values import quick
from controller.core.model.words import ArmRole, Json, Phase, Verdict


@dataclass(frozen=True, slots=True)
class Rollout:
    """The way of a candidate, or of several at once, through the stages.

    candidates      in the order in which they joined; those in `dropped` are out again
    stage, step     indices from 0 into the policy's stages and into a canary's steps
    started, stage_started, step_started   event times
    stage_outcomes, step_outcomes  analysed units of each candidate when the stage, the step began
    resume_phase    the phase to return to after `paused`
    """

    id: str
    candidates: tuple[str, ...]
    champion: str
    salt: str
    stage: int
    step: int
    started: float
    stage_started: float
    step_started: float
    dropped: tuple[str, ...] = ()
    stage_outcomes: dict[str, int] = field(default_factory=dict)
    step_outcomes: dict[str, int] = field(default_factory=dict)
    shadow_answers: int = 0
    weights_updated: float = 0.0
    resume_phase: Phase | None = None

    @property
    def live(self) -> tuple[str, ...]:
        """The candidates that are still in."""
        if not self.dropped:
            return self.candidates
        return tuple(name for name in self.candidates if name not in self.dropped)

    @property
    def arms(self) -> tuple[str, ...]:
        """The champion, then every candidate that ever was in: what estimators count by."""
        return (self.champion, *self.candidates)


@quick
@dataclass(frozen=True)
class Ruling:
    """What a stage function answers: a verdict, the weight it wants, and why.

    cause    a short constant word: decisions are recorded when it changes
    reason   one sentence with the numbers, for people
    weights  the split wanted from now on; None leaves it as it is
    segments weights of their own, by header value
    candidate  whom the verdict means, where there are several
    wishes   what the cluster must do for it; their number is that of the decision they become
    """

    verdict: Verdict
    cause: str
    reason: str
    weights: dict[str, int] | None = None
    mirror: dict[str, int] | None = None
    segments: dict[str, dict[str, int]] | None = None
    candidate: str = ""
    wishes: tuple[ClusterEffect, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict that is written down: enough to explain it and to derive it again.

    number counts the decisions of a model from 1; offset is that of the tick that made it.
    stage is empty and step 0 when no rollout is on; step is the index of a canary's step, from 0.
    """

    number: int
    time: float
    offset: int
    model: str
    rollout: str
    candidate: str
    stage: str
    step: int
    phase: Phase
    verdict: Verdict
    cause: str
    reason: str
    epoch: int
    weights: dict[str, int]
    evidence: dict[str, Json]
    evidence_digest: str
    policy_digest: str
    seed: int


@dataclass(frozen=True, slots=True)
class SetSplit:
    """Give the routers this split; done when every connected router has accepted it.

    decision  the number of the decision that wants it
    """

    decision: int
    split: Split


@dataclass(frozen=True, slots=True)
class Scale:
    """Let at least this many replicas of the arm run; done when as many are wanted of it.

    None gives the arm back to whoever scaled it before.
    """

    decision: int
    arm: str
    replicas: int | None


@dataclass(frozen=True, slots=True)
class SetRole:
    """Label the arm with what it is; done when the label is read back."""

    decision: int
    arm: str
    role: ArmRole


@dataclass(frozen=True, slots=True)
class PointService:
    """Let the model's own service select this arm: callers that pass the router by reach it."""

    decision: int
    arm: str


@dataclass(frozen=True, slots=True)
class KeepRejected:
    """Keep these events in the dead-letter table."""

    rejected: tuple[Rejected, ...]


ClusterEffect: TypeAlias = Scale | SetRole | PointService
"""What is carried out by whoever runs the arms, in the order in which it stands."""

Effect: TypeAlias = SetSplit | ClusterEffect | KeepRejected


def weights_sentence(weights: Mapping[str, int]) -> str:
    """A split for people: `v1 95 %, v2 5 %`."""
    return ", ".join(f"{arm} {weight / 100:g} %" for arm, weight in weights.items())
