"""The peers' side of the scoreboard: every rule in the arena, in the same scenes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.sim.scenario import Candidate
from tests.bench import scenes
from tests.bench.arena import Traffic, fight
from tests.bench.peers import (
    Rule,
    Verdict,
    argo,
    by_hand,
    flagger,
    growthbook,
    kayenta,
    sagemaker,
    tensorzero,
)
from tests.bench.peers import vowpal_wabbit as vw

RULES: tuple[Rule, ...] = (
    argo.Argo(),
    argo.ON_REWARDS,
    flagger.Flagger(),
    flagger.ON_REWARDS,
    sagemaker.SageMaker(),
    kayenta.Kayenta(),
    by_hand.z_test(scenes.STEPS, scenes.STEP_S),
    by_hand.p_best_hourly(scenes.STEPS, scenes.STEP_S),
    tensorzero.TensorZero(),
    growthbook.SafeRollout(days=1),
    vw.BaselineChallenger(),
)
"""All that end a rollout. GrowthBook's bandit only steers: it stands in the regrets."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of `runs` rollouts ended how, and the mean share of requests that were harmed."""

    runs: int
    promoted: int
    rolled_back: int
    hours: float
    on_candidate: float


def tally(
    index: int, name: str, kind: str, *, runs: int, seed: int, per_day: int = scenes.PER_DAY
) -> Tally:
    """Rollouts of one rule in one scene; `kind` is `equal` or `harmful`."""
    scene, is_harmful = scenes.scene(name, per_day=per_day), kind == "harmful"
    scenario = scene.harmful() if is_harmful else scene.equal()
    traffic = scenes.misleading(scene.traffic(scenario), harmful=is_harmful)
    result = fight(RULES[index], traffic, runs=runs, seed=seed)
    return Tally(
        runs,
        int((result.verdict == Verdict.PROMOTE).sum()),
        int((result.verdict == Verdict.ROLL_BACK).sum()),
        float(result.time_s.mean()) / 3600,
        float(result.harmed.mean()),
    )


def regrets(effect: float, delay: int, *, runs: int, seed: int) -> np.ndarray:
    """(runs, 101): lost rewards of GrowthBook's bandit, refreshed at every micro-batch of 100."""
    scene = scenes.bandit(effect, delay)
    tick_s = float(scene.scenario.tick or 0.0)
    length_s = scene.scenario.requests / scene.scenario.rate
    traffic = replace(
        scene.traffic(scene.scenario, tick_s=tick_s),
        length_s=length_s,
        delay_s=0.0 if delay == 0 else delay / scene.scenario.rate,
    )
    path = _Path(growthbook.Bandit(every_s=tick_s))
    fight(path, traffic, runs=runs, seed=seed)
    base, (candidate,) = float(traffic.base(0.0)), scene.scenario.candidates
    return _regret(candidate, base, np.array(path.counts))


def _regret(candidate: Candidate, base: float, counts: np.ndarray) -> np.ndarray:
    """From requests per tick, run and arm, (ticks, runs, 2), to lost rewards at 101 places."""
    worse = 0 if candidate.effect > 0 else 1
    lost = counts[:, :, worse].cumsum(axis=0) * base * abs(candidate.effect)
    requests = counts.sum(axis=2).cumsum(axis=0)
    places = np.linspace(0, 100_000, 101)
    return np.array(
        [np.interp(places, asked, gone) for asked, gone in zip(requests.T, lost.T, strict=True)]
    )


class _Path:
    """A rule that also keeps what it saw."""

    def __init__(self, rule: growthbook.Bandit) -> None:
        self._rule = rule
        self.name, self.source = rule.name, rule.source
        self.counts_once, self.by_unit = rule.counts_once, rule.by_unit
        self.counts: list[np.ndarray] = []
        self.first_weight, self.start = rule.first_weight, rule.start

    def judge(self, state, seen, time_s):
        self.counts.append(seen.n)
        return self._rule.judge(state, seen, time_s)


__all__ = ["RULES", "Tally", "Traffic", "regrets", "tally"]
