"""One reward as it is judged: its game, and where it is asked for the size of the effect.

A reward that is a yes or no is a `game` on cells; one that is an amount is a `purse` on a sample.
Here the two look alike, for those who read evidence. What is shown is worked out when units are bet
on, not when it is looked at: a tick on which all waits costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.core.estimate import effect, game, moments, purse
from controller.core.estimate.book import ERRORS, Book, guard_book, reward_book
from controller.core.estimate.effect import LiftWealth
from controller.core.estimate.game import Game
from controller.core.estimate.moments import Strata
from controller.core.estimate.purse import Purse, Rule
from controller.core.estimate.spec import EstimatorSpec, RewardSpec
from controller.core.model import Cells, Float, Sample, evolved

_PRIOR = (1.0, 0.5)
"""Pseudo-trials and their sum for the champion's mean."""


@dataclass(frozen=True)
class Reward:
    """All that is known of one reward; of `game` and `purse` one is there.

    lift       of a yes or no whose lift is asked for
    strata     of a reward whose lift is asked for, of cut values
    limits     (C, 2) float64, of the relative lift; (-1, inf) where it is not asked for
    ratio      (C,) float64, the estimate of mean1 / mean0; NaN where there is none
    intervals  (C, 2, 2) float64, of the champion's and the candidate's mean, scaled to [0, 1]
    """

    game: Game | None
    purse: Purse | None
    lift: LiftWealth | None
    strata: Strata | None
    limits: Float
    ratio: Float
    intervals: Float


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """What a reward is judged by; alpha is that of intervals."""

    spec: RewardSpec
    book: Book
    alpha: float
    bins: int
    has_lift: bool

    @property
    def rule(self) -> Rule:
        """The same, for a purse."""
        return Rule(self.book, self.spec.low, self.spec.high, self.has_lift)


def judge(spec: EstimatorSpec) -> Judge:
    """Of the reward that is to be made better."""
    reward = spec.reward
    width = reward.high - reward.low
    unit = width if reward.is_binary else 1.0
    book = reward_book(
        tuple(None if m is None else m / unit for m in spec.margins),
        contamination=spec.contamination * width / unit,
        min_effect=spec.min_effect,
        is_minimised=spec.is_minimised,
    )
    return Judge(reward, book, spec.interval_alpha, spec.bins, has_lift=True)


def guard(spec: RewardSpec, alpha: float, bins: int) -> Judge:
    """Of a second reward that must not increase by more than `max_increase`."""
    unit = spec.high - spec.low if spec.is_binary else 1.0
    book = guard_book(ERRORS, (spec.max_increase or 0.0) / unit)
    return Judge(spec, book, alpha, bins, has_lift=False)


def start(by: Judge, history: tuple[float, float, float], candidates: int) -> Reward:
    """Before the first unit."""
    played = kept = None
    if by.spec.is_binary:
        n, s = history[0], (history[1] - history[0] * by.spec.low) / (by.spec.high - by.spec.low)
        plug = moments.plug_in((n, s), prior_n=_PRIOR[0], prior_s=_PRIOR[1], bins=by.bins)
        played = game.start(by.book, plug, candidates)
    else:
        kept = purse.start(by.rule, history, bins=by.bins, candidates=candidates)
    has_lift_game = by.has_lift and by.spec.is_binary
    return Reward(
        game=played,
        purse=kept,
        lift=effect.start(candidates, by.bins) if has_lift_game else None,
        strata=moments.no_strata(candidates) if by.has_lift else None,
        limits=np.tile([-1.0, np.inf], (candidates, 1)),
        ratio=np.full(candidates, np.nan),
        intervals=np.tile([0.0, 1.0], (candidates, 2, 1)),
    )


def with_candidate(by: Judge, reward: Reward) -> Reward:
    """One more candidate."""
    new = start(by, (0.0, 0.0, 0.0), 1)
    strata = reward.strata
    if strata is not None:
        strata = replace(strata, closed=np.concatenate([strata.closed, np.zeros((1, 2))]))
    return Reward(
        game=None if reward.game is None else game.with_candidate(by.book, reward.game),
        purse=None if reward.purse is None else purse.with_candidate(by.rule, reward.purse),
        lift=None if reward.lift is None else effect.with_candidate(reward.lift),
        strata=strata,
        limits=np.concatenate([reward.limits, new.limits]),
        ratio=np.concatenate([reward.ratio, new.ratio]),
        intervals=np.concatenate([reward.intervals, new.intervals]),
    )


def new_epoch(reward: Reward) -> Reward:
    """When the split changes."""
    if reward.game is not None:
        return evolved(reward, game=game.new_epoch(reward.game))
    assert reward.purse is not None
    return evolved(reward, purse=replace(reward.purse, epochs=reward.purse.epochs + 1))


def new_step(by: Judge, reward: Reward) -> tuple[Reward, Cells | None]:
    """At a start of the restarts; and the cells that were bet on before it, if any waited."""
    if reward.game is not None:
        played, done = game.new_step(by.book, reward.game)
        return _sized(by, reward, evolved(reward, game=played), done), done
    assert reward.purse is not None
    kept, done = purse.new_step(by.rule, reward.purse)
    return _sized(by, reward, evolved(reward, purse=kept), done), done


def observed(
    by: Judge, reward: Reward, cells: Cells | None, sample: Sample | None
) -> tuple[Reward, Cells | None]:
    """Add units: `cells` of a yes or no, a `sample` of an amount; None or empty: nothing new.

    Gives the cells that were bet on now, too, if the wait is over.
    """
    if reward.game is not None and cells is not None and len(cells.pi):
        played, done = game.observed(by.book, reward.game, cells)
        return _sized(by, reward, evolved(reward, game=played), done), done
    if reward.purse is not None and sample is not None and len(sample.value):
        kept, done = purse.observed(by.rule, reward.purse, sample)
        return _sized(by, reward, evolved(reward, purse=kept), done), done
    return reward, None


def _sized(by: Judge, before: Reward, after: Reward, cells: Cells | None) -> Reward:
    """The reward with its effect as of the cells that were bet on just now, if any were."""
    if cells is None:
        return after
    after = evolved(after, intervals=_intervals(by, seen(after)))
    if before.strata is None:
        return after
    strata = moments.counted(before.strata, cells)
    after = evolved(after, strata=strata, ratio=moments.ratio(strata))
    if after.purse is not None:
        return evolved(after, limits=effect.limits(after.purse.lift_wealth, by.alpha))
    assert before.lift is not None
    assert before.game is not None
    assert after.game is not None
    lift = effect.observed(
        before.lift,
        cells,
        by.alpha,
        before=moments.means(before.game.plug),
        after=moments.means(after.game.plug),
    )
    return evolved(after, lift=lift, limits=lift.limits)


def _intervals(by: Judge, counts: Float) -> Float:
    n, s = counts[:, [0, 2]], counts[:, [1, 3]]
    if not by.spec.is_binary:
        s = np.clip((s - n * by.spec.low) / (by.spec.high - by.spec.low), 0.0, n)
    return effect.arm_intervals(n, s, by.alpha)


def seen(reward: Reward) -> Float:
    """n0, s0, n1, s1 of each candidate, (C, 4): scaled of a yes or no, raw of an amount."""
    if reward.game is not None:
        return reward.game.waiting.seen
    assert reward.purse is not None
    return reward.purse.waiting.seen


def log_e(reward: Reward) -> tuple[Float, Float]:
    """Log e-values of each family, (C, F), and of the first with its restarts, (C,)."""
    if reward.game is not None:
        return reward.game.log_e, reward.game.log_mixed
    assert reward.purse is not None
    return reward.purse.log_e, reward.purse.log_mixed


def share_cut(reward: Reward) -> float:
    """The share of outcomes that were cut at the cap."""
    if reward.purse is None or reward.purse.cut[0] <= 0.0:
        return 0.0
    return reward.purse.cut[1] / reward.purse.cut[0]
