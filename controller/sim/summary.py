"""What many runs say together: rates with exact binomial intervals, durations, harm.

Where the scenario's truth makes a verdict wrong, the summary holds it against the chance that the
policy grants. Only the verdicts that the truth makes wrong are held against it: to roll back an
equal candidate of an A/B test as futile is right, to promote it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import binomtest

from controller.core.model import Json
from controller.core.policy import Policy, digest
from controller.sim.scenario import Candidate, Scenario
from controller.sim.simulate import Run, Simulation

_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_NO_HARM_MEANT = frozenset({"futile", "expired"})
"""Causes of a roll-back that say nothing against the candidate."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened, with its 95 % interval by Clopper and Pearson."""

    count: int
    runs: int
    rate: float
    low: float
    high: float


def rate(count: int, runs: int) -> Rate:
    """`count` of `runs` as a rate."""
    interval = binomtest(count, runs).proportion_ci(0.95, method="exact")
    return Rate(count, runs, count / runs, float(interval.low), float(interval.high))


@dataclass(frozen=True, slots=True)
class Promise:
    """A verdict that the truth makes wrong, against the chance that the policy grants it."""

    what: str
    at_most: float
    rate: Rate

    @property
    def is_broken(self) -> bool:
        """Whether the runs rule the promise out, at 95 %."""
        return self.rate.low > self.at_most


def document(name: str, simulation: Simulation) -> dict[str, Json]:
    """The whole simulation as plain values: summary first, then each run."""
    plan, runs = simulation.plan, simulation.runs
    verdicts = Counter(run.verdict for run in runs)
    return {
        "model": plan.policy.model,
        "policy_digest": digest(plan.policy),
        "scenario": name,
        "description": plan.scenario.description,
        "runs": len(runs),
        "seed": simulation.seed,
        "level": plan.level,
        "why_events": list(plan.why),
        "tick_s": plan.tick_s,
        "horizon_s": plan.horizon_s,
        "verdicts": {
            word: _shown(rate(verdicts[word], len(runs)))
            for word in ("promoted", "rolled_back", "undecided")
        },
        "causes": dict(Counter(f"{run.verdict}: {run.cause}" for run in runs).most_common()),
        "champions": dict(Counter(run.champion for run in runs).most_common()),
        "promises": [
            {"what": p.what, "at_most": p.at_most, "broken": p.is_broken, **_shown(p.rate)}
            for p in promises(plan.policy, plan.scenario, runs)
        ],
        "duration_s": {
            word: _spread(run.duration_s for run in runs if word in {"all", run.verdict})
            for word in ("all", "promoted", "rolled_back")
        },
        **{
            field: _spread(_read(field)(run) for run in runs)
            for field in ("requests", "on_candidate", "harmed", "lost_reward", "decisions")
        },
        "stages": list(_stages(runs)),
        "each": [_row(run) for run in runs],
    }


def _read(field: str) -> Callable[[Run], float]:
    return lambda run: float(getattr(run, field))


def _row(run: Run) -> dict[str, Json]:
    row: dict[str, Json] = asdict(run)
    row["stages"] = [list(stage) for stage in run.stages]
    return row


def _shown(found: Rate) -> dict[str, Json]:
    return {"count": found.count, "rate": found.rate, "interval": [found.low, found.high]}


def _spread(values: Iterable[float]) -> dict[str, Json] | None:
    """Mean and quantiles, None of nothing."""
    column = np.array(list(values), dtype=np.float64)
    if not len(column):
        return None
    quantiles = np.quantile(column, _LEVELS).tolist()
    named = {f"p{round(100 * level)}": q for level, q in zip(_LEVELS, quantiles, strict=True)}
    return {"mean": float(column.mean()), **named}


def _stages(runs: Sequence[Run]) -> Iterator[dict[str, Json]]:
    """Each stage and step: how many runs reached it, and when."""
    reached: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        for stage, step, entered in run.stages:
            reached.setdefault((stage, step), []).append(entered)
    for (stage, step), seconds in reached.items():
        count = min(len(seconds), len(runs))  # several candidates pass a stage several times
        yield {
            "stage": stage,
            "step": step,
            "reached": _shown(rate(count, len(runs))),
            "seconds": _spread(seconds),
        }


# --- promises ---------------------------------------------------------------------------------


def promises(policy: Policy, scenario: Scenario, runs: Sequence[Run]) -> tuple[Promise, ...]:
    """What the policy grants in this world, and what happened; for one candidate."""
    if len(scenario.candidates) != 1:
        return ()
    candidate = scenario.candidates[0]
    found = []
    if _never_worse(scenario, candidate):
        wrong = sum(
            run.verdict == "rolled_back" and run.cause not in _NO_HARM_MEANT for run in runs
        )
        granted = sum(_false_rollback(policy, index) for index in range(len(policy.spec.stages)))
        found.append(Promise("false rollback", granted, rate(wrong, len(runs))))
    at_most = _false_promotion(policy, scenario, candidate)
    if at_most is not None:
        wrong = sum(run.verdict == "promoted" and run.cause != "expired" for run in runs)
        found.append(Promise("false promotion", at_most, rate(wrong, len(runs))))
    return tuple(found)


def _effects(candidate: Candidate) -> tuple[float, ...]:
    return (candidate.effect, *([candidate.later.effect] if candidate.later else []))


def _never_worse(scenario: Scenario, candidate: Candidate) -> bool:
    errors = scenario.errors if candidate.errors is None else candidate.errors
    return (
        min(_effects(candidate)) >= 0
        and errors <= scenario.errors
        and candidate.latency_factor <= 1
        and all(other.effect == 0 for other in scenario.others.values())
    )


def _false_rollback(policy: Policy, index: int) -> float:
    stage = policy.spec.stages[index]
    if stage.canary is not None:
        return stage.canary.false_rollback
    if stage.ab is not None:
        return stage.ab.alpha
    return 1 - stage.thompson.promote_probability if stage.thompson is not None else 0.01


def _false_promotion(policy: Policy, scenario: Scenario, candidate: Candidate) -> float | None:
    """The granted chance to promote this candidate; None where promoting it is not wrong."""
    last, best = policy.spec.stages[-1], max(_effects(candidate))
    if last.canary is not None:
        reward = policy.spec.reward
        least = min(share for _, share in scenario.base_rate)
        loss = -best * least * (reward.range[1] - reward.range[0])
        is_wrong = scenario.reward.kind == "binary" and loss > last.canary.margin * (1 + 1e-9)
        return last.canary.false_promotion if is_wrong else None
    if best > 0:
        return None
    if last.ab is not None:
        return last.ab.alpha
    return 1 - last.thompson.promote_probability if last.thompson is not None else None
