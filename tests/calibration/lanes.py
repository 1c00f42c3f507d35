"""Many rollouts side by side, each with a champion of its own: run r is candidate r and bin r."""

from dataclasses import dataclass

import numpy as np

from controller.core.estimate import restart, sequential
from controller.core.estimate.restart import Wealth
from controller.core.model import Cells


@dataclass
class Lanes:
    """A book's wealth in each run, and what is known of each champion: n trials, sum s."""

    book: object
    rng: np.random.Generator
    wealth: Wealth
    n: np.ndarray
    s: np.ndarray


def start(book, runs, base, seed):
    """All runs with 200 trials of history at `base`."""
    rng = np.random.default_rng(seed)
    s = rng.binomial(200, base, runs).astype(float)
    return Lanes(book, rng, restart.start(book, runs), np.full(runs, 200.0), s)


def batch(lanes, units, pi, p0, p1):
    """One batch in every run: bet with the champion as known before, then learn it."""
    runs = len(lanes.n)
    n1 = lanes.rng.binomial(units, pi, runs).astype(float)
    n0 = units - n1
    s0, s1 = lanes.rng.binomial(n0.astype(int), p0), lanes.rng.binomial(n1.astype(int), p1)
    at = np.arange(runs)
    cells = Cells(
        candidate=at,
        stratum=np.zeros(runs, np.int64),
        bin=at,
        pi=np.full(runs, float(pi)),
        n0=n0,
        s0=s0.astype(float),
        n1=n1,
        s1=s1.astype(float),
    )
    gains = sequential.gains(lanes.book, cells, (lanes.s + 0.5) / (lanes.n + 1.0))
    lanes.wealth = restart.earned(lanes.wealth, gains, np.full(runs, float(units)))
    lanes.n, lanes.s = lanes.n + n0, lanes.s + s0


def log_e(lanes, family):
    """Per run: of a family since the beginning; of the first one with its restarts."""
    if family == 0:
        return restart.log_mixed(lanes.book, lanes.wealth)
    return restart.log_e(lanes.book, lanes.wealth)[:, family]
