"""Projections and growth of the bets, against optimisers and published complexities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import rel_entr
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

from controller.core import estimate
from controller.core.estimate import EstimatorSpec, History, RewardSpec, ebh, sequential
from controller.core.model import Cells

MU_1 = ((0.5, 0.45, 0.43, 0.4), (0.417, 0.390, 0.136, 0.057))
MU_2 = ((0.3, 0.21, 0.2, 0.19, 0.18), (0.336, 0.251, 0.177, 0.132, 0.104))
"""Garivier & Kaufmann, "Optimal best arm identification with fixed confidence", COLT 2016
(arXiv:1602.04589), section 6: the means of two bandits of coins, and w*, the shares of draws with
which the best arm is found soonest."""


def kl(p: float, q: float) -> float:
    """Kullback-Leibler divergence of two coins, by scipy."""
    return float(rel_entr(p, q) + rel_entr(1 - p, 1 - q))


@pytest.mark.parametrize(
    ("pi", "p0", "p1", "ratio", "shift"),
    [
        (0.05, 0.05, 0.04, 1.0, 0.0),
        (0.5, 0.3, 0.45, 1.2, 0.0),
        (0.01, 0.02, 0.05, 0.9, 0.0),
        (0.25, 0.1, 0.12, 1.0, -0.02),
        (0.6, 0.8, 0.7, 1.0, 0.05),
        (0.1, 0.004, 0.06, 1.0, 0.01),
    ],
)
def test_the_point_of_the_null_is_the_nearest_one(pi, p0, p1, ratio, shift):
    """Source: scipy, minimize_scalar of pi KL(p1 | r x + d) + (1 - pi) KL(p0 | x) over the line."""

    def distance(x: float) -> float:
        return pi * kl(p1, ratio * x + shift) + (1 - pi) * kl(p0, x)

    least, most = max(0.0, -shift / ratio), min(1.0, (1 - shift) / ratio)
    nearest = minimize_scalar(distance, bounds=(least, most), options={"xatol": 1e-12})
    x = float(sequential.ripr(pi, p0, p1, ratio, shift))
    assert distance(x) <= nearest.fun + 1e-12
    assert x == pytest.approx(nearest.x, abs=1e-6)


def information(pi: float, p0: float, p1: float) -> float:
    """Nats per unit of the bet that knows both means, against "they are equal", by our engine."""
    champion = sequential.log_bets(pi, p0, p1, 1.0, 0.0, side=math.copysign(1.0, p1 - p0))
    c0, c1, d0, d1 = (float(log_e) for log_e in champion)
    return (1 - pi) * ((1 - p0) * c0 + p0 * c1) + pi * ((1 - p1) * d0 + p1 * d1)


def worst(shares: np.ndarray, means: tuple[float, ...]) -> float:
    """What is learnt per draw of the rival about which least is learnt: the best arm is first."""
    return min(
        (shares[0] + w) * information(float(w / (shares[0] + w)), means[0], mean)
        for w, mean in zip(shares[1:], means[1:], strict=True)
    )


@pytest.mark.parametrize(("means", "expected"), [MU_1, MU_2], ids=["mu_1", "mu_2"])
def test_shares_that_learn_fastest_are_the_published_ones(means, expected):
    """Source: Garivier & Kaufmann 2016, w*(mu), to the three digits that they print."""

    def loss(logits: np.ndarray) -> float:
        shares = np.exp(np.append(0.0, logits))
        return -worst(shares / shares.sum(), means)

    best = np.log(np.array(expected[1:]) / expected[0]) + 0.05
    for _ in range(4):
        best = minimize(loss, best, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}).x
    shares = np.exp(np.append(0.0, best))
    assert shares / shares.sum() == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("pi", "p0", "theta"), [(0.01, 0.05, 0.8), (0.25, 0.05, 0.8), (0.5, 0.3, 0.9), (0.5, 0.7, 0.97)]
)
def test_growth_is_the_divergence_from_the_mixed_coin(pi, p0, theta):
    """Source: scipy.special.rel_entr: pi KL(p1 | m) + (1 - pi) KL(p0 | m), m = pi p1 + (1-pi) p0.

    The effect 1 / theta is one of the grid of bets, so the best bet knows it."""
    p1 = p0 / theta
    middle = pi * p1 + (1 - pi) * p0
    spec = EstimatorSpec(reward=RewardSpec("e", is_binary=True, low=0.0, high=1.0, default=0.0))
    n0, n1 = 10_000 * (1 - pi), 10_000 * pi
    one, none = np.ones(1), np.zeros(1, np.int64)
    counts = [x * one for x in (pi, n0, p0 * n0, n1, p1 * n1)]
    est = estimate.start(spec, History())
    est = estimate.observe_outcomes(spec, est, Cells(none, none, none, *counts), None, 0.0)
    expected = pi * kl(p1, middle) + (1 - pi) * kl(p0, middle)
    assert estimate.growth(spec, est, 0, pi).superior == pytest.approx(expected, rel=1e-9)


def test_harm_at_one_percent_of_traffic_takes_four_hundred_thousand_requests():
    """Source: Wald's approximation log(1 / alpha) / information, with scipy's divergence: a loss of
    a fifth of 5 % at shares of 1, 5 and 25 %."""
    needed = [math.log(100) / information(pi, 0.05, 0.04) for pi in (0.01, 0.05, 0.25)]
    middle = [(1 - pi) * 0.05 + pi * 0.04 for pi in (0.01, 0.05, 0.25)]
    expected = [
        math.log(100) / (pi * kl(0.04, m) + (1 - pi) * kl(0.05, m))
        for pi, m in zip((0.01, 0.05, 0.25), middle, strict=True)
    ]
    assert needed == pytest.approx(expected, rel=1e-9)
    assert 350_000 < needed[0] < 450_000


@pytest.mark.parametrize("seed", range(4))
def test_e_bh_is_the_procedure_of_benjamini_and_hochberg_on_inverse_e_values(seed: int):
    """Source: statsmodels, multipletests(method="fdr_bh"), and scipy, false_discovery_control;
    Wang & Ramdas, arXiv:2009.02824, section 4: e-BH is BH on 1 / e."""
    rng = np.random.default_rng(seed)
    log_e = rng.normal(2.5, 3.0, 12)
    p_values = np.exp(-np.maximum(log_e, 0.0))
    expected, *_ = multipletests(p_values, alpha=0.1, method="fdr_bh")
    assert ebh(log_e.tolist(), 0.1) == tuple(expected.tolist())
    assert tuple((false_discovery_control(p_values) <= 0.1).tolist()) == ebh(log_e.tolist(), 0.1)
    assert 0 < sum(expected) < 12
