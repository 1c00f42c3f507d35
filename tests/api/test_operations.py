"""Metrics, probes, static files: what machines ask."""

from __future__ import annotations

import math

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.api.conftest import Served
from tests.api.fake import T0, exploring


def test_metrics_are_those_of_the_reports(served: Served) -> None:
    families = {family.name: family for family in parse(served.client.get("/metrics").text)}
    truth = {arm.arm: arm for arm in served.fake.reports["digits"].arms}

    def by_arm(name: str) -> dict[str, float]:
        return {s.labels["arm"]: s.value for s in families[f"understudy_{name}"].samples}

    for name in ("exposures", "outcomes", "rewards", "errors", "pending", "mean"):
        assert by_arm(name) == {arm: getattr(row, name) for arm, row in truth.items()}, name
    assert by_arm("weight_ratio") == {"v1": 0.95, "v2": 0.05}
    assert by_arm("weight_in_force_ratio") == {"v1": 0.95, "v2": 0.05}
    phases = {s.labels["understudy_phase"]: s.value for s in families["understudy_phase"].samples}
    assert {name for name, value in phases.items() if value} == {"ramping"}
    assert len(phases) == 11
    rejected = {s.labels["reason"]: s.value for s in families["understudy_rejected"].samples}
    assert rejected["orphan"] == 3
    assert rejected["malformed"] == 0
    assert families["understudy_router_connected"].samples[0].value == 1
    assert families["understudy_router_nacks"].samples[0].value == 2


def test_metrics_tell_how_near_each_condition_is(served: Served) -> None:
    served.fake.reports["digits"] = exploring("digits", T0 + 600)
    served.fake.reports["digits"].health["join_rate"] = {"now": 0.02, "before": 0.11}
    served.fake.reports["digits"].health["left_behind"] = "v1 is kept running"
    families = {family.name: family for family in parse(served.client.get("/metrics").text)}

    def values(name: str, *labels: str) -> dict[tuple[str, ...], float]:
        samples = families[f"understudy_{name}"].samples
        return {tuple(s.labels[label] for label in labels): s.value for s in samples}

    lifts = served.fake.reports["digits"].lift
    assert values("lift", "candidate") == {(arm,): lift.estimate for arm, lift in lifts.items()}
    assert values("lift_lower", "candidate")["v4",] == lifts["v4"].lower
    assert values("lift_upper", "candidate")["v4",] == lifts["v4"].upper
    assert values("p_best", "model", "candidate")["digits", "v2"] == 0.93
    assert values("silent_seconds", "model") == {("digits",): 0.4}
    assert values("scale_down_held", "model") == {("digits",): 1.0}
    assert values("join_rate", "when") == {("now",): 0.02, ("before",): 0.11}
    surplus = values("evidence_surplus", "candidate", "condition", "then")
    told = served.client.get("/v1/models/digits/explain").json()["conditions"]
    assert surplus == pytest.approx(
        {
            (row["candidate"], row["name"], row["then"]): math.log(row["evidence"])
            - math.log(row["threshold"])
            for row in told
        }
    )
    assert len(surplus) == 3 * 7 + 3
    assert (surplus["v2", "within the bound: errors", "promote"] >= 0) == told[5]["reached"]


def test_a_lift_without_an_upper_end_is_infinite_in_metrics(client: httpx.Client) -> None:
    assert (
        'understudy_lift_upper{candidate="v2",model="digits"} +Inf' in client.get("/metrics").text
    )


def test_metrics_are_open_metrics_where_asked(client: httpx.Client) -> None:
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    answer = client.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    kinds = {family.name: family.type for family in parse_open(answer.text)}
    assert kinds["understudy_phase"] == "stateset"


def test_probes_tell_alive_from_ready(served: Served) -> None:
    assert served.client.get("/healthz").json()["status"] == "alive"
    assert served.client.get("/readyz").json()["components"] == {"log": True, "router": True}
    served.fake.missing = {"log": True, "router": "no Envoy is connected"}
    answer = served.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "router: no Envoy is connected"
    assert answer.json()["components"]["log"] is True
    assert served.client.get("/healthz").status_code == 200


def test_a_standby_says_that_it_stands_by_and_who_leads(served: Served) -> None:
    def leads() -> float:
        families = {f.name: f for f in parse(served.client.get("/metrics").text)}
        return families["understudy_leader"].samples[0].value

    assert leads() == 1
    served.fake.leader = "pod-2"
    assert leads() == 0
    answer = served.client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "standby")
    refused = served.client.post("/v1/models/digits/pause", json={})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["type"] == "urn:understudy:problem:standby"
    assert refused.json()["leader"] == "pod-2"
    # The next try is a new connection, which may be one to the leader.
    assert refused.headers["connection"] == "close"
    assert served.client.get("/v1/models/digits").status_code == 200


def test_static_files_are_revalidated_by_etag(client: httpx.Client) -> None:
    for path in ("/", "/assets/app.js", "/assets/style.css", "/assets/icon.svg"):
        first = client.get(path)
        assert first.status_code == 200
        assert first.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(path).headers["content-length"] == str(len(first.content))
    assert client.get("/assets/app.js").headers["content-type"].startswith("text/javascript")
