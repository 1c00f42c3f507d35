"""From probabilities to basis points."""

import numpy as np
import pytest

from controller.core.decide.thompson import weights_of
from controller.errors import InvariantError


@pytest.mark.parametrize("n_arms", [1, 2, 3, 7])
@pytest.mark.parametrize("floor", [0.0, 0.01, 0.033, 0.1])
def test_weights_sum_to_the_whole_and_keep_the_floor(n_arms, floor):
    rng = np.random.default_rng(n_arms)
    for _ in range(100):
        best = rng.dirichlet(np.full(n_arms, 0.3))
        weights = weights_of(best.tolist(), floor)
        assert sum(weights) == 10_000
        assert min(weights) >= floor * 10_000 - 1e-9
        exact = floor + (1 - n_arms * floor) * best
        assert np.abs(np.array(weights) - exact * 10_000).max() <= 1.0


def test_equal_remainders_go_to_the_earlier_arms():
    assert weights_of([1 / 3, 1 / 3, 1 / 3], 0.0) == (3_334, 3_333, 3_333)


@pytest.mark.parametrize(
    ("best", "floor"), [([0.5, 0.5], 0.6), ([0.5, 0.4], 0.0), ([float("nan"), 1.0], 0.0)]
)
def test_weights_that_cannot_be_raise(best, floor):
    with pytest.raises(InvariantError, match="no split"):
        weights_of(best, floor)
