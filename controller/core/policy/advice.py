"""What a policy asks for that cannot work, although each of its fields is fine.

An error would be wrong: the controller can run such a policy, it only will not come to the end
that its author has in mind. `understudy check` prints these as warnings. What depends on the
traffic is not said here but by `understudy plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from controller.core.policy.manifest import Policy
from controller.core.policy.paths import is_path
from controller.core.policy.rewards import Guardrail, Reward
from controller.core.policy.stages import Ab, Canary, Thompson


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that cannot work: the field, and why, in one sentence."""

    path: str
    sentence: str


def warnings(policy: Policy) -> tuple[Advice, ...]:
    """All advice on the policy, in the order of the document; empty when it can work."""
    return tuple(advice for check in _CHECKS for advice in check(policy))


# --- the reward -------------------------------------------------------------------------------


def _reward(policy: Policy) -> Iterator[Advice]:
    reward = policy.spec.reward
    if reward.range[1] <= 0:
        yield Advice(
            "spec.reward.range",
            "losses are measured against the champion's mean reward, which is never above 0 here: "
            "report the opposite of these values, with direction: minimize",
        )
    yield from _default(reward)
    if reward.aggregate == "sum" and reward.is_binary:
        yield Advice(
            "spec.reward.aggregate",
            f"a sum is capped at the end of the range, {reward.range[1]:g}: further events of an "
            "exposure count for nothing; a range such as [0, 10] counts them",
        )
    if policy.spec.route.unit is None:
        yield from _without_unit(reward)


def _without_unit(reward: Reward) -> Iterator[Advice]:
    if reward.join == "unit":
        yield Advice(
            "spec.reward.join",
            "rewards are joined by unit, but spec.route.unit names none: no reward can be joined",
        )
    if reward.min_units > 1:
        yield Advice(
            "spec.reward.min_units",
            "spec.route.unit names no unit, so each request is one: a single user can be all "
            f"{reward.min_units}",
        )


def _default(reward: Reward) -> Iterator[Advice]:
    if reward.default < reward.range[1]:
        return
    if reward.direction == "maximize":
        yield Advice(
            "spec.reward.default",
            "no reward counts as the best one there is: a version whose rewards get lost wins",
        )
    elif reward.is_binary:
        yield Advice(
            "spec.reward.default",
            "no reward counts as the worst one there is, so an event with the value "
            f"{reward.default:g} changes nothing; with minimize the default is mostly 0",
        )


# --- guardrails -------------------------------------------------------------------------------


def _guardrails(policy: Policy) -> Iterator[Advice]:
    for index, guardrail in enumerate(policy.spec.guardrails):
        path = f"spec.guardrails[{index}]"
        if guardrail.max_increase == 0:
            yield Advice(
                f"{path}.max_increase",
                "an increase of less than 0 is never proven for a candidate that is as good as the "
                "champion, and what is not proven is not promoted",
            )
        if guardrail.metric == "reward":
            yield from _second_reward(path, guardrail, policy)


def _second_reward(path: str, guardrail: Guardrail, policy: Policy) -> Iterator[Advice]:
    compared = guardrail.as_reward(policy.spec.reward)
    low, high = compared.range
    if compared.event == policy.spec.reward.event:
        yield Advice(
            f"{path}.event", f"{compared.event} is the reward itself: the stages bound its loss"
        )
    if guardrail.max_increase >= high - low:
        yield Advice(
            f"{path}.max_increase",
            f"an increase of {guardrail.max_increase:g} tolerates everything: values of "
            f"{compared.event} differ by at most {high - low:g}",
        )
    longest_s = _longest_s(policy)
    if _final_s(compared) > longest_s and _final_s(policy.spec.reward) <= longest_s:
        yield Advice(
            f"{path}.window",
            f"{compared.event} is final {_final_s(compared):g} s after the exposure (window and "
            f"grace), but the stages end after {longest_s:g} s, before the first one",
        )


def _longest_s(policy: Policy) -> float:
    """How long the stages last that can judge a reward, all together at most."""
    stages = policy.spec.stages
    if any(stage.thompson is not None for stage in stages):
        return float("inf")
    judging = [stage.canary or stage.ab for stage in stages]
    return sum(stage.max_duration for stage in judging if stage is not None)


def _final_s(reward: Reward) -> float:
    """How long after an exposure its outcome is final."""
    return reward.window + reward.grace


# --- stages -----------------------------------------------------------------------------------


def _stages(policy: Policy) -> Iterator[Advice]:
    for index, stage in enumerate(policy.spec.stages):
        path = f"spec.stages[{index}].{stage.kind}"
        if stage.canary is not None:
            yield from _canary(path, stage.canary, policy)
        if stage.ab is not None:
            yield from _ab(path, stage.ab, policy)
        if stage.thompson is not None:
            yield from _thompson(path, stage.thompson, policy)


def _canary(path: str, canary: Canary, policy: Policy) -> Iterator[Advice]:
    if canary.steps[-1] >= 1:
        yield _no_champion(f"{path}.steps[{len(canary.steps) - 1}]")
    yield from _margin(path, canary, policy.spec.reward)
    if canary.budget == 0 and len(canary.steps) > 1:
        yield Advice(
            f"{path}.budget",
            "a step that puts no reward at risk is one of a candidate that is proven to be better: "
            "one that is as good never gets beyond the first",
        )
    yield from _canary_time(path, canary, policy.spec.reward)


def _margin(path: str, canary: Canary, reward: Reward) -> Iterator[Advice]:
    reach = reward.range[1] - reward.range[0]
    if canary.margin >= reach:
        yield Advice(
            f"{path}.margin",
            f"a margin of {canary.margin:g} tolerates every loss: rewards differ by at most "
            f"{reach:g}",
        )
    elif reward.contamination * reach >= canary.margin:
        yield Advice(
            f"{path}.margin",
            f"forged rewards alone may shift the mean by {reward.contamination * reach:g}, as much "
            f"as the margin of {canary.margin:g}: only a candidate that is better can be promoted",
        )


def _canary_time(path: str, canary: Canary, reward: Reward) -> Iterator[Advice]:
    if _final_s(reward) > canary.max_duration:
        yield _waits_too_long(path, canary.max_duration, reward)
        return
    step_s, steps = max(canary.min_duration, _final_s(reward)), len(canary.steps)
    if step_s * steps > canary.max_duration:
        why = "least duration" if step_s == canary.min_duration else "window and grace"
        yield Advice(
            f"{path}.max_duration",
            f"{steps} steps of at least {step_s:g} s ({why}) take {step_s * steps:g} s, but the "
            f"stage ends after {canary.max_duration:g} s",
        )


def _ab(path: str, ab: Ab, policy: Policy) -> Iterator[Advice]:
    reward = policy.spec.reward
    if ab.share >= 1:
        yield _no_champion(f"{path}.share")
    low, high = reward.range
    forged = reward.contamination * (high - low)
    if forged >= ab.min_effect * max(abs(low), abs(high)):
        yield Advice(
            f"{path}.min_effect",
            f"forged rewards alone may shift the mean by {forged:g}, as much as an effect of "
            f"{ab.min_effect:g} can: it is never proven",
        )
    if _final_s(reward) > ab.max_duration:
        yield _waits_too_long(path, ab.max_duration, reward)
    if ab.min_duration > ab.max_duration:
        yield Advice(
            f"{path}.max_duration",
            f"the stage ends after {ab.max_duration:g} s, before its least duration of "
            f"{ab.min_duration:g} s",
        )


def _no_champion(path: str) -> Advice:
    return Advice(
        path, "at 100% no champion is left to compare with, so nothing can be proven at this share"
    )


def _waits_too_long(path: str, max_duration: float, reward: Reward) -> Advice:
    return Advice(
        f"{path}.max_duration",
        f"an outcome is final {_final_s(reward):g} s after its exposure (window and grace), but "
        f"the stage ends after {max_duration:g} s, before the first one",
    )


def _thompson(path: str, thompson: Thompson, policy: Policy) -> Iterator[Advice]:
    arms = 3 if policy.spec.candidates.on_new == "join" else 2
    if thompson.floor * arms >= 1:
        yield Advice(
            f"{path}.floor",
            f"a floor of {thompson.floor:g} for each of {arms} arms leaves nothing to learn with",
        )
    if thompson.max_loss == 0:
        yield Advice(
            f"{path}.max_loss",
            "the expected loss comes close to 0 and never is: no candidate would be promoted",
        )
    unit, segments = policy.spec.route.unit, thompson.segments
    named = "" if unit is None else (unit.header or "").lower()
    if segments is not None and segments.header.lower() == named:
        yield Advice(
            f"{path}.segments.header",
            f"{segments.header} names the unit: each unit would be a segment of its own, and there "
            "is nothing to learn of one unit",
        )


def _unproven(policy: Policy) -> Iterator[Advice]:
    if policy.spec.stages[-1].kind == "shadow":
        yield Advice(
            f"spec.stages[{len(policy.spec.stages) - 1}].shadow",
            "the last stage promotes, and no user sees what a shadow answers: the candidate would "
            "be promoted without one reward",
        )


def _sources(policy: Policy) -> Iterator[Advice]:
    events = {reward.event for reward in policy.all_rewards}
    for index, source in enumerate(policy.spec.sources):
        given = source.records.map
        path = f"spec.sources[{index}].{source.kind}.map"
        if given is None:
            continue
        if given.type == "exposure":
            if given.epoch is None and given.propensity is None:
                yield Advice(
                    path,
                    "neither epoch nor propensity says with which probability an arm was chosen: "
                    "such exposures tell nothing of a candidate",
                )
            continue
        yield from _unheard(f"{path}.name", str(given.name), events)
        if policy.spec.reward.join == "request_id" and given.request_id is None:
            yield Advice(
                path,
                "rewards are joined by request_id, but these name a unit only: none can be joined "
                "(spec.reward.join: unit)",
            )


def _unheard(path: str, name: str, events: set[str]) -> Iterator[Advice]:
    if is_path(name) or name in events:
        return
    yield Advice(
        path,
        f"every record is named {name}, which is no event of this policy "
        f"({', '.join(sorted(events))}), so none counts; a path begins with $",
    )


def _deploy(policy: Policy) -> Iterator[Advice]:
    deploy = policy.spec.deploy
    if deploy is None:
        return
    kind = "kubernetes" if deploy.kubernetes is not None else "kserve"
    pace, path = deploy.pace, f"spec.deploy.{kind}"
    if pace.deadline_s <= pace.warmup_s:
        yield Advice(
            f"{path}.progress_deadline",
            f"replicas are waited for {pace.deadline_s:g} s, but warm up for {pace.warmup_s:g} s: "
            "every rollout is given up before it begins",
        )
    if deploy.kubernetes is not None and pace.retain_s < _final_s(policy.spec.reward):
        yield Advice(
            f"{path}.retain",
            f"a champion that was replaced is scaled down after {pace.retain_s:g} s, but outcomes "
            f"are final after {_final_s(policy.spec.reward):g} s (window and grace): if they show "
            "harm, `undo` has to wait for replicas",
        )
    if policy.spec.route.unit is not None and (deploy.gateway or deploy.kserve):
        yield Advice(
            "spec.route.unit",
            "an HTTPRoute and KServe split each request by itself, so a unit does not stay with a "
            "version",
        )


_CHECKS: Final[tuple[Callable[[Policy], Iterator[Advice]], ...]] = (
    _reward,
    _guardrails,
    _stages,
    _unproven,
    _sources,
    _deploy,
)
