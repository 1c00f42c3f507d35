"""Why a policy cannot work at a traffic, although each of its fields is fine."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from controller.core.decide.situation import for_people
from controller.sim.course import Case, longest_s
from controller.sim.outlook import HYPOTHESES, Ending, RolloutPlan, StepPlan
from controller.sim.truth import DelayLaw, Truth, setting


def caveats(case: Case, found: RolloutPlan) -> Iterator[str]:
    """All of them, in the order of the stages."""
    yield from _late(case)
    for step in found.steps:
        yield from _of_step(case, step)
    for guard in found.guards:
        if math.isinf(guard.seconds) or guard.seconds > longest_s(case.judged):
            yield (
                f"{guard.name}: that its bound is kept is not proven within the stages' greatest "
                "duration: a good candidate is not promoted"
            )
    equal, better, worse = (found.endings[h] for h in HYPOTHESES)
    last = case.stages[-1]
    if last.canary is not None and equal.verdict != "promoted":
        yield f"an equal candidate is {_word(equal)}, after {_waited(found)}"
    if last.canary is None and case.runs and better.verdict != "promoted":
        yield f"a candidate that is better by {case.effect:.3g} is {_word(better)}"
    if case.runs and worse.verdict == "promoted" and last.canary is None:
        yield f"a candidate that is worse by {case.effect:.3g} is promoted"
    if case.effect < 1.0 and case.runs and worse.verdict == "undecided":
        yield f"a candidate that is worse by {case.effect:.3g} is {_word(worse)}"


_WORDS = {
    "risk": "the loss that is still possible to fit the budget",
    "not_proven": "proof of the margin",
    "min_outcomes": "min_outcomes",
    "guardrail_unproven": "proof that a guardrail's bound is kept",
}


def _waited(found: RolloutPlan) -> str:
    """What an equal candidate waited for, for people: the long waits, in order."""
    waits = [
        f"{for_people(seconds)} at {step.share:.4g} waiting for {_WORDS[cause]}"
        for step in found.steps
        for cause, seconds in step.waits.items()
        if cause in _WORDS and seconds > step.dwell_s
    ]
    return ", ".join(waits) or "its dwell alone"


def _word(ending: Ending) -> str:
    return f"{ending.verdict.replace('_', ' ')} ({ending.cause})"


def _late(case: Case) -> Iterator[str]:
    """Rewards that come after the window."""
    truth = Truth(case.scenario(0.0), setting(case.policy), 1.0)
    reward = case.policy.spec.reward
    lost = 1.0 - float(DelayLaw(truth).share(np.array(reward.window)))
    if lost > 0.05:
        window = for_people(reward.window)
        yield f"{lost:.0%} of the rewards come after the window of {window}, and are lost"


def _of_step(case: Case, step: StepPlan) -> Iterator[str]:
    stage = case.stages[step.stage]
    limit = stage.canary or stage.ab
    if limit is None or step.share == 0.0:
        return
    longest = for_people(limit.max_duration)
    name = f"{step.kind} at {step.share:.4g} of the traffic"
    if step.min_outcomes_s is not None and step.min_outcomes_s > limit.max_duration:
        yield (
            f"{name}: {longest} are too short for min_outcomes, which take "
            f"{for_people(step.min_outcomes_s)}"
        )
    half = step.detectable[0]
    if half is None:
        yield f"{name}: no loss of reward shows within {longest}"
    elif half > 0.5:
        yield f"{name}: only catastrophes show in the reward, losses of {half:.0%} or more"
    elif half > case.effect:
        yield (
            f"{name}: a loss of {case.effect:.2%} does not show within {longest}, "
            f"but one of {half:.2%} does"
        )
