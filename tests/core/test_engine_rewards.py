"""Every kind of reward and guardrail through the whole engine: what moves, and its name."""

from __future__ import annotations

import numpy as np
import pytest

from controller.core.model import Verdict
from controller.core.report import evidence_summary
from tests.core.logs import CANARY, MODEL, Log, fold, policy, run

LONG = {"canary": CANARY["canary"] | {"min_duration": "20s", "min_outcomes": 50}}


class Users:
    """Requests by the split that is wanted; what each arm's users give is a function of a draw."""

    def __init__(self, policy_, *, seed, rate=30.0):
        self.policy, self.rate = policy_, rate
        self.rng = np.random.default_rng(seed)
        self.log = Log()
        self.log.tick(0)
        self.log.version(1)
        self.log.tick(2)
        self.told = run(policy_, self.log.lines)

    def go(self, seconds, give, *, start=5.0, step=5.0):
        """`give(arm, rng)` -> fields of the exposure, [(event, value), ...]."""
        late = []
        for now in np.arange(start, start + seconds, step):
            begin = len(self.log.lines)
            split = self.told.state.split
            self.log.split(float(now), split.epoch, **split.weights)
            arms = list(split.weights)
            shares = np.array(list(split.weights.values())) / 1e4
            for time in np.sort(
                self.rng.uniform(now, now + step, self.rng.poisson(self.rate * step))
            ):
                arm = arms[self.rng.choice(len(arms), p=shares)]
                fields, events = give(arm, self.rng)
                request = self.log.exposure(float(time), arm, epoch=split.epoch, **fields)
                late += [(float(time) + self.rng.uniform(0, 3), request, e) for e in events]
            due = sorted(row for row in late if row[0] <= now + step)
            late = [row for row in late if row[0] > now + step]
            for time, request, (name, value) in due:
                identity = f"{name}-{request}"
                self.log.add(
                    "reward",
                    time,
                    model=MODEL,
                    request_id=request,
                    name=name,
                    value=value,
                    id=identity,
                )
            self.log.tick(float(now + step))
            fold(self.policy, self.told, self.log.lines[begin:])
            if self.told.state.phase in {"promoted", "rolled_back"}:
                break
        return self.told

    @property
    def end(self):
        return [d for d in self.told.decisions if d.verdict in (Verdict.PROMOTE, Verdict.ROLL_BACK)]


def coin(chance, name="click"):
    def give(arm, rng):
        return {}, [(name, 1.0)] if rng.random() < chance[arm] else []

    return give


def test_where_less_is_better_more_is_rolled_back_and_less_promoted():
    complaints = {"event": "complaint", "window": "10s", "grace": "5s", "direction": "minimize"}
    used = policy(LONG, reward=complaints, guardrails=[])
    worse = Users(used, seed=1)
    worse.go(600, coin({"v1": 0.1, "v2": 0.4}, "complaint"))
    (end,) = worse.end
    assert end.verdict is Verdict.ROLL_BACK
    assert end.cause in {"reward_harm", "reward_fast"}
    better = Users(used, seed=2)
    better.go(900, coin({"v1": 0.3, "v2": 0.1}, "complaint"))
    (end,) = better.end
    assert (end.verdict, end.cause) == (Verdict.PROMOTE, "not_worse")
    assert end.evidence["lift"]["estimate"] < 0


REVENUE = {
    "event": "order",
    "window": "10s",
    "grace": "5s",
    "range": [0, 500],
    "aggregate": "sum",
}


def basket(chance, size):
    def give(arm, rng):
        value = min(float(rng.lognormal(np.log(size[arm]), 0.5)), 500.0)
        return {}, [("order", value)] if rng.random() < chance[arm] else []

    return give


@pytest.mark.parametrize(
    ("chance", "size", "verdict"),
    [
        ({"v1": 0.2, "v2": 0.2}, {"v1": 40, "v2": 12}, Verdict.ROLL_BACK),
        ({"v1": 0.2, "v2": 0.2}, {"v1": 30, "v2": 60}, Verdict.PROMOTE),
    ],
)
def test_amounts_are_judged_by_what_they_sum_to(chance, size, verdict):
    stage = {"canary": LONG["canary"] | {"margin": 2, "steps": ["50%"]}}
    users = Users(policy(stage, reward=REVENUE, guardrails=[]), seed=3)
    users.go(1_500, basket(chance, size))
    (end,) = users.end
    assert end.verdict is verdict
    assert 0.0 <= end.evidence["capped"] < 0.05
    assert end.evidence["champion"]["mean"] > 1.0


def test_fewer_but_larger_orders_are_no_harm():
    # A third fewer users buy, for twice as much: a count of rewards would call that harm.
    stage = {"canary": LONG["canary"] | {"steps": ["50%"]}}
    users = Users(policy(stage, reward=REVENUE, guardrails=[]), seed=4)
    users.go(600, basket({"v1": 0.3, "v2": 0.2}, {"v1": 20, "v2": 45}))
    assert [d.cause for d in users.end if d.verdict is Verdict.ROLL_BACK] == []


def test_a_second_reward_that_grows_too_much_rolls_back():
    guard = {"metric": "reward", "event": "refund", "max_increase": "2%"}
    used = policy(LONG, guardrails=[guard])
    users = Users(used, seed=5)

    def give(arm, rng):
        clicks = [("click", 1.0)] if rng.random() < 0.3 else []
        refund = rng.random() < (0.25 if arm == "v2" else 0.02)
        return {}, [*clicks, *([("refund", 1.0)] if refund else [])]

    users.go(600, give)
    (end,) = users.end
    assert (end.verdict, end.cause) == (Verdict.ROLL_BACK, "reward_guardrail")
    assert "more refund than v1" in end.reason
    (seen,) = end.evidence["guardrails"]
    assert seen["candidate"] > seen["champion"] + 0.02
    assert users.told.state.rejected == {}


def test_a_second_reward_that_stays_within_its_bound_lets_the_candidate_through():
    guard = {"metric": "reward", "event": "refund", "max_increase": "10%"}
    users = Users(policy(LONG, guardrails=[guard]), seed=6)

    def give(arm, rng):
        clicks = [("click", 1.0)] if rng.random() < (0.5 if arm == "v2" else 0.3) else []
        return {}, [*clicks, *([("refund", 1.0)] if rng.random() < 0.02 else [])]

    users.go(900, give)
    (end,) = users.end
    assert end.verdict is Verdict.PROMOTE


def test_a_second_reward_has_a_window_of_its_own():
    guard = {"metric": "reward", "event": "refund", "max_increase": "2%", "window": "60s"}
    used = policy(LONG, guardrails=[guard])
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(2)
    request = log.exposure(3, "v1", epoch=2)
    log.tick(20)  # the click's window is over
    log.reward(40, request, name="refund", id="late refund")
    log.reward(41, request, id="late click")
    log.ticks(45, 100)
    told = run(used, log.lines)
    assert told.state.rejected == {"late": 1}
    assert [s.value.tolist()[0] for s in told.state.sums] == [0.0, 1.0]


LATENCY = {"metric": "latency", "quantile": 0.95, "max_increase": "20%"}


def slow(factor, clicks=0.3):
    def give(arm, rng):
        ms = float(rng.lognormal(np.log(20), 0.4)) * (factor if arm == "v2" else 1.0)
        return {"latency_ms": ms}, [("click", 1.0)] if rng.random() < clicks else []

    return give


def test_a_slow_candidate_is_rolled_back_and_the_quantile_that_moved_is_named():
    users = Users(policy(LONG, guardrails=[LATENCY]), seed=7)
    users.go(300, slow(2.0))
    (end,) = users.end
    assert (end.verdict, end.cause) == (Verdict.ROLL_BACK, "latency")
    (seen,) = end.evidence["guardrails"]
    assert f"slower than v1 at {seen['detail']}" in end.reason
    assert seen["detail"] in {"p50", "p75", "p90", "p95"}


def test_a_candidate_as_fast_as_the_champion_passes_the_latency_guardrail():
    stage = {"canary": LONG["canary"] | {"margin": "20%"}}
    users = Users(policy(stage, guardrails=[LATENCY]), seed=8)
    users.go(900, slow(1.0))
    (end,) = users.end
    assert end.verdict is Verdict.PROMOTE


def test_latency_is_not_bet_on_before_its_limits_are_known():
    users = Users(policy(LONG, guardrails=[LATENCY]), seed=7)
    users.go(5, slow(1.0))
    state = users.told.state.estimators.latency
    assert state.past.counts.sum() > 100, "what came is learnt,"
    assert not state.game.waiting.seen.any(), "and was held against nothing"
    users.go(5, slow(1.0))
    assert (users.told.state.estimators.latency.game.waiting.seen[:, 0] > 100).all()


def test_forged_labels_up_to_the_stated_share_roll_nobody_back():
    # 5 % of the candidate's labels are forged to "no click"; the policy allows for 6 %.
    reward = {"event": "click", "window": "10s", "grace": "5s", "contamination": "6%"}
    stage = {"canary": LONG["canary"] | {"margin": "10%", "steps": ["50%"]}}
    users = Users(policy(stage, reward=reward, guardrails=[]), seed=9, rate=60)
    users.go(600, coin({"v1": 0.5, "v2": 0.5 - 0.05 * 0.5}))
    assert Verdict.ROLL_BACK not in [d.verdict for d in users.told.decisions]


def test_a_promotion_waits_for_as_many_units_as_the_policy_asks_for():
    reward = {"event": "click", "window": "10s", "grace": "5s", "min_units": 1_000}
    users = Users(policy(LONG, reward=reward, guardrails=[]), seed=10, rate=30)
    users.go(900, coin({"v1": 0.3, "v2": 0.6}))
    (end,) = users.end
    assert end.verdict is Verdict.PROMOTE
    assert end.evidence["candidate"]["n"] >= 1_000
    assert "min_units" in [d.cause for d in users.told.decisions]


def test_rewards_that_stop_hold_the_rollout_and_it_goes_on_when_they_come_back():
    stage = {"canary": LONG["canary"] | {"min_outcomes": 50_000, "steps": ["50%"]}}
    users = Users(policy(stage, guardrails=[]), seed=11, rate=40)
    users.go(200, coin({"v1": 0.3, "v2": 0.3}))
    assert users.told.state.phase == "ramping"
    users.go(100, coin({"v1": 0.0, "v2": 0.0}), start=205)
    assert users.told.state.said.cause == "join_rate"
    assert users.told.state.phase == "holding"
    assert "rewards are lost or late" in users.told.state.said.reason
    users.go(200, coin({"v1": 0.3, "v2": 0.3}), start=305)
    assert users.told.state.phase == "ramping"
    assert Verdict.ROLL_BACK not in [d.verdict for d in users.told.decisions]


def test_events_of_no_reward_that_the_policy_names_are_counted():
    log = Log()
    log.tick(0)
    log.reward(2, log.exposure(1, "v1", epoch=1), name="like")
    log.ticks(5, 30)
    told = run(policy(guardrails=[]), log.lines)
    assert told.state.rejected == {"unknown_name": 1}
    assert evidence_summary(policy(), told.state) == {}
