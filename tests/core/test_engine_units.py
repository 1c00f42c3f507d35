"""Units that come back, what is known of them beforehand, and segments: the whole engine."""

from __future__ import annotations

import numpy as np
import pytest

from controller.core.model import KeepRejected, Reason, SetSplit, Verdict, key
from controller.core.report import evidence_summary, report
from controller.core.split import assign
from tests.core.logs import CANARY, MODEL, Log, fold, policy, run

UNIT = {"route": {"prefix": "/m/", "unit": {"header": "x-user-id"}}}
RAMP = {
    "canary": {
        "steps": ["10%", "30%", "60%"],
        "min_duration": "20s",
        "min_outcomes": 1,
        "margin": "5%",
        "max_duration": "1h",
        "budget": "100%",
    }
}


class Crowd:
    """The same users again and again, each answered by the arm that the split gives it."""

    def __init__(self, policy_, *, users, seed, covariates=None):
        self.policy, self.rng = policy_, np.random.default_rng(seed)
        self.users = [f"u{i}" for i in range(users)]
        self.log = Log()
        self.log.tick(0)
        for user, value in (covariates or {}).items():
            self.log.add("covariate", 0.5, model=MODEL, unit=user, value=value)
        self.log.tick(1)
        self.log.version(2)
        self.log.tick(3)
        self.told = run(policy_, self.log.lines)

    def go(self, seconds, chance, *, start=5.0, step=5.0, per_step=60, segment=None):
        for now in np.arange(start, start + seconds, step):
            begin = len(self.log.lines)
            split = self.told.state.split
            if split.epoch > self.told.state.in_force_epoch:
                weights = {"weights": split.weights, "segments": split.segments or None}
                self.log.add("split", float(now), model=MODEL, epoch=split.epoch, **weights)
            rewards = []
            for time in np.sort(self.rng.uniform(now, now + step, per_step)).tolist():
                user = self.users[self.rng.integers(len(self.users))]
                value = segment(user) if segment else None
                arm = assign(split, user, value)
                request = self.log.exposure(time, arm, epoch=split.epoch, unit=user, segment=value)
                if self.rng.random() < chance(arm, user):
                    rewards.append((min(time + 0.5, now + step), request))
            for time, request in sorted(rewards):
                self.log.reward(time, request)
            self.log.tick(float(now + step))
            fold(self.policy, self.told, self.log.lines[begin:])
            if self.told.state.phase in {"promoted", "rolled_back"}:
                break
        return self.told


def test_users_that_come_back_after_a_step_enter_anew_with_what_is_known_of_them():
    used = policy(RAMP, guardrails=[], **UNIT)
    crowd = Crowd(used, users=300, seed=1)
    told = crowd.go(200, lambda *_: 0.3)
    rows = told.state.strata
    again = rows.level > 0
    assert again.any()
    # Of those who had the champion at 10 %, (30 - 10) / 90 get the candidate at 30 %.
    first = np.flatnonzero(again & (rows.level == 1_000))[0]
    shares = rows.shares[first]
    assert shares[1] / shares.sum() == pytest.approx(0.2 / 0.9)
    seen = evidence_summary(used, told.state)
    # Nobody enters more often than there are steps, and more enter than there are users.
    n = seen["champion"]["n"] + seen["candidate"]["n"]
    assert len(crowd.users) * 0.9 < n <= 3 * len(crowd.users)
    assert seen["sample_ratio"]["outcomes"] < np.log(1e4)


def test_users_that_come_back_let_a_harmful_candidate_be_found():
    # With each user counted once, at the first step, two thirds of the evidence would be lost.
    used = policy(RAMP, guardrails=[], **UNIT)
    crowd = Crowd(used, users=400, seed=2)
    told = crowd.go(600, lambda arm, _: 0.2 if arm == "v2" else 0.5)
    (end,) = [d for d in told.decisions if d.verdict is Verdict.ROLL_BACK]
    assert end.cause in {"reward_harm", "reward_fast"}


@pytest.mark.parametrize("seed", range(6))
def test_users_whose_own_rates_differ_and_that_come_back_roll_nobody_back(seed):
    used = policy(RAMP, guardrails=[], **UNIT)
    tastes = np.random.default_rng(seed).beta(1, 2, 200)
    taste = {f"u{i}": tastes[i] for i in range(200)}
    crowd = Crowd(used, users=200, seed=100 + seed)
    told = crowd.go(300, lambda _, user: taste[user])
    assert Verdict.ROLL_BACK not in [d.verdict for d in told.decisions]


def test_what_is_known_of_users_beforehand_makes_proof_come_sooner():
    # Half of the users click nearly always, half nearly never; it is known who.
    known = {f"u{i}": float(i % 2) for i in range(4_000)}
    canary = {"canary": RAMP["canary"] | {"steps": ["50%"], "margin": "4%", "min_outcomes": 100}}
    used = policy(canary, guardrails=[], **UNIT)

    def chance(_, user):
        return 0.95 if known[user] else 0.05

    logs = []
    for covariates in (known, None):
        crowd = Crowd(used, users=4_000, seed=3, covariates=covariates)
        told = crowd.go(220, chance, per_step=200)
        logs.append(evidence_summary(used, told.state)["log_e"]["noninferior"][0])
    with_them, without = logs
    assert told.state.split.weights == {"v1": 5_000, "v2": 5_000}
    assert with_them > 2 * max(without, 0.0)


def test_what_is_told_of_a_user_after_it_came_changes_nothing():
    used = policy(CANARY, guardrails=[], **UNIT)
    log = Log()
    log.tick(0)
    for i in range(100):
        log.add("covariate", 0.5, model=MODEL, unit=f"u{i}", value=float(i))
    log.tick(1)
    log.version(2)
    log.tick(3)
    log.exposure(4, "v1", epoch=2, unit="u5")
    log.add("covariate", 4.5, model=MODEL, unit="u5", value=99.0)
    log.exposure(4.6, "v1", epoch=2, unit="new")
    log.add("covariate", 4.7, model=MODEL, unit="new", value=99.0)
    log.tick(5)
    told = run(used, log.lines)
    rows = told.state.joins[0].exposures
    bins = rows.bin[told.state.joins[0].by_request.rows()]
    # u5 lies in the lowest eighth of what was known; of the new one nothing was.
    assert sorted(bins.tolist()) == [0, 1]


@pytest.mark.parametrize("cuts", [(), range(1, 40, 3)])
def test_units_beyond_those_of_which_something_is_known_are_counted_wherever_the_log_is_cut(
    monkeypatch, cuts
):
    monkeypatch.setattr("controller.core.join.covariates.MOST_UNITS", 12)
    log = Log()
    for i in range(40):
        log.add("covariate", 0.5, model=MODEL, unit=f"u{i % 11 if i < 30 else i}", value=float(i))
    log.tick(1)
    log.version(2, covariates={"u0": 7.0, "a": 1.0, "b": 2.0})
    log.tick(3)
    told = run(policy(CANARY, guardrails=[], **UNIT), log.lines, cuts)
    # u0 … u10 and u30 are known, u31 … u39 are too many; so are a and b, of one version event.
    assert len(told.state.covariates) == 12
    assert told.state.rejected == {Reason.TOO_MANY_UNITS: 10}
    kept = [r for e in told.effects if isinstance(e, KeepRejected) for r in e.rejected]
    assert [r.offset for r in kept] == [*range(31, 40), 41]
    assert kept[-1].detail == "2 of the 3 units of v2"
    known = told.state.covariates.find(np.array([key("u0"), key("u30"), key("a")], np.uint64))
    np.testing.assert_array_equal(known, [7.0, 30.0, np.nan])


THOMPSON = {
    "thompson": {
        "update_every": "10s",
        "half_life": "1d",
        "min_outcomes": 100_000,
        "segments": {"header": "x-country", "max": 2},
    }
}


def test_each_large_segment_gets_a_split_of_its_own_and_the_rest_the_pooled_one():
    used = policy(THOMPSON, guardrails=[])
    crowd = Crowd(used, users=4_000, seed=4)
    country = {f"u{i}": ("de", "fr", "it", "at")[min(i % 8, 3)] for i in range(4_000)}

    def chance(arm, user):
        better = {"de": "v2", "fr": "v1"}.get(country[user])
        return 0.6 if arm == better else 0.2

    told = crowd.go(400, chance, per_step=150, segment=country.get)
    # at has most users (i % 8 in 3..7), then de, fr, it with an eighth each; two get their own.
    segments = told.state.split.segments
    assert len(segments) == 2
    assert "at" in segments
    (own,) = set(segments) - {"at"}
    assert told.state.split.segment_header == "x-country"
    assert report(used, told.state).segments == segments
    if own == "de":
        assert segments[own]["v2"] > told.state.split.weights["v2"]
    assert all(sum(weights.values()) == 10_000 for weights in segments.values())


@pytest.mark.parametrize(("seed", "liked"), [(5, 0.6), (54, 0.9), (59, 0.9)])
def test_opposite_effects_in_two_segments_get_opposite_splits(seed, liked):
    used = policy(THOMPSON, guardrails=[])
    crowd = Crowd(used, users=4_000, seed=seed)
    country = {f"u{i}": ("de", "fr")[i % 2] for i in range(4_000)}

    def chance(arm, user):
        return liked if (arm == "v2") == (country[user] == "de") else 1.0 - liked

    told = crowd.go(400, chance, per_step=150, segment=country.get)
    segments = told.state.split.segments
    assert segments["de"]["v2"] > 9_000
    assert segments["fr"]["v2"] < 1_000
    # Pooled, the two arms look alike: nobody is rolled back and nobody promoted.
    assert {d.verdict for d in told.decisions} == {Verdict.ADVANCE, Verdict.HOLD}
    splits = [e.split for e in told.effects if isinstance(e, SetSplit)]
    assert all(split.segment_header == "x-country" for split in splits)


def test_header_values_that_clients_invent_take_no_segment_and_no_memory():
    used = policy(THOMPSON, guardrails=[])
    crowd = Crowd(used, users=300, seed=6)
    told = crowd.go(100, lambda *_: 0.3, segment=lambda user: f"{user}-{crowd.log.requests}")
    assert told.state.segments == ()
    assert told.state.split.segments == {}
    assert len(told.state.sightings) <= 1_000
