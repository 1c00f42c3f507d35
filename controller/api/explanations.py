"""The shapes of `GET /v1/models/{model}/explain`: of the present, and of a decision.

Both have the same core, so that whoever shows one can show the other: the command line and the
dashboard do. Decisions of old ledgers lack what was not kept then; it is empty here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, JsonValue

from controller.api.reports import Interval, LiftView, finite
from controller.api.schemas import Answer
from controller.core.model import Json, Phase, Verdict


class Figures(Answer):
    """What was seen of one arm in the rollout."""

    arm: str
    n: int = Field(description="analysed outcomes")
    mean: float | None = None
    interval: Interval | None = None
    answers: int = 0
    errors: int = 0


class CandidateFigures(Figures):
    """The same of a candidate, and how it compares with the champion."""

    lift: LiftView | None = None
    p_best: float | None = Field(default=None, description="with a bandit only")
    loss: float | None = Field(
        default=None, description="expected relative loss of promoting it; with a bandit only"
    )
    capped: float | None = Field(default=None, description="share of outcomes that were winsorised")


class ConditionView(Answer):
    """One e-value that can move the rollout, against the threshold that it must reach."""

    candidate: str = Field(description="whom it is about; several where they share it")
    cause: str = Field(description="the `cause` of the decision that it leads to")
    name: str = Field(description="what is proven when it is reached")
    evidence: float | None = Field(description="the e-value")
    threshold: float | None = Field(description="1 / alpha")
    reached: bool
    then: Literal["roll_back", "promote", "hold"]
    requests_left: int | None = Field(
        default=None,
        description="requests of the model until it is reached, if the arms go on as they look "
        "now; null: not on its way, or it is not for promotion",
    )
    holds: bool = Field(default=False, description="the rollout stays where it is because of it")
    seen: bool = Field(
        default=True, description="false: nothing was observed that it is about, so nobody knows"
    )


class LogEvidence(Answer):
    """Natural logarithms of a guardrail's two e-values; null is "none"."""

    worse: float | None = Field(description="against: within the bound")
    within: float | None = Field(description="against: beyond the bound")


class GuardrailView(Answer):
    """What a guardrail saw of one candidate."""

    arm: str
    metric: Literal["error_rate", "latency", "reward"]
    detail: str = Field(description="the quantile that moved most, or the reward's event")
    champion: float | None = Field(
        description="error rate or mean reward; of a latency the share slower than its quantile"
    )
    candidate: float | None = Field(
        description="the same; of a latency the share slower than limit_ms"
    )
    max_increase: float | None = Field(
        description="what is tolerated: relative of a latency, else absolute"
    )
    limit_ms: float | None = Field(
        default=None, description="of a latency: the champion's quantile plus max_increase"
    )
    log_e: LogEvidence


class _Explained(Answer):
    """What an explanation of the present and of a decision have in common."""

    model: str
    phase: Phase
    stage: str
    step: int
    verdict: Verdict
    cause: str
    reason: str
    champion: Figures | None = Field(description="null where no rollout was on")
    candidates: list[CandidateFigures]
    conditions: list[ConditionView]
    guardrails: list[GuardrailView]
    discoveries: list[str] = Field(
        default_factory=list,
        description="of several candidates, those found to be better than the champion; of such "
        "findings at most the stage's alpha is false on average (e-BH)",
    )
    sentences: list[str] = Field(description="all of it in plain words, the verdict first")


class DecisionDocument(Answer):
    """A decision as the ledger keeps it, with whatever a later version adds to it."""

    model_config = ConfigDict(extra="allow")

    number: int = Field(description="counts the model's decisions from 1")
    time: float
    offset: int = Field(description="of the tick that made it, in the model's log")
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
    evidence: dict[str, JsonValue]
    evidence_digest: str
    policy_digest: str
    seed: int


class DecisionExplanation(_Explained, DecisionDocument):
    """Why a decision was made: what the ledger keeps of it, and the same in plain words."""


class Explanation(_Explained):
    """Why a model moves now, or why it does not."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "digits", "time": 1795423624.0, "phase": "ramping",
                    "stage": "canary", "step": 2, "verdict": "hold", "cause": "not_proven",
                    "reason": "step 3 of 3: not yet proven, not worse by the margin: "
                    "evidence 12.4 of 100",
                    "champion": {"arm": "v1", "n": 3900, "mean": 0.31, "interval": [0.29, 0.33]},
                    "candidates": [
                        {
                            "arm": "v2", "n": 3880, "mean": 0.32, "interval": [0.3, 0.34],
                            "lift": {"estimate": 0.03, "interval": [-0.04, 0.12]},
                        }
                    ],
                    "conditions": [
                        {
                            "candidate": "v2", "cause": "not_worse",
                            "name": "not worse by the margin", "evidence": 12.4,
                            "threshold": 100, "reached": False, "then": "promote",
                            "requests_left": 5200, "holds": True,
                        }
                    ],
                    "guardrails": [
                        {
                            "arm": "v2", "metric": "error_rate", "detail": "",
                            "champion": 0.002, "candidate": 0.003, "max_increase": 0.01,
                            "log_e": {"worse": -1.2, "within": 3.4},
                        }
                    ],
                    "sentences": [
                        "v2: not worse by the margin, evidence 12.4 of 100 to promote"
                    ],
                    "health": {"sample_ratio": "ok"}, "last_decision": None,
                }
            ]
        }
    )  # fmt: skip

    time: float | None = Field(description="null before the first tick")
    health: dict[str, JsonValue]
    last_decision: DecisionDocument | None


def explained(document: dict[str, Json]) -> Explanation | DecisionExplanation:
    """An explanation of the controller, of the present or of a decision, as its answer."""
    answer = DecisionExplanation if "number" in document else Explanation
    return answer.model_validate(finite(document))
