"""A policy at a traffic, and the course of its rollouts if nothing happened by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from controller.core.decide.conditions import GUARD_CAUSES, SHARES, harm_alpha
from controller.core.estimate.book import harm
from controller.core.policy import Policy, Stage
from controller.sim.detection import Sought
from controller.sim.outlook import Hypothesis, Traffic
from controller.sim.quantities import Moment
from controller.sim.scenario import Candidate, Delay, Scenario
from controller.sim.simulate import Logbook, Run, generator, play, without_gates
from controller.sim.tallies import NoChance
from controller.sim.truth import Truth, setting
from controller.sim.world import World

USUAL_EFFECT: Final = 0.2
"""The effect looked for where the policy states none."""

_LOOKS = 120
LONGEST_S = 90 * 86_400.0
"""A plan looks no further ahead than this."""


class Case:
    """A policy at a traffic, and the effect that is looked for."""

    def __init__(self, policy: Policy, traffic: Traffic, effect: float) -> None:
        self.policy, self.traffic, self.effect = policy, traffic, effect
        self.stages = policy.spec.stages
        self.runs = any(stage.shadow is None for stage in self.stages)
        self.settle_s = policy.spec.reward.window + policy.spec.reward.grace
        self.sign = -1 if policy.spec.reward.direction == "minimize" else 1
        self.judged = _judged(policy)

    def scenario(self, change: float) -> Scenario:
        """The world of a candidate with this relative effect."""
        traffic = self.traffic
        heard = 1.0 - traffic.errors if setting(self.policy).is_event_good else 1.0
        return Scenario.model_construct(
            **dict(Scenario())
            | {
                "rate": traffic.rate,
                "base_rate": ((Moment(), min(traffic.base_rate / heard, 1.0)),),
                "delay": Delay().model_copy(update={"mean": Moment(seconds=traffic.delay_s)}),
                "errors": traffic.errors,
                "candidates": (Candidate(effect=change),),
            }
        )

    def change(self, hypothesis: Hypothesis) -> float:
        """The candidate's relative effect."""
        return {"equal": 0.0, "better": self.effect, "worse": -min(self.effect, 1.0)}[hypothesis]

    def means(self, change: float) -> tuple[float, float]:
        """The champion's and the candidate's mean reward, scaled to [0, 1]."""
        truth = Truth(self.scenario(change), setting(self.policy), 1.0)
        low, high = self.policy.spec.reward.range
        champion, candidate = (truth.means(arm, 0.0, 0.0).reward for arm in (0, 1))
        return (champion - low) / (high - low), (candidate - low) / (high - low)

    def harm(self, stage: Stage) -> Sought:
        """The test that rolls back on closed outcomes, at its share of the stage's alpha."""
        guards = {GUARD_CAUSES[g.metric] for g in self.policy.spec.guardrails}
        fast = set() if self.policy.spec.reward.contamination else {"reward_fast"}
        shares = {"reward_harm", *fast, *guards}
        alpha = harm_alpha(stage) * SHARES["reward_harm"] / sum(SHARES[s] for s in shares)
        contamination = self.policy.spec.reward.contamination
        return Sought.of(harm(self.min_effect, contamination, self.sign), alpha)

    @property
    def min_effect(self) -> float | None:
        """Where the bets gather."""
        effects = [stage.ab.min_effect for stage in self.stages if stage.ab]
        return min(effects) if effects else None


def _judged(policy: Policy) -> Policy:
    """The policy of the runs: without gates, shadows, and what tallies cannot carry."""
    spec = without_gates(policy).spec
    changes = {
        "guardrails": tuple(g for g in spec.guardrails if g.metric == "error_rate"),
        "stages": tuple(stage for stage in spec.stages if stage.shadow is None),
    }
    return policy.model_copy(update={"spec": spec.model_copy(update=changes)})


# --- the runs ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Course:
    """One run without chance. Stages are counted as in the policy of the runs."""

    run: Run
    tick_s: float
    entered: dict[tuple[int, int], float]
    waits: dict[tuple[int, int], dict[str, float]]


def course(case: Case, hypothesis: Hypothesis) -> Course | None:
    """The run of a hypothesis, looked at more coarsely until its end comes into sight."""
    if not case.runs:
        return None
    scenario, longest = case.scenario(case.change(hypothesis)), longest_s(case.judged)
    horizon_s = min(longest, 4.0 * _least_s(case))
    while True:
        path = _run(case.judged, scenario, horizon_s)
        if path.run.verdict != "undecided" or horizon_s >= longest:
            return path
        horizon_s = min(longest, 5.0 * horizon_s)


def _run(policy: Policy, scenario: Scenario, horizon_s: float) -> Course:
    tick_s = horizon_s / _LOOKS
    truth = Truth(scenario, setting(policy), horizon_s)
    rng = generator(0, 0)  # nothing is drawn from it
    world = World(truth, rng, tick_s=tick_s, level="tallies", chance=NoChance())
    log = Logbook(policy)
    state = play(policy, world, horizon_s, log)
    return Course(log.run(0, world, state), tick_s, log.entered, log.waits)


def _least_s(case: Case) -> float:
    """What the stages of the runs last at least."""
    return sum(
        max(dwell_of(case, stage), case.settle_s) * (len(stage.canary.steps) if stage.canary else 1)
        for stage in case.judged.spec.stages
    )


def longest_s(policy: Policy) -> float:
    """The greatest duration of all stages together, within what a plan looks at."""
    longest = 0.0
    settle_s = policy.spec.reward.window + policy.spec.reward.grace
    for stage in policy.spec.stages:
        limit = stage.canary or stage.ab
        longest += settle_s + (limit.max_duration if limit is not None else LONGEST_S)
    return min(longest, LONGEST_S)


def dwell_of(case: Case, stage: Stage) -> float:
    """How long a step of this stage lasts at least."""
    if stage.shadow is not None:
        return stage.shadow.duration
    if stage.canary is not None:
        return max(stage.canary.min_duration, case.settle_s)
    if stage.ab is not None:
        return max(stage.ab.min_duration, case.settle_s)
    assert stage.thompson is not None
    return max(stage.thompson.update_every, case.settle_s)


def shares_of(stage: Stage) -> tuple[float, ...]:
    """The candidate's share of the traffic, step by step; of a bandit, where it begins."""
    if stage.shadow is not None:
        return (0.0,)
    if stage.canary is not None:
        return tuple(min(step, 0.9999) for step in stage.canary.steps)
    return (stage.ab.share,) if stage.ab is not None else (0.5,)
