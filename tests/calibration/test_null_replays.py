"""What the policy promises, kept by the whole engine: seeded rollouts in a closed loop.

Each rollout is a ramp to 50 % with late labels, in which the traffic follows the engine's own
splits. Bounds are binomial: a true level of 1 % exceeds 6 rollbacks of 200 once in 250 tries, and
the seeds are fixed.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from controller.core.model import Phase, Verdict
from tests.core.logs import policy
from tests.world import World, rollout

POLICY = policy(
    {
        "canary": {
            "steps": ["10%", "25%", "50%"],
            "min_duration": "60s",
            "min_outcomes": 100,
            "margin": "3%",
            "false_rollback": "1%",
            "false_promotion": "1%",
            "max_duration": "30m",
            "budget": "100%",
        }
    },
    reward={"event": "click", "window": "30s", "grace": "10s"},
)
TICKS = 32
"""A quarter of an hour of ticks each 30 s."""


@cache
def ends(n: int, effect: float, seed: int) -> tuple[Phase, ...]:
    """How n rollouts end, the candidate's clicks being `effect` times the champion's."""
    worlds = (
        World(seed + i, rate=40.0, base=lambda _: 0.3, effects={"v2": effect}) for i in range(n)
    )
    return tuple(rollout(POLICY, world, ticks=TICKS)[0].phase for world in worlds)


def test_at_most_six_of_two_hundred_equal_candidates_are_rolled_back():
    assert binom.sf(6, 200, 0.01) < 0.005
    phases = ends(200, 1.0, 10_000)
    assert phases.count(Phase.ROLLED_BACK) <= 6
    # The bound is no merit of a controller that never moves.
    assert phases.count(Phase.PROMOTED) >= 100


@pytest.mark.parametrize(("effect", "seed"), [(0.8, 20_000), (0.7, 30_000)])
def test_harmful_candidates_are_rolled_back_before_they_are_promoted(effect, seed):
    phases = ends(30, effect, seed)
    assert phases.count(Phase.PROMOTED) == 0
    assert phases.count(Phase.ROLLED_BACK) >= 28


def test_better_candidates_are_promoted():
    phases = ends(40, 1.15, 40_000)
    assert phases.count(Phase.PROMOTED) >= 36
    assert phases.count(Phase.ROLLED_BACK) == 0


@pytest.mark.parametrize("seed", range(50_000, 50_012))
def test_a_baseline_that_falls_while_the_share_rises_rolls_nobody_back(seed):
    # Simpson's paradox: 6 % -> 3 % during the ramp, late labels, both arms alike. Pooled over the
    # ramp the candidate, whose traffic came late, looks a third worse.
    world = World(
        seed, rate=60.0, base=lambda t: 0.06 - 0.03 * np.minimum(t / 600.0, 1.0), delay_s=10.0
    )
    state, decisions = rollout(POLICY, world, ticks=TICKS)
    assert Verdict.ROLL_BACK not in [d.verdict for d in decisions]
    seen = decisions[-1].evidence
    assert seen["candidate"]["n"] > 1_000, state.phase
