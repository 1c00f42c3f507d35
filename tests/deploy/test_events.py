"""Decisions become Events: two each, of one name for ever, no longer than the API server takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.core.model import Decision, Phase, Verdict
from controller.deploy.events import (
    arm_of,
    decision_events,
    deployment_reference,
    policy_reference,
    shortened,
    warning,
)

DECISION = Decision(
    number=7,
    time=1_795_423_600.25,
    offset=1,
    model="digits",
    rollout="digits-1",
    candidate="v2",
    stage="canary",
    step=1,
    phase=Phase.RAMPING,
    verdict=Verdict.ADVANCE,
    cause="step_passed",
    reason="v2 goes on to 25 %: 400 of 400 outcomes",
    epoch=18,
    weights={"v1": 7_500, "v2": 2_500},
    evidence={},
    evidence_digest="",
    policy_digest="",
    seed=1,
)
POLICY = policy_reference("models", "digits", "uid-1", 3)
ARM = deployment_reference("models", "digits-v2", "uid-2")


def events(decision=DECISION, arm=ARM):
    return list(decision_events(decision, POLICY, arm, instance="understudy-0"))


def test_decision_is_told_of_the_policy_and_of_the_deployment():
    of_policy, of_arm = events()
    assert of_policy["regarding"]["kind"] == "RolloutPolicy"
    assert of_policy["related"]["name"] == "digits-v2"
    assert of_arm["regarding"]["kind"] == "Deployment"
    assert of_arm["related"]["name"] == "digits"
    for event in (of_policy, of_arm):
        assert event["note"] == DECISION.reason
        assert event["reportingController"] == "understudy.dev/controller"
        assert event["eventTime"].endswith(":40.250000Z")
        assert event["metadata"]["namespace"] == event["regarding"]["namespace"]


def test_decision_without_a_deployment_is_told_of_the_policy():
    (event,) = events(arm=None)
    assert "related" not in event


def test_same_decision_has_the_same_names_and_another_has_others():
    names = [event["metadata"]["name"] for event in events()]
    assert [event["metadata"]["name"] for event in events()] == names
    assert len(set(names)) == 2
    others = [event["metadata"]["name"] for event in events(replace(DECISION, number=8))]
    assert not set(names) & set(others)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("Normal", "Advanced")),
        ({"verdict": Verdict.PROMOTE, "phase": Phase.PROMOTING}, ("Normal", "Promoting")),
        ({"verdict": Verdict.HOLD, "phase": Phase.PROMOTED}, ("Normal", "Promoted")),
        ({"verdict": Verdict.HOLD, "phase": Phase.HOLDING}, ("Warning", "Holding")),
        ({"verdict": Verdict.ROLL_BACK, "phase": Phase.ROLLING_BACK}, ("Warning", "RollingBack")),
        ({"verdict": Verdict.HOLD, "phase": Phase.ROLLED_BACK}, ("Warning", "RolledBack")),
        ({"verdict": Verdict.HOLD, "cause": "min_outcomes"}, ("Normal", "WaitingMinOutcomes")),
        ({"verdict": Verdict.HOLD, "phase": Phase.PAUSED}, ("Normal", "Paused")),
        # One of several candidates goes, the rollout goes on.
        ({"verdict": Verdict.ROLL_BACK}, ("Warning", "Dropped")),
    ],
)
def test_type_and_reason_say_what_happened(changes, expected):
    event = events(replace(DECISION, **changes))[0]
    assert (event["type"], event["reason"]) == expected


def test_arm_is_the_candidate_or_else_the_champion():
    assert arm_of(DECISION, "v1") == "v2"
    assert arm_of(replace(DECISION, candidate=""), "v1") == "v1"


@pytest.mark.parametrize("note", ["x" * 2_000, "é" * 2_000, "x" + "é" * 600, "🙂" * 300])
def test_long_note_is_cut_at_a_whole_character(note):
    short = shortened(note)
    assert len(short.encode()) <= 1_024
    assert short.endswith("…")
    assert note.startswith(short[:-1])
    assert len(short.encode()) > 1_024 - 8


def test_short_note_stays_as_it_is():
    assert shortened("ä" * 512) == "ä" * 512


def test_warning_is_one_event_for_each_generation_and_note():
    def name(generation, note, time):
        about = policy_reference("models", "digits", "uid-1", generation)
        event = warning(about, reason="Conflict", note=note, time=time, instance="x")
        assert event["type"] == "Warning"
        return event["metadata"]["name"]

    assert name(3, "a", 1.0) == name(3, "a", 2.0)
    assert len({name(3, "a", 1.0), name(4, "a", 1.0), name(3, "b", 1.0)}) == 3
