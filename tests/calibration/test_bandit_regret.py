"""Regret of the bandit by seeded simulation: against Lai and Robbins, late labels, a common drift.

100 000 requests in micro-batches of 100, after each of which the split is set anew: the champion
converts at 5 %, the candidate at 6 %, each arm keeps 1 %. Regret is expected rewards lost to always
choosing the better arm; the yardstick is the lower bound's constant times log n (Lai & Robbins
1985, theorem 2): log(n) (mu* - mu) / KL(mu, mu*) = 122.9 rewards. It binds in the limit only, and
a good rule stays below it at this n; the target of STATS is 0.40 of it.
"""

import numpy as np
import pytest

from controller.core.estimate import bandit
from controller.core.estimate.bandit import Terms
from controller.core.model import Flow

REQUESTS, BATCH, FLOOR = 100_000, 100, 0.01
WORSE, BETTER = 0.05, 0.06
HISTORY = (1_000.0, 50.0, 50.0)
RUNS = 40

pytestmark = pytest.mark.timeout(900)


def lai_robbins():
    kl = WORSE * np.log(WORSE / BETTER) + (1 - WORSE) * np.log((1 - WORSE) / (1 - BETTER))
    return np.log(REQUESTS) * (BETTER - WORSE) / kl


def flow(rows):
    """Rows of (arm, time, matured, events, delay, closed, value)."""
    arm, *rest = (np.array(c) for c in zip(*rows, strict=True))
    time, matured, events, delay, closed, value = (c.astype(float) for c in rest)
    return Flow(
        stratum=np.zeros(len(arm), np.int64),
        segment=np.full(len(arm), -1),
        arm=arm,
        time=time,
        matured=matured,
        events=events,
        event_value=events,
        delay=delay,
        lapsed=closed - value,
        closed=closed,
        value=value,
        square=value,
    )


class World:
    """One request per second; rewards at once, or exponentially late within four mean delays."""

    def __init__(self, seed, delay):
        self.rng, self.delay = np.random.default_rng(seed), delay
        self.window = 1.0 if delay is None else 4.0 * delay
        self.coming = {}

    def batch(self, i, counts, rates):
        """What the joiner says after micro-batch i, of which each arm had so many."""
        time = (i + 0.5) * BATCH
        for arm, n in enumerate(counts):
            come = self.rng.binomial(n, rates[arm])
            if self.delay is None:
                self._add(i, (arm, time, n, come, 0.0, n, come))
            else:
                self._add(i, (arm, time, n, 0, 0.0, 0, 0))
                self._late(i, arm, time, n, self.rng.exponential(self.delay, come))
        return flow(self.coming.pop(i))

    def _late(self, i, arm, time, n, delays):
        delays = delays[delays < self.window]
        later = np.round(delays / BATCH).astype(int)
        for j in np.unique(later):
            mean = delays[later == j].mean()
            self._add(i + j, (arm, time, 0, (later == j).sum(), mean, 0, 0))
        end = i + round(self.window / BATCH) + 1
        self._add(end, (arm, time, 0, 0, 0.0, n, len(delays)))

    def _add(self, i, row):
        self.coming.setdefault(i, []).append(row)


def shares(seed, rates, *, delay=None, level=lambda _: 1.0):
    """The candidate's part of the requests in each micro-batch, (1 000,)."""
    world, share = World(seed, delay), 0.5
    terms = Terms(True, 0.0, 1.0, 0.0, world.window)
    blocks, served = bandit.start(terms, HISTORY), []
    for i in range(REQUESTS // BATCH):
        candidate = world.rng.binomial(BATCH, share)
        served.append(candidate / BATCH)
        now = np.array(rates) * level(i * BATCH / REQUESTS)
        rows = world.batch(i, (BATCH - candidate, candidate), now)
        blocks = bandit.observe(blocks, rows, (i + 1.0) * BATCH)
        share = FLOOR + (1 - 2 * FLOOR) * bandit.best(blocks, blocks.now)[1]
    return np.array(served)


def regret(**kwargs):
    """Of each run, in rewards."""
    served = np.array([shares(seed, (WORSE, BETTER), **kwargs) for seed in range(RUNS)])
    return ((1.0 - served) * BATCH * (BETTER - WORSE)).sum(axis=1)


def test_regret_is_a_part_of_lai_and_robbins_and_late_labels_cost_little_more():
    at_once, late = regret(), regret(delay=2_000.0)
    print(f"regret / Lai-Robbins: {at_once.mean() / lai_robbins():.3f} at once")
    print(f"  {late.mean() / lai_robbins():.3f} with labels 2 000 requests late on average")
    assert at_once.mean() <= 0.40 * lai_robbins()
    # Two means of 40 runs: the quotient has a standard error of about .12.
    assert late.mean() <= 1.25 * at_once.mean()


def test_a_drift_common_to_equal_arms_does_not_drive_the_weights():
    # 6 % -> 3 % -> 6 %: weights of equal arms wander as far as they do without a drift.
    def wandered(level):
        runs = [shares(seed, (0.06, 0.06), level=level) for seed in range(25)]
        return np.abs(np.array(runs) - 0.5).mean(axis=1)

    still, drifting = wandered(lambda _: 1.0), wandered(lambda u: 1 - 0.5 * np.sin(np.pi * u))
    error = np.sqrt((still.var() + drifting.var()) / 25)
    assert drifting.mean() <= still.mean() + 2 * error
