"""P(best) and loss against scipy's integrals, published closed forms, draws and another library."""

import itertools

import numpy as np
import pytest
from mabwiser.mab import MAB, LearningPolicy
from scipy import stats
from scipy.integrate import quad
from scipy.special import beta, betainc, betaln, xlog1py, xlogy

from controller.core.estimate import posterior
from controller.core.estimate.posterior import Betas, Students

ARMS = [(0.5, 49.5), (3, 50), (60, 940), (5_000, 95_000), (990, 12), (30, 20)]
QUANTILES = [1e-13, 1e-9, 1e-5, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 1 - 1e-5]
DRAWS = 1_000_000


def betas(*arms):
    a, b = np.array(arms, float).T
    return Betas(a=a, b=b)


def panels(dists):
    """Neighbouring quantiles of all the distributions: nothing narrow hides between them."""
    ends = np.unique(np.concatenate([[*d.ppf(QUANTILES), *d.isf([1e-9, 1e-13])] for d in dists]))
    return itertools.pairwise(ends)


def oracle_p_best(arms, k):
    dists = [stats.beta(*arm) for arm in arms]
    (a, b), others = arms[k], [arm for j, arm in enumerate(arms) if j != k]

    def integrand(x):
        log_density = xlogy(a - 1, x) + xlog1py(b - 1, -x) - betaln(a, b)
        return np.exp(log_density) * np.prod([betainc(*arm, x) for arm in others])

    return sum(quad(integrand, *p, epsabs=1e-10, epsrel=1e-8)[0] for p in panels(dists))


@pytest.mark.parametrize("pair", list(itertools.combinations(range(len(ARMS)), 2)))
def test_probability_to_be_best_equals_scipys_integral(pair):
    arms = [ARMS[i] for i in pair]
    found = posterior.p_best(betas(*arms))
    assert found[0] == pytest.approx(oracle_p_best(arms, 0), abs=1e-6)
    assert found.sum() == pytest.approx(1.0, abs=1e-9)


def test_probability_to_be_best_of_five_arms_equals_scipys_integral():
    arms = [(50, 950), (55, 945), (2.5, 47.5), (600, 9_400), (58, 942)]
    found = posterior.p_best(betas(*arms))
    for k in range(5):
        assert found[k] == pytest.approx(oracle_p_best(arms, k), abs=1e-6)
    assert found.sum() == pytest.approx(1.0, abs=1e-9)


def miller(first, second):
    """P(B > A) = sum_{i < a_B} B(a_A + i, b_A + b_B) / ((b_B + i) B(1 + i, b_B) B(a_A, b_A)).

    Evan Miller, "Formulas for Bayesian A/B Testing", evanmiller.org/bayesian-ab-testing.html,
    equation 6; a_B an integer.
    """
    (a, b), (c, d) = first, second
    return sum(
        beta(a + i, b + d) / ((d + i) * beta(1 + i, d) * beta(a, b)) for i in range(round(c))
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [((20, 180), (28, 172)), ((1, 1), (1, 1)), ((2, 3), (9, 4)), ((45, 140), (61, 150))],
)
def test_two_arms_equal_millers_formula(first, second):
    found = posterior.p_best(betas(first, second))
    assert found[1] == pytest.approx(miller(first, second), abs=1e-9)


def test_several_arms_equal_the_closed_form_for_the_greatest_of_uniforms():
    # Beta(n, 1) is the greatest of n uniforms, so P(k is best) = n_k / sum n.
    found = posterior.p_best(betas((1, 1), (2, 1), (3, 1), (10, 1)))
    assert found == pytest.approx([1 / 16, 2 / 16, 3 / 16, 10 / 16], abs=1e-9)


def test_loss_of_uniforms_equals_the_closed_form():
    # E[max of Beta(2, 1), Beta(3, 1)] is that of five uniforms, 5/6; means are 2/3 and 3/4.
    found = posterior.expected_loss(betas((2, 1), (3, 1)))
    assert found == pytest.approx([5 / 6 - 2 / 3, 5 / 6 - 3 / 4], abs=1e-9)


def test_identical_arms_are_equally_likely_to_be_best():
    assert posterior.p_best(betas(*[(3, 90)] * 4)) == pytest.approx([0.25] * 4, abs=1e-10)


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (2, 3), (3, 5), (4, 5)])
def test_expected_loss_equals_scipys_integral(pair):
    arms = [ARMS[i] for i in pair]
    first, second = (stats.beta(*arm) for arm in arms)
    loss = sum(
        quad(lambda x: second.cdf(x) * first.sf(x), a, b, epsabs=1e-13)[0]
        for a, b in panels([first, second])
    )
    assert posterior.expected_loss(betas(*arms))[1] == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize(
    "arms",
    [betas((50, 950), (55, 945), (2.5, 47.5)), betas((300, 700), (28, 72))],
)
def test_losses_differ_by_the_differences_of_means(arms):
    # loss(k) = E[max] - E[mean_k]
    loss, mean = posterior.expected_loss(arms), arms.a / (arms.a + arms.b)
    assert np.diff(loss) == pytest.approx(-np.diff(mean), abs=1e-10)


def draws_of(arms, rng):
    if isinstance(arms, Betas):
        return rng.beta(arms.a, arms.b, (DRAWS, len(arms.a)))
    return arms.location + arms.scale * rng.standard_t(arms.df, (DRAWS, len(arms.df)))


@pytest.mark.parametrize(
    "arms",
    [
        betas((50, 950), (55, 945), (2.5, 47.5), (600, 9_400), (58, 942)),
        betas((990, 12), (30, 1)),
        Students(np.array([1.0, 1.2, 0.5]), np.array([0.1, 0.3, 0.8]), np.array([50.0, 80, 60])),
        Students(np.array([-40.0, -41.0]), np.array([2.0, 3.0]), np.array([8.0, 500.0])),
    ],
)
def test_probabilities_and_losses_equal_a_million_draws(arms):
    # Within 4 standard errors each; P(any of 12 outside) < 0.001, and the draws are seeded.
    draws = draws_of(arms, np.random.default_rng(5))
    p_best, loss = posterior.compare(arms)
    shares = np.bincount(draws.argmax(axis=1), minlength=draws.shape[1]) / DRAWS
    assert (np.abs(shares - p_best) <= 4 * np.sqrt(p_best * (1 - p_best) / DRAWS) + 1e-9).all()
    lost = draws.max(axis=1, keepdims=True) - draws
    error = lost.std(axis=0) / np.sqrt(DRAWS)
    assert (np.abs(lost.mean(axis=0) - loss) <= 4 * error + 1e-9).all()


def test_students_of_many_degrees_equal_the_normal_closed_form():
    arms = Students(np.array([0.0, 1.0]), np.array([1.0, 2.0]), np.array([1e6, 1e6]))
    normal = stats.norm.cdf(1.0 / np.sqrt(5.0))
    assert posterior.p_best(arms)[1] == pytest.approx(normal, abs=1e-6)


def test_normal_losses_equal_the_closed_form():
    # E[(X - Y)+] = s phi(m / s) + m Phi(m / s) for X - Y normal with mean m, sd s.
    arms = Students(np.array([2.0, 2.5]), np.array([0.3, 0.4]), np.array([1e8, 1e8]))
    m, s = 0.5, 0.5
    lost_by_first = s * stats.norm.pdf(m / s) + m * stats.norm.cdf(m / s)
    assert posterior.expected_loss(arms)[0] == pytest.approx(lost_by_first, abs=1e-6)


def test_thompson_sampling_of_mabwiser_chooses_with_these_probabilities():
    # mabwiser 2.7.4 draws from Beta(1 + successes, 1 + failures) and takes the arm with the
    # greatest draw: its choices are binomial with P(best). 4 standard errors: 6e-5 by chance.
    successes, trials, n = (20, 28, 23), (200, 200, 240), 20_000
    bandit = MAB(["a", "b", "c"], LearningPolicy.ThompsonSampling(), seed=1)
    bandit.fit(
        decisions=[a for a, t in zip("abc", trials, strict=True) for _ in range(t)],
        rewards=[int(i < s) for s, t in zip(successes, trials, strict=True) for i in range(t)],
    )
    chosen = [bandit.predict() for _ in range(n)]
    expected = posterior.p_best(
        betas(*((1 + s, 1 + t - s) for s, t in zip(successes, trials, strict=True)))
    )
    for arm, p in zip("abc", expected, strict=True):
        assert abs(chosen.count(arm) / n - p) <= 4 * np.sqrt(p * (1 - p) / n)


def test_mirrored_arms_are_those_of_the_smallest_mean():
    arms = betas((50, 950), (55, 945), (2.5, 47.5))
    draws = draws_of(arms, np.random.default_rng(6))
    shares = np.bincount(draws.argmin(axis=1), minlength=3) / DRAWS
    assert posterior.p_best(posterior.mirrored(arms)) == pytest.approx(shares, abs=0.002)
    students = Students(np.array([1.0, 2.0]), np.array([0.3, 0.4]), np.array([60.0, 60.0]))
    p = posterior.p_best(students)
    assert posterior.p_best(posterior.mirrored(students)) == pytest.approx(p[::-1], abs=1e-10)
