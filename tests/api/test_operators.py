"""Writes: candidates, assignments, operator commands."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from tests.api.conftest import Served
from tests.api.fake import T0, exploring

CANDIDATES = "/v1/models/digits/candidates"


def test_a_candidate_that_waits_is_accepted_with_202(served: Served) -> None:
    body = {
        "type": "version", "version": "v4", "parent": "v1", "endpoints": ["127.0.0.1:9002"],
        "trained_at": "2026-11-20T00:00:00Z", "metrics": {"accuracy": 0.94},
        "covariates": {"u1": 12.5},
    }  # fmt: skip
    answer = served.client.post(CANDIDATES, json=body)
    assert answer.status_code == 202
    assert answer.json()["queue"] == ["v3", "v4"]
    del body["type"]
    assert served.fake.offered == [{**body, "role": "candidate"}]


def test_a_candidate_whose_rollout_begins_is_created_with_201(served: Served) -> None:
    idle = replace(served.fake.reports["digits"], candidate=None, candidates=())
    served.fake.reports["digits"] = idle
    answer = served.client.post(CANDIDATES, json={"version": "v4"})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/models/digits"
    assert answer.json()["candidate"] == "v4"


@pytest.mark.parametrize(
    "body",
    [
        {"version": "v4", "endpoint": "127.0.0.1:9002"},
        {"version": "v4", "role": "champion"},
        {"version": "v4", "model": "other"},
        {"version": "v4", "metrics": {"accuracy": "high"}},
        {"version": "v4", "covariates": {"u1": "much"}},
        {"version": "v4", "covariates": ["u1"]},
        {"version": "../v4"},
        {"version": "v4", "endpoints": ["no-port"]},
        {},
        [],
    ],
)
def test_a_candidate_with_a_fault_is_refused(served: Served, body: object) -> None:
    answer = served.client.post(CANDIDATES, json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert served.fake.offered == []


def test_a_time_may_be_given_in_both_forms_of_the_contract(served: Served) -> None:
    for time in (1795423600.5, "2026-11-23T08:46:40.500Z"):
        assert served.client.post(CANDIDATES, json={"version": "v5", "time": time}).is_success
    assert [event["time"] for event in served.fake.offered] == [1795423600.5, 1795423600.5]


def test_what_is_known_of_units_beforehand_comes_with_the_candidate(served: Served) -> None:
    known = {"u1": 0.25, "u2": -3.0}
    answer = served.client.post(CANDIDATES, json={"version": "v6", "covariates": known})
    assert answer.status_code == 202
    assert served.fake.offered[-1]["covariates"] == known
    for wrong in ({"u1": "much"}, {"": 1}, {"u" * 513: 1}, ["u1"]):
        body = {"version": "v7", "covariates": wrong}
        assert served.client.post(CANDIDATES, json=body).status_code == 422, wrong
    assert len(served.fake.offered) == 1


def test_a_candidate_that_was_tried_is_a_conflict(client: httpx.Client) -> None:
    answer = client.post(CANDIDATES, json={"version": "v2"})
    assert answer.status_code == 409
    assert answer.json()["detail"] == "v2 was already tried"


@pytest.mark.parametrize("operation", ["promote", "rollback", "pause"])
def test_commands_take_a_reason_or_no_body(served: Served, operation: str) -> None:
    path = f"/v1/models/digits/{operation}"
    assert served.client.post(path, json={"reason": "incident 12"}).status_code == 200
    assert served.client.post(path).status_code == 200
    assert [(op.value, by, why) for _, op, by, why, _ in served.fake.commands] == [
        (operation, "127.0.0.1", "incident 12"),
        (operation, "127.0.0.1", ""),
    ]


def test_of_several_candidates_a_command_says_which(served: Served) -> None:
    served.fake.reports["digits"] = exploring("digits", T0 + 600)
    promote = "/v1/models/digits/promote"
    unsaid = served.client.post(promote)
    assert unsaid.status_code == 409
    assert unsaid.json()["detail"] == "promote: it does not say which of v2, v3, v4"
    wrong = served.client.post(promote, json={"version": "v9"})
    assert wrong.status_code == 409
    assert "v9 is no candidate now; there is v2, v3, v4" in wrong.json()["detail"]
    assert served.client.post(promote, json={"version": "v3"}).status_code == 200
    assert [row[-1] for row in served.fake.commands] == ["v3"]


def test_a_command_that_does_not_fit_is_a_conflict(served: Served) -> None:
    answer = served.client.post("/v1/models/digits/resume")
    assert answer.status_code == 409
    assert answer.json()["detail"] == "digits is not paused, it is ramping"
    assert served.client.post("/v1/models/digits/pause").json()["phase"] == "paused"
    assert served.client.post("/v1/models/digits/resume").json()["phase"] == "ramping"


@pytest.mark.parametrize("operation", ["approve"])
def test_what_is_not_there_yet_says_so(served: Served, operation: str) -> None:
    answer = served.client.post(f"/v1/models/digits/{operation}")
    assert answer.status_code == 501
    assert "not supported yet" in answer.json()["detail"]
    assert served.fake.commands == []


def test_assignments_of_one_unit_of_several_and_of_own_units(client: httpx.Client) -> None:
    path = "/v1/models/digits/assignments"
    one = client.post(path, json={"unit": "u1"}).json()
    assert one == {
        "unit": "u1", "arm": "v1", "epoch": 17, "propensity": 0.95, "request_id": None,
        "segment": None,
    }  # fmt: skip
    several = client.post(path, json={"units": ["u1", None, "u2"]}).json()["assignments"]
    assert [row["unit"] for row in several] == ["u1", None, "u2"]
    assert [row["request_id"] for row in several] == [None, "own-1", None]
    assert client.post(path, json={}).json()["request_id"] == "own-0"
    assert client.post(path, json={"unit": "u", "units": []}).status_code == 422
    assert client.post(path, json={"unit": ""}).status_code == 422
    assert client.post(path, json={"unit": "u" * 513}).status_code == 422


def test_an_assignment_may_be_asked_for_in_a_segment(client: httpx.Client) -> None:
    path = "/v1/models/digits/assignments"
    one = client.post(path, json={"unit": "u1", "segment": "de"}).json()
    assert (one["unit"], one["segment"]) == ("u1", "de")
    several = client.post(path, json={"units": ["u1", None], "segment": "de"}).json()
    assert [row["segment"] for row in several["assignments"]] == ["de", "de"]
    assert client.post(path, json={"unit": "u1", "segment": 7}).status_code == 422
    assert client.post(path, json={"unit": "u1", "segments": "de"}).status_code == 422
