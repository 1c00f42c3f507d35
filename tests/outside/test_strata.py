"""Simpson's paradox in published tables: what others make of them, and what we do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats.contingency import relative_risk
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.proportion import proportions_ztest

from controller.core import estimate
from controller.core.estimate import EstimatorSpec, History, RewardSpec, moments
from controller.core.model import CandidateEvidence
from tests.outside.tables import (
    ADMISSIONS,
    RAMP,
    STONES,
    TABLES,
    Table,
    cells,
    pooled_ratio,
    two_by_two,
)

LOG_BAR = math.log(1 / 0.01)


def judged(table: Table, pi: tuple[float, ...] | None = None) -> CandidateEvidence:
    """What we say of a table whose strata came one after the other, in small batches."""
    spec = EstimatorSpec(reward=RewardSpec("e", is_binary=True, low=0.0, high=1.0, default=0.0))
    est = estimate.start(spec, History())
    whole = cells(table, pi)
    for stratum in range(len(table)):
        row = moments.taken(whole, np.array([stratum]))
        part = moments.merged([row])
        for _ in range(100):
            batch = type(part)(
                part.candidate,
                part.stratum,
                part.bin,
                part.pi,
                *(getattr(part, name) / 100 for name in ("n0", "s0", "n1", "s1")),
            )
            est = estimate.observe_outcomes(spec, est, batch, None, float(stratum))
        est = estimate.new_epoch(spec, est)
    [found] = estimate.evidence(spec, est, "v1", ["v2"])
    return found


@pytest.mark.parametrize("name", TABLES)
def test_the_ratio_is_that_of_mantel_and_haenszel(name: str):
    """Source: statsmodels, StratifiedTable.riskratio_pooled."""
    expected = StratifiedTable(two_by_two(TABLES[name])).riskratio_pooled
    found = moments.ratio(moments.counted(moments.no_strata(1), cells(TABLES[name])))
    assert found[0] == pytest.approx(expected, rel=1e-12)


def test_the_ratio_is_that_of_mantel_and_haenszel_with_a_thousand_strata():
    """Source: statsmodels; most strata are put away meanwhile, and that changes nothing."""
    rng = np.random.default_rng(7)
    n0, n1 = rng.integers(1, 500, 1_000), rng.integers(1, 50, 1_000)
    rate = rng.uniform(0.02, 0.3, 1_000)
    table = tuple(zip(n0, rng.binomial(n0, rate), n1, rng.binomial(n1, 0.8 * rate), strict=True))
    strata, whole = moments.no_strata(1), cells(table)
    for stratum in range(1_000):
        strata = moments.counted(strata, moments.taken(whole, np.array([stratum])))
    expected = StratifiedTable(two_by_two(table)).riskratio_pooled
    assert moments.ratio(strata)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_a_paradox(name: str):
    """Source: the tables. Pooled, the other arm looks the other way round than within strata."""
    within = StratifiedTable(two_by_two(TABLES[name])).riskratio_pooled
    assert (within - 1) * (pooled_ratio(TABLES[name]) - 1) < 0


def test_a_ramp_with_a_falling_baseline_is_better_on_both_days_and_is_seen_to_be():
    """Source: Crook et al. 2009: T is better on each day, and "worse" by 27 % when pooled."""
    assert pooled_ratio(RAMP) == pytest.approx(0.0122 / 0.0168, abs=0.005)
    found = judged(RAMP, pi=(0.01, 0.5))
    assert found.log_harm < LOG_BAR
    assert found.log_superior > LOG_BAR
    assert found.lift.lower > 0
    expected = StratifiedTable(two_by_two(RAMP)).riskratio_pooled - 1
    assert found.lift.estimate == pytest.approx(expected, rel=1e-9)
    assert found.lift.lower < expected < found.lift.upper
    _, p_value = proportions_ztest([6_230, 25_000], [510_000, 1_490_000])
    assert p_value < 1e-100  # what pooling would have been sure of


def test_women_were_not_admitted_less_within_departments():
    """Source: Bickel et al. 1975, who found no bias against women within departments; the pooled
    z-test (statsmodels) is sure of one."""
    totals = np.array(ADMISSIONS).sum(axis=0)
    _, p_value = proportions_ztest(totals[[3, 1]], totals[[2, 0]])
    assert p_value < 1e-15
    found = judged(ADMISSIONS)
    assert found.log_harm < LOG_BAR
    assert found.lift.lower < StratifiedTable(two_by_two(ADMISSIONS)).riskratio_pooled - 1
    assert found.lift.upper > 0


def test_the_newer_operation_is_not_shown_to_be_better():
    """Source: Charig et al. 1986: 83 against 78 % in all, less for small and for large stones."""
    totals = np.array(STONES).sum(axis=0)
    assert tuple(totals) == (350, 273, 350, 289)
    found = judged(STONES)
    assert found.lift.estimate is not None
    assert found.lift.estimate < 0 < pooled_ratio(STONES) - 1
    assert found.log_superior < LOG_BAR


@pytest.mark.parametrize(
    ("n0", "s0", "n1", "s1"),
    [(5_000, 250, 5_000, 300), (20_000, 900, 1_000, 60), (400, 320, 400, 280), (900, 9, 900, 60)],
)
def test_the_lift_is_the_relative_risk_and_its_interval_contains_that_of_katz(n0, s0, n1, s1):
    """Source: scipy, relative_risk (Katz 1978), whose interval holds at one look only."""
    expected = relative_risk(s1, n1, s0, n0)
    low, high = expected.confidence_interval(0.95)
    found = judged(((n0, s0, n1, s1),))
    assert found.lift.estimate == pytest.approx(expected.relative_risk - 1, rel=1e-12)
    assert found.lift.lower <= low - 1
    assert found.lift.upper >= high - 1
