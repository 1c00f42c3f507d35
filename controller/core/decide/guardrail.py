"""What rolls a candidate back in every stage, and what holds it: asked before anything else.

Harm is proven when an e-value passes 1 / (w alpha): by Ville's inequality the chance that this ever
happens to a candidate that is not worse is at most w alpha. The shares w of the several ways to
fail sum to one over the ways that the policy uses, so the chance of any false rollback over the
whole stage is at most alpha. Signals about the data itself (sample ratio, no rewards at all) never
roll back: they mean that the evidence cannot be trusted, in either direction.
"""

from __future__ import annotations

import math
from typing import Final

from controller.core.decide.situation import Situation
from controller.core.model import Ruling, Verdict

ERROR_SHARE: Final = 0.3
"""The share of `false_rollback` that the error guardrail may spend; the reward has the rest."""

SAMPLE_RATIO_THRESHOLD: Final = 1e4
"""An e-value beyond this says that arms did not get the traffic that the splits say."""


def harm(situation: Situation, alpha: float) -> Ruling | None:
    """A roll-back where harm is proven at `alpha`, else None."""
    evidence = situation.evidence
    error_share = ERROR_SHARE if situation.has_error_guardrail else 0.0
    if error_share and evidence.log_errors >= _threshold(error_share * alpha):
        return Ruling(Verdict.ROLL_BACK, "errors", _errors_sentence(situation))
    if evidence.log_harm >= _threshold((1 - error_share) * alpha):
        return Ruling(Verdict.ROLL_BACK, "reward_harm", _harm_sentence(situation, alpha))
    return None


def doubt(situation: Situation) -> Ruling | None:
    """A hold where the data cannot be trusted, else None."""
    seen, weights = situation.evidence, situation.split_at(situation.share)
    if situation.health.log_sample_ratio >= _threshold(1 / SAMPLE_RATIO_THRESHOLD):
        reason = (
            f"sample ratio mismatch: {seen.candidate.arm} and {seen.champion.arm} did not get the "
            "traffic that the splits say, so the evidence cannot be trusted"
        )
        return Ruling(Verdict.HOLD, "sample_ratio", reason, weights)
    outcomes = seen.candidate.n + seen.champion.n
    if outcomes and not situation.health.rewards:
        # All are the default, so the arms look alike to the last digit: a broken pipe does that.
        reason = f"no reward came for any of {outcomes} outcomes, so they say nothing"
        return Ruling(Verdict.HOLD, "no_rewards", reason, weights)
    return None


def proven(log_e: float, alpha: float) -> bool:
    """Whether an e-value is complete evidence at level `alpha`."""
    return log_e >= _threshold(alpha)


def progress(log_e: float, alpha: float) -> str:
    """An e-value against its threshold, for people."""
    return f"evidence {math.exp(min(log_e, 50.0)):.3g} of {1 / alpha:.3g}"


def _threshold(alpha: float) -> float:
    return -math.log(alpha)


def _errors_sentence(situation: Situation) -> str:
    bad, good = situation.evidence.candidate, situation.evidence.champion
    return (
        f"{bad.arm} fails {_percent(bad.errors, bad.answers)} of its requests, "
        f"{good.arm} {_percent(good.errors, good.answers)}: more than the guardrail allows"
    )


def _harm_sentence(situation: Situation, alpha: float) -> str:
    seen = situation.evidence
    means = f"{_number(seen.candidate.mean)} against {_number(seen.champion.mean)}"
    return (
        f"{seen.candidate.arm} earns less than {seen.champion.arm}: {means} on "
        f"{seen.candidate.n} outcomes, at most {alpha:.2g} likely to be chance"
    )


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4g}"
