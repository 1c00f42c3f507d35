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
from dataclasses import replace

from scipy.special import ndtr, ndtri

from controller.core.decide.conditions import harm_alpha, promotion_alpha
from controller.core.estimate.book import noninferiority, superiority
from controller.core.policy import Guardrail, Policy, Stage
from controller.errors import UnderstudyError
from controller.sim.caveats import caveats
from controller.sim.course import LONGEST_S, USUAL_EFFECT, Case, Course, course, dwell_of, shares_of
from controller.sim.detection import FOUR_OF_FIVE, Sought, bound, smallest, units
from controller.sim.outlook import (
    HYPOTHESES,
    Ending,
    GuardPlan,
    Hypothesis,
    RolloutPlan,
    StepPlan,
    Traffic,
)
from controller.sim.scenario import Latency, Other


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
    case = Case(policy, traffic, effect)
    paths = {hypothesis: course(case, hypothesis) for hypothesis in HYPOTHESES}
    steps = tuple(_step(case, paths, *where) for where in _places(policy))
    guards = tuple(_guards(case, steps, paths["equal"]))
    endings = {h: _ending(case, paths[h], guards) for h in HYPOTHESES}
    found = RolloutPlan(policy, traffic, effect, steps, guards, endings, ())
    return replace(found, warnings=tuple(caveats(case, found)))


def _effect(policy: Policy, traffic: Traffic) -> float:
    """The relative effect that the policy is about."""
    effects = [stage.ab.min_effect for stage in policy.spec.stages if stage.ab]
    if effects:
        return min(effects)
    low, high = policy.spec.reward.range
    margins = [stage.canary.margin / (high - low) for stage in policy.spec.stages if stage.canary]
    relative = min(margins, default=math.inf) / traffic.base_rate
    return relative if relative < 1.0 else USUAL_EFFECT


def _ending(case: Case, path: Course | None, guards: Sequence[GuardPlan]) -> Ending:
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
            on_candidate += late_s * case.traffic.rate * shares_of(last)[-1]
    seconds += shadow_s
    return Ending(run.verdict, run.cause, seconds, seconds * case.traffic.rate, on_candidate)


# --- the stages -------------------------------------------------------------------------------


def _places(policy: Policy) -> Iterator[tuple[int, int]]:
    """Every stage, and step of a canary."""
    for index, stage in enumerate(policy.spec.stages):
        yield from ((index, step) for step in range(len(shares_of(stage))))


def _step(case: Case, paths: dict[Hypothesis, Course | None], index: int, step: int) -> StepPlan:
    stage = case.stages[index]
    share = shares_of(stage)[step]
    champion, worse = case.means(case.change("worse"))
    dwell_s = dwell_of(case, stage)
    least = {"canary": stage.canary, "thompson": stage.thompson}.get(stage.kind)
    outcomes = least.min_outcomes if least is not None else None
    seconds = {h: _spent_s(case, paths[h], index, step) for h in HYPOTHESES}
    equal, here = paths["equal"], (index - _shadows_before(case, index), step)
    nothing = share == 0.0
    sought = case.harm(stage)
    promised = replace(sought, alpha=harm_alpha(stage))
    return StepPlan(
        stage=index,
        kind=stage.kind,
        step=step,
        share=share,
        dwell_s=dwell_s,
        min_outcomes_s=(
            outcomes / (case.traffic.rate * share) + case.settle_s if outcomes else None
        ),
        bound=math.inf if nothing else bound(promised, share, champion, worse),
        requests=math.inf if nothing else units(sought, share, champion, worse),
        detectable=(None, None) if nothing else _detectable(case, stage, share),
        seconds=seconds,
        waits=dict(equal.waits.get(here, {})) if equal is not None and not nothing else {},
    )


def _shadows_before(case: Case, index: int) -> int:
    return sum(stage.shadow is not None for stage in case.stages[:index])


def _spent_s(case: Case, path: Course | None, index: int, step: int) -> float | None:
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


def _detectable(case: Case, stage: Stage, share: float) -> tuple[float | None, float | None]:
    """The smallest loss that is found within the stage's greatest duration at this share."""
    limit = stage.canary or stage.ab
    longest_s = limit.max_duration if limit is not None else LONGEST_S
    within = case.traffic.rate * max(0.0, longest_s - case.settle_s)
    champion, _ = case.means(0.0)
    sought, sign = case.harm(stage), -float(case.sign)
    half, most = (
        smallest(sought, share, champion, within=within, sign=sign, z=z)
        for z in (0.0, FOUR_OF_FIVE)
    )
    return half, most


# --- guardrails -------------------------------------------------------------------------------


def _guards(case: Case, steps: Sequence[StepPlan], path: Course | None) -> Iterator[GuardPlan]:
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


def _within(case: Case, guardrail: Guardrail) -> tuple[Sought, float, float, float]:
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


def _passes_s(case: Case, path: Course | None, sought: Sought, means: tuple[float, float]) -> float:
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
        since, share = entered, shares_of(stages[index])[step]
    return math.inf
