"""P(best), loss and weights against scipy's own distributions and integrals."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import beta, betainc, betaln, xlog1py, xlogy

from controller.core.estimate import posterior
from controller.core.estimate.posterior import Beta, Faded
from controller.core.model import Cell

ARMS = [
    Beta(0.5, 49.5),
    Beta(3, 50),
    Beta(60, 940),
    Beta(5_000, 95_000),
    Beta(990, 12),
    Beta(30, 20),
]


QUANTILES = [1e-13, 1e-9, 1e-5, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 1 - 1e-5]


def panels(dists):
    """Neighbouring quantiles of all the distributions: nothing narrow hides between them."""
    ends = np.unique(np.concatenate([[*d.ppf(QUANTILES), *d.isf([1e-9, 1e-13])] for d in dists]))
    return itertools.pairwise(ends)


def oracle_p_best(arms, k):
    dists = [stats.beta(a.a, a.b) for a in arms]
    own, others = arms[k], [a for j, a in enumerate(arms) if j != k]

    def integrand(x):
        log_density = xlogy(own.a - 1, x) + xlog1py(own.b - 1, -x) - betaln(own.a, own.b)
        return np.exp(log_density) * np.prod([betainc(a.a, a.b, x) for a in others])

    return sum(quad(integrand, a, b, epsabs=1e-10, epsrel=1e-8)[0] for a, b in panels(dists))


@pytest.mark.parametrize("pair", list(itertools.combinations(range(len(ARMS)), 2)))
def test_probability_to_be_best_equals_scipys_integral(pair):
    arms = [ARMS[i] for i in pair]
    found = posterior.p_best(arms)
    assert found[0] == pytest.approx(oracle_p_best(arms, 0), abs=1e-6)
    assert sum(found) == pytest.approx(1.0, abs=1e-9)


def test_probability_to_be_best_of_five_arms_equals_scipys_integral():
    arms = [Beta(50, 950), Beta(55, 945), Beta(2.5, 47.5), Beta(600, 9_400), Beta(58, 942)]
    found = posterior.p_best(arms)
    for k in range(5):
        assert found[k] == pytest.approx(oracle_p_best(arms, k), abs=1e-6)
    assert sum(found) == pytest.approx(1.0, abs=1e-9)


def test_integer_posteriors_equal_the_closed_form():
    # P(B > A) = sum_i B(a_A + i, b_A + b_B) / ((b_B + i) B(1 + i, b_B) B(a_A, b_A)), i < a_B
    a, b = Beta(20, 180), Beta(28, 172)
    closed = sum(
        beta(a.a + i, a.b + b.b) / ((b.b + i) * beta(1 + i, b.b) * beta(a.a, a.b))
        for i in range(28)
    )
    assert posterior.p_best([a, b])[1] == pytest.approx(closed, abs=1e-10)


def test_identical_arms_are_equally_likely_to_be_best():
    assert posterior.p_best([Beta(3, 90)] * 4) == pytest.approx([0.25] * 4, abs=1e-10)


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (2, 3), (3, 5), (4, 5)])
def test_expected_loss_equals_scipys_integral(pair):
    arms = [ARMS[i] for i in pair]
    first, second = (stats.beta(a.a, a.b) for a in arms)
    loss = sum(
        quad(lambda x: second.cdf(x) * first.sf(x), a, b, epsabs=1e-13)[0]
        for a, b in panels([first, second])
    )
    assert posterior.expected_loss(arms, 1) == pytest.approx(loss, abs=1e-9)


def test_losses_of_two_choices_differ_by_the_difference_of_means():
    # E[(X - Y)+] - E[(Y - X)+] = E[X] - E[Y]
    x, y = Beta(300, 700), Beta(28, 72)
    difference = posterior.expected_loss([x, y], 1) - posterior.expected_loss([x, y], 0)
    assert difference == pytest.approx(0.30 - 0.28, abs=1e-10)


def test_prior_is_the_champions_history_at_one_strength():
    before = posterior.prior(9_999.0, 999.5)
    assert (before.a, before.b) == pytest.approx((5.0, 45.0))
    assert posterior.mean(posterior.prior(0.0, 0.0)) == 0.5
    assert posterior.posterior(before, 10, 4) == Beta(before.a + 4, before.b + 6)


def test_counts_halve_in_a_half_life_and_time_never_runs_backwards():
    cell = Cell(0.5, 100, 10, 80, 20)
    first = posterior.fade(Faded(), [cell], 1_000.0, 60.0)
    later = posterior.fade(first, [cell], 1_060.0, 60.0)
    assert (later.n0, later.s0, later.n1, later.s1) == pytest.approx((150, 15, 120, 30))
    back = posterior.fade(later, [cell], 0.0, 60.0)
    assert (back.n0, back.time) == (pytest.approx(250), 1_060.0)
    assert posterior.fade(first, [cell], 1e9, None).n0 == 200
