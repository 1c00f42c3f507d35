"""The Thompson stage: each arm's share follows its probability to be the best.

The weights are the probabilities themselves, by quadrature, not draws: the split is the same on
replay, and its propensities are known. Both arms keep the floor. The stage ends on e-values, not on
the posterior alone, because looking at a posterior until it passes 99 % names a winner among equals
far more often than 1 %: the probability, the loss still possible, the outcomes *and* the e-value at
`1 - promote_probability` must all be there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from controller.core.decide.guardrail import doubt, harm, progress, proven
from controller.core.decide.situation import Situation
from controller.core.model import BASIS, Ruling, Verdict
from controller.core.policy import Stage, Thompson
from controller.errors import InvariantError

SMALLEST_CHANGE: Final = 50
"""Basis points: a smaller change of the split is not worth an epoch of its own."""


def rule(stage: Stage, situation: Situation) -> Ruling:
    """What the Thompson stage says now."""
    thompson = stage.thompson
    assert thompson is not None
    alpha = 1 - thompson.promote_probability
    decisive = harm(situation, alpha) or doubt(situation)
    if decisive is not None:
        return decisive
    weights = situation.split_at(_share(thompson, situation))
    seen = situation.evidence
    sentence = (
        f"{seen.candidate.arm} is best with probability {seen.p_best:.3g} on "
        f"{situation.stage_outcomes} outcomes, loss {seen.loss:.2%}"
    )
    if _is_best(thompson, situation) and proven(seen.log_superior, alpha):
        verdict = Verdict.PROMOTE if situation.is_last else Verdict.ADVANCE
        return Ruling(verdict, "better", sentence, weights)
    reason = f"exploring: {sentence}, {progress(seen.log_superior, alpha)}"
    return Ruling(Verdict.HOLD, "exploring", reason, weights)


def _is_best(thompson: Thompson, situation: Situation) -> bool:
    seen = situation.evidence
    return (
        situation.stage_outcomes >= thompson.min_outcomes
        and seen.p_best >= thompson.promote_probability
        and seen.loss <= thompson.max_loss
    )


def _share(thompson: Thompson, situation: Situation) -> int:
    """The candidate's share by `weights_of`, not changed more often than `update_every`.

    Both arms keep at least a basis point, whatever the floor: an arm without traffic can neither
    be compared with nor come back.
    """
    is_first = situation.rollout.weights_updated < situation.rollout.stage_started
    age_s = situation.now - situation.rollout.weights_updated
    if not is_first and age_s < thompson.update_every:
        return situation.share
    p_best = situation.evidence.p_best
    floor = min(max(thompson.floor, 1 / BASIS), 0.5)
    _, wanted = weights_of((1 - p_best, p_best), floor)
    if not is_first and abs(wanted - situation.share) < SMALLEST_CHANGE:
        return situation.share
    return wanted


def weights_of(best: Sequence[float], floor: float) -> tuple[int, ...]:
    """Basis points per arm: floor + (1 - K floor) P, summing to BASIS, each at least the floor.

    Rounded by largest remainder; of equal remainders the earlier arm's goes up.

    Raises:
        InvariantError: the floors do not fit into the whole, or the P do not sum to 1.
    """
    n_arms, total = len(best), sum(best)
    least = math.ceil(round(floor * BASIS, 6))
    if n_arms * least > BASIS or not abs(total - 1.0) < 1e-6 or min(best) < -1e-9:
        raise InvariantError(f"no split of {n_arms} arms with floor {floor} and P(best) {best}")
    free = BASIS - n_arms * least
    wanted = [free * max(p, 0.0) / total for p in best]
    whole = [int(w) for w in wanted]
    by_remainder = sorted(range(n_arms), key=lambda k: (whole[k] - wanted[k], k))
    for k in by_remainder[: free - sum(whole)]:
        whole[k] += 1
    return tuple(least + w for w in whole)
