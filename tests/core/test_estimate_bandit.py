"""The bandit's blocks: against closed forms, published tables and other people's solvers."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from controller.core.estimate import bandit, contrast
from controller.core.estimate.bandit import BLOCKS, STRENGTH, Blocks, Terms
from controller.core.model import Flow
from controller.ledger import codec

WINDOW = 160.0
COINS = Terms(is_binary=True, low=0.0, high=1.0, default=0.0, window_s=WINDOW)
AMOUNTS = Terms(is_binary=False, low=0.0, high=500.0, default=0.0, window_s=WINDOW)
HISTORY = (10_000.0, 500.0, 500.0)
PRIOR = STRENGTH * 500.5 / 10_001


def flow(*rows, **columns):
    """Rows of (arm, time), and the columns of `Flow` that are not 0."""
    arm, time = (np.array(c) for c in zip(*rows, strict=True))
    given = {name: np.array(c, np.float64) for name, c in columns.items() if name != "segment"}
    segment = np.array(columns.get("segment", [-1] * len(arm)))
    return Flow(
        stratum=np.zeros(len(arm), np.int64),
        segment=segment,
        arm=arm,
        time=time.astype(float),
        **{
            name: given.get(name, np.zeros(len(arm)))
            for name in Flow.__dataclass_fields__
            if name not in {"stratum", "segment", "arm", "time"}
        },
    )


def done(time, *counts, segment=-1, square=None):
    """Units that entered and closed: (n, sum) per arm."""
    n, s = (list(c) for c in zip(*counts, strict=True))
    return flow(
        *((arm, time) for arm in range(len(n))),
        segment=[segment] * len(n),
        matured=n,
        closed=n,
        value=s,
        square=s if square is None else square,
    )


def fed(terms, *flows, history=HISTORY, candidates=1, now=None):
    blocks = bandit.start(terms, history, candidates=candidates)
    for part in flows:
        blocks = bandit.observe(blocks, part, float(part.time.max()) + 1.0 if now is None else now)
    return blocks


# --- coins ----------------------------------------------------------------------------------------


def test_one_block_gives_the_conjugate_posterior():
    blocks = fed(COINS, done(5.0, (2_000, 100), (2_000, 130)), now=1e6)
    arms = bandit.posteriors(blocks, 1e6)
    assert arms.a == pytest.approx([PRIOR + 100, PRIOR + 130])
    assert arms.a + arms.b == pytest.approx([2_050, 2_050])
    draws = np.random.default_rng(0).beta(arms.a, arms.b, (1_000_000, 2))
    p = np.mean(draws[:, 1] > draws[:, 0])
    error = 4 * np.sqrt(p * (1 - p) / 1_000_000)
    assert bandit.best(blocks, 1e6)[1] == pytest.approx(p, abs=error)
    lost = np.maximum(draws[:, 0] - draws[:, 1], 0.0) / (arms.a[0] / 2_050)
    error = 4 * lost.std() / 1_000
    assert bandit.loss(blocks, 1e6, 0) == pytest.approx(lost.mean(), abs=error)


def test_without_data_all_arms_are_alike():
    for terms in (COINS, AMOUNTS):
        blocks = bandit.start(terms, (0.0, 0.0, 0.0), candidates=3)
        assert bandit.best(blocks, 0.0) == pytest.approx([0.25] * 4, abs=1e-9)


def test_crooks_table_is_not_reversed():
    # Crook, Frasca, Kohavi, Longbotham (KDD 2009), "Seven pitfalls", table 1: the treatment wins
    # on both days, 2.30 % to 2.02 % and 1.20 % to 1.00 %, and loses in total, 1.20 % to 1.68 %.
    friday = done(10.0, (990_000, 20_000), (10_000, 230))
    saturday = done(86_410.0, (500_000, 5_000), (500_000, 6_000))
    blocks = fed(COINS, friday, saturday, now=1e6)
    assert bandit.best(blocks, 1e6)[1] > 0.999
    arms = bandit.posteriors(blocks, 1e6)
    ratio = (arms.a / (arms.a + arms.b))[1] / (arms.a / (arms.a + arms.b))[0]
    assert 1.14 <= ratio <= 1.20


def test_a_drift_common_to_all_arms_moves_nothing():
    # Equal arms; the candidate has most of the traffic exactly when rewards are rare.
    rng, flows = np.random.default_rng(1), []
    for hour in range(40):
        share, rate = (0.9, 0.02) if hour % 2 else (0.1, 0.10)
        n = np.array([1 - share, share]) * 5_000
        flows.append(done(3_600.0 * hour, *zip(n, rng.binomial(n.astype(int), rate), strict=True)))
    p = bandit.best(fed(COINS, *flows, now=1e6), 1e6)[1]
    assert 0.02 < p < 0.98
    pooled = [
        sum(f.value[arm] for f in flows) / sum(f.closed[arm] for f in flows) for arm in (0, 1)
    ]
    assert pooled[1] < 0.35 * pooled[0]


def test_where_nothing_drifts_blocks_with_different_shares_speak_together():
    rng, flows = np.random.default_rng(2), []
    for hour in range(40):
        n = np.array([[100, 1_900], [1_900, 100]][hour % 2])
        flows.append(done(3_600.0 * hour, *zip(n, rng.binomial(n, 0.05), strict=True)))
    arms = bandit.posteriors(fed(COINS, *flows, now=1e6), 1e6)
    # All 4 000 rewards know four times as much as contrasts within blocks: s (1 - s) = .0475.
    assert (arms.a > 1_000).all()
    assert (arms.a < 2_100).all()


def test_rates_with_block_effects_equal_scipys_maximum_of_the_likelihood():
    rng = np.random.default_rng(3)
    n = rng.integers(20, 500, (12, 4)).astype(float)
    events = rng.poisson(n * rng.uniform(0.02, 0.2, (12, 1)) * [1.0, 1.3, 0.8, 1.1]).astype(float)

    def loss(free):
        log_rate = np.append(0.0, free)
        share = n * np.exp(log_rate)
        share /= share.sum(axis=1, keepdims=True)
        return -(events * np.log(share)).sum()

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-7}).x
    found, information = contrast._log_rates(n, events, np.zeros(4))
    assert found[1:] - found[0] == pytest.approx(best, abs=1e-5)
    assert information.sum(axis=1) == pytest.approx(np.zeros(4), abs=1e-8)


def test_a_reference_arm_is_the_likelihood_of_gamma_levels():
    # Negative multinomial: the levels integrated out, by scipy's quadrature, block by block.
    n, events = np.array([[40.0, 60.0], [80.0, 10.0]]), np.array([[3.0, 7.0], [9.0, 2.0]])
    v = 4.0

    def log_likelihood(rate):
        total = 0.0
        for n_b, o_b in zip(n, events, strict=True):
            level = stats.gamma(v, scale=1 / v)
            mean = level.expect(lambda x: np.prod(stats.poisson.pmf(o_b, x * n_b * rate)))  # noqa: B023
            total += np.log(mean)
        return total

    best = minimize(
        lambda x: -log_likelihood(np.exp(x)), np.log([0.1, 0.1]), options={"gtol": 1e-6}
    ).x
    reference = np.full((2, 1), v)
    found, _ = contrast._log_rates(
        np.hstack([reference, n]), np.hstack([reference, events]), np.zeros(3)
    )
    assert found[1:] - found[0] == pytest.approx(best, abs=1e-4)


def test_rates_near_one_are_compared_by_failures():
    history = (10_000.0, 9_500.0, 9_500.0)
    high = fed(COINS, done(5.0, (2_000, 1_900), (2_000, 1_870)), history=history, now=1e6)
    low = fed(COINS, done(5.0, (2_000, 100), (2_000, 130)), now=1e6)
    assert bandit.best(high, 1e6) == pytest.approx(bandit.best(low, 1e6)[::-1], abs=1e-9)


def test_a_default_at_the_high_end_counts_the_others_as_events():
    # Early failures of units that would otherwise succeed: 0 instead of the default 1.
    terms = Terms(is_binary=True, low=0.0, high=1.0, default=1.0, window_s=WINDOW)
    history = (10_000.0, 9_500.0, 9_500.0)
    early = flow((0, 5.0), (1, 5.0), matured=[2_000] * 2, events=[100, 130], delay=[1.0] * 2)
    late = flow((0, 5.0), (1, 5.0), closed=[2_000] * 2, value=[1_900, 1_870], square=[1_900, 1_870])
    blocks = fed(terms, early, history=history, now=166.0)
    done_ = bandit.observe(blocks, late, 1e6)
    assert bandit.best(blocks, 166.0) == pytest.approx(bandit.best(done_, 1e6), abs=0.01)
    assert bandit.best(done_, 1e6)[0] > 0.9


def test_the_smallest_mean_is_best_where_the_reward_is_minimised():
    terms = Terms(COINS.is_binary, 0.0, 1.0, 0.0, WINDOW, is_minimised=True)
    less = fed(terms, done(5.0, (2_000, 100), (2_000, 130)), now=1e6)
    more = fed(COINS, done(5.0, (2_000, 100), (2_000, 130)), now=1e6)
    assert bandit.best(less, 1e6) == pytest.approx(bandit.best(more, 1e6)[::-1], abs=1e-9)
    assert bandit.loss(less, 1e6, 0) > 20 * bandit.loss(more, 1e6, 0)


def test_rewards_in_another_range_are_the_same_coins():
    terms = Terms(is_binary=True, low=-2.0, high=3.0, default=-2.0, window_s=WINDOW)
    history = (10_000.0, -2.0 * 9_500 + 3.0 * 500, 0.0)
    values = [(2_000, -2.0 * 1_900 + 300), (2_000, -2.0 * 1_870 + 390)]
    scaled = fed(terms, done(5.0, *values), history=history, now=1e6)
    plain = fed(COINS, done(5.0, (2_000, 100), (2_000, 130)), now=1e6)
    assert bandit.best(scaled, 1e6) == pytest.approx(bandit.best(plain, 1e6), abs=1e-9)


# --- late labels ----------------------------------------------------------------------------------


def learnt(**columns):
    """Blocks that know delays: half of the rewards come at 16 s, half at 80 s, of 160 s."""
    first = flow(
        *((arm, 5.0) for arm in (0, 0, 1, 1)),
        matured=[1_000, 0, 1_000, 0],
        events=[5_000, 5_000, 5_000, 5_000],
        delay=[16.0, 80.0, 16.0, 80.0],
    )
    closed = done(5.0, (0, 0), (0, 0))
    closed = Flow(
        **{n: getattr(closed, n) for n in Flow.__dataclass_fields__} | {"closed": np.full(2, 1e3)}
    )
    return bandit.observe(bandit.observe(fed(COINS), first, 170.0), closed, 171.0)


@pytest.mark.parametrize(("age", "known"), [(10.0, 0.0), (50.0, 0.5), (120.0, 1.0)])
def test_young_exposures_count_as_the_share_of_rewards_that_has_come(age, known):
    # Vernade, Cappé, Perchet (arXiv:1706.09186): S / sum F(age).
    blocks = learnt()
    young = flow((0, 995.0), (1, 995.0), matured=[4_000] * 2)
    before = bandit.posteriors(bandit.observe(blocks, young, 995.0), 995.0)
    after = bandit.posteriors(bandit.observe(blocks, young, 995.0 + age), 995.0)
    gained = (after.a + after.b) - (before.a + before.b)
    assert gained == pytest.approx([4_000 * known] * 2, abs=30.0)


def test_open_exposures_are_no_failures():
    settled = done(5.0, (20_000, 1_000), (20_000, 1_100))
    blocks = fed(COINS, settled, now=1_000.0)
    young = flow((0, 1_000.0), (1, 1_000.0), matured=[10.0, 50_000.0])
    after = bandit.observe(blocks, young, 1_000.5)
    assert bandit.best(after, 1_000.5)[1] == pytest.approx(bandit.best(blocks, 1e3)[1], abs=0.01)


def test_early_rewards_of_a_cohort_give_way_to_its_outcomes():
    early = flow((0, 5.0), (1, 5.0), matured=[2_000] * 2, events=[80, 90], event_value=[80, 90])
    late = flow((0, 5.0), (1, 5.0), closed=[2_000] * 2, value=[100, 130], square=[100, 130])
    blocks = bandit.observe(fed(COINS, early, now=100.0), late, 170.0)
    once = fed(COINS, done(5.0, (2_000, 100), (2_000, 130)), now=170.0)
    assert bandit.best(blocks, 170.0) == pytest.approx(bandit.best(once, 170.0), abs=1e-9)
    assert len(blocks.cohort) == 0


# --- fading and size ------------------------------------------------------------------------------


def test_rewards_fade_by_the_time_of_their_exposure():
    terms = Terms(True, 0.0, 1.0, 0.0, WINDOW, half_life_s=16_000.0)
    blocks = fed(terms, done(500.0, (2_000, 100), (2_000, 130)), now=1_000.0)
    for halvings in (0, 1, 3):
        arms = bandit.posteriors(blocks, 500.0 + 16_000.0 * halvings)
        left = 0.5**halvings
        assert arms.a == pytest.approx([PRIOR + 100 * left, PRIOR + 130 * left], rel=1e-6)
        assert arms.a + arms.b == pytest.approx([50 + 2_000 * left] * 2, rel=1e-6)


@pytest.mark.parametrize("half_life", [None, 1_000.0])
def test_blocks_are_bounded_and_without_a_half_life_nothing_is_lost(half_life):
    terms = Terms(True, 0.0, 1.0, 0.0, WINDOW, half_life_s=half_life)
    blocks = bandit.start(terms, HISTORY, candidates=1)
    for i in range(3_000):
        blocks = bandit.observe(blocks, done(i * 30.0, (20, 1), (10, 2)), i * 30.0 + 30.0)
        assert len(blocks.block) <= BLOCKS
        assert len(blocks.cohort) <= 20
    kept = blocks.closed.sum(axis=(0, 1)) + blocks.open[..., 4:].sum(axis=(0, 1))
    if half_life is None:
        assert kept[:, :2].tolist() == [[60_000, 3_000], [30_000, 6_000]]
    else:
        assert kept[0, 0] == pytest.approx(20 * 8_000 / 30, rel=0.02)


# --- segments -------------------------------------------------------------------------------------


def segmented():
    pooled = [done(5.0, (4_000, 200), (4_000, 280), segment=0)]
    pooled.append(done(5.0, (4_000, 280), (4_000, 200), segment=1))
    pooled.append(done(5.0, (6_000, 300), (6_000, 400), segment=-1))
    pooled.append(done(5.0, (5, 0), (5, 0), segment=3))
    return fed(COINS, *pooled, now=1e6)


def test_a_segment_follows_its_own_outcomes_as_it_gets_them():
    blocks = segmented()
    assert bandit.best(blocks, 1e6, 0)[1] > 0.99
    assert bandit.best(blocks, 1e6, 1)[1] < 0.05
    assert bandit.best(blocks, 1e6)[1] > 0.99


def test_a_segment_without_outcomes_gets_what_is_known_of_all():
    blocks = segmented()
    assert bandit.best(blocks, 1e6, 7) == bandit.best(blocks, 1e6)
    small = bandit.best(blocks, 1e6, 3)[1]
    assert 0.6 < small < bandit.best(blocks, 1e6)[1]


def test_all_segments_at_once_are_what_each_is_alone():
    blocks = segmented()
    each = [bandit.best(blocks, 1e6, segment) for segment in range(4)]
    assert bandit.best_by_segment(blocks, 1e6) == tuple(each)


# --- amounts --------------------------------------------------------------------------------------


def test_amounts_give_the_conjugate_posterior_of_normals():
    # Normal-inverse-gamma with mean m0, kappa = 50, shape 25, rate 25 v: Murphy (2007),
    # "Conjugate Bayesian analysis of the Gaussian distribution", eq. 85-89. Means are alike, so
    # that the prior of contrasts, which has no height, says what Murphy's prior at m0 says.
    rng = np.random.default_rng(7)
    x, y = rng.gamma(2.0, 5.0, (2, 400))
    y += x.mean() - y.mean()
    history = (1_000.0, 1_000 * x.mean(), 1_000 * (x.mean() ** 2 + 40.0))
    closed = done(5.0, (400, x.sum()), (400, y.sum()), square=[(x**2).sum(), (y**2).sum()])
    arms = bandit.posteriors(fed(AMOUNTS, closed, history=history, now=1e6), 1e6)
    for k, values in enumerate((x, y)):
        shape = 25.0 + 200.0
        rate = 25.0 * 40.0 + 0.5 * ((values - values.mean()) ** 2).sum()
        assert arms.location[k] == pytest.approx(x.mean(), rel=1e-9)
        assert arms.df[k] == pytest.approx(2 * shape)
        assert arms.scale[k] == pytest.approx(np.sqrt(rate / shape / 450.0), rel=1e-6)


def test_block_effects_of_amounts_equal_a_regression_on_dummies():
    rng = np.random.default_rng(8)
    n, arms = rng.integers(5, 60, (10, 3)), 3
    rows = [(b, k) for b in range(10) for k in range(arms) for _ in range(n[b, k])]
    b, k = np.array(rows).T
    y = rng.normal(5.0 + b + np.array([0.0, 0.4, -0.2])[k], 2.0)
    design = np.hstack([np.eye(10)[b], np.eye(arms)[k][:, 1:]])
    expected = np.linalg.lstsq(design, y)[0][10:]
    s = np.zeros((10, arms))
    np.add.at(s, (b, k), y)
    found, level, _ = contrast._least_squares(n.astype(float), s)
    assert found[1:] - found[0] == pytest.approx(expected, abs=1e-9)
    assert (level[b] + found[k]) == pytest.approx(design @ np.linalg.lstsq(design, y)[0], abs=1e-9)


def test_a_drift_of_amounts_common_to_all_arms_moves_nothing():
    rng, flows = np.random.default_rng(9), []
    for hour in range(40):
        share, mean = (0.9, 2.0) if hour % 2 else (0.1, 10.0)
        n = np.array([1 - share, share]) * 500
        values = [rng.exponential(mean, int(c)) for c in n]
        squares = [(v**2).sum() for v in values]
        sums = [(c, v.sum()) for c, v in zip(n, values, strict=True)]
        flows.append(done(3_600.0 * hour, *sums, square=squares))
    assert 0.02 < bandit.best(fed(AMOUNTS, *flows, now=1e6), 1e6)[1] < 0.98


def test_a_default_that_is_not_zero_is_what_an_amount_without_a_reward_is_worth():
    terms = Terms(is_binary=False, low=0.0, high=500.0, default=7.0, window_s=WINDOW)
    early = flow((0, 5.0), (1, 5.0), matured=[400] * 2, events=[40, 60], event_value=[4_000, 6_000])
    blocks = fed(terms, early, history=(0.0, 0.0, 0.0), now=165.0)
    arms = bandit.posteriors(blocks, 165.0)
    difference = 93.0 * (60 - 40) / 450  # shrunk by the prior's 50 outcomes
    assert np.diff(arms.location) == pytest.approx([difference], rel=0.1)


# --- the value ------------------------------------------------------------------------------------


def test_a_new_arm_begins_like_the_prior():
    blocks = bandit.with_arm(fed(COINS, done(5.0, (4_000, 200), (4_000, 200)), now=1e6))
    best = bandit.best(blocks, 1e6)
    assert best[0] == pytest.approx(best[1], abs=1e-9)
    assert 0.3 < best[2] < 0.6


def random_flows(rng, count):
    for i in range(count):
        rows = [(arm, 40.0 * max(i - age, 0)) for arm in (0, 1) for age in (0, 1, 5)]
        n = rng.integers(1, 50, 6).astype(float)
        yield flow(
            *rows,
            segment=rng.integers(-1, 3, 6),
            matured=n,
            events=n // 20,
            event_value=n // 20,
            delay=rng.uniform(0.0, WINDOW, 6),
            closed=n,
            value=n // 9,
            square=n // 9,
        )


def test_extreme_counts_give_probabilities():
    nothing = [done(1.7e9, (10.0**6, 0), (10.0**6, 0), (0, 0))]
    everything = [done(1.7e9, (10.0**9, 10.0**9), (10.0**9, 10.0**9 - 1), (1, 0))]
    for flows in ([], nothing, everything, nothing + everything):
        blocks = fed(COINS, *flows, candidates=2, now=1.8e9)
        best = bandit.best(blocks, 1.8e9)
        assert sum(best) == pytest.approx(1.0, abs=1e-6)
        assert min(best) >= 0.0


def test_a_micro_batch_without_rows_only_moves_time():
    blocks = fed(COINS, done(5.0, (4_000, 200), (4_000, 200)), now=100.0)
    empty = Flow(*(getattr(done(0.0, (1, 0)), name)[:0] for name in Flow.__dataclass_fields__))
    after = bandit.observe(blocks, empty, 900.0)
    assert after.now == 900.0
    assert bandit.best(after, 900.0) == pytest.approx(bandit.best(blocks, 900.0), abs=1e-9)


def test_rows_may_come_in_any_order():
    shuffled = np.random.default_rng(11)
    left = right = bandit.start(COINS, HISTORY, candidates=1)
    for i, part in enumerate(random_flows(np.random.default_rng(10), 200)):
        order = shuffled.permutation(len(part.arm))
        other = Flow(*(getattr(part, name)[order] for name in Flow.__dataclass_fields__))
        left, right = (
            bandit.observe(blocks, rows, 40.0 * i)
            for blocks, rows in ((left, part), (right, other))
        )
    assert bandit.best(left, 8e3) == pytest.approx(bandit.best(right, 8e3), abs=1e-9)
    assert bandit.best(left, 8e3, 1) == pytest.approx(bandit.best(right, 8e3, 1), abs=1e-9)


def test_a_snapshot_goes_on_as_the_state_does():
    live, flows = bandit.start(COINS, HISTORY), list(random_flows(np.random.default_rng(12), 60))
    for i, part in enumerate(flows[:30]):
        live = bandit.observe(live, part, 40.0 * i)
    kept = codec.decode(Blocks, codec.encode(live))
    for i, part in enumerate(flows[30:], 30):
        live, kept = bandit.observe(live, part, 40.0 * i), bandit.observe(kept, part, 40.0 * i)
    assert codec.encode(live) == codec.encode(kept)
    assert bandit.best(live, 9e3, 0) == bandit.best(kept, 9e3, 0)
