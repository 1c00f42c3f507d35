"""Metrics, probes, static files: what machines ask."""

from __future__ import annotations

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.api.conftest import Served


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


def test_static_files_are_revalidated_by_etag(client: httpx.Client) -> None:
    for path in ("/", "/assets/app.js", "/assets/style.css", "/assets/icon.svg"):
        first = client.get(path)
        assert first.status_code == 200
        assert first.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(path).headers["content-length"] == str(len(first.content))
    assert client.get("/assets/app.js").headers["content-type"].startswith("text/javascript")
