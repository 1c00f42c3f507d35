"""The game of one metric: cells wait, are bet on in one go, and only then teach the plug-in.

The order is the statement of this file:

    1. bet on every waiting cell with what was known of the champion before the first of them;
    2. only then learn the champion's mean from them (so that bets stay predictable);
    3. begin again where a start is due (see `restart`).

Why cells wait. A bet costs the same for one unit as for a million in its cell, and after a million
units one more changes nothing. So cells are collected until they are `PATIENCE` of all trials
so far: the work then grows with the logarithm of the traffic, and evidence is late by 1 % of
the traffic on average. What the wait must not delay is a catastrophe. So it also ends when a
candidate's waiting trials are worse than expected by `_ALARM` standard deviations.

Invariant: whether the wait is over depends on what has been observed only, never on what comes; the
bets were fixed before. So the wealth with all that waits bet on is a test martingale, and what is
shown is its value at some earlier times: a part of the path that Ville's inequality bounds as a
whole, alpha for alpha. (The mean of what is *shown* at a fixed time is at most 1 for promotion, but
not for harm, because alarms choose the moments at which harm is looked at. So thresholds may be
set on harm, averages of it over separate games may not be taken.) In the first hundred units
nothing waits.

Rejected: a wait by the clock (events have no say in it, and a fast model waits for too much).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from controller.core.estimate import moments, restart, sequential
from controller.core.estimate.book import Book
from controller.core.estimate.moments import PlugIn
from controller.core.estimate.restart import Wealth
from controller.core.model import Cells, Float, evolved, quick

PATIENCE = 0.02
"""Waiting trials over trials bet on, of any candidate, that end the wait."""

_ALARM = 2.0
_MOST_PARTS = 64
_MOST_CELLS = 256


@quick
@dataclass(frozen=True)
class Waiting:
    """What is seen and what of it is not bet on yet.

    seen      (C, 4) float64: n0, s0, n1, s1 of each candidate and the champion beside it, of all
    settled   (C, 4) float64: the same, of what was bet on
    expected  (C,) float64, the candidate's mean if it were the champion; NaN where not known
    variance  (C,) float64, of one trial around it
    """

    seen: Float
    settled: Float
    expected: Float
    variance: Float


def nothing(candidates: int) -> Waiting:
    """Nothing seen."""
    none, unknown = np.zeros((candidates, 4)), np.full(candidates, np.nan)
    return Waiting(none, none, unknown, unknown)


def is_due(waiting: Waiting, side: float) -> bool:
    """Whether the wait is over; `side` is +1 where more is worse, -1 where less is."""
    seen, settled = waiting.seen.tolist(), waiting.settled.tolist()
    guesses = zip(waiting.expected.tolist(), waiting.variance.tolist(), strict=True)
    for now, before, (expected, variance) in zip(seen, settled, guesses, strict=True):
        # a few candidates: plain numbers are faster than arrays
        n, past = now[0] + now[2] - before[0] - before[2], before[0] + before[2]
        if n > 0.0 and n >= PATIENCE * past:
            return True
        n1, s1 = now[2] - before[2], now[3] - before[3]
        if side * (s1 - n1 * expected) > _ALARM * math.sqrt(n1 * variance + 1.0):
            return True
    return False


def both(left: Waiting, right: Waiting) -> Waiting:
    """The candidates of both."""
    return Waiting(
        np.concatenate([left.seen, right.seen]),
        np.concatenate([left.settled, right.settled]),
        np.concatenate([left.expected, right.expected]),
        np.concatenate([left.variance, right.variance]),
    )


@quick
@dataclass(frozen=True)
class Game:
    """All that is known of one metric whose values lie in [0, 1].

    log_e      (C, F) float64, of each family of the book
    log_mixed  (C,) float64, of the first family with its restarts
    cells      that wait, in the parts in which they came
    epochs     changes of the split since the plug-in last learned
    """

    waiting: Waiting
    cells: tuple[Cells, ...]
    wealth: Wealth
    plug: PlugIn
    epochs: int
    log_e: Float
    log_mixed: Float


def start(book: Book, plug: PlugIn, candidates: int) -> Game:
    """The game before its first unit; with apart bins, `candidates` counts each with each bin."""
    wealth = restart.start(book, candidates)
    return Game(
        waiting=nothing(candidates),
        cells=(),
        wealth=wealth,
        plug=plug,
        epochs=0,
        log_e=restart.log_e(book, wealth),
        log_mixed=restart.log_mixed(book, wealth),
    )


def with_candidate(book: Book, game: Game, candidates: int = 1) -> Game:
    """The game with so many more candidates, whose e-values start at 1."""
    new = start(book, game.plug, candidates)
    return evolved(
        game,
        waiting=both(game.waiting, new.waiting),
        wealth=restart.joined(game.wealth, new.wealth),
        log_e=np.concatenate([game.log_e, new.log_e]),
        log_mixed=np.concatenate([game.log_mixed, new.log_mixed]),
    )


def new_epoch(game: Game) -> Game:
    """The game when the split changes; the plug-in is discounted when it learns next."""
    return evolved(game, epochs=game.epochs + 1)


def new_step(book: Book, game: Game) -> tuple[Game, Cells | None]:
    """The game at a start of its restarts, and the cells that were bet on before it."""
    game, cells = settled(book, game)
    wealth = restart.stepped(game.wealth)
    return evolved(game, wealth=wealth, log_mixed=restart.log_mixed(book, wealth)), cells


def observed(book: Book, game: Game, cells: Cells) -> tuple[Game, Cells | None]:
    """The game after these cells, and the cells that were bet on now, if the wait is over."""
    was = game.waiting
    seen = was.seen + moments.sums(cells, len(game.log_mixed))
    waiting = Waiting(seen, was.settled, was.expected, was.variance)
    game = evolved(game, waiting=waiting, cells=(*game.cells, cells))
    if is_due(waiting, float(book.side[0])):
        return settled(book, game)
    if len(game.cells) < _MOST_PARTS:
        return game, None
    merged = moments.merged(game.cells)
    game = evolved(game, cells=(merged,))
    return settled(book, game) if len(merged.pi) > _MOST_CELLS else (game, None)


def settled(book: Book, game: Game) -> tuple[Game, Cells | None]:
    """The game when all that waited is bet on and learned from, and these cells."""
    if not game.cells:
        return game, None
    cells = moments.merged(game.cells)
    wealth = _bet(book, game, cells)
    plug = moments.learned(moments.discounted(game.plug, game.epochs), cells)
    centre = moments.centre(plug)
    expected = np.tile(centre, len(game.log_mixed) // len(centre))
    after = Game(
        waiting=Waiting(
            game.waiting.seen, game.waiting.seen, expected, expected * (1.0 - expected)
        ),
        cells=(),
        wealth=wealth,
        plug=plug,
        epochs=0,
        log_e=restart.log_e(book, wealth),
        log_mixed=restart.log_mixed(book, wealth),
    )
    return after, cells


def _bet(book: Book, game: Game, cells: Cells) -> Wealth:
    p0_hat = moments.means(game.plug)
    if p0_hat is None:
        return game.wealth
    total = np.zeros_like(game.wealth.log_wealth)
    np.add.at(total, cells.candidate, sequential.gains(book, cells, p0_hat))
    counts = game.waiting.seen - game.waiting.settled
    return restart.earned(game.wealth, total, counts[:, 0] + counts[:, 2])
