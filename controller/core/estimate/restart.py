"""Wealth that can begin again: a candidate that turns bad after a good start is found all the same.

A product of e-values remembers. After 200 000 good requests the bets on "worse" have lost what the
first 200 000 cost them, and a regression must earn that back before it shows. So the gambler keeps
a share of the money out of the first game, the *cash*, and stakes it little by little later on:

    cash_0 = 1,   at a stake of the part f:   M <- M + f cash,   cash <- (1 - f) cash
    at each unit:                             M <- e M

    mixed = w E + (1 - w) (sum_k weight_k M_k + cash),                     w = KEPT

All that was staked on one bet grows by the same e-values afterwards, so one accumulator per bet
holds every start at once. Stakes are made

- whenever units have been bet on, such that cash ~ (trials)^(-RATE): as much for each per cent by
  which the trials grow, so that a change after 10^3 and one after 10^7 find money of their time;
- of the part STEP when a ramp step or a stage begins, the moments at which things go wrong.

A bet on "everything fails" is dead a few hundred good units after its stake, so what finds a
catastrophe among millions is the stake of the last batch: small, but such a bet makes two nats with
each failure.

Invariant: `mixed` is a test martingale where E is one: each stake begins at a time fixed before the
units it is bet on, and the last term is the money not staked yet. (A mixture over change points:
Shin, Ramdas, Rinaldo, arXiv:2203.03532, "e-detectors", used here with a sum of weights of 1, so
that the false alarms of the whole rollout together stay below alpha.)

Only the book's first family (harm; a guardrail that is broken) is kept from starts: promotion
must account for all that was seen since the beginning.

Rejected: a sliding window (its false alarms have no bound over a rollout), a reset per step (which
throws away the evidence of a harm that goes on), stakes of 1 / (j (j + 1)) at the j-th start (at
base 5 %, 25 % share, -20 % after 200 000 good requests, 96.3 % were caught within 120 000, now
99.2 %; and a catastrophe between two starts waits for the next one).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from controller.core.estimate.book import Book
from controller.core.model import Float, quick

KEPT = 0.8
"""The share that is in the game from the first unit on: the rest costs log(1 / 0.8) = 0.22."""

RATE = 0.2
"""Cash falls with this power of the trials: by a factor of 20 from `FIRST` to 10^9."""

FIRST = 500.0
"""Trials before which growth alone stakes nothing: there is no past to be late after."""

STEP = 0.05
"""The part of the cash that is staked when a step begins."""


@quick
@dataclass(frozen=True)
class Wealth:
    """What each bet made of 1, per candidate.

    log_wealth     (C, K) float64, natural logarithm
    log_restarted  (C, R) float64, log M of the book's R leading bets; -inf before the first stake
    log_cash       (C,) float64, what is not staked yet
    trials         (C,) float64, trials bet on: the candidate's and the champion's beside it
    """

    log_wealth: Float
    log_restarted: Float
    log_cash: Float
    trials: Float


def start(book: Book, candidates: int) -> Wealth:
    """Every bet of a book begins with 1."""
    return fresh(len(book.slope), candidates, restarted=book.restarted)


def fresh(bets: int, candidates: int, *, restarted: int) -> Wealth:
    """So many bets, of which the leading `restarted` are kept from starts, begin with 1."""
    return Wealth(
        log_wealth=np.zeros((candidates, bets)),
        log_restarted=np.full((candidates, restarted), -np.inf),
        log_cash=np.zeros(candidates),
        trials=np.zeros(candidates),
    )


def joined(left: Wealth, right: Wealth) -> Wealth:
    """The candidates of both."""
    return Wealth(
        log_wealth=np.concatenate([left.log_wealth, right.log_wealth]),
        log_restarted=np.concatenate([left.log_restarted, right.log_restarted]),
        log_cash=np.concatenate([left.log_cash, right.log_cash]),
        trials=np.concatenate([left.trials, right.trials]),
    )


def earned(wealth: Wealth, gains: Float, trials: Float) -> Wealth:
    """The wealth after these `gains` (C, K), sums of log e over `trials` (C,), and new stakes."""
    after = Wealth(
        log_wealth=wealth.log_wealth + gains,
        log_restarted=wealth.log_restarted + gains[:, : wealth.log_restarted.shape[1]],
        log_cash=wealth.log_cash,
        trials=wealth.trials + trials,
    )
    both = zip(wealth.trials.tolist(), after.trials.tolist(), strict=True)
    growth = [math.log(max(reached, FIRST) / max(before, FIRST)) for before, reached in both]
    return _staked(after, [-RATE * grown for grown in growth])


def stepped(wealth: Wealth) -> Wealth:
    """The wealth when a step begins."""
    return _staked(wealth, [math.log1p(-STEP)] * len(wealth.trials))


def _staked(wealth: Wealth, log_left: list[float]) -> Wealth:
    """The wealth when all of the cash is staked but the part exp(log_left), of each candidate.

    In plain numbers: candidates are few, and this is done several times a tick.
    """
    if not any(log_left):
        return wealth
    log_part = [math.log(-math.expm1(left)) if left else -math.inf for left in log_left]
    log_stake = wealth.log_cash + log_part
    return Wealth(
        log_wealth=wealth.log_wealth,
        log_restarted=np.logaddexp(wealth.log_restarted, log_stake[:, np.newaxis]),
        log_cash=wealth.log_cash + log_left,
        trials=wealth.trials,
    )


def log_e(book: Book, wealth: Wealth) -> Float:
    """The log e-value of each family, (C, F), of all since the beginning."""
    total: Float = np.logaddexp.reduceat(book.log_weights + wealth.log_wealth, book.starts, axis=1)
    return total


def log_mixed(book: Book, wealth: Wealth) -> Float:
    """The log e-value of the first family with its restarts, (C,)."""
    return mixed(book.log_weights[: book.restarted], wealth)


def mixed(log_weights: Float, wealth: Wealth, kept: float = KEPT) -> Float:
    """The same for the weights, (R,), of the leading bets; `kept` of it is in from the start."""
    leading = wealth.log_wealth[:, : len(log_weights)]
    first = np.logaddexp.reduce(log_weights + leading, axis=1)
    again = np.logaddexp.reduce(log_weights + wealth.log_restarted, axis=1)
    later = np.logaddexp(again, wealth.log_cash)
    log_kept, log_left = _parts(kept)
    total: Float = np.logaddexp(log_kept + first, log_left + later)
    return total


@lru_cache(maxsize=8)
def _parts(kept: float) -> tuple[Float, Float]:
    return np.log(kept), np.log1p(-kept)
