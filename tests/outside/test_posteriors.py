"""What the bandit believes, against closed forms, quadrature by others, and two other libraries."""

from __future__ import annotations

import numpy as np
import pytest
from mabwiser.mab import MAB, LearningPolicy
from scipy.integrate import quad
from scipy.special import betaln
from scipy.stats import beta, t, ttest_ind

from controller.core.estimate import bandit, posterior
from controller.core.estimate.bandit import Blocks, Terms
from controller.core.estimate.posterior import Betas, Students
from controller.core.model import Float, Flow

PAIRS = [
    ((10, 90), (14, 88)),
    ((251, 4_751), (301, 4_701)),
    ((3, 2), (1, 1)),
    ((40, 400), (41, 400)),
]


def chance(a: tuple[int, int], b: tuple[int, int]) -> float:
    """P(B > A) of Beta posteriors with whole parameters: Evan Miller, "Formulas for Bayesian A/B
    testing" (2015): sum over i of B(a_A + i, b_B + b_A) / ((b_B + i) B(1 + i, b_B) B(a_A, b_A)).
    """
    i = np.arange(b[0])
    logs = betaln(a[0] + i, b[1] + a[1]) - np.log(b[1] + i) - betaln(1 + i, b[1]) - betaln(*a)
    return float(np.exp(logs).sum())


def regret(a: tuple[int, int], b: tuple[int, int]) -> float:
    """E[max(A - B, 0)], what is lost by choosing B: Chris Stucchio, "Bayesian A/B testing at VWO"
    (2015): E[A; A > B] - E[B; A > B], and a mean is a ratio of Beta functions."""
    more_a, more_b = (a[0] + 1, a[1]), (b[0] + 1, b[1])
    mean_a, mean_b = a[0] / sum(a), b[0] / sum(b)
    return mean_a * (1 - chance(more_a, b)) - mean_b * (1 - chance(a, more_b))


def coins(*arms: tuple[int, int]) -> Betas:
    return Betas(a=np.array([a for a, _ in arms], float), b=np.array([b for _, b in arms], float))


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_chance_to_be_the_better_of_two_is_the_closed_form(a, b):
    """Source: Evan Miller 2015."""
    assert posterior.p_best(coins(a, b))[1] == pytest.approx(chance(a, b), abs=1e-9)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_what_is_lost_by_choosing_one_of_two_is_the_closed_form(a, b):
    """Source: Chris Stucchio 2015."""
    lost = posterior.expected_loss(coins(a, b))
    assert lost[1] == pytest.approx(regret(a, b), rel=1e-6, abs=1e-10)
    assert lost[0] == pytest.approx(regret(b, a), rel=1e-6, abs=1e-10)


def test_the_best_of_five_is_what_quadpack_finds():
    """Source: scipy, quad over the density of one arm and the distribution functions of others."""
    arms = ((20, 400), (25, 410), (31, 500), (9, 100), (2, 60))
    laws = [beta(a, b) for a, b in arms]
    for k, found in enumerate(posterior.p_best(coins(*arms))):
        others = [law for j, law in enumerate(laws) if j != k]

        def density(x: float, k: int = k, others: list = others) -> float:
            return float(laws[k].pdf(x) * np.prod([law.cdf(x) for law in others]))

        expected, _ = quad(density, 0, 0.3, epsabs=1e-11, epsrel=1e-10, limit=200)
        assert found == pytest.approx(expected, abs=1e-8)


def test_the_best_amount_is_what_quadpack_finds():
    """Source: scipy, stats.t."""
    location, scale, df = (
        np.array([10.0, 10.4, 9.7]),
        np.array([0.3, 0.5, 0.2]),
        np.array([9.0, 60, 5]),
    )
    laws = [t(d, m, s) for d, m, s in zip(df, location, scale, strict=True)]
    found = posterior.p_best(Students(location, scale, df))
    lost = posterior.expected_loss(Students(location, scale, df))

    def best_of_all(x: float) -> float:
        return 1 - float(np.prod([law.cdf(x) for law in laws]))

    above, _ = quad(best_of_all, 10, 60, limit=400)
    below, _ = quad(lambda x: 1 - best_of_all(x), -40, 10, limit=400)
    for k in range(3):
        others = [law for j, law in enumerate(laws) if j != k]
        expected, _ = quad(
            lambda x, k=k, others=others: laws[k].pdf(x) * np.prod([law.cdf(x) for law in others]),
            *(-10, 30),
            epsabs=1e-11,
            limit=400,
            points=[8, 9, 9.5, 10, 10.5, 11, 12],
        )
        assert found[k] == pytest.approx(expected, abs=1e-7)
        assert lost[k] == pytest.approx(10 + above - below - location[k], abs=1e-6)


@pytest.mark.parametrize(
    "counts",
    [((12, 188), (20, 180)), ((3, 37), (4, 36), (8, 32)), ((90, 10), (85, 15), (92, 8), (88, 12))],
)
def test_thompson_sampling_draws_each_arm_as_often_as_it_is_best(counts):
    """Source: mabwiser, whose policy draws from Beta(1 + successes, 1 + failures); 8 000 draws,
    each share within four standard errors, which fails by chance once in 5 000 runs."""
    names = [f"v{k}" for k in range(len(counts))]
    arms, rewards = [], []
    for name, (good, bad) in zip(names, counts, strict=True):
        arms += [name] * (good + bad)
        rewards += [1] * good + [0] * bad
    mab = MAB(names, LearningPolicy.ThompsonSampling(), seed=5)
    mab.fit(arms, rewards)
    drawn = [mab.predict() for _ in range(8_000)]
    best = posterior.p_best(coins(*((1 + good, 1 + bad) for good, bad in counts)))
    for name, p in zip(names, best, strict=True):
        assert drawn.count(name) / 8_000 == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 8_000))


def closed(terms: Terms, arms: list[Float]) -> Blocks:
    """What a bandit knows when these outcomes of each arm have closed, all of one hour."""
    none = np.zeros(len(arms))
    flow = Flow(
        stratum=none.astype(np.int64),
        segment=none.astype(np.int64) - 1,
        arm=np.arange(len(arms)),
        time=none,
        matured=np.array([len(x) for x in arms], float),
        events=none,
        event_value=none,
        delay=none,
        lapsed=np.array([len(x) for x in arms], float),
        closed=np.array([len(x) for x in arms], float),
        value=np.array([x.sum() for x in arms]),
        square=np.array([(x * x).sum() for x in arms]),
    )
    blocks = bandit.start(terms, (0.0, 0.0, 0.0), candidates=len(arms) - 1)
    return bandit.observe(blocks, flow, 1_000.0)


def test_amounts_are_believed_as_the_textbook_says():
    """Source: scipy, ttest_ind (Welch): with flat priors, the posterior probability that the second
    mean is the greater one is the one-sided p-value. Ours has a prior worth 50 of 4 000."""
    rng = np.random.default_rng(2)
    amounts = [rng.gamma(2.0, 5.0, 4_000), rng.gamma(2.0, 5.15, 3_000)]
    terms = Terms(is_binary=False, low=0.0, high=1_000.0, default=0.0, window_s=100.0)
    best = bandit.best(closed(terms, amounts), 1_000.0)
    expected = ttest_ind(*amounts, equal_var=False, alternative="greater").pvalue
    assert 0.02 < expected < 0.98
    assert best[1] == pytest.approx(expected, abs=0.02)


def test_coins_are_believed_as_the_closed_form_says():
    """Source: Evan Miller 2015, with flat priors; ours has one worth 50 of some thousands."""
    clicks = [np.repeat([1.0, 0.0], [300, 4_700]), np.repeat([1.0, 0.0], [205, 2_995])]
    terms = Terms(is_binary=True, low=0.0, high=1.0, default=0.0, window_s=100.0)
    best = bandit.best(closed(terms, clicks), 1_000.0)
    assert best[1] == pytest.approx(chance((301, 4_701), (206, 2_996)), abs=0.02)
