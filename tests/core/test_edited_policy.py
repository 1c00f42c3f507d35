"""A policy that is edited while a rollout is on: what goes on, what holds, and what never mixes."""

from __future__ import annotations

import pytest

from controller.core.case import evidence_of
from controller.core.model import Phase, Verdict
from tests.core.logs import CANARY, Log, fold, policy, run
from tests.core.test_engine_rewards import Users

ERRORS = {"metric": "error_rate", "max_increase": "1%"}
REFUND = {"metric": "reward", "event": "refund", "max_increase": "5%"}
COMPLAINT = {"metric": "reward", "event": "complaint", "max_increase": "5%"}
SLOW = {"metric": "latency", "quantile": 0.9, "max_increase": "20%"}
STAGE = {"canary": CANARY["canary"] | {"steps": ["50%"], "margin": "10%"}}


def guarded(*guardrails, stage=STAGE, **spec):
    return policy(stage, guardrails=list(guardrails), **spec)


def give(click, refund=None, complaint=None):
    chances = {"click": click, "refund": refund or {}, "complaint": complaint or {}}

    def of(arm, rng):
        named = [(name, 1.0) for name, of in chances.items() if rng.random() < of.get(arm, 0.0)]
        return {"latency_ms": float(rng.lognormal(1.0, 0.2))}, named

    return of


GOOD = give({"v1": 0.3, "v2": 0.5}, {"v1": 0.05, "v2": 0.05}, {"v1": 0.05, "v2": 0.05})


def story(before, after, *, then=GOOD, first_s=20, seconds=1_200, seed=5):
    """Some traffic under one policy, then under another."""
    users = Users(before, seed=seed)
    users.go(first_s, GOOD)
    assert users.told.state.phase is Phase.RAMPING
    users.policy = after
    users.go(seconds, then, start=5.0 + first_s)
    return users


EDITS = {
    "a guardrail on a reward is added": (guarded(ERRORS), guarded(ERRORS, REFUND), "guardrails"),
    "one is removed": (guarded(ERRORS, REFUND), guarded(ERRORS), "guardrails"),
    "the first of two is removed": (
        guarded(REFUND, COMPLAINT),
        guarded(COMPLAINT),
        "guardrails",
    ),
    "one takes the place of another": (guarded(REFUND), guarded(COMPLAINT), "guardrails"),
    "a latency guardrail is added": (guarded(ERRORS), guarded(ERRORS, SLOW), "guardrails"),
    "all are removed": (guarded(ERRORS, SLOW), guarded(), "guardrails"),
    "the reward is another": (
        guarded(ERRORS),
        guarded(ERRORS, reward={"event": "complaint", "window": "10s", "grace": "5s"}),
        "reward",
    ),
    "the reward is an amount now": (
        guarded(ERRORS),
        guarded(
            ERRORS,
            reward={
                "event": "click",
                "window": "10s",
                "grace": "5s",
                "range": [0, 9],
                "kind": "continuous",
            },
        ),
        "reward",
    ),
    "the margin is another": (
        guarded(ERRORS),
        guarded(ERRORS, stage={"canary": STAGE["canary"] | {"margin": "20%"}}),
        "stages",
    ),
    "the stage is a bandit now": (guarded(ERRORS), guarded(ERRORS, stage={"thompson": {}}), "stag"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_better_candidate_is_not_promoted_by_what_the_rollout_was_not_judged_by(name):
    before, after, what = EDITS[name]
    users = story(before, after, seconds=300)
    state = users.told.state
    assert users.end == []
    assert (state.phase, state.said.cause) == (Phase.HOLDING, "policy_changed")
    assert what in state.said.reason
    assert state.split.weights == {"v1": 5_000, "v2": 5_000}
    # With the edit taken back it goes on, and with it the evidence that it had.
    users.policy = before
    users.go(900, GOOD, start=325.0)
    (end,) = users.end
    assert (end.verdict, end.candidate) == (Verdict.PROMOTE, "v2")


NOT_JUDGED = {"the reward is another", "the stage is a bandit now"}
"""Nothing can be said of rewards that are not looked at, or by a stage that has no numbers."""

BAD = give({"v1": 0.5, "v2": 0.2}, {"v1": 0.05, "v2": 0.05})


@pytest.mark.parametrize("name", [n for n in EDITS if n not in NOT_JUDGED])
def test_harm_still_rolls_back_under_an_edited_policy(name):
    before, after, _ = EDITS[name]
    is_amount = name == "the reward is an amount now"
    users = story(before, after, then=failing if is_amount else BAD)
    (end,) = users.end
    assert (end.verdict, end.candidate) == (Verdict.ROLL_BACK, "v2")
    assert end.cause == ("errors" if is_amount else end.cause)


def failing(arm, rng):
    return {"status": 500 if arm == "v2" and rng.random() < 0.3 else 200}, []


def test_a_reward_stays_with_its_own_guardrail_when_another_is_removed():
    """Complaints are common in v2 all along; the table of refunds must not judge them."""
    loose = COMPLAINT | {"max_increase": "90%"}
    tight = REFUND | {"max_increase": "1%"}
    before, after = guarded(tight, loose), guarded(loose)
    bad = give({"v1": 0.3, "v2": 0.3}, {}, {"v1": 0.05, "v2": 0.8})
    users = Users(before, seed=9)
    users.go(60, bad)
    counted = users.told.state.sums[2].value.tolist()
    users.policy = after
    users.go(400, bad, start=65.0)
    state = users.told.state
    assert users.end == []
    assert state.rewards == ("click", "complaint")
    assert state.sums[1].value[1] > counted[1] > 0
    (seen,) = evidence_of(state)
    refund, complaint = seen.guards
    assert (refund.detail, refund.champion, refund.candidate) == ("refund", 0.0, 0.0)
    assert complaint.detail == "complaint"
    assert complaint.candidate == pytest.approx(0.8, abs=0.08)


def test_nobody_joins_a_rollout_that_waits_for_an_edit_to_be_taken_back():
    ab = {"ab": {"min_duration": "10s", "min_effect": "10%"}}
    before = policy(ab, candidates={"on_new": "join"})
    after = policy(ab, candidates={"on_new": "join"}, guardrails=[])
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(2)
    told = run(before, log.lines)
    more = Log()
    more.version(3, "v3")
    more.ticks(5, 10)
    fold(after, told, more.lines)
    assert told.state.queue == ("v3",)
    assert told.state.said.cause == "policy_changed"
    back = Log()
    back.ticks(15, 20)
    fold(before, told, back.lines)
    assert told.state.rollout.live == ("v2", "v3")


def test_settings_that_only_say_how_fast_may_change():
    quick = {"canary": STAGE["canary"] | {"min_outcomes": 10, "steps": ["40%"]}}
    users = story(guarded(ERRORS), guarded(ERRORS, stage=quick), seconds=900)
    (end,) = users.end
    assert (end.verdict, end.candidate) == (Verdict.PROMOTE, "v2")
