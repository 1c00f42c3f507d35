"""Wealth that can begin again: a candidate that turns bad after a good start is found all the same.

A product of e-values remembers. After 200 000 good requests the bets on "worse" have lost what the
first 200 000 cost them, and a regression must earn that back before it shows. So the gambler keeps
a share of the money out of the first game and stakes it later, at *starts*: when a ramp step
begins, and whenever the trials have grown by `GROWN` since the last start. At the j-th start

    gamma_j = 1 / (j (j + 1))        so that  sum_{j <= J} gamma_j = 1 - 1 / (J + 1)

of that share is staked and runs from there on. All that was staked on one bet grows by the same
e-values afterwards, so one accumulator per bet holds every start at once:

    M <- e M  at each unit,        M <- M + gamma_j  at the j-th start

    mixed = w E + (1 - w) (sum_k weight_k M_k + 1 / (J + 1)),        w = KEPT

Invariant: `mixed` is a test martingale where E is one: each stake begins at a time fixed before the
units it is bet on, and the last term is the money not staked yet. (A mixture over change points:
Shin, Ramdas, Rinaldo, arXiv:2203.03532, "e-detectors", used here with a sum of weights of 1, so
that the false alarms of the whole rollout together stay below alpha.)

Only the book's first family (harm; a guardrail that is broken) is kept from starts: promotion
must account for all that was seen since the beginning.

Rejected: a sliding window (its false alarms have no bound over a rollout), a reset per step (which
throws away the evidence of a harm that goes on).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.core.estimate.book import Book
from controller.core.model import Bool, Float, Int

KEPT = 0.9
"""The share that is in the game from the first unit on: the detour costs log(1 / 0.9) = 0.1."""

GROWN = 1.15
"""Trials since the rollout began over trials at the last start, from which a new start is due."""

FIRST = 500.0
"""Trials before which growth alone starts nothing: there is no past to be late after."""


@dataclass(frozen=True, slots=True)
class Wealth:
    """What each bet made of 1, per candidate.

    log_wealth     (C, K) float64, natural logarithm
    log_restarted  (C, R) float64, log M of the book's R leading bets; -inf before the first start
    starts         (C,) int64, how many there were
    trials         (C,) float64, trials bet on: the candidate's and the champion's beside it
    started        (C,) float64, `trials` at the last start
    """

    log_wealth: Float
    log_restarted: Float
    starts: Int
    trials: Float
    started: Float


def start(book: Book, candidates: int) -> Wealth:
    """Every bet begins with 1."""
    return Wealth(
        log_wealth=np.zeros((candidates, len(book.slope))),
        log_restarted=np.full((candidates, book.restarted), -np.inf),
        starts=np.zeros(candidates, np.int64),
        trials=np.zeros(candidates),
        started=np.zeros(candidates),
    )


def joined(left: Wealth, right: Wealth) -> Wealth:
    """The candidates of both."""
    return Wealth(
        log_wealth=np.concatenate([left.log_wealth, right.log_wealth]),
        log_restarted=np.concatenate([left.log_restarted, right.log_restarted]),
        starts=np.concatenate([left.starts, right.starts]),
        trials=np.concatenate([left.trials, right.trials]),
        started=np.concatenate([left.started, right.started]),
    )


def earned(wealth: Wealth, gains: Float, trials: Float) -> Wealth:
    """The wealth after these `gains` (C, K), sums of log e over `trials` (C,); starts when due."""
    reached = wealth.trials + trials
    after = replace(
        wealth,
        log_wealth=wealth.log_wealth + gains,
        log_restarted=wealth.log_restarted + gains[:, : wealth.log_restarted.shape[1]],
        trials=reached,
    )
    return restarted(after, reached >= np.maximum(FIRST, GROWN * wealth.started))


def restarted(wealth: Wealth, which: Bool) -> Wealth:
    """The wealth when one more stake is made for the candidates `which`, (C,)."""
    if not which.any() or not wealth.log_restarted.shape[1]:
        return wealth
    starts = wealth.starts + which
    log_gamma = np.full(len(starts), -np.inf)
    j = starts[which].astype(np.float64)
    log_gamma[which] = -np.log(j * (j + 1.0))
    return replace(
        wealth,
        log_restarted=np.logaddexp(wealth.log_restarted, log_gamma[:, np.newaxis]),
        starts=starts,
        started=np.where(which, wealth.trials, wealth.started),
    )


def log_e(book: Book, wealth: Wealth) -> Float:
    """The log e-value of each family, (C, F), of all since the beginning."""
    total: Float = np.logaddexp.reduceat(book.log_weights + wealth.log_wealth, book.starts, axis=1)
    return total


def log_mixed(book: Book, wealth: Wealth) -> Float:
    """The log e-value of the first family with its restarts, (C,)."""
    weights = book.log_weights[: book.restarted]
    first = np.logaddexp.reduce(weights + wealth.log_wealth[:, : book.restarted], axis=1)
    again = np.logaddexp.reduce(weights + wealth.log_restarted, axis=1)
    later = np.logaddexp(again, -np.log1p(wealth.starts))
    mixed: Float = np.logaddexp(np.log(KEPT) + first, np.log1p(-KEPT) + later)
    return mixed
