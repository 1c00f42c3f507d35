"""Reads: models, arms, decisions, explanations; and the OpenAPI document that promises them."""

from __future__ import annotations

import math

import httpx
import pytest

from tests.api.conftest import Served

CONTRACT = {
    "model",
    "phase",
    "stage",
    "step",
    "epoch",
    "reason",
    "arms",
    "lift",
    "health",
    "rejected",
}
CONTRACT_ARM = {
    "arm", "role", "weight", "weight_in_force", "exposures", "outcomes", "pending", "rewards",
    "mean", "interval",
}  # fmt: skip


def test_arms_have_the_shape_of_the_contract(served: Served) -> None:
    answer = served.client.get("/v1/models/digits/arms").json()
    assert set(answer) >= CONTRACT
    assert [set(arm) >= CONTRACT_ARM for arm in answer["arms"]] == [True, True]
    assert (answer["model"], answer["phase"], answer["stage"]) == ("digits", "ramping", "canary")
    assert (answer["step"], answer["epoch"]) == (2, 17)
    champion = answer["arms"][0]
    truth = served.fake.reports["digits"].arms[0]
    assert {key: champion[key] for key in ("arm", "role", "weight", "exposures", "pending")} == {
        "arm": "v1", "role": "champion", "weight": 9_500, "exposures": 4_000, "pending": 400,
    }  # fmt: skip
    assert champion["mean"] == truth.mean
    assert truth.interval is not None
    assert champion["interval"] == list(truth.interval)
    assert set(answer["lift"]) == {"v2"}
    assert set(answer["lift"]["v2"]) == {"estimate", "interval"}
    assert answer["rejected"] == {"orphan": 3, "late": 1, "duplicate": 0}


def test_infinities_are_null_because_json_has_none(client: httpx.Client) -> None:
    answer = client.get("/v1/models/digits/arms").json()
    assert answer["lift"]["v2"]["interval"] == [-0.011, None]
    assert answer["health"]["log_sample_ratio"] is None
    assert client.get("/v1/models/digits/decisions").text.count("Infinity") == 0


def test_models_are_listed_with_the_state_of_the_router(client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()
    assert [row["model"] for row in answer["models"]] == ["digits"]
    assert answer["models"][0]["reason"].startswith("v2 holds")
    assert answer["router"] == {"connected": 1, "nacks": 2, "last_nack": None}
    assert client.get("/v1/models/digits").json()["candidate"] == "v2"


def test_decisions_come_newest_first_and_in_pages(client: httpx.Client) -> None:
    def numbers(query: str) -> list[int]:
        rows = client.get(f"/v1/models/digits/decisions{query}").json()["decisions"]
        return [row["number"] for row in rows]

    assert numbers("") == list(range(12, 0, -1))
    assert numbers("?limit=2") == [12, 11]
    assert numbers("?after=10&newest_first=false") == [11, 12]


def test_explain_tells_one_decision_or_the_present(client: httpx.Client) -> None:
    assert client.get("/v1/models/digits/explain?decision=3").json()["number"] == 3
    assert client.get("/v1/models/digits/explain").json()["number"] == 12
    missing = client.get("/v1/models/digits/explain?decision=99")
    assert missing.status_code == 404
    assert missing.json()["type"] == "urn:understudy:problem:unknown-decision"


def test_history_is_columns_of_one_length(served: Served) -> None:
    answer = served.client.get("/v1/models/digits/history").json()
    assert len(answer["time"]) == 120
    assert set(answer["arms"]) == {"v1", "v2"}
    lengths = {len(col) for track in answer["arms"].values() for col in track.values()}
    assert lengths == {120}
    assert answer["arms"]["v2"]["weight"][-1] == 5_000
    assert answer["arms"]["v2"]["mean"][0] is None


def test_openapi_describes_every_path_and_promises_problems(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    model = "/v1/models/{model}"
    operations = ("promote", "rollback", "pause", "resume", "approve", "undo")
    wanted = {"/v1/events", "/v1/models", "/v1/stream", "/metrics", "/healthz", "/readyz", model}
    wanted |= {f"{model}/{name}" for name in ("arms", "decisions", "explain", "candidates")}
    wanted |= {f"{model}/{name}" for name in ("assignments", "history", *operations)}
    assert wanted == set(document["paths"])
    conflict = document["paths"][f"{model}/pause"]["post"]["responses"]["409"]
    assert set(conflict["content"]) == {"application/problem+json"}
    assert "HTTPValidationError" not in str(document)
    for name in ("ModelReport", "Candidate", "Command", "AssignmentQuery", "Intake", "Problem"):
        assert document["components"]["schemas"][name]["examples"], name


@pytest.mark.parametrize("names", [()])
def test_no_model_is_an_empty_list(client: httpx.Client) -> None:
    assert client.get("/v1/models").json()["models"] == []
    missing = client.get("/v1/models/digits")
    assert missing.status_code == 404
    assert missing.json()["known"] == []


def test_the_fake_tells_infinities_so_that_the_tests_above_mean_something(served: Served) -> None:
    assert served.fake.report("digits").lift["v2"].upper == math.inf
