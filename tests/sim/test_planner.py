"""Plans: closed forms against published and brute-force numbers, durations against rehearsals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from controller.core.estimate.book import harm, noninferiority
from controller.core.estimate.sequential import alternatives, log_bets
from controller.errors import UnderstudyError
from controller.sim.detection import FOUR_OF_FIVE, Sought, bound, smallest, units
from controller.sim.outlook import Traffic, document
from controller.sim.planner import plan
from controller.sim.simulate import simulate
from tests.core.logs import policy
from tests.sim.worlds import CANARY, scenario, small_policy

HARM = Sought.of(harm(None, 0.0, 1), 0.01)


@pytest.mark.parametrize(("share", "requests"), [(0.01, 413_000), (0.05, 86_000), (0.25, 21_000)])
def test_the_bound_at_base_5_percent_and_minus_20_percent(share, requests):
    # The table of docs/plan.md, whose figures were simulated before any of this was written.
    assert bound(HARM, share, 0.05, 0.04) == pytest.approx(requests, rel=0.05)


def test_the_bound_is_that_of_the_divergence_written_out():
    pi, p0, p1 = 0.3, 0.2, 0.15
    middle = (1 - pi) * p0 + pi * p1

    def kl(p, q):
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    growth = pi * kl(p1, middle) + (1 - pi) * kl(p0, middle)
    assert bound(HARM, pi, p0, p1) == pytest.approx(math.log(100) / growth, rel=1e-9)


@pytest.mark.parametrize("p1", [0.2, 0.25])
def test_there_is_no_harm_to_find_in_a_candidate_that_is_not_worse(p1):
    assert bound(HARM, 0.3, 0.2, p1) == math.inf
    assert units(HARM, 0.3, 0.2, p1) == math.inf


@pytest.mark.parametrize(("pi", "p0", "factor"), [(0.5, 0.3, 0.8), (0.1, 0.1, 0.6)])
def test_half_and_four_of_five_are_found_by_then(pi, p0, factor):
    """Against 400 sequences of coins, bet on by the same book with the champion's mean known.

    The binomial 99.9 % bound of 400 at 0.5 is +-0.08; that log E is not quite normal is the rest.
    """
    book, p1 = HARM.book, p0 * factor
    rng = np.random.default_rng(5)
    logs = np.stack(
        [
            np.broadcast_to(x, (1, len(book.slope)))[0]
            for x in log_bets(
                pi,
                np.array([[p0]]),
                alternatives(book, np.array([[p0]])),
                book.ratio,
                book.shift,
                side=book.side,
            )
        ]
    )
    chance = [(1 - pi) * (1 - p0), (1 - pi) * p0, pi * (1 - p1), pi * p1]
    half, most = units(HARM, pi, p0, p1), units(HARM, pi, p0, p1, z=FOUR_OF_FIVE)
    step = int(half / 50)
    counts = rng.multinomial(step, chance, size=(400, int(most / step))).cumsum(axis=1)
    log_e = np.logaddexp.reduce(book.log_weights + counts @ logs, axis=2)
    ever = np.maximum.accumulate(log_e, axis=1) >= math.log(100)
    assert ever[:, 49].mean() == pytest.approx(0.55, abs=0.12)
    assert ever[:, -1].mean() == pytest.approx(0.82, abs=0.09)


def test_what_is_detectable_needs_just_the_units_that_there_are():
    for z in (0.0, FOUR_OF_FIVE):
        change = smallest(HARM, 0.25, 0.05, within=86_000, sign=-1.0, z=z)
        assert change is not None
        assert units(HARM, 0.25, 0.05, 0.05 * (1 - change), z=z) == pytest.approx(86_000, rel=0.01)
    assert smallest(HARM, 0.01, 0.05, within=1_000, sign=-1.0) is None


def test_units_of_a_margin_fall_with_its_square():
    wide, narrow = (
        units(Sought.of(noninferiority(m, m, 1), 0.01), 0.5, 0.3, 0.3) for m in (0.02, 0.01)
    )
    assert narrow / wide == pytest.approx(4.0, rel=0.05)


# --- the whole plan ---------------------------------------------------------------------------

TRAFFIC = Traffic(rate=100.0, base_rate=0.3, delay_s=2.0)


def medians(effect: float, runs: int = 30) -> float:
    """The median duration of rehearsals of the small policy."""
    world = scenario(
        rate=100,
        base_rate=0.3 / 0.995,
        candidates=[{"effect": effect}],
        delay={"mean": "2s"},
        requests=400_000,
        tick="10s",
    )
    made = simulate(small_policy(), world, runs=runs, seed=1)
    return float(np.median([run.duration_s for run in made.runs]))


@pytest.mark.parametrize("hypothesis", ["equal", "better", "worse"])
def test_planned_durations_are_near_the_medians_of_rehearsals(hypothesis):
    """Within a factor of 1.5, as docs/plan.md says."""
    found = plan(small_policy(), TRAFFIC)
    effect = {"equal": 0.0, "better": found.effect, "worse": -found.effect}[hypothesis]
    ending = found.endings[hypothesis]
    assert 1 / 1.5 < medians(effect) / ending.seconds < 1.5
    assert ending.verdict == ("rolled_back" if hypothesis == "worse" else "promoted")


def test_the_effect_looked_for_is_the_policys():
    assert plan(small_policy(), TRAFFIC).effect == pytest.approx(
        0.1
    )  # the margin of 3 of 30 points
    tested = policy({"ab": {"min_effect": "8%", "min_duration": "1m", "max_duration": "1h"}})
    assert plan(tested, TRAFFIC).effect == 0.08
    assert plan(small_policy(), Traffic(100.0, 0.02, 2.0)).effect == 0.2  # a margin above the rate


def test_a_step_lasts_its_dwell_at_least_and_the_table_adds_up():
    found = plan(small_policy(), TRAFFIC)
    assert [step.share for step in found.steps] == [0.1, 0.25, 0.5]
    for step in found.steps:
        assert step.dwell_s == 60.0
        assert step.seconds["equal"] is not None
        assert step.seconds["equal"] >= 60.0
        assert sum(step.waits.values()) == pytest.approx(step.seconds["equal"], rel=0.01)
    total = sum(step.seconds["equal"] or 0.0 for step in found.steps)
    assert found.endings["equal"].seconds == pytest.approx(total)
    # 100 outcomes at a tenth of 100/s take 10 s, and close 15 s later.
    assert found.steps[0].min_outcomes_s == pytest.approx(25.0)


def test_a_plan_warns_of_a_canary_that_sees_catastrophes_only():
    small = {"canary": CANARY["canary"] | {"steps": ["1%"], "max_duration": "10m"}}
    found = plan(policy(small), Traffic(50.0, 0.05, 2.0))
    assert any(
        "only catastrophes show" in w or "no loss of reward shows" in w for w in found.warnings
    )


def test_a_plan_warns_of_rewards_after_the_window():
    found = plan(small_policy(), Traffic(100.0, 0.3, 10.0))
    assert any("37% of the rewards come after the window" in w for w in found.warnings)


def test_a_plan_warns_of_outcomes_that_do_not_come_in_time():
    found = plan(small_policy(), Traffic(0.1, 0.3, 2.0))
    assert any("too short for min_outcomes" in w for w in found.warnings)
    assert found.endings["equal"].verdict == "undecided"
    assert any("an equal candidate is undecided" in w for w in found.warnings)


def test_a_shadow_stage_takes_its_duration():
    both = policy({"shadow": {"duration": "7m"}}, CANARY)
    found, alone = plan(both, TRAFFIC), plan(small_policy(), TRAFFIC)
    assert found.steps[0].seconds["equal"] == 420.0
    assert found.endings["equal"].seconds == pytest.approx(alone.endings["equal"].seconds + 420.0)


def test_guardrails_that_tallies_cannot_carry_are_waited_for():
    slow = {"metric": "latency", "quantile": 0.99, "max_increase": "20%"}
    found = plan(small_policy(guardrails=[slow]), TRAFFIC)
    (guard,) = found.guards
    assert guard.name == "latency p99"
    assert guard.seconds > 0
    assert found.endings["equal"].seconds >= guard.seconds


def test_an_amount_is_not_planned():
    money = small_policy(
        reward={"event": "buy", "window": "10s", "range": [0, 500], "kind": "continuous"}
    )
    with pytest.raises(UnderstudyError, match="understudy simulate"):
        plan(money, TRAFFIC)


def test_the_document_has_null_where_nothing_comes():
    told = document(plan(policy({"shadow": {}}, CANARY), TRAFFIC))
    assert told["stages"][0]["requests"] is None
    assert told["stages"][1]["detectable"]["half"] > 0
    assert set(told["hypotheses"]) == {"equal", "better", "worse"}
