"""The plan: how long each stage of a policy takes at a given traffic, and what it can detect.

Durations are not a second opinion about the rules: the engine itself runs, once for each hypothesis
(equal, better, worse), in a world without chance, where every count is its expectation. So dwell,
minimum outcomes, the risk budget, guardrails, labels that come late and every threshold are those
that decide live. An e-value's path in such a world is the mean of its logarithm, which about every
second candidate is ahead of; docs/plan.md says how close that is to the median of real runs.

What a stage can detect, and how many requests a harm takes, are closed forms of `detection`.

What tallies cannot carry (latency, second rewards) is left out of the runs, and the time in which
these guardrails pass is computed from the path of the shares. Gates are left out: they wait for
people. A shadow stage takes its duration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from scipy.special import ndtr, ndtri

from controller.core.decide.conditions import (
    GUARD_CAUSES,
    SHARES,
    harm_alpha,
    promotion_alpha,
)
from controller.core.estimate.book import harm, noninferiority, superiority
from controller.core.policy import Guardrail, Policy, Stage
from controller.errors import UnderstudyError
from controller.sim.detection import FOUR_OF_FIVE, Sought, bound, smallest, units
from controller.sim.quantities import Moment
from controller.sim.scenario import Candidate, Delay, Latency, Other, Scenario
from controller.sim.simulate import Logbook, Run, generator, play, without_gates
from controller.sim.tallies import NoChance
from controller.sim.truth import DelayLaw, Truth, setting
from controller.sim.world import World

Hypothesis: TypeAlias = Literal["equal", "better", "worse"]
HYPOTHESES: Final[tuple[Hypothesis, ...]] = ("equal", "better", "worse")

USUAL_EFFECT: Final = 0.2
"""The effect looked for where the policy states none."""

_LOOKS = 240
_LONGEST_S = 90 * 86_400.0
"""A plan looks no further ahead than this."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the plan is told of the model's traffic.

    delay_s  mean of an exponential delay from exposure to reward
    errors   share of answers that fail
    effect   relative; None: the policy's `min_effect`, else its margin, else `USUAL_EFFECT`
    """

    rate: float
    base_rate: float
    delay_s: float
    errors: float = 0.005
    effect: float | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How the rollout of a hypothesis ends, if nothing comes by chance."""

    verdict: Literal["promoted", "rolled_back", "undecided"]
    cause: str
    seconds: float
    requests: float
    on_candidate: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One stage, or one step of a canary.

    dwell_s            that it lasts at least
    min_outcomes_s     until the policy's `min_outcomes` of the candidate are in
    bound, requests    for a harm of the effect at this share: the least that any valid test needs
                       on average; what this one does
    detectable         relative loss that is found within the stage's greatest duration at this
                       share: by half of the rollouts, by four of five; None: nothing is
    seconds            spent in it, by hypothesis; None where it is not reached
    waits              cause -> seconds, of an equal candidate
    """

    stage: int
    kind: str
    step: int
    share: float
    dwell_s: float
    min_outcomes_s: float | None
    bound: float
    requests: float
    detectable: tuple[float | None, float | None]
    seconds: dict[Hypothesis, float | None]
    waits: dict[str, float]


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """How long it takes to prove that a guardrail's bound is kept, by an equal candidate."""

    name: str
    max_increase: float
    requests: float
    seconds: float


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """The whole plan."""

    policy: Policy
    traffic: Traffic
    effect: float
    steps: tuple[StepPlan, ...]
    guards: tuple[GuardPlan, ...]
    endings: dict[Hypothesis, Ending]
    warnings: tuple[str, ...]


def plan(policy: Policy, traffic: Traffic) -> RolloutPlan:
    """The plan of a policy for this traffic.

    Raises:
        UnderstudyError: the reward is an amount, of which a base rate says too little.
    """
    reward = policy.spec.reward
    if not reward.is_binary:
        raise UnderstudyError(
            "plan knows rewards that are yes or no; for a reward that is an amount, rehearse with "
            "understudy simulate and the scenario revenue"
        )
    if reward.default not in reward.range:
        raise UnderstudyError("plan needs a default at one end of the reward's range")
    effect = traffic.effect if traffic.effect is not None else _effect(policy, traffic)
    case = _Case(policy, traffic, effect)
    paths = {hypothesis: _path(case, hypothesis) for hypothesis in HYPOTHESES}
    steps = tuple(_step(case, paths, *where) for where in _places(policy))
    guards = tuple(_guards(case, steps, paths["equal"]))
    endings = {h: _ending(case, paths[h], guards) for h in HYPOTHESES}
    found = RolloutPlan(policy, traffic, effect, steps, guards, endings, ())
    return replace(found, warnings=tuple(_warnings(case, found)))


def _effect(policy: Policy, traffic: Traffic) -> float:
    """The relative effect that the policy is about."""
    effects = [stage.ab.min_effect for stage in policy.spec.stages if stage.ab]
    if effects:
        return min(effects)
    low, high = policy.spec.reward.range
    margins = [stage.canary.margin / (high - low) for stage in policy.spec.stages if stage.canary]
    relative = min(margins, default=math.inf) / traffic.base_rate
    return relative if relative < 1.0 else USUAL_EFFECT


class _Case:
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
        shares = {"reward_harm", "reward_fast", *guards}
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
class _Path:
    """One run without chance. Stages are counted as in the policy of the runs."""

    run: Run
    tick_s: float
    entered: dict[tuple[int, int], float]
    waits: dict[tuple[int, int], dict[str, float]]


def _path(case: _Case, hypothesis: Hypothesis) -> _Path | None:
    """The run of a hypothesis, looked at more coarsely until its end comes into sight."""
    if not case.runs:
        return None
    scenario, longest = case.scenario(case.change(hypothesis)), _longest_s(case.judged)
    horizon_s = min(longest, 4.0 * _least_s(case))
    while True:
        path = _run(case.judged, scenario, horizon_s)
        if path.run.verdict != "undecided" or horizon_s >= longest:
            return path
        horizon_s = min(longest, 4.0 * horizon_s)


def _run(policy: Policy, scenario: Scenario, horizon_s: float) -> _Path:
    tick_s = horizon_s / _LOOKS
    truth = Truth(scenario, setting(policy), horizon_s)
    rng = generator(0, 0)  # nothing is drawn from it
    world = World(truth, rng, tick_s=tick_s, level="tallies", chance=NoChance())
    log = Logbook(policy)
    state = play(policy, world, horizon_s, log)
    return _Path(log.run(0, world, state), tick_s, log.entered, log.waits)


def _least_s(case: _Case) -> float:
    """What the stages of the runs last at least."""
    return sum(
        max(_dwell_s(case, stage), case.settle_s) * (len(stage.canary.steps) if stage.canary else 1)
        for stage in case.judged.spec.stages
    )


def _longest_s(policy: Policy) -> float:
    longest = 0.0
    settle_s = policy.spec.reward.window + policy.spec.reward.grace
    for stage in policy.spec.stages:
        limit = stage.canary or stage.ab
        longest += settle_s + (limit.max_duration if limit is not None else _LONGEST_S)
    return min(longest, _LONGEST_S)


def _dwell_s(case: _Case, stage: Stage) -> float:
    """How long a step of this stage lasts at least."""
    if stage.shadow is not None:
        return stage.shadow.duration
    if stage.canary is not None:
        return max(stage.canary.min_duration, case.settle_s)
    if stage.ab is not None:
        return max(stage.ab.min_duration, case.settle_s)
    assert stage.thompson is not None
    return max(stage.thompson.update_every, case.settle_s)


def _ending(case: _Case, path: _Path | None, guards: Sequence[GuardPlan]) -> Ending:
    """The end of a run, with the shadow stages before it and the guardrails that it left out."""
    shadow_s = sum(stage.shadow.duration for stage in case.stages if stage.shadow)
    if path is None:
        return Ending("promoted", "shadowed", shadow_s, shadow_s * case.traffic.rate, 0.0)
    run = path.run
    seconds, on_candidate = run.duration_s, run.on_candidate
    if run.verdict == "promoted":
        late_s = max((guard.seconds for guard in guards), default=0.0) - seconds
        if late_s > 0.0:
            last = case.stages[-1]
            seconds += late_s
            on_candidate += late_s * case.traffic.rate * _shares(last)[-1]
    seconds += shadow_s
    return Ending(run.verdict, run.cause, seconds, seconds * case.traffic.rate, on_candidate)


# --- the stages -------------------------------------------------------------------------------


def _places(policy: Policy) -> Iterator[tuple[int, int]]:
    """Every stage, and step of a canary."""
    for index, stage in enumerate(policy.spec.stages):
        yield from ((index, step) for step in range(len(_shares(stage))))


def _shares(stage: Stage) -> tuple[float, ...]:
    """The candidate's share of the traffic, step by step; of a bandit, where it begins."""
    if stage.shadow is not None:
        return (0.0,)
    if stage.canary is not None:
        return tuple(min(step, 0.9999) for step in stage.canary.steps)
    return (stage.ab.share,) if stage.ab is not None else (0.5,)


def _step(case: _Case, paths: dict[Hypothesis, _Path | None], index: int, step: int) -> StepPlan:
    stage = case.stages[index]
    share = _shares(stage)[step]
    champion, worse = case.means(case.change("worse"))
    dwell_s = _dwell_s(case, stage)
    least = {"canary": stage.canary, "thompson": stage.thompson}.get(stage.kind)
    outcomes = least.min_outcomes if least is not None else None
    seconds = {h: _spent_s(case, paths[h], index, step) for h in HYPOTHESES}
    equal, here = paths["equal"], (index - _shadows_before(case, index), step)
    nothing = share == 0.0
    sought = case.harm(stage)
    return StepPlan(
        stage=index,
        kind=stage.kind,
        step=step,
        share=share,
        dwell_s=dwell_s,
        min_outcomes_s=(
            outcomes / (case.traffic.rate * share) + case.settle_s if outcomes else None
        ),
        bound=math.inf if nothing else bound(sought, share, champion, worse),
        requests=math.inf if nothing else units(sought, share, champion, worse),
        detectable=(None, None) if nothing else _detectable(case, stage, share),
        seconds=seconds,
        waits=dict(equal.waits.get(here, {})) if equal is not None and not nothing else {},
    )


def _shadows_before(case: _Case, index: int) -> int:
    return sum(stage.shadow is not None for stage in case.stages[:index])


def _spent_s(case: _Case, path: _Path | None, index: int, step: int) -> float | None:
    """Seconds spent in a step on a path; None where it is not reached."""
    shadow = case.stages[index].shadow
    if shadow is not None:
        return shadow.duration
    if path is None:
        return None
    here = (index - _shadows_before(case, index), step)
    if here not in path.entered:
        return None
    later = [seconds for place, seconds in path.entered.items() if place > here]
    return min(later, default=path.run.duration_s) - path.entered[here]


def _detectable(case: _Case, stage: Stage, share: float) -> tuple[float | None, float | None]:
    """The smallest loss that is found within the stage's greatest duration at this share."""
    limit = stage.canary or stage.ab
    longest_s = limit.max_duration if limit is not None else _LONGEST_S
    within = case.traffic.rate * max(0.0, longest_s - case.settle_s)
    champion, _ = case.means(0.0)
    sought, sign = case.harm(stage), -float(case.sign)
    half, most = (
        smallest(sought, share, champion, within=within, sign=sign, z=z)
        for z in (0.0, FOUR_OF_FIVE)
    )
    return half, most


# --- guardrails -------------------------------------------------------------------------------


def _guards(case: _Case, steps: Sequence[StepPlan], path: _Path | None) -> Iterator[GuardPlan]:
    last = [step for step in steps if step.share > 0.0]
    if not last:
        return
    for guardrail in case.policy.spec.guardrails:
        sought, p0, p1, settle_s = _within(case, guardrail)
        share = last[-1].share
        yield GuardPlan(
            name=_named(guardrail),
            max_increase=guardrail.max_increase,
            requests=units(sought, share, p0, p1),
            seconds=_passes_s(case, path, sought, (p0, p1)) + settle_s,
        )


def _named(guardrail: Guardrail) -> str:
    if guardrail.metric == "latency":
        return f"latency p{100 * (guardrail.quantile or 0.0):g}"
    return guardrail.event or "error rate"


def _within(case: _Case, guardrail: Guardrail) -> tuple[Sought, float, float, float]:
    """The test that a bound is kept, the means of two equal arms in it, and how late it sees."""
    alpha = promotion_alpha(case.stages[-1])
    increase = guardrail.max_increase
    if guardrail.metric == "error_rate":
        errors = case.traffic.errors
        return _guard(increase, alpha), errors, errors, 0.0
    if guardrail.metric == "latency":
        slow = 1.0 - (guardrail.quantile or 0.5)
        z = float(ndtri(1.0 - slow)) + math.log1p(increase) / Latency().sigma
        return Sought.of(superiority(None, 0.0, -1), alpha), slow, 1.0 - float(ndtr(z)), 0.0
    second = guardrail.as_reward(case.policy.spec.reward)
    low, high = second.range
    rate = Other().base_rate
    return _guard(increase / (high - low), alpha), rate, rate, second.window + second.grace


def _guard(increase: float, alpha: float) -> Sought:
    if increase <= 0.0:
        return Sought.of(superiority(None, 0.0, -1), alpha)
    return Sought.of(noninferiority(increase, increase, -1), alpha)


def _passes_s(case: _Case, path: _Path | None, sought: Sought, means: tuple[float, float]) -> float:
    """Seconds until a test passes while the shares rise as on this path, then stay."""
    done, since, share = 0.0, 0.0, 0.0
    places = sorted(path.entered.items(), key=lambda item: item[1]) if path is not None else []
    stages = case.judged.spec.stages
    for (index, step), entered in [*places, ((-1, -1), math.inf)]:
        if share > 0.0:
            needed = units(sought, share, *means)
            left_s = (1.0 - done) * needed / case.traffic.rate
            if since + left_s <= entered:
                return since + left_s
            done += (entered - since) * case.traffic.rate / needed
        since, share = entered, _shares(stages[index])[step]
    return math.inf


# --- warnings ---------------------------------------------------------------------------------


def _warnings(case: _Case, found: RolloutPlan) -> Iterator[str]:
    yield from _late(case)
    for step in found.steps:
        yield from _of_step(case, step)
    for guard in found.guards:
        if math.isinf(guard.seconds) or guard.seconds > _longest_s(case.judged):
            yield (
                f"{guard.name}: that its bound is kept is not proven within the stages' greatest "
                "duration: a good candidate is not promoted"
            )
    equal, better, worse = (found.endings[h] for h in HYPOTHESES)
    last = case.stages[-1]
    if last.canary is not None and equal.verdict != "promoted":
        yield f"an equal candidate is {_word(equal)}: too little traffic for the margin"
    if last.canary is None and case.runs and better.verdict != "promoted":
        yield f"a candidate that is better by {case.effect:.3g} is {_word(better)}"
    if case.runs and worse.verdict == "promoted" and last.canary is None:
        yield f"a candidate that is worse by {case.effect:.3g} is promoted"
    if case.effect < 1.0 and case.runs and worse.verdict == "undecided":
        yield f"a candidate that is worse by {case.effect:.3g} is {_word(worse)}"


def _word(ending: Ending) -> str:
    return f"{ending.verdict.replace('_', ' ')} ({ending.cause})"


def _late(case: _Case) -> Iterator[str]:
    """Rewards that come after the window."""
    truth = Truth(case.scenario(0.0), setting(case.policy), 1.0)
    reward = case.policy.spec.reward
    lost = 1.0 - float(DelayLaw(truth).share(np.array(reward.window)))
    if lost > 0.05:
        yield f"{lost:.0%} of the rewards come after the window of {reward.window:g} s, and are lost"


def _of_step(case: _Case, step: StepPlan) -> Iterator[str]:
    stage = case.stages[step.stage]
    limit = stage.canary or stage.ab
    if limit is None or step.share == 0.0:
        return
    name = f"{step.kind} at {step.share:.4g} of the traffic"
    if step.min_outcomes_s is not None and step.min_outcomes_s > limit.max_duration:
        yield (
            f"{name}: {limit.max_duration:g} s are too short for min_outcomes, which take "
            f"{step.min_outcomes_s:.4g} s"
        )
    half = step.detectable[0]
    if half is None:
        yield f"{name}: no loss of reward shows within {limit.max_duration:g} s"
    elif half > 0.5:
        yield f"{name}: only catastrophes show in the reward, losses of {half:.0%} or more"
    elif half > case.effect:
        yield (
            f"{name}: a loss of {case.effect:.2%} does not show within {limit.max_duration:g} s, "
            f"but one of {half:.2%} does"
        )
