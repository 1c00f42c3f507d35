"""A long good past, then harm: what it takes to notice, with restarts and without.

Half of the requests go to each arm. The champion has 5 %, the candidate too for 200 000 requests,
and a fifth less from then on. Noticed is what reaches 1/alpha within the next 120 000.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from controller.core import estimate
from controller.core.estimate import EstimatorSpec, History
from tests.bench.information import ALPHA, PAST, REWARD, Draws, Problem, mixture, one_cell
from tests.bench.scenes import GOOD

WITHIN = 120_000
SIZE = 1_000
"""Requests per look."""

_PROBLEM = Problem("late regression", 0.05, 0.04, 0.5)


def draws(runs: int, rng: Generator) -> Draws:
    """Counts of a good past and a bad present, (runs, looks)."""
    looks = (GOOD + WITHIN) // SIZE
    p1 = np.where(np.arange(looks) < GOOD // SIZE, _PROBLEM.p0, _PROBLEM.p1)
    n1 = rng.binomial(SIZE, _PROBLEM.pi, (runs, looks))
    n0 = SIZE - n1
    return Draws(SIZE, n0, rng.binomial(n0, _PROBLEM.p0), n1, rng.binomial(n1, p1))


def never_restarted(*, runs: int, seed: int) -> list[bool]:
    """The mixture over effects that began with the rollout, champion's mean known."""
    units = mixture(_PROBLEM, draws(runs, np.random.default_rng([seed, 0])))
    return (units < GOOD + WITHIN).tolist()


def restarted(numbers: range, *, seed: int) -> list[bool]:
    """What the product's estimators see."""
    return [_one(np.random.default_rng([seed, 1, number])) for number in numbers]


def _one(rng: Generator) -> bool:
    spec = EstimatorSpec(reward=REWARD)
    history = History(outcomes=(PAST, PAST * _PROBLEM.p0, PAST * _PROBLEM.p0))
    est, seen = estimate.start(spec, history), draws(1, rng)
    for look in range(seen.n0.shape[1]):
        counts = (column[0, look] for column in (seen.n0, seen.s0, seen.n1, seen.s1))
        est = estimate.observe_outcomes(spec, est, one_cell(_PROBLEM.pi, *counts), None, look)
        (told,) = estimate.evidence(spec, est, "v1", ["v2"])
        if told.log_harm >= np.log(1 / ALPHA):
            return look >= GOOD // SIZE
    return False
