"""The same two arms, asked of GrowthBook's gbstats 0.8.0 and of us.

Its intervals for one look are the best one can have at that look; its sequential ones (asymptotic,
Waudby-Smith et al., arXiv:2103.06476) promise what ours do, for large samples.
"""

from __future__ import annotations

import numpy as np
import pytest

from controller.core import estimate
from controller.core.estimate import EstimatorSpec, History, RewardSpec, moments, posterior
from controller.core.estimate.posterior import Betas, Students
from controller.core.model import CandidateEvidence, Cells, Sample
from tests.outside.conftest import Arm, Ask

COINS = [
    ((10_000, 500, 500), (10_000, 560, 560)),
    ((50_000, 2_500, 2_500), (5_000, 210, 210)),
    ((8_000, 7_200, 7_200), (8_000, 7_120, 7_120)),
]


def judged(champion: Arm, candidate: Arm) -> CandidateEvidence:
    """What we say of coins that came in a hundred batches."""
    spec = EstimatorSpec(reward=RewardSpec("e", is_binary=True, low=0.0, high=1.0, default=0.0))
    est = estimate.start(spec, History())
    one, none = np.ones(1), np.zeros(1, np.int64)
    (n0, s0, _), (n1, s1, _) = champion, candidate
    counts = [value / 100 * one for value in (n0, s0, n1, s1)]
    for batch in range(100):
        cells = Cells(none, none, none, n1 / (n0 + n1) * one, *counts)
        est = estimate.observe_outcomes(spec, est, cells, None, float(batch))
    [found] = estimate.evidence(spec, est, "v1", ["v2"])
    return found


@pytest.mark.parametrize(("champion", "candidate"), COINS)
def test_the_lift_of_coins_is_the_same(gbstats: Ask, champion: Arm, candidate: Arm):
    assert judged(champion, candidate).lift.estimate == pytest.approx(
        gbstats("proportion", champion, candidate)["lift"], rel=1e-9
    )


@pytest.mark.parametrize(("champion", "candidate"), COINS)
def test_the_interval_contains_the_one_for_a_single_look(
    gbstats: Ask, champion: Arm, candidate: Arm
):
    theirs, ours = gbstats("proportion", champion, candidate), judged(champion, candidate).lift
    assert ours.lower < theirs["low"]
    assert ours.upper > theirs["high"]


@pytest.mark.parametrize(("champion", "candidate"), COINS)
def test_the_interval_is_not_much_wider_than_their_sequential_one(
    gbstats: Ask, champion: Arm, candidate: Arm
):
    """Ours holds from the first outcome on, theirs for large samples, tuned to 5 000 units."""
    theirs, ours = gbstats("proportion", champion, candidate), judged(champion, candidate).lift
    width = theirs["sequential_high"] - theirs["sequential_low"]
    assert ours.upper - ours.lower < 1.6 * width


@pytest.mark.parametrize(("champion", "candidate"), COINS)
def test_the_chance_to_win_and_the_risks_of_coins_agree(
    gbstats: Ask, champion: Arm, candidate: Arm
):
    """Theirs is a normal approximation with a flat prior: a few thousandths off for 500 events."""
    theirs = gbstats("proportion", champion, candidate)
    n, s, _ = np.array([champion, candidate], np.float64).T
    arms = Betas(a=s, b=n - s)
    assert posterior.p_best(arms)[1] == pytest.approx(theirs["chance"], abs=0.01)
    scale = float(np.abs(posterior.mean(arms)[1] - posterior.mean(arms)[0]))
    risks = (theirs["risk_of_champion"], theirs["risk_of_candidate"])
    assert posterior.expected_loss(arms) == pytest.approx(risks, abs=0.01 * scale)


def test_amounts_agree(gbstats: Ask):
    """Revenue of 6 000 and 4 000 units, mostly 0: the lift, and the chance to win."""
    rng = np.random.default_rng(8)
    amounts = [
        np.where(rng.random(n) < 0.1, rng.gamma(2.0, scale, n), 0.0)
        for n, scale in ((6_000, 20.0), (4_000, 21.0))
    ]
    n, total, square = np.array([(len(x), x.sum(), (x * x).sum()) for x in amounts]).T
    champion, candidate = [(int(n[k]), float(total[k]), float(square[k])) for k in (0, 1)]
    theirs = gbstats("amount", champion, candidate)
    mean = total / n
    scale = np.sqrt((square / n - mean**2) / n)
    arms = Students(location=mean, scale=scale, df=n - 1)
    assert posterior.p_best(arms)[1] == pytest.approx(theirs["chance"], abs=1e-3)
    strata = moments.counted(
        moments.no_strata(1),
        Cells(
            *(np.zeros(1, np.int64),) * 3,
            np.array([0.4]),
            *(np.array([x]) for x in (n[0], total[0], n[1], total[1])),
        ),
    )
    assert moments.ratio(strata)[0] - 1 == pytest.approx(theirs["lift"], rel=1e-9)


def test_amounts_without_great_ones_have_the_lift_of_the_plain_means(gbstats: Ask):
    """As above through the whole estimator, with amounts between 0.9 and 1.1: cutting the largest
    at the champion's 99.5 % quantile moves the lift by less than a thousandth."""
    rng = np.random.default_rng(9)
    arm = rng.integers(0, 2, 20_000)
    value = rng.uniform(0.9, 1.1, 20_000) * np.where(arm == 1, 1.01, 1.0)
    spec = EstimatorSpec(reward=RewardSpec("e", is_binary=False, low=0.0, high=5.0, default=0.0))
    est = estimate.start(spec, History())
    none = np.zeros(200, np.int64)
    for rows in np.arange(20_000).reshape(100, 200):
        sample = Sample(arm[rows], none, none, np.full((200, 1), 0.5), value[rows])
        est = estimate.observe_outcomes(spec, est, None, sample, float(rows[0]))
    [found] = estimate.evidence(spec, est, "v1", ["v2"])
    sums = [
        (int((arm == k).sum()), value[arm == k].sum(), (value[arm == k] ** 2).sum()) for k in (0, 1)
    ]
    theirs = gbstats("amount", *sums)
    assert found.lift.estimate == pytest.approx(theirs["lift"], abs=1e-3)
    assert found.lift.lower < theirs["low"]
    assert found.lift.upper > theirs["high"]
    assert found.log_superior > np.log(100)
