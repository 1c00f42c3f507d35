"""What rolls a candidate back in every stage, and what holds it: asked before anything else.

Which e-values these are, and what they must reach, stands in `conditions`. Signals about the data
(sample ratio, no rewards at all, rewards that stopped, silence) never roll back: they mean that the
evidence cannot be trusted, in either direction.
"""

from __future__ import annotations

from typing import Final

from controller.core.decide.conditions import (
    Condition,
    is_ratio_sound,
    named,
    proven_harm,
    sample_ratio,
)
from controller.core.decide.situation import Situation, for_people
from controller.core.model import CandidateEvidence, GuardEvidence, Ruling, Verdict

ENOUGH_OUTCOMES: Final = 100
"""Outcomes from which it is strange that not one has a reward: before, a rollout has just begun."""


_OF_REWARD: Final = frozenset({"reward_harm", "reward_fast"})


def harmed(
    situation: Situation, alpha: float, spared: frozenset[str] = frozenset()
) -> Ruling | None:
    """A roll-back of the first candidate whose harm is proven at `alpha`, else None.

    A worse reward is no reason to roll back those who are `spared`; a broken guardrail is.
    """
    for seen in situation.live:
        for condition in proven_harm(situation, seen, alpha):
            if condition.cause in _OF_REWARD and seen.candidate.arm in spared:
                continue
            reason = _sentence(seen, condition)
            arm = seen.candidate.arm
            return Ruling(Verdict.ROLL_BACK, condition.cause, reason, candidate=arm)
    return None


def doubt(situation: Situation) -> Ruling | None:
    """A hold where the data cannot be trusted, else None."""
    found = _absence(situation) or _ratio(situation) or _silence(situation) or _rewards(situation)
    if found is None:
        return None
    cause, reason = found
    return Ruling(Verdict.HOLD, cause, reason, situation.unchanged)


def _absence(situation: Situation) -> tuple[str, str] | None:
    """What a partition does not tell is missing: nothing of it is evidence, for or against."""
    if situation.health.unreported is None:
        return None
    return "unreported", silence_of(*situation.health.unreported)


def silence_of(partition: int, seconds: float) -> str:
    """That a partition is silent, for people."""
    return f"partition {partition} has told nothing for {for_people(seconds)}: its data are missing"


def _ratio(situation: Situation) -> tuple[str, str] | None:
    if is_ratio_sound(situation.health):
        return None
    for condition in sample_ratio(situation):
        if condition.is_met:
            reason = (
                f"sample ratio mismatch ({condition.name}): {condition.candidate} and "
                f"{situation.rollout.champion} did not get the traffic that the splits say, so the "
                "evidence cannot be trusted"
            )
            return "sample_ratio", reason
    return None


def _silence(situation: Situation) -> tuple[str, str] | None:
    health = situation.health
    if health.silent_s <= health.stale_after_s:
        return None
    return "stale", f"no request was answered for {for_people(health.silent_s)}: nothing is known"


def _rewards(situation: Situation) -> tuple[str, str] | None:
    health = situation.health
    outcomes = sum(seen.candidate.n for seen in situation.live)
    outcomes += situation.evidence[0].champion.n
    if outcomes >= ENOUGH_OUTCOMES and not health.rewards:
        # All are the default, so the arms look alike to the last digit: a broken pipe does that.
        return "no_rewards", f"no reward came for any of {outcomes} outcomes, so they say nothing"
    if health.join_fall is not None:
        now, before = health.join_fall
        reason = (
            f"{now:.2%} of the outcomes have a reward, it was {before:.2%}: rewards are lost or "
            "late, so the evidence cannot be trusted"
        )
        return "join_rate", reason
    return None


def unready(situation: Situation, seen: CandidateEvidence) -> tuple[str, str] | None:
    """Why a candidate whose worth is proven is still not promoted: (cause, reason), or None."""
    n, arm = seen.candidate.n, seen.candidate.arm
    if n < situation.min_units:
        return "min_units", f"{n} of {situation.min_units} units of {arm} were judged"
    return None


def _sentence(seen: CandidateEvidence, condition: Condition) -> str:
    bad, good = seen.candidate, seen.champion
    if condition.guard is not None:
        return f"{bad.arm} {_exceeds(seen, condition.guard)}: more than the guardrail allows"
    means = f"{_number(bad.mean)} against {_number(good.mean)}"
    chance = f"at most {condition.alpha:.2g} likely to be chance"
    if condition.cause == "reward_fast":
        return (
            f"{bad.arm} gets its rewards less often than {good.arm}, counted as they come in; so "
            f"far {means} on {bad.n} final outcomes, {chance}"
        )
    return f"{bad.arm} earns less than {good.arm}: {means} on {bad.n} outcomes, {chance}"


def _exceeds(seen: CandidateEvidence, guard: GuardEvidence) -> str:
    if guard.metric == "error_rate":
        bad, good = seen.candidate, seen.champion
        return (
            f"fails {_percent(bad.errors, bad.answers)} of its requests, "
            f"{good.arm} {_percent(good.errors, good.answers)}"
        )
    if guard.metric == "latency":
        limit = "" if guard.limit_ms is None else f" than {guard.limit_ms:.4g} ms"
        return (
            f"is slower than {seen.champion.arm} at {guard.detail}: {_share(guard.candidate)} of "
            f"its answers take longer{limit}, {_share(guard.champion)} of the champion's longer "
            "than its own"
        )
    means = f"{_number(guard.candidate)} against {_number(guard.champion)}"
    return f"has more {named(guard)} than {seen.champion.arm}, {means}"


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{value:.2%}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4g}"
