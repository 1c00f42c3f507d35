"""The Thompson stage: each arm's share follows its probability to be the best.

The weights are the probabilities themselves, by quadrature, not draws: the split is the same on
replay, and its propensities are known. All arms keep the floor. Where the policy names segments,
each has weights of its own. The stage ends on e-values, not on the posterior alone, because looking
at a posterior until it passes 99 % names a winner among equals far more often than 1 %: the
probability, the loss still possible, the outcomes *and* the e-value at K / (1 -
`promote_probability`) must all be there, and the guardrails be proven to be kept.

Segments need not agree. A candidate that is the better one in some segment is not rolled back for
what it earns elsewhere: there its share goes to the floor. For the same reason it is not promoted,
to everybody, while the champion is the best of some segment with `promote_probability`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from controller.core.decide.conditions import claim, promotion
from controller.core.decide.guardrail import doubt, harmed, unready
from controller.core.decide.situation import Situation
from controller.core.model import BASIS, CandidateEvidence, Ruling, Verdict
from controller.core.policy import Stage, Thompson
from controller.errors import InvariantError

SMALLEST_CHANGE: Final = 50
"""Basis points: a smaller change of the split is not worth an epoch of its own."""


def rule(stage: Stage, situation: Situation) -> Ruling:
    """What the Thompson stage says now."""
    thompson = stage.thompson
    assert thompson is not None
    alpha = 1 - thompson.promote_probability
    decisive = harmed(situation, alpha, _liked_somewhere(situation)) or doubt(situation)
    if decisive is not None:
        return decisive
    weights = _weights(thompson, situation)
    segments = _segments(thompson, situation, weights)
    leader = max(situation.live, key=lambda seen: (seen.p_best, seen.log_superior))
    better = claim(stage, situation, leader)
    sentence = (
        f"{leader.candidate.arm} is best with probability {leader.p_best:.3g} on "
        f"{situation.stage_outcomes(leader)} outcomes, loss {leader.loss:.2%}"
    )
    arm = leader.candidate.arm
    cause = "exploring"
    if _is_best(thompson, situation, leader) and better.is_met:
        missing = _missing(stage, situation, leader) or _contested(thompson, situation, arm)
        if missing is None:
            verdict = Verdict.PROMOTE if situation.is_last else Verdict.ADVANCE
            return Ruling(verdict, "better", sentence, weights, segments=segments, candidate=arm)
        cause, what = missing
        sentence = f"{sentence}, but {what}"
    reason = f"exploring: {sentence}, {better.progress}"
    return Ruling(Verdict.HOLD, cause, reason, weights, segments=segments)


def _missing(stage: Stage, situation: Situation, seen: CandidateEvidence) -> tuple[str, str] | None:
    for condition in promotion(stage, situation, seen)[1:]:
        if not condition.is_met:
            return condition.cause, f"not yet proven {condition.name}: {condition.progress}"
    return unready(situation, seen)


def _liked_somewhere(situation: Situation) -> frozenset[str]:
    """Candidates that are more likely to be the best than the champion is, in some segment."""
    return frozenset(
        name
        for best in situation.segments.values()
        for name, p in zip(situation.rollout.live, best[1:], strict=True)
        if p > best[0]
    )


def _contested(thompson: Thompson, situation: Situation, arm: str) -> tuple[str, str] | None:
    """Segments that would lose by a promotion: (cause, words), or None."""
    limit = thompson.promote_probability
    theirs = sorted(name for name, best in situation.segments.items() if best[0] >= limit)
    if not theirs:
        return None
    champion = situation.rollout.champion
    return (
        "segments",
        f"{champion} is the best in {', '.join(theirs)}: {arm} is steered, not promoted",
    )


def _is_best(thompson: Thompson, situation: Situation, seen: CandidateEvidence) -> bool:
    return (
        situation.stage_outcomes(seen) >= thompson.min_outcomes
        and seen.p_best >= thompson.promote_probability
        and seen.loss <= thompson.max_loss
    )


def _is_due(thompson: Thompson, situation: Situation) -> bool:
    """Whether the weights may change now: not more often than `update_every`."""
    rollout = situation.rollout
    is_first = rollout.weights_updated < rollout.stage_started
    is_new_arm = set(situation.weights) - {rollout.champion} != set(rollout.live)
    age_s = situation.now - rollout.weights_updated
    return is_first or is_new_arm or age_s >= thompson.update_every


def _weights(thompson: Thompson, situation: Situation) -> dict[str, int]:
    """The pooled split by `weights_of`."""
    if not _is_due(thompson, situation):
        return situation.unchanged
    wanted = _by_best(thompson, situation, situation.best)
    rollout = situation.rollout
    is_first = rollout.weights_updated < rollout.stage_started
    if not is_first and not _moves(wanted, situation.weights):
        return situation.unchanged
    return wanted


def _segments(
    thompson: Thompson, situation: Situation, weights: dict[str, int]
) -> dict[str, dict[str, int]] | None:
    """The split of each segment; None leaves them as they are."""
    if thompson.segments is None or not _is_due(thompson, situation):
        return None
    return {
        name: _by_best(thompson, situation, best) if best else weights
        for name, best in situation.segments.items()
    }


def _by_best(thompson: Thompson, situation: Situation, best: Sequence[float]) -> dict[str, int]:
    """All arms keep at least a basis point, whatever the floor.

    An arm without traffic can neither be compared with nor come back.
    """
    names = (situation.rollout.champion, *situation.rollout.live)
    most = BASIS // len(names) / BASIS
    floor = min(max(thompson.floor, 1 / BASIS), most)
    return dict(zip(names, weights_of(best, floor), strict=True))


def _moves(wanted: dict[str, int], present: object) -> bool:
    """Whether some share changes by enough to be worth an epoch."""
    assert isinstance(present, dict)
    if set(wanted) != set(present):
        return True
    return any(abs(wanted[arm] - present[arm]) >= SMALLEST_CHANGE for arm in wanted)


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
