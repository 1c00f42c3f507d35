"""What is answered of a model: reports, as JSON. Each shape is built from a `Report` by `of`.

JSON has no infinity, so an interval without an upper end carries `null` there, and a number that is
not one is `null`.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TypeAlias

from pydantic import ConfigDict, Field, JsonValue

from controller.api.schemas import Answer
from controller.core.model import (
    ArmReport,
    EarlierArms,
    Json,
    Lift,
    Phase,
    Report,
    Role,
    Verdict,
    worries,
)

Interval: TypeAlias = tuple[float | None, float | None]


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


class EarlierView(Answer):
    """Arms that are over since long, and not shown by themselves: the sums of their totals."""

    arms: int = Field(description="how many there are")
    exposures: int
    outcomes: int
    rewards: int
    errors: int

    @classmethod
    def of(cls, earlier: EarlierArms) -> EarlierView:
        """Those of a report."""
        return cls(**asdict(earlier))


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


class WorryView(Answer):
    """Something that does not work, or not yet."""

    name: str = Field(description="the constant word for it")
    sentence: str
    is_wrong: bool = Field(description="somebody should look; false where it ends by waiting")


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
                        "partitions": [
                            {"partition": 0, "open": 812, "behind_s": 1.0, "holder": "pod-a_1"}
                        ],
                    },
                    "worries": [
                        {
                            "name": "join_rate", "is_wrong": False,
                            "sentence": "the share of outcomes with a reward fell to 2.00%, "
                            "from 11.00%",
                        }
                    ],
                    "rejected": {"orphan": 3, "late": 1}, "dropped": {"orphan": 2},
                    "earlier": None,
                }
            ]
        }
    )  # fmt: skip

    arms: list[ArmView] = Field(
        description="those with which something goes on, and the newest 100 others"
    )
    lift: dict[str, LiftView]
    segments: dict[str, dict[str, int]] = Field(
        description="weights of their own by header value, basis points"
    )
    health: dict[str, JsonValue]
    worries: list[WorryView] = Field(description="what of the health people must be told")
    rejected: dict[str, int] = Field(description="events that could not be used, by reason")
    dropped: dict[str, int] = Field(description="how many of them are not kept any more")
    earlier: EarlierView | None = Field(description="all arms that are not in `arms`, together")

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
                "worries": [asdict(each) for each in worries(report.health)],
                "rejected": report.rejected,
                "dropped": report.dropped,
                "earlier": None if report.earlier is None else EarlierView.of(report.earlier),
            }
        )


def _summary(report: Report) -> dict[str, JsonValue]:
    return {name: _plain(getattr(report, name)) for name in Summary.model_fields}


def _plain(value: JsonValue | tuple[str, ...]) -> JsonValue:
    return list(value) if isinstance(value, tuple) else value


class Models(Answer):
    """Every model, and the state of the router."""

    models: list[Summary]
    held: dict[str, str] = Field(
        description="models that could not be folded since the start, and why; splits stay"
    )
    router: dict[str, JsonValue]


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
