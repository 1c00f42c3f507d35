"""The game of one reward that is an amount: as `game`, with the stakes of `betting`.

The same order: bet on all that waits with what was known before; learn the champion's mean,
variance and cap; begin again where a start is due. Units wait as they came, one row each, until
they are `game.PATIENCE` of all or too many to carry; while they wait nothing is known of the
future, so the cap too is that of before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.core.estimate import betting, effect, game, histogram, moments, restart
from controller.core.estimate.betting import Guess, Units
from controller.core.estimate.book import Book
from controller.core.estimate.game import Waiting
from controller.core.estimate.histogram import Histogram
from controller.core.estimate.moments import HISTORY_CAP, SHRINKAGE, WARM_UP
from controller.core.estimate.restart import Wealth
from controller.core.model import Cells, Float, Sample

CAP_QUANTILE = 0.995
"""Of the champion's values above the least one: where values are cut."""

_CAP_WARM_UP = 200.0
"""Champion values above the least one before anything is cut."""

_MOST_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Past:
    """The champion's cut values per covariate bin, discounted; (B,) float64 each.

    n, s, q  trials, sum, sum of squares
    """

    n: Float
    s: Float
    q: Float


@dataclass(frozen=True, slots=True)
class Purse:
    """All that is known of one reward that is an amount.

    sample       that waits, in the parts in which it came
    lift_wealth  (C, L) float64, of the bets of `effect.BOOK`; (C, 0) where no lift is asked for
    tail         of the champion's values above the least one, as shares of the range
    cut          outcomes that were bet on; those of them that were cut
    log_e, log_mixed, epochs  as in `game.Game`
    """

    waiting: Waiting
    sample: tuple[Sample, ...]
    wealth: Wealth
    lift_wealth: Float
    past: Past
    tail: Histogram
    cut: tuple[float, float]
    epochs: int
    log_e: Float
    log_mixed: Float


@dataclass(frozen=True, slots=True)
class Rule:
    """What an amount is judged by: its book, its range, and whether its lift is asked for."""

    book: Book
    low: float
    high: float
    has_lift: bool


def start(rule: Rule, history: tuple[float, float, float], *, bins: int, candidates: int) -> Purse:
    """Before the first unit; `history` is the champion's (n, sum, sum of squares)."""
    scale = min(1.0, HISTORY_CAP / history[0]) if history[0] > 0.0 else 0.0
    n, s, q = (np.eye(1, bins)[0] * (part * scale) for part in history)
    wealth = restart.start(rule.book, candidates)
    return Purse(
        waiting=game.nothing(candidates),
        sample=(),
        wealth=wealth,
        lift_wealth=np.zeros((candidates, len(effect.BOOK.slope) if rule.has_lift else 0)),
        past=Past(n, s, q),
        tail=histogram.empty(),
        cut=(0.0, 0.0),
        epochs=0,
        log_e=restart.log_e(rule.book, wealth),
        log_mixed=restart.log_mixed(rule.book, wealth),
    )


def with_candidate(rule: Rule, purse: Purse) -> Purse:
    """One more candidate, whose e-values start at 1."""
    new = start(rule, (0.0, 0.0, 0.0), bins=1, candidates=1)
    return replace(
        purse,
        waiting=game.both(purse.waiting, new.waiting),
        wealth=restart.joined(purse.wealth, new.wealth),
        lift_wealth=np.concatenate([purse.lift_wealth, new.lift_wealth]),
        log_e=np.concatenate([purse.log_e, new.log_e]),
        log_mixed=np.concatenate([purse.log_mixed, new.log_mixed]),
    )


def new_step(rule: Rule, purse: Purse) -> tuple[Purse, Cells | None]:
    """The purse at a start of its restarts, and counts of what was bet on before it."""
    purse, cells = settled(rule, purse)
    wealth = restart.stepped(purse.wealth)
    mixed = restart.log_mixed(rule.book, wealth)
    return replace(purse, wealth=wealth, log_mixed=mixed), cells


def observed(rule: Rule, purse: Purse, sample: Sample) -> tuple[Purse, Cells | None]:
    """The purse after this sample, and counts of what was bet on now, of cut values."""
    candidates = len(purse.log_mixed)
    sample = replace(sample, pi=_widened(sample.pi, candidates))
    waiting = replace(purse.waiting, seen=purse.waiting.seen + _counts(sample))
    purse = replace(purse, waiting=waiting, sample=(*purse.sample, sample))
    rows = sum(len(part.value) for part in purse.sample)
    if game.is_due(waiting, float(rule.book.side[0])) or rows > _MOST_ROWS:
        return settled(rule, purse)
    return purse, None


def settled(rule: Rule, purse: Purse) -> tuple[Purse, Cells | None]:
    """The purse when all that waited is bet on and learned from, and counts of it."""
    if not purse.sample:
        return purse, None
    candidates = len(purse.log_mixed)
    sample = _joined(purse.sample, candidates)
    guess = guessed(rule, purse)
    known = (
        guess
        if guess is not None
        else Guess(np.zeros(len(purse.past.n)), 0.0, rule.low, _cap(rule, purse))
    )
    rows = betting.units(sample, known)
    wealth, lift_wealth = purse.wealth, purse.lift_wealth
    if guess is not None:
        counts = purse.waiting.seen - purse.waiting.settled
        gains = betting.gains(rule.book, rows, guess, candidates)
        wealth = restart.earned(wealth, gains, counts[:, 0] + counts[:, 2])
        if rule.has_lift:
            lift_wealth = lift_wealth + betting.lift_gains(rows, guess, candidates)
    is_cut = float(np.count_nonzero(sample.value > known.cap))
    learned = replace(
        _learned(rule, purse, sample, known.cap),
        sample=(),
        wealth=wealth,
        lift_wealth=lift_wealth,
        cut=(purse.cut[0] + len(sample.value), purse.cut[1] + is_cut),
        log_e=restart.log_e(rule.book, wealth),
        log_mixed=restart.log_mixed(rule.book, wealth),
    )
    return _expecting(rule, learned), _cells(rows)


def guessed(rule: Rule, purse: Purse) -> Guess | None:
    """What is thought of the champion now; None before the warm-up is over."""
    past, cap = purse.past, _cap(rule, purse)
    total = float(past.n.sum())
    if total < WARM_UP:
        return None
    centre = float(past.s.sum()) / total
    mean = (past.s + SHRINKAGE * centre) / (past.n + SHRINKAGE)
    mean = np.clip(mean, rule.low, cap)
    residual = float((past.q - 2.0 * mean * past.s + mean * mean * past.n).sum())
    # One trial with the greatest variance that a mean inside [low, cap] allows: Bhatia & Davis.
    widest = float((centre - rule.low) * max(cap - centre, 0.0))
    return Guess(mean, (max(residual, 0.0) + widest) / (total + 1.0), rule.low, cap)


def _cap(rule: Rule, purse: Purse) -> float:
    if histogram.total(purse.tail) < _CAP_WARM_UP:
        return rule.high
    share = float(histogram.quantiles(purse.tail, np.array([CAP_QUANTILE]))[0])
    return rule.low + share * (rule.high - rule.low)


def _learned(rule: Rule, purse: Purse, sample: Sample, cap: float) -> Purse:
    """The purse when it knows the champion's part of the sample."""
    past = purse.past
    total = float(past.n.sum())
    left = 1.0
    if total > HISTORY_CAP:
        left = max(moments.EPOCH_DISCOUNT**purse.epochs, HISTORY_CAP / total)
    is_champion = sample.arm == 0
    bins, raw = sample.bin[is_champion], sample.value[is_champion]
    value = np.clip(raw, rule.low, cap)
    n, s, q = (
        old * left + np.bincount(bins, weights, len(old))
        for old, weights in ((past.n, None), (past.s, value), (past.q, value * value))
    )
    above = (raw[raw > rule.low] - rule.low) / (rule.high - rule.low)
    return replace(purse, past=Past(n, s, q), tail=histogram.added(purse.tail, above), epochs=0)


def _expecting(rule: Rule, purse: Purse) -> Purse:
    """The purse with what the next units should be like."""
    guess, shape = guessed(rule, purse), len(purse.log_mixed)
    centre = float(purse.past.s.sum() / purse.past.n.sum()) if guess else np.nan
    seen = purse.waiting.seen
    return replace(
        purse,
        waiting=Waiting(
            seen, seen, np.full(shape, centre), np.full(shape, guess.variance if guess else np.nan)
        ),
    )


def _counts(sample: Sample) -> Float:
    """n0, s0, n1, s1 of each candidate and the champion beside it, of values as reported."""
    is_known = (sample.pi > 0.0) & (sample.pi < 1.0)
    champion = (sample.arm == 0).astype(np.float64)
    own = is_known & (sample.arm[:, np.newaxis] == 1 + np.arange(sample.pi.shape[1]))
    return np.column_stack(
        [
            champion @ is_known,
            (champion * sample.value) @ is_known,
            own.sum(axis=0),
            sample.value @ own,
        ]
    )


def _cells(rows: Units) -> Cells:
    """Counts of units, of cut values."""
    one = rows.is_candidate.astype(np.float64)
    n0, n1 = rows.n * (1.0 - one), rows.n * one
    return moments.merged(
        [
            Cells(
                candidate=rows.candidate,
                stratum=rows.stratum,
                bin=rows.bin,
                pi=rows.pi,
                n0=n0,
                s0=n0 * rows.value,
                n1=n1,
                s1=n1 * rows.value,
            )
        ]
    )


def _joined(parts: tuple[Sample, ...], candidates: int) -> Sample:
    return Sample(
        arm=np.concatenate([part.arm for part in parts]),
        stratum=np.concatenate([part.stratum for part in parts]),
        bin=np.concatenate([part.bin for part in parts]),
        pi=np.concatenate([_widened(part.pi, candidates) for part in parts]),
        value=np.concatenate([part.value for part in parts]),
    )


def _widened(pi: Float, candidates: int) -> Float:
    """The propensities with a column for each candidate that joined since."""
    missing = candidates - pi.shape[1]
    return pi if missing <= 0 else np.pad(pi, ((0, 0), (0, missing)), constant_values=np.nan)
