"""What people see of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.core.model.evidence import Lift
from controller.core.model.words import Json, Phase, Role, Verdict
from controller.core.model.worries import HealthKey


@dataclass(frozen=True, slots=True)
class ArmReport:
    """One arm, for people: totals over the life of the log, mean and interval of the rollout.

    ready, replicas  of an arm in a cluster: those that answer, those that are wanted; else None
    units, mean, interval  of what is analysed (see `Outcomes.analysed`) in the present rollout, or
                           of all outcomes when no rollout is on
    """

    arm: str
    role: Role
    weight: int
    weight_in_force: int
    exposures: int
    outcomes: int
    pending: int
    rewards: int
    errors: int
    units: int
    mean: float | None
    interval: tuple[float, float] | None
    ready: int | None = None
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class EarlierArms:
    """Arms that are not shown by themselves: how many, and the sums of their totals."""

    arms: int = 0
    exposures: int = 0
    outcomes: int = 0
    rewards: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Where a model stands, for people: contract 4.4, `/v1/models/{model}/arms`.

    candidate  the first of `candidates`: those that are in the rollout now
    segments   splits of their own by header value, basis points, where the policy has segments
    dropped    how many of the `rejected` are not kept any more, by reason
    earlier    arms that are over since long and not among `arms`; None: there are none
    """

    model: str
    time: float
    phase: Phase
    stage: str
    step: int
    epoch: int
    epoch_in_force: int
    verdict: Verdict
    cause: str
    reason: str
    champion: str
    candidate: str | None
    candidates: tuple[str, ...]
    queue: tuple[str, ...]
    arms: tuple[ArmReport, ...]
    lift: dict[str, Lift]
    segments: dict[str, dict[str, int]]
    health: dict[HealthKey, Json]
    rejected: dict[str, int]
    dropped: dict[str, int] = field(default_factory=dict)
    earlier: EarlierArms | None = None
