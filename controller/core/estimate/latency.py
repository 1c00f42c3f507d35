"""Is the candidate slower: its answers against limits that the champion's past latencies set.

For each watched quantile q the limit x_q is fixed before an answer comes: what the champion
exceeded with the share 1 - q lately. An answer's value is then 1 if it took longer than its limit,
a coin like an error, and the one engine of `sequential` compares the arms. Where an increase m is
tolerated, the candidate is held against (1 + m) x_q while the champion is held against x_q:

    null of worse    P(candidate > (1 + m) x_q) <= P(champion > x_q)       for each watched q
    null of within   P(candidate > (1 + m) x_q) >= P(champion > x_q)       for the declared q alone

Which quantile moves is not known: the e-values of "worse" are averaged, which is an e-value as
well and costs at most log(number of quantiles). Only quantiles up to the declared one are watched:
a policy that bounds the p95 says nothing of the p99.

A limit is the end of a bin of the champion's histogram. So how many answers lie in each bin (of
latencies, and of latencies over 1 + m) says all that the test asks, whatever the limits will be:
such counts of several joiners add up, before anybody knows which arm is the champion.

Invariant: limits are functions of earlier answers, so neither wrong nor stale limits break the
level; they cost power only. The plug-in begins at 1 - q, by the definition of x_q.

Rejected: bands around both distribution functions (DKW: 54 500 requests where this takes 15 500, at
5 % share and +10 %), means of latencies (one timeout outweighs a thousand answers).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from controller.core.estimate import game, histogram
from controller.core.estimate.book import ERRORS, Book, guard_book
from controller.core.estimate.game import Game
from controller.core.estimate.histogram import Histogram
from controller.core.estimate.moments import PlugIn
from controller.core.model import Cells, Float, Int

_WATCHED = (0.5, 0.75, 0.9, 0.95, 0.99)

BOOK: Book = guard_book(ERRORS, 0.0)
"""Worse, and within: that an increase is tolerated is in the limits already."""

_LONGEST_MS = 1e7
_MEMORY = 20_000.0
"""Champion answers after which an answer counts for 1/e."""

_WARM_UP = 100.0
_BEYOND = 5.0
"""Champion answers, and answers beyond a quantile, before it is used as a limit."""

_PRIOR_N = 50.0

UNKNOWN = histogram.BINS
"""The bin of a limit that is not known yet: no answer is in a later one."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The champion's latencies, as shares of the longest one, and the game.

    The game's rows are candidate x quantile, its bins are the quantiles.
    """

    past: Histogram
    game: Game


@lru_cache(maxsize=64)
def watched(declared: float) -> tuple[float, ...]:
    """The quantiles that are watched, rising; the last one is the declared one."""
    return (*(q for q in _WATCHED if q < declared), declared)


def start(declared: float, candidates: int) -> Latency:
    """Before the first answer."""
    at = np.array(watched(declared))
    none = np.zeros(len(at))
    plug = PlugIn(n=none, s=none, prior_n=_PRIOR_N, prior_s=_PRIOR_N * (1.0 - at), is_apart=True)
    return Latency(histogram.empty(), game.start(BOOK, plug, candidates * len(at)))


def with_candidate(declared: float, latency: Latency) -> Latency:
    """One more candidate."""
    more = len(watched(declared))
    return replace(latency, game=game.with_candidate(BOOK, latency.game, more))


def bins(ms: Float, increase: float | Float = 0.0) -> Int:
    """The bin of each latency, as it is held against limits that are (1 + increase) as long."""
    return histogram.bins(ms / ((1.0 + increase) * _LONGEST_MS))


def counted(rows: Int, n: Float | None = None) -> Float:
    """(H,) how many answers are in each bin: one, or `n`, for each of the rows."""
    return np.bincount(rows, n, histogram.BINS).astype(np.float64)


def limits(declared: float, latency: Latency) -> Int:
    """The bins at whose ends the limits lie, (Q,): longer is what is in a later one.

    `UNKNOWN` for quantiles beyond which the champion has had too few answers yet.
    """
    at = np.array(watched(declared))
    n = histogram.total(latency.past)
    found = np.full(len(at), UNKNOWN)
    known = (n >= _WARM_UP) & (n * (1.0 - at) >= _BEYOND)
    if known.any():
        found[known] = histogram.quantile_bins(latency.past, at[known])
    return found


def limits_ms(declared: float, increase: float, latency: Latency) -> Float:
    """The champion's limits x_q and the candidates' (1 + increase) x_q in ms, (Q, 2), or NaN."""
    found = np.append(histogram.ENDS * _LONGEST_MS, np.nan)[limits(declared, latency)]
    return np.column_stack([found, (1.0 + increase) * found])


def observed(latency: Latency, cells: tuple[Cells, ...], champion: Float) -> Latency:
    """Add answers: cells of exceedances per watched quantile; then learn the champion's.

    champion  (H,) how many of the champion's answers are in each bin
    """
    played = latency.game
    rows = _stacked(cells)
    if len(rows.candidate):
        played, _ = game.observed(BOOK, played, rows)
    past = latency.past
    if n := float(champion.sum()):
        past = histogram.faded(past, float(np.exp(-n / _MEMORY)))
        past = histogram.with_counts(past, champion)
    return Latency(past, played)


def _stacked(cells: tuple[Cells, ...]) -> Cells:
    """All quantiles' cells as those of one game."""
    place = np.repeat(np.arange(len(cells)), [len(part.pi) for part in cells])
    return Cells(
        candidate=np.concatenate([part.candidate for part in cells]) * len(cells) + place,
        stratum=np.concatenate([part.stratum for part in cells]),
        bin=place,
        pi=np.concatenate([part.pi for part in cells]),
        n0=np.concatenate([part.n0 for part in cells]),
        s0=np.concatenate([part.s0 for part in cells]),
        n1=np.concatenate([part.n1 for part in cells]),
        s1=np.concatenate([part.s1 for part in cells]),
    )


def log_worse(latency: Latency, quantiles: int) -> tuple[Float, Int]:
    """Per candidate the log of the averaged e-values, and which quantile has the largest."""
    each = latency.game.log_mixed.reshape(-1, quantiles)
    return np.logaddexp.reduce(each, axis=1) - np.log(quantiles), each.argmax(axis=1)


def log_within(latency: Latency, quantiles: int) -> Float:
    """Per candidate the log e-value that the declared quantile is within its bound, (C,)."""
    within: Float = latency.game.log_e[quantiles - 1 :: quantiles, 1]
    return within
