"""Rehearsals: reproducible, the same at both levels, and told with their uncertainty."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from controller.sim.scenario import load
from controller.sim.simulate import planned, rollout, simulate
from controller.sim.summary import Promise, document, promises, rate
from tests.sim.worlds import CANARY, plan, scenario, small_policy

QUICK = {"rate": 100, "requests": 60_000, "base_rate": "30%", "tick": "15s"}


def strict_policy():
    """The small policy with a margin of half a point, a tenth of the base rate."""
    return small_policy(stages=[{"canary": CANARY["canary"] | {"margin": "0.5%"}}])


def test_runs_do_not_depend_on_the_number_of_processes():
    world = scenario(**QUICK, candidates=[{"effect": "-20%"}])
    alone = simulate(small_policy(), world, runs=5, seed=7, jobs=1)
    done: list[int] = []
    together = simulate(small_policy(), world, runs=5, seed=7, jobs=2, progress=done.append)
    assert together == alone
    assert done == [1, 2, 3, 4, 5]


def test_a_run_is_the_same_among_few_and_among_many():
    made = plan(**QUICK)
    assert (
        rollout(made, 3, 1) == simulate(made.policy, made.scenario, runs=2, seed=3, jobs=1).runs[1]
    )


def test_other_seeds_and_other_numbers_are_other_runs():
    made = plan(**QUICK)
    requests = {rollout(made, seed, number).requests for seed in (0, 1) for number in (0, 1)}
    assert len(requests) == 4


@pytest.mark.parametrize("effect", ["-15%", "0%"])
def test_verdicts_agree_between_events_and_tallies(effect):
    """Two binomials of 64 differ by more than 0.39 with probability 1e-5; seeds are fixed."""
    fields = QUICK | {"candidates": [{"effect": effect}], "delay": {"mean": "5s"}}
    found = {
        level: simulate(small_policy(), scenario(**fields), runs=64, seed=5, level=level).runs
        for level in ("events", "tallies")
    }
    for verdict in ("promoted", "rolled_back"):
        share = [np.mean([run.verdict == verdict for run in runs]) for runs in found.values()]
        assert abs(share[0] - share[1]) < 0.39
    means = [np.mean([run.duration_s for run in runs]) for runs in found.values()]
    errors = [np.std([run.duration_s for run in runs]) / np.sqrt(64) for runs in found.values()]
    assert abs(means[0] - means[1]) < 4.5 * np.hypot(*errors)


def test_a_run_tells_its_way():
    made = plan(**QUICK, candidates=[{"effect": "-40%"}])
    run = rollout(made, 0, 0)
    assert run.verdict == "rolled_back"
    assert run.cause in {"reward_harm", "reward_fast"}
    assert "v2" in run.reason
    assert run.stages[0] == ("canary", 0, 0.0)
    assert [step for _, step, _ in run.stages] == list(range(len(run.stages)))
    assert run.harmed == run.on_candidate > 0
    # Expected loss per request on the candidate: 40 % of 30 %, of the answers that do not fail.
    assert run.lost_reward == pytest.approx(0.4 * 0.3 * 0.995 * run.harmed)
    assert run.requests >= run.duration_s * 100 * 0.9


def test_a_run_ends_undecided_when_its_requests_are_made():
    made = plan(rate=10, requests=1_000, base_rate="1%")
    run = rollout(made, 0, 0)
    assert (run.verdict, run.requests) == ("undecided", pytest.approx(1_000, abs=200))


def test_every_candidate_has_its_turn():
    policy = small_policy(candidates={"on_new": "queue"})
    world = scenario(**QUICK | {"requests": 200_000}, candidates=[{"effect": "-60%"}, {}])
    run = simulate(policy, world, runs=1, seed=1, jobs=1).runs[0]
    assert Counter(step for _, step, _ in run.stages)[0] == 2
    assert (run.verdict, run.champion) == ("promoted", "v3")


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("harmful", "rolled_back"), ("errors", "rolled_back"), ("better", "promoted")],
)
def test_built_in_scenarios_do_what_their_name_says(name, verdict):
    """5 of 6 at least: a rollout that ends otherwise has a chance below 2 % here."""
    world = load(name).model_copy(update={"requests": 400_000, "rate": 200.0})
    runs = simulate(strict_policy(), world, runs=6, seed=11).runs
    assert [run.verdict for run in runs].count(verdict) >= 5


@pytest.mark.parametrize("name", ["duplicates", "out_of_order", "bursts", "sticky_users", "slow"])
def test_scenarios_of_events_run_through(name):
    world = load(name).model_copy(update={"requests": 20_000})
    made = planned(small_policy(), world)
    run = rollout(made, 0, 0)
    assert run.requests == pytest.approx(20_000, rel=0.7)
    assert run.stages


def test_requests_that_are_lost_hold_the_rollout():
    world = load("lost_exposures").model_copy(update={"requests": 60_000, "rate": 100.0})
    run = rollout(planned(strict_policy(), world), 0, 0)
    assert (run.verdict, run.cause) == ("undecided", "sample_ratio")


# --- summary ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "runs", "low", "high"),
    [
        # Clopper and Pearson's ends solve the binomial tails; 0 of n has the closed form.
        (0, 100, 0.0, 1 - 0.025 ** (1 / 100)),
        (100, 100, 0.025 ** (1 / 100), 1.0),
        (5, 50, None, None),
    ],
)
def test_intervals_are_exact(count, runs, low, high):
    found = rate(count, runs)
    if low is None:
        assert binom.sf(count - 1, runs, found.low) == pytest.approx(0.025)
        assert binom.cdf(count, runs, found.high) == pytest.approx(0.025)
    else:
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_the_document_says_what_the_runs_say():
    world = scenario(**QUICK, candidates=[{"effect": "-40%"}])
    made = simulate(small_policy(), world, runs=4, seed=0, jobs=1)
    told = document("mine", made)
    assert told["verdicts"]["rolled_back"]["count"] == sum(
        run.verdict == "rolled_back" for run in made.runs
    )
    assert sum(found["count"] for found in told["verdicts"].values()) == 4
    durations = [run.duration_s for run in made.runs]
    assert told["duration_s"]["all"]["p50"] == pytest.approx(np.median(durations))
    assert [row["number"] for row in told["each"]] == [0, 1, 2, 3]
    assert told["stages"][0]["reached"]["rate"] == 1.0
    assert (told["level"], told["why_events"], told["seed"]) == ("tallies", [], 0)


@pytest.mark.parametrize(
    ("stages", "fields", "whats"),
    [
        ([CANARY], {}, {"false rollback": 0.01}),
        ([CANARY], {"candidates": [{"effect": "20%"}]}, {"false rollback": 0.01}),
        # 5 % of 20 % is exactly the margin's third: worse, but by less than the margin of 3 points
        ([CANARY], {"base_rate": "20%", "candidates": [{"effect": "-5%"}]}, {}),
        (
            [CANARY],
            {"base_rate": "20%", "candidates": [{"effect": "-20%"}]},
            {"false promotion": 0.01},
        ),
        ([{"ab": {"alpha": "5%"}}], {}, {"false rollback": 0.05, "false promotion": 0.05}),
        (
            [CANARY, {"ab": {"alpha": "5%"}}],
            {"candidates": [{"effect": "-1%"}]},
            {"false promotion": 0.05},
        ),
        ([{"thompson": {}}], {}, {"false rollback": 0.01, "false promotion": 0.01}),
        ([CANARY], {"candidates": [{"errors": "9%"}]}, {}),
        ([CANARY], {"candidates": [{}, {}]}, {}),
        ([CANARY], {"candidates": [{"later": {"effect": "-9%", "at": "1h"}}]}, {}),
    ],
)
def test_only_verdicts_that_the_truth_makes_wrong_are_held_against_the_policy(
    stages, fields, whats
):
    found = promises(small_policy(stages=stages), scenario(**fields), [_run()])
    assert {p.what: pytest.approx(p.at_most) for p in found} == whats


def _run():
    return rollout(plan(rate=10, requests=100), 0, 0)


def test_a_promise_is_broken_where_its_interval_lies_above_it():
    assert not Promise("false rollback", 0.01, rate(3, 200)).is_broken
    assert Promise("false rollback", 0.01, rate(9, 200)).is_broken
