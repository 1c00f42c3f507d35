"""How far from the information bound: samples to detect, and where the loss is.

The bound is log(1/alpha) / KL_inf: what a gambler needs who knows the truth and is paid in mean
growth (Grünwald, de Heide, Koolen, arXiv:1906.07801). A ladder leads from it to the estimators, all
on the same draws, each step adding one thing that is not known:

    overshoot   the gambler who knows both means: the last bet wins more than was needed
    mixture     who knows the champion's mean, and mixes over the grid of effects
    estimators  what the product does: champion's mean learnt, restarts kept, cells bet on in parts
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.optimize import minimize_scalar

from controller.core import estimate
from controller.core.estimate import EstimatorSpec, History, RewardSpec, book
from controller.core.model import Cells, Float

ALPHA = 0.01
REWARD = RewardSpec(event="click", is_binary=True, low=0.0, high=1.0, default=0.0)
PAST = 10_000.0
"""Outcomes of the champion before the rollout: it has been serving."""
PARTS = 80
"""Looks per information bound: a look's share of it is lost at most."""
MOST = 8
"""Bounds after which a run is given up."""


def kl(a: Float | float, b: Float | float) -> Float:
    """Between coins, nats."""
    a, b = np.asarray(a), np.asarray(b)
    return a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))


@dataclass(frozen=True, slots=True)
class Problem:
    """Two arms, and the null p1 = p0 + shift (harm: shift 0, errors: what is tolerated).

    pi          the candidate's share
    min_effect  what a policy states of the effect worth detecting
    """

    name: str
    p0: float
    p1: float
    pi: float
    shift: float = 0.0
    min_effect: float | None = None

    def nearest(self) -> float:
        """The champion's mean of the null's point that is nearest to the truth."""
        low, high = max(0.0, -self.shift) + 1e-9, min(1.0, 1.0 - self.shift) - 1e-9
        found = minimize_scalar(self._distance, bounds=(low, high), method="bounded", options=_FINE)
        return float(found.x)

    def growth(self) -> float:
        """KL_inf: nats per unit of the best bet."""
        return float(self._distance(self.nearest()))

    def bound(self) -> float:
        """Units."""
        return float(np.log(1 / ALPHA) / self.growth())

    def _distance(self, x: float) -> Float:
        candidate = self.pi * kl(self.p1, x + self.shift)
        return candidate + (1 - self.pi) * kl(self.p0, x)


_FINE = {"xatol": 1e-12}


@dataclass(frozen=True, slots=True)
class Draws:
    """Counts in equal parts; all arrays (runs, parts)."""

    size: int
    n0: Float
    s0: Float
    n1: Float
    s1: Float


def draws(problem: Problem, runs: int, rng: Generator) -> Draws:
    """Enough for `MOST` bounds."""
    size = max(int(problem.bound() / PARTS), 1)
    shape = (runs, PARTS * MOST)
    n1 = rng.binomial(size, problem.pi, shape)
    n0 = size - n1
    return Draws(size, n0, rng.binomial(n0, problem.p0), n1, rng.binomial(n1, problem.p1))


def first_passage(log_e: Float, size: int) -> Float:
    """(runs,) units until log_e (runs, parts) reaches log(1/alpha); the end where it does not."""
    reached = log_e >= np.log(1 / ALPHA)
    part = np.where(reached.any(axis=1), reached.argmax(axis=1), log_e.shape[1] - 1)
    return (part + 1.0) * size


def path(problem: Problem, seen: Draws, p1: Float, x: Float) -> Float:
    """Log wealth (runs, parts) of the bet (p0, p1) against the null's point (x, x + shift)."""
    q, p0 = x + problem.shift, problem.p0
    gain = seen.s0 * np.log(p0 / x) + (seen.n0 - seen.s0) * np.log((1 - p0) / (1 - x))
    gain = gain + seen.s1 * np.log(p1 / q) + (seen.n1 - seen.s1) * np.log((1 - p1) / (1 - q))
    return gain.cumsum(axis=1)


def oracle(problem: Problem, seen: Draws) -> Float:
    """Who knows both means."""
    x = np.float64(problem.nearest())
    return first_passage(path(problem, seen, np.float64(problem.p1), x), seen.size)


def mixture(problem: Problem, seen: Draws) -> Float:
    """Who knows the champion's mean, and mixes over the product's bets on effects; harm only."""
    bets = book.harm(problem.min_effect, 0.0, 1)
    log_e = np.full(seen.n0.shape, -np.inf)
    for theta, log_weight in zip(bets.slope, bets.log_weights, strict=True):
        p1 = theta * problem.p0
        x = problem.pi * p1 + (1 - problem.pi) * problem.p0
        log_e = np.logaddexp(log_e, log_weight + path(problem, seen, p1, x))
    return first_passage(log_e, seen.size)


def estimators(problem: Problem, seen: Draws) -> Float:
    """What the product does: log_harm, or the errors' log_worse where there is a shift."""
    of_errors = problem.shift > 0
    spec = EstimatorSpec(
        reward=REWARD,
        min_effect=problem.min_effect,
        error_increase=problem.shift if of_errors else None,
    )
    past = (PAST, PAST * problem.p0)
    history = History(answers=past) if of_errors else History(outcomes=(*past, past[1]))
    found = np.empty(len(seen.n0))
    for run in range(len(found)):
        found[run] = _one(spec, history, problem.pi, seen, run) * seen.size
    return found


def _one(spec: EstimatorSpec, history: History, pi: float, seen: Draws, run: int) -> int:
    """Parts until one run reaches log(1/alpha)."""
    est = estimate.start(spec, history)
    for part in range(seen.n0.shape[1]):
        cells = one_cell(
            pi, seen.n0[run, part], seen.s0[run, part], seen.n1[run, part], seen.s1[run, part]
        )
        if spec.error_increase is None:
            est = estimate.observe_outcomes(spec, est, cells, None, float(part))
        else:
            est = estimate.observe_answers(spec, est, cells)
        (told,) = estimate.evidence(spec, est, "v1", ["v2"])
        log_e = told.log_harm if spec.error_increase is None else told.guards[0].log_worse
        if log_e >= np.log(1 / ALPHA):
            break
    return part + 1


def one_cell(pi: float, n0: float, s0: float, n1: float, s1: float) -> Cells:
    """The counts of one micro-batch under one split, of one candidate."""
    zero = np.zeros(1, np.int64)
    one = [np.array([float(value)]) for value in (pi, n0, s0, n1, s1)]
    return Cells(zero, zero, zero, *one)


PROBLEMS = (
    Problem("harm of a fifth, default", 0.05, 0.04, 0.5),
    Problem("harm of a fifth, min_effect 20 %", 0.05, 0.04, 0.5, min_effect=0.2),
    Problem("harm of a tenth, default", 0.05, 0.045, 0.5),
    Problem("harm of a half at 5 % share, default", 0.05, 0.025, 0.05),
    Problem("errors 1 % to 4 %, at 50 % share", 0.01, 0.04, 0.5, shift=0.01),
    Problem("errors 1 % to 4 %, at 5 % share", 0.01, 0.04, 0.05, shift=0.01),
)


@dataclass(frozen=True, slots=True)
class Step:
    """Mean units over the bound, and its standard error."""

    ratio: float
    error: float


@dataclass(frozen=True, slots=True)
class Ladder:
    """The steps from the bound to the product; `mixture` is None where there is a shift."""

    problem: Problem
    oracle: Step
    mixture: Step | None
    estimators: Step


def ladder(problem: Problem, *, runs: int, seed: int) -> Ladder:
    """The steps of one problem, on the same draws."""
    many = oracle(problem, draws(problem, ORACLES, np.random.default_rng([seed, 0])))
    seen = draws(problem, runs, np.random.default_rng([seed, 1]))
    control = oracle(problem, seen), float(many.mean())
    mixed = _over(mixture(problem, seen), control, problem) if problem.shift == 0 else None
    return Ladder(
        problem,
        _over(many, (many, float(many.mean())), problem),
        mixed,
        _over(estimators(problem, seen), control, problem),
    )


ORACLES = 4_000
"""Runs of the gambler who knows all: they are cheap, and steady the other steps."""


def _over(units: Float, control: tuple[Float, float], problem: Problem) -> Step:
    """The mean over the bound, with the oracle's luck on the same draws taken out.

    control  (units of the oracle in these runs, its mean over many)
    """
    luck = control[0] - control[1]
    if control[0] is not units:
        slope = np.cov(units, control[0])[0, 1] / control[0].var(ddof=1)
        units = units - slope * luck
    ratios = units / problem.bound()
    return Step(float(ratios.mean()), float(ratios.std(ddof=1) / np.sqrt(len(ratios))))
