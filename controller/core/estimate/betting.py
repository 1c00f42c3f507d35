"""Rewards that are amounts: betting on inverse-propensity differences.

For a unit with arm A, propensity pi, value Y in [low, cap] and a guess m of the champion's mean
that was fixed before (per covariate bin),

    phi = A (Y - m) / pi - r (1 - A) (Y - m) / (1 - pi) + (1 - r) m,     E[phi] = mu1 - r mu0   (1)

whatever m is: the augmented inverse-propensity score. Against the null mu1 - r mu0 <= d a gambler
stakes the share lambda, against >= d the share -lambda:

    capital = prod (1 + lambda side (phi - d))                                                 (2)

Invariant: E[1 + lambda side (phi - d)] = 1 + lambda side (mu1 - r mu0 - d) <= 1 under the null, and
each factor is positive as long as lambda < 1 / -min(side (phi - d)) over the four corners of
A in {0, 1} and Y in {low, cap}. Stakes stay below 0.9 of it. (Waudby-Smith & Ramdas,
arXiv:2010.09686, section 4; with known propensities Waudby-Smith et al., arXiv:2210.10768.)

Stakes. For the alternative delta beyond the null, lambda = delta / (V + delta^2) maximises the
growth to second order, V = sigma^2 / (pi (1 - pi)) the variance of phi. sigma^2 is the champion's
running variance around m(X): a good covariate lets one bet more.

The cap. One order of a million would decide everything, and its mere possibility forbids to bet:
the stakes are bounded by the greatest value. So values are cut at the champion's running 99.5 %
quantile *of the values above the least one* (most visitors buy nothing: of all values the quantile
would often be nothing too). The cap is fixed before the value comes, the compared
means are those of the cut values, and the evidence says which share was cut.

The lift. For each ratio r the capital (2) with d = 0, both sides. Some 1 000 bets on each unit
are too many, so the logarithm is bounded from below by a parabola,

    log(1 + x) >= x + x^2 (log(1 - c) + c) / c^2        for x >= -c,                           (3)

(Fan, Grama, Liu, arXiv:1311.6273, lemma 4.1), whose sums need only n, sum and sum of squares. What
is lost is little where stakes are small, and never the coverage.

Rejected: (n, s) of scaled values as for coins (valid, but blind to the variance: 10 to 100 times
the sample for amounts), asymptotic intervals (see `sequential`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.core.estimate import effect
from controller.core.estimate.book import Book
from controller.core.model import Bool, Float, Int, Sample

_CAUTION = 0.9
"""Stakes over the greatest one that keeps every factor of (2) positive."""

_LIFT_CAUTION = 0.5
"""The same for the lift, where (3) gets poor near the limit."""

_LEAST = 1e-300


@dataclass(frozen=True, slots=True)
class Guess:
    """What is thought of the champion before the units that are bet on.

    mean      (B,) float64, per covariate bin, of cut values
    variance  of cut values around it
    low, cap  the least and the greatest value
    """

    mean: Float
    variance: float
    low: float
    cap: float


@dataclass(frozen=True, slots=True)
class Units:
    """Units alike in everything that is bet on, by candidate; all arrays (M,).

    candidate     int64
    is_candidate  bool, the arm
    stratum, bin  int64
    pi            float64, strictly inside (0, 1)
    value         float64, cut
    n             float64, how many
    """

    candidate: Int
    is_candidate: Bool
    stratum: Int
    bin: Int
    pi: Float
    value: Float
    n: Float


def units(sample: Sample, guess: Guess) -> Units:
    """The units of a sample, the champion's once for each candidate that it stands beside."""
    candidates = sample.pi.shape[1]
    is_usable = (sample.pi > 0.0) & (sample.pi < 1.0)
    is_own = sample.arm[:, np.newaxis] == 1 + np.arange(candidates)
    is_champion = (sample.arm == 0)[:, np.newaxis]
    rows, candidate = np.nonzero(is_usable & (is_own | is_champion))
    return _merged(
        candidate,
        sample.arm[rows] > 0,
        sample.stratum[rows],
        sample.bin[rows],
        sample.pi[rows, candidate],
        np.clip(sample.value[rows], guess.low, guess.cap),
    )


def _merged(*columns: np.ndarray) -> Units:
    """Rows that are alike in everything, once, by candidate, arm, stratum, bin, pi and value."""
    order = np.lexsort(columns[::-1])
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = False
    for column in columns:
        is_new[1:] |= column[order[1:]] != column[order[:-1]]
    first = np.flatnonzero(is_new)
    n = np.diff(np.append(first, len(order))).astype(np.float64)
    candidate, is_candidate, stratum, covariate, pi, value = (
        column[order[first]] for column in columns
    )
    return Units(candidate, is_candidate, stratum, covariate, pi, value, n)


def gains(book: Book, rows: Units, guess: Guess, candidates: int) -> Float:
    """The sum of the logarithms of (2) over each candidate's units, for each bet: (C, K)."""
    mean = guess.mean[rows.bin][:, np.newaxis]
    pi = rows.pi[:, np.newaxis]
    stake = _stakes(book, pi, mean, guess, caution=_CAUTION)[0]
    slope = np.where(rows.is_candidate, 1.0 / rows.pi, -1.0 / (1.0 - rows.pi))[:, np.newaxis]
    phi = slope * (rows.value[:, np.newaxis] - mean)
    logs = rows.n[:, np.newaxis] * np.log1p(stake * (book.side * (phi - book.shift)))
    return _by_candidate(logs, rows.candidate, candidates)


def lift_gains(rows: Units, guess: Guess, candidates: int) -> Float:
    """Lower bounds (3) of the same sums for the bets on ratios, `effect.BOOK`: (C, K)."""
    book = effect.BOOK
    groups, n, s, q = _sums(rows)
    mean = guess.mean[rows.bin[groups]][:, np.newaxis]
    pi = rows.pi[groups][:, np.newaxis]
    stake, worst = _stakes(book, pi, mean, guess, caution=_LIFT_CAUTION)
    is_candidate = rows.is_candidate[groups][:, np.newaxis]
    slope = np.where(is_candidate, 1.0 / pi, -book.ratio / (1.0 - pi))
    offset = (1.0 - book.ratio) * mean - slope * mean
    first = book.side * (offset * n + slope * s)
    second = offset * offset * n + 2.0 * offset * slope * s + slope * slope * q
    logs = stake * first - _curvature(stake * worst) * stake * stake * second
    return _by_candidate(logs, rows.candidate[groups], candidates)


def _stakes(
    book: Book, pi: Float, mean: Float, guess: Guess, *, caution: float
) -> tuple[Float, Float]:
    """Lambda of (2), 0 where the alternative lies in the null, and the worst loss of stake 1."""
    r, m = book.ratio, mean
    beyond = book.side * ((book.slope - r) * np.abs(m) + book.offset - book.shift)
    variance = guess.variance * (r / pi + r * r / (1.0 - pi))
    down = np.minimum((guess.low - m) / pi, -r * (guess.cap - m) / (1.0 - pi))
    up = np.maximum((guess.cap - m) / pi, r * (m - guess.low) / (1.0 - pi))
    centre = (1.0 - r) * m - book.shift
    worst = np.where(book.side > 0.0, -(down + centre), up + centre)
    worst = np.maximum(worst, _LEAST)
    wanted = beyond / np.maximum(variance + beyond * beyond, _LEAST)
    return np.where(beyond > 0.0, np.minimum(wanted, caution / worst), 0.0), worst


def _curvature(c: Float) -> Float:
    """-(log(1 - c) + c) / c^2, which begins at 1/2 for c = 0."""
    some = np.maximum(c, 1e-4)
    found: Float = np.where(c > 1e-4, -(np.log1p(-some) + some) / (some * some), 0.5 + c)
    return found


def _sums(rows: Units) -> tuple[Int, Float, Float, Float]:
    """First rows of the groups that differ in value only; n, sum and sum of squares, (G, 1)."""
    is_new = np.ones(len(rows.n), np.bool_)
    is_new[1:] = False
    for column in (rows.candidate, rows.is_candidate, rows.stratum, rows.bin, rows.pi):
        is_new[1:] |= column[1:] != column[:-1]
    first = np.flatnonzero(is_new)
    powers = [rows.n, rows.n * rows.value, rows.n * rows.value * rows.value]
    n, s, q = (np.add.reduceat(column, first)[:, np.newaxis] for column in powers)
    return first, n, s, q


def _by_candidate(logs: Float, candidate: Int, candidates: int) -> Float:
    """Sums over the rows of each candidate, which stand together: (C, K)."""
    total = np.zeros((candidates, logs.shape[1]))
    if len(candidate):
        present, first = np.unique(candidate, return_index=True)
        total[present] = np.add.reduceat(logs, first)
    return total
