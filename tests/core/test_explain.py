"""What is said of the present, in states that the engine has made.

What is said of the requests that are left is held against what happens: the same traffic goes on,
and the request is counted at which the condition is reached.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest

from controller.core.case import evidence_of, situated
from controller.core.decide.conditions import all_conditions
from controller.core.explain import explanation
from controller.core.model import BASIS, Phase
from controller.core.state import initial
from tests.core.logs import Log, fold, policy, run

ERRORS = {"metric": "error_rate", "max_increase": "1.5%"}
REFUND = {"metric": "reward", "event": "refund", "max_increase": "3%"}


def slow(kind, **more):
    """A stage that takes its time: nothing moves, however good the evidence."""
    return {kind: {"min_duration": "5h", "max_duration": "9h"} | more}


CANARY = slow("canary", steps=["50%"], margin="5%")
AB = slow("ab", share="60%", min_effect="10%")


class Clockwork:
    """Traffic without chance: each arm gets its share, and each event comes as often as is said.

    rates  arm -> event ("click", "refund", "error") -> share of its requests
    """

    def __init__(self, policy_, rates, *, rate=20, candidates=("v2",)):
        self.policy, self.rates, self.rate = policy_, rates, rate
        self.counts, self.requests = {}, 0
        log = Log()
        log.tick(0)
        for name in candidates:
            log.version(1, name)
        log.tick(2)
        self.told = run(policy_, log.lines)
        self.numbers = log.requests

    def is_due(self, what, share):
        """Whether the next one of `what` is one of `share` of them, spread evenly."""
        n = self.counts[what] = self.counts.get(what, 0) + 1
        return math.floor(n * share) > math.floor((n - 1) * share)

    def go(self, start, seconds, *, until=None, step=5):
        for now in range(start, start + seconds, step):
            log = Log(requests=self.requests)
            split = self.told.state.split
            log.split(now, split.epoch, **split.weights)
            given = dict.fromkeys(split.weights, Fraction(0))
            for i in range(self.rate * step):
                for name, weight in split.weights.items():
                    given[name] += Fraction(weight, BASIS)
                arm = max(given, key=lambda name: given[name])
                given[arm] -= 1
                self.one(log, arm, now + i / self.rate)
            log.lines.sort(key=lambda line: json.loads(line)["time"])
            log.tick(now + step)
            self.requests = log.requests
            fold(self.policy, self.told, log.lines)
            if until is not None and until(self.explained):
                return now + step
        return start + seconds

    def one(self, log, arm, time):
        rates = {name: Fraction(str(share)) for name, share in self.rates[arm].items()}
        failed = self.is_due((arm, "error"), rates.pop("error", Fraction(0)))
        status = 500 if failed else 200
        request = log.exposure(time, arm, epoch=self.told.state.split.epoch, status=status)
        for name, share in rates.items():
            if self.is_due((arm, name), share):
                log.reward(time + 0.01, request, name=name, id=f"{name}-{request}")

    @property
    def explained(self):
        return explanation(self.policy, self.told.state)


def row(explained, name, candidate="v2"):
    (found,) = [
        c for c in explained["conditions"] if c["name"] == name and c["candidate"] == candidate
    ]
    return found


GUARDS = policy(CANARY, guardrails=[ERRORS, REFUND])
EQUAL = {
    "v1": {"click": 0.3, "error": 0.02, "refund": 0.1},
    "v2": {"click": 0.3, "error": 0.02, "refund": 0.1},
}


@pytest.mark.parametrize(
    ("used", "rates", "name"),
    [
        (GUARDS, EQUAL, "not worse by the margin"),
        (GUARDS, EQUAL, "within the bound: errors"),
        (GUARDS, EQUAL, "within the bound: refund"),
        (policy(AB), {"v1": {"click": 0.3}, "v2": {"click": 0.34}}, "better"),
    ],
)
def test_as_many_requests_are_left_as_it_then_takes(used, rates, name):
    world = Clockwork(used, rates)
    world.go(5, 100)
    first = row(world.explained, name)
    assert not first["reached"]
    left, before = first["requests_left"], world.requests
    assert left > 500
    world.go(105, 900, until=lambda seen: row(seen, name)["reached"])
    assert row(world.explained, name)["reached"]
    assert world.requests - before == pytest.approx(left, rel=0.15)
    assert row(world.explained, name)["requests_left"] == 0


def test_of_several_candidates_each_has_its_own_way_to_go():
    """Only 70 % of the requests are of the champion or v2, but all of them are counted."""
    used = policy(AB, candidates={"on_new": "join"})
    rates = {"v1": {"click": 0.3}, "v2": {"click": 0.35}, "v3": {"click": 0.28}}
    world = Clockwork(used, rates, candidates=("v2", "v3"))
    world.go(5, 100)
    seen = world.explained
    assert [one["arm"] for one in seen["candidates"]] == ["v2", "v3"]
    assert world.told.state.split.weights == {"v1": 4_000, "v2": 3_000, "v3": 3_000}
    better, worse = row(seen, "better"), row(seen, "better", "v3")
    assert (worse["requests_left"], worse["seen"]) == (None, True)
    left, before = better["requests_left"], world.requests
    world.go(105, 900, until=lambda now: row(now, "better")["reached"])
    assert world.requests - before == pytest.approx(left, rel=0.15)
    (words,) = [one for one in seen["sentences"] if one.startswith("v3: better,")]
    assert words.endswith("not on its way, as the arms look now")
    (words,) = [one for one in seen["sentences"] if one.startswith("v2: better,")]
    assert words.endswith(f"about {left:,} more requests, as the arms look now")


def test_the_conditions_are_those_by_which_the_stage_decides():
    world = Clockwork(GUARDS, EQUAL)
    world.go(5, 60)
    state, shown = world.told.state, world.explained["conditions"]
    used = all_conditions(GUARDS.spec.stages[0], situated(GUARDS, state))
    assert [c["name"] for c in shown] == [c.name for c in used]
    for said, condition in zip(shown, used, strict=True):
        assert said["evidence"] == pytest.approx(math.exp(condition.log_e), rel=1e-6)
        assert said["threshold"] == pytest.approx(1 / condition.alpha, rel=1e-6)
        if condition.then != "promote":
            assert said["requests_left"] is None
    (one,) = evidence_of(state)
    assert [g["detail"] for g in world.explained["guardrails"]] == ["", "refund"]
    assert world.explained["guardrails"][1]["candidate"] == pytest.approx(one.guards[1].candidate)


QUICK = {"min_duration": "10s", "min_outcomes": 20, "steps": ["50%"], "budget": "100%"}


def test_a_rollout_that_waits_for_proof_says_for_which():
    stage = {"canary": QUICK | {"margin": "5%", "max_duration": "9h"}}
    used = policy(stage, guardrails=[ERRORS | {"max_increase": "5%"}])
    world = Clockwork(used, {"v1": {"click": 0.3}, "v2": {"click": 0.3}})
    world.go(5, 60)
    seen = world.explained
    assert (seen["phase"], seen["verdict"], seen["cause"]) == ("ramping", "hold", "not_proven")
    holding = [c["name"] for c in seen["conditions"] if c["holds"]]
    assert holding == ["not worse by the margin"]
    assert not row(seen, "within the bound: errors")["holds"]
    assert seen["sentences"][0] == f"hold: {seen['reason']}"


def test_a_rollout_that_waits_for_a_guardrail_says_for_which():
    stage = {"canary": QUICK | {"margin": "20%", "max_duration": "9h"}}
    used = policy(stage, guardrails=[ERRORS, REFUND | {"max_increase": "20%"}])
    rates = {arm: {"click": 0.3, "error": 0.02, "refund": 0.05} for arm in ("v1", "v2")}
    world = Clockwork(used, rates)
    world.go(5, 60)
    seen = world.explained
    assert seen["cause"] == "guardrail_unproven"
    assert [c["name"] for c in seen["conditions"] if c["holds"]] == ["within the bound: errors"]
    assert row(seen, "within the bound: refund")["reached"]
    assert any("errors 2%, of the champion 2%" in words for words in seen["sentences"])


def test_arms_that_did_not_get_their_share_hold_and_it_is_said():
    world = Clockwork(policy(CANARY), {"v1": {"click": 0.3}, "v2": {"click": 0.3}})
    world.go(5, 20)
    log = Log(requests=world.requests)
    for i in range(300):
        log.exposure(25 + i / 100, "v2", status=200, epoch=world.told.state.split.epoch)
    log.tick(30)
    fold(world.policy, world.told, log.lines)
    seen = world.explained
    assert (seen["phase"], seen["cause"]) == ("holding", "sample_ratio")
    holding = [c["name"] for c in seen["conditions"] if c["holds"]]
    assert holding == ["sample ratio of exposures"]
    assert seen["candidates"][0]["answers"] > seen["champion"]["answers"] + 250


def test_the_same_evidence_at_a_tenth_of_the_share_takes_longer():
    """By the information bound: pi (1 - pi) of a request's worth, 0.25 at a half, 0.0475 at 5 %."""
    left = {}
    for share in ("50%", "5%"):
        stage = slow("canary", steps=[share], margin="10%")
        world = Clockwork(policy(stage), {"v1": {"click": 0.3}, "v2": {"click": 0.3}})
        world.go(5, 60)
        claim = row(world.explained, "not worse by the margin")
        nats = math.log(claim["threshold"] / claim["evidence"])
        left[share] = claim["requests_left"] / nats
    assert left["5%"] / left["50%"] == pytest.approx(0.25 / 0.0475, rel=0.25)


def test_before_anything_was_seen_nothing_is_on_its_way():
    world = Clockwork(policy(CANARY), {})
    seen = world.explained
    claim = row(seen, "not worse by the margin")
    assert (claim["evidence"], claim["requests_left"], claim["reached"]) == (1.0, None, False)
    assert not claim["seen"]
    (words,) = [one for one in seen["sentences"] if one.startswith("v2: not worse")]
    assert words.endswith("to promote: nothing was seen yet")
    assert "v2 has no outcome yet; v1 has no outcome yet" in seen["sentences"]
    assert seen["guardrails"][0]["candidate"] is None


def test_at_rest_and_before_the_first_tick_there_is_a_sentence_and_nothing_else():
    used = policy(CANARY)
    fresh = explanation(used, initial(used))
    assert (fresh["time"], fresh["phase"], fresh["conditions"]) == (None, "idle", [])
    log = Log()
    log.ticks(0, 10)
    idle = explanation(used, run(used, log.lines).state)
    assert idle["sentences"] == ["hold: v1 serves everything; no candidate"]
    assert (idle["champion"], idle["candidates"], idle["guardrails"]) == (None, [], [])
    assert json.dumps(idle)


def test_a_paused_rollout_is_explained_by_its_numbers():
    world = Clockwork(policy(CANARY), {"v1": {"click": 0.3}, "v2": {"click": 0.3}})
    world.go(5, 40)
    log = Log()
    log.command(45, "pause", by="ana", reason="lunch")
    log.tick(46)
    fold(world.policy, world.told, log.lines)
    seen = world.explained
    assert seen["phase"] == Phase.PAUSED.value
    assert "lunch" in seen["reason"]
    assert seen["candidates"][0]["n"] > 100
    assert row(seen, "not worse by the margin")["requests_left"] > 0


def test_a_shadow_stage_is_explained_by_its_copies():
    used = policy({"shadow": {"duration": "1h"}}, CANARY)
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(2)
    told = run(used, log.lines)
    more = Log()
    for i in range(40):
        request = more.exposure(3 + i / 20, "v1", epoch=2, status=200)
        more.add("shadow", 3 + i / 20, model="m", request_id=request, arm="v2", status=200)
    more.tick(10)
    fold(used, told, more.lines)
    seen = explanation(used, told.state)
    assert (seen["phase"], seen["stage"]) == ("shadowing", "shadow")
    assert [c["cause"] for c in seen["conditions"]] == ["shadow_errors"]
    (copies,) = [g for g in seen["guardrails"] if g["detail"] == "mirrored requests"]
    assert (copies["candidate"], copies["champion"]) == (0.0, 0.0)
    assert any("errors of mirrored requests 0%" in words for words in seen["sentences"])
