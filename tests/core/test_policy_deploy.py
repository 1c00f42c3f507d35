"""`spec.deploy`: which targets go together, and what each of them can carry."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.policy import Pace, parse, warnings
from tests.core.policy_texts import document, fault_at, faults, written

KUBERNETES: dict[str, Any] = {"service": "digits", "port": 8080}
KSERVE: dict[str, Any] = {"service": "digits"}
GATEWAY: dict[str, Any] = {"route": "digits"}
WEBHOOK = "https://example.org/changes"


def policy(deploy: dict[str, Any] | None, **spec: Any):
    return parse(written(document(deploy=deploy, **spec)), "file.yaml")


@pytest.mark.parametrize(
    "deploy",
    [
        {"kubernetes": KUBERNETES},
        {"kubernetes": KUBERNETES, "gateway": GATEWAY},
        {"kubernetes": KUBERNETES, "webhook": WEBHOOK},
        {"kubernetes": KUBERNETES, "gateway": GATEWAY, "webhook": WEBHOOK},
        {"kserve": KSERVE},
    ],
)
def test_targets_that_go_together_are_accepted(deploy):
    assert policy(deploy).spec.deploy is not None


@pytest.mark.parametrize(
    ("deploy", "expected"),
    [
        ({}, "exactly one of kubernetes and kserve"),
        ({"kubernetes": KUBERNETES, "kserve": KSERVE}, "exactly one of kubernetes and kserve"),
        ({"gateway": GATEWAY}, "kubernetes beside gateway and webhook"),
        ({"webhook": WEBHOOK}, "kubernetes beside gateway and webhook"),
        (
            {"kserve": KSERVE, "gateway": GATEWAY},
            "kserve alone, or gateway and webhook beside kubernetes",
        ),
    ],
)
def test_targets_that_exclude_each_other_are_refused(deploy, expected):
    found = faults(written(document(deploy=deploy)))
    assert {p.path for p in found} == {"spec.deploy"}
    assert expected in [p.expected for p in found]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"stages": [{"canary": {"steps": ["0.5%", "5%"]}}]},
            "whole percents in spec.stages[0].canary.steps[0], which KServe can carry: found 0.5%",
        ),
        (
            {"stages": [{"canary": {"steps": ["5%"]}}, {"ab": {"share": "12.5%"}}]},
            "whole percents in spec.stages[1].ab.share, which KServe can carry: found 12.5%",
        ),
        (
            {"stages": [{"shadow": {}}, {"canary": {"steps": ["5%"]}}]},
            (
                "kubernetes, or stages that are canary or ab: KServe can carry no split of "
                "spec.stages[0].shadow, only a fixed share of the traffic for one candidate"
            ),
        ),
        (
            {"stages": [{"ab": {}}], "candidates": {"on_new": "join"}},
            "kubernetes, or no `join` in spec.candidates: KServe splits between two",
        ),
    ],
)
def test_what_kserve_cannot_carry_is_an_error_that_names_field_and_remedy(spec, expected):
    problem = fault_at(written(document(deploy={"kserve": KSERVE}, **spec)), "spec.deploy.kserve")
    assert problem.expected == expected
    assert policy({"kubernetes": KUBERNETES}, **spec).spec.deploy is not None


def test_segments_ask_for_more_splits_than_a_route_of_the_gateway_has():
    stages = [{"thompson": {"segments": {"header": "x-country"}}}]
    deploy = {"kubernetes": KUBERNETES, "gateway": GATEWAY}
    problem = fault_at(written(document(deploy=deploy, stages=stages)), "spec.deploy.gateway")
    assert "an HTTPRoute has one split" in problem.expected


def test_the_namespace_is_that_of_the_target_then_that_of_the_policy():
    assert policy({"kubernetes": KUBERNETES | {"namespace": "models"}}).namespace == "models"
    values = document(deploy={"kubernetes": KUBERNETES})
    values["metadata"]["namespace"] = "team-a"
    assert parse(written(values), "file.yaml").namespace == "team-a"
    assert policy({"kserve": KSERVE}).namespace == "default"


def test_the_pace_is_the_targets_and_that_of_its_defaults_without_one():
    times = {"warmup": "1s", "progress_deadline": "2m", "retain": "3h", "drain": "4s"}
    assert policy({"kubernetes": KUBERNETES | times}).pace == Pace(1.0, 120.0, 10_800.0, 4.0)
    assert policy(None).pace == policy({"kubernetes": KUBERNETES}).pace
    assert policy({"kserve": KSERVE}).pace == Pace(10.0, 600.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("times", "path", "word"),
    [
        ({"progress_deadline": "5s"}, "spec.deploy.kubernetes.progress_deadline", "warm up"),
        ({"retain": "1m"}, "spec.deploy.kubernetes.retain", "undo"),
    ],
)
def test_times_that_cannot_work_are_warned_of(times, path, word):
    (advice,) = [a for a in warnings(policy({"kubernetes": KUBERNETES | times})) if a.path == path]
    assert word in advice.sentence
    assert not [a for a in warnings(policy({"kubernetes": KUBERNETES})) if "deploy" in a.path]


def test_a_unit_that_the_split_does_not_know_is_warned_of():
    route = {"prefix": "/m/", "unit": {"header": "x-user-id"}}
    deploy = {"kubernetes": KUBERNETES, "gateway": GATEWAY}
    assert "spec.route.unit" in [a.path for a in warnings(policy(deploy, route=route))]
    assert "spec.route.unit" not in [
        a.path for a in warnings(policy({"kubernetes": KUBERNETES}, route=route))
    ]
