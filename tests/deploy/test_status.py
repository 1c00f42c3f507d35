"""A report becomes a status: conditions with their times, and what of it is news."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from controller.core.model import Lift, Phase, Verdict
from controller.core.policy import parse
from controller.core.policy.status import Status
from controller.deploy.status import VALID, Validity, camel, timestamp, told, unread, without
from tests.api.fake import exploring, ramping
from tests.core.policy_texts import SMALLEST

POLICY = parse(SMALLEST.replace("[5%, 25%]", "[1%, 5%, 25%, 50%]"), "file.yaml")
T = 1_795_423_600.0
BAD = Validity(is_valid=False, reason="Invalid", message="spec.stages: found [], expected a list")


def said(report, *, validity=VALID, before=None, now=T, generation=3, conflict=None):
    common = {"generation": generation, "before": before or {}, "now": now}
    if report is None:
        return without(validity, **common)
    return told(report, POLICY, validity, conflict=conflict, **common)


def conditions(status):
    return {row["type"]: row for row in status["conditions"]}


def words(report, **more):
    found = conditions(said(report, **more).status)
    return {name: (row["status"], row["reason"]) for name, row in found.items()}


RAMPING = ramping("digits", T, 2_500)


def test_status_of_a_ramp_says_where_it_stands():
    status = said(RAMPING).status
    assert status["phase"] == "ramping"
    assert status["step"] == "canary 3/4"
    assert (status["champion"], status["candidate"]) == ("v1", "v2")
    assert status["weight"] == "25%"
    assert status["lift"] == "+4.20% (-1.10% to no upper end)"
    assert status["split"] == {
        "epoch": 17,
        "epochInForce": 17,
        "weights": {"v1": 7_500, "v2": 2_500},
    }
    assert status["reason"] == "v2 holds at 5 %: 212 of 400 outcomes, no harm seen"
    assert status["observedGeneration"] == 3


@pytest.mark.parametrize("report", [RAMPING, exploring("digits", T), None], ids=str)
def test_status_has_the_shape_that_the_crd_gives_it(report):
    Status.model_validate(said(report).status)


def test_model_at_rest_has_no_candidate_weight_and_lift():
    report = replace(
        RAMPING, phase=Phase.IDLE, stage="", candidate=None, candidates=(), lift={}, queue=()
    )
    status = said(report).status
    assert not {"candidate", "weight", "lift", "step", "stage"} & status.keys()
    assert words(report)["Progressing"] == ("False", "Idle")


def test_lift_that_is_not_known_is_said_to_be_unknown():
    report = replace(RAMPING, lift={"v2": Lift(None, -math.inf, math.inf)})
    assert said(report).status["lift"] == "unknown"


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        ({}, "Ready", ("True", "SplitInForce")),
        ({"epoch_in_force": 16}, "Ready", ("False", "SplitPending")),
        (
            {"epoch_in_force": 16, "health": {"split": "refused by the router: no"}},
            "Ready",
            ("False", "SplitRefused"),
        ),
        ({}, "Progressing", ("True", "Ramping")),
        ({"phase": Phase.HOLDING, "cause": "stale"}, "Progressing", ("False", "Stale")),
        ({"cause": "capacity"}, "Progressing", ("False", "Capacity")),
        ({"phase": Phase.PAUSED}, "Progressing", ("False", "Paused")),
        ({"phase": Phase.PROMOTING}, "Progressing", ("True", "Promoting")),
        ({"phase": Phase.PROMOTED}, "Progressing", ("False", "Promoted")),
        ({"phase": Phase.ROLLING_BACK}, "Progressing", ("True", "RollingBack")),
        ({"phase": Phase.ROLLED_BACK}, "Progressing", ("False", "RolledBack")),
        ({}, "Healthy", ("True", "AsExpected")),
        ({"phase": Phase.HOLDING, "cause": "stale"}, "Healthy", ("False", "Holding")),
        ({"health": {"trouble": "Retryable: no log"}}, "Healthy", ("False", "Trouble")),
        ({"health": {"left_behind": "v1 is kept"}}, "Healthy", ("False", "LeftBehind")),
        ({"health": {"clock": "it stepped"}}, "Healthy", ("False", "Clock")),
        ({"health": {"kept": "a router may come back"}}, "Healthy", ("True", "AsExpected")),
        ({"health": {"sample_ratio": "mismatch"}}, "Healthy", ("False", "SampleRatioMismatch")),
    ],
)
def test_condition_says_whether_it_is_so_and_why(changes, name, expected):
    assert words(replace(RAMPING, **changes))[name] == expected


def test_conflict_with_another_writer_is_not_healthy():
    found = conditions(said(RAMPING, conflict="argocd owns spec.replicas").status)["Healthy"]
    assert (found["status"], found["reason"]) == ("False", "Conflict")
    assert found["message"] == "argocd owns spec.replicas"


def test_policy_that_cannot_be_used_is_named_by_its_field():
    found = conditions(said(None, validity=BAD).status)
    assert (found["Valid"]["status"], found["Valid"]["reason"]) == ("False", "Invalid")
    assert found["Valid"]["message"].startswith("spec.stages: found []")
    assert found["Ready"]["status"] == "False"


def test_policy_of_before_goes_on_while_the_new_one_is_faulty():
    found = words(RAMPING, validity=BAD)
    assert found["Valid"] == ("False", "Invalid")
    assert found["Progressing"] == ("True", "Ramping")


def test_time_of_a_condition_changes_only_with_its_status():
    first = said(RAMPING, now=T).status
    later = said(replace(RAMPING, reason="another"), before=first, now=T + 60).status
    assert {r["lastTransitionTime"] for r in later["conditions"]} == {timestamp(T)}
    held = replace(RAMPING, phase=Phase.HOLDING, cause="stale")
    last = conditions(said(held, before=later, now=T + 90).status)
    assert last["Progressing"]["lastTransitionTime"] == timestamp(T + 90)
    assert last["Healthy"]["lastTransitionTime"] == timestamp(T + 90)
    assert last["Ready"]["lastTransitionTime"] == timestamp(T)


def test_status_of_before_stands_until_the_model_has_been_read():
    before = said(RAMPING).status
    status = unread(VALID, generation=4, before=before, now=T + 60).status
    assert status["phase"] == "ramping"
    assert status["observedGeneration"] == 4
    assert conditions(status)["Progressing"] == conditions(before)["Progressing"]
    first = unread(VALID, generation=1, before={}, now=T).status
    Status.model_validate(first)
    assert conditions(first)["Ready"]["status"] == "Unknown"


def test_status_of_a_model_without_traffic_stays_the_same():
    first = said(RAMPING, now=T).status
    later = said(replace(RAMPING, time=T + 3_600), before=first, now=T + 3_600).status
    assert later == first


def test_numbers_are_no_news():
    news = said(RAMPING).news
    moved = replace(ramping("digits", T + 5, 2_500, n=9_000), reason="213 of 400 outcomes")
    assert said(moved, now=T + 5).news == news
    assert said(replace(RAMPING, lift={"v2": Lift(0.1, 0.0, 0.2)})).news == news


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": Phase.HOLDING},
        {"step": 3},
        {"epoch": 18},
        {"epoch_in_force": 16},
        {"verdict": Verdict.ADVANCE},
        {"cause": "risk"},
        {"champion": "v2"},
        {"health": {"trouble": "the log"}},
    ],
)
def test_what_people_must_see_at_once_is_news(changes):
    assert said(replace(RAMPING, **changes)).news != said(RAMPING).news


def test_verdict_on_the_policy_and_its_generation_are_news():
    news = said(RAMPING).news
    assert said(RAMPING, validity=BAD).news != news
    assert said(RAMPING, generation=4).news != news


def test_words_and_times_are_written_as_kubernetes_does():
    assert camel("rolled_back") == "RolledBack"
    assert timestamp(0.999) == "1970-01-01T00:00:00Z"
