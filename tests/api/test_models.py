"""Reads: models, arms, decisions, explanations; and the OpenAPI document that promises them."""

from __future__ import annotations

import math

import httpx
import pytest

from tests.api.conftest import Served
from tests.api.fake import T0, exploring

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
    assert answer["worries"] == []


def test_what_does_not_work_is_told_in_sentences(served: Served) -> None:
    served.fake.reports["digits"].health["clock"] = "the clock stepped"
    answer = served.client.get("/v1/models/digits/arms").json()
    assert answer["worries"] == [
        {"name": "clock", "sentence": "the clock stepped", "is_wrong": True}
    ]


def test_infinities_are_null_because_json_has_none(client: httpx.Client) -> None:
    answer = client.get("/v1/models/digits/arms").json()
    assert answer["lift"]["v2"]["interval"] == [-0.011, None]
    assert answer["health"]["sample_ratio_evidence"] is None
    assert client.get("/v1/models/digits/decisions").text.count("Infinity") == 0


def test_models_are_listed_with_the_state_of_the_router(client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()
    assert [row["model"] for row in answer["models"]] == ["digits"]
    assert answer["models"][0]["reason"].startswith("v2 holds")
    assert answer["router"] == {"connected": 1, "nacks": 2, "last_nack": None}
    assert client.get("/v1/models/digits").json()["candidate"] == "v2"


def test_a_model_that_is_held_since_the_start_is_named_and_answers_503(served: Served) -> None:
    served.fake.stuck = {"n": "its log was lost"}
    answer = served.client.get("/v1/models").json()
    assert [model["model"] for model in answer["models"]] == ["digits"]
    assert answer["held"] == served.fake.stuck
    refused = served.client.get("/v1/models/n/explain")
    assert refused.status_code == 503
    assert refused.json()["detail"] == "n is held since the start: its log was lost"


def test_decisions_come_newest_first_and_in_pages(client: httpx.Client) -> None:
    def numbers(query: str) -> list[int]:
        rows = client.get(f"/v1/models/digits/decisions{query}").json()["decisions"]
        return [row["number"] for row in rows]

    assert numbers("") == list(range(12, 0, -1))
    assert numbers("?limit=2") == [12, 11]
    assert numbers("?after=10&newest_first=false") == [11, 12]


def test_explain_tells_one_decision_or_the_present(client: httpx.Client) -> None:
    then = client.get("/v1/models/digits/explain?decision=3").json()
    assert (then["number"], then["verdict"], then["weights"]) == (
        3,
        "advance",
        {"v1": 9500, "v2": 500},
    )
    assert then["sentences"][0] == "advance: v2 takes step 3: no harm in 600 outcomes"
    assert then["evidence"]["conditions"] == then["conditions"]  # nothing is foretold of the past
    now = client.get("/v1/models/digits/explain").json()
    assert now["last_decision"]["number"] == 12
    assert now["health"]["sample_ratio"] == "ok"
    assert now["sentences"][0] == "hold: v2 holds at 5 %: 212 of 400 outcomes, no harm seen"
    missing = client.get("/v1/models/digits/explain?decision=99")
    assert missing.status_code == 404
    assert missing.json()["type"] == "urn:understudy:problem:unknown-decision"


def test_the_present_is_explained_with_each_condition_and_guardrail(client: httpx.Client) -> None:
    now = client.get("/v1/models/digits/explain").json()
    by_name = {row["name"]: row for row in now["conditions"]}
    claim = by_name["not worse by the margin"]
    assert (claim["candidate"], claim["then"], claim["threshold"]) == ("v2", "promote", 100)
    assert (claim["reached"], claim["holds"], claim["requests_left"]) == (False, True, 5200)
    assert [row["name"] for row in now["conditions"] if row["holds"]] == [claim["name"]]
    assert [(row["arm"], row["metric"]) for row in now["guardrails"]] == [
        ("v2", "error_rate"), ("v2", "latency"),
    ]  # fmt: skip
    assert [row["arm"] for row in now["candidates"]] == ["v2"]
    said = "\n".join(now["sentences"])
    for words in (
        "to promote: about 5,200 more requests, as the arms look now",
        "within the bound: latency p95, evidence 3.004 of 100 to promote: not on its way",
        "lift +4.20% (-1.10% to no upper end)",
        "v2: errors 0.3%, of the champion 0.25%; 1% more is allowed",
        "v2: 4.3% of its answers took more than 84.2 ms, which is the champion's p95 and 20%",
    ):
        assert words in said


def test_a_decision_that_kept_nothing_is_explained_by_its_reason(client: httpx.Client) -> None:
    then = client.get("/v1/models/digits/explain?decision=1").json()
    assert then["sentences"] == ["advance: v2 takes step 1: no harm in 200 outcomes"]
    assert (then["conditions"], then["guardrails"], then["champion"]) == ([], [], None)


def test_several_candidates_and_segments_are_told(served: Served) -> None:
    served.fake.reports["digits"] = exploring("digits", T0 + 600)
    report = served.client.get("/v1/models/digits").json()
    assert report["candidates"] == ["v2", "v3", "v4"]
    assert set(report["lift"]) == {"v2", "v3", "v4"}
    assert report["segments"]["SE"] == {"v1": 900, "v2": 2100, "v3": 6900, "v4": 100}
    now = served.client.get("/v1/models/digits/explain").json()
    assert [row["arm"] for row in now["candidates"]] == ["v2", "v3", "v4"]
    assert {row["p_best"] for row in now["candidates"]} == {0.93}
    assert {row["arm"] for row in now["guardrails"]} == {"v2", "v3", "v4"}
    ratios = [row for row in now["conditions"] if row["then"] == "hold"]
    assert {row["candidate"] for row in ratios} == {"v2, v3, v4"}


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
    explain = document["paths"][f"{model}/explain"]["get"]["responses"]["200"]["content"]
    forms = str(explain["application/json"]["schema"])
    assert "schemas/Explanation'" in forms
    assert "schemas/DecisionExplanation'" in forms
    with_examples = ("ModelReport", "Candidate", "Command", "AssignmentQuery", "Intake", "Problem")
    for name in (*with_examples, "Explanation"):
        assert document["components"]["schemas"][name]["examples"], name


@pytest.mark.parametrize("names", [()])
def test_no_model_is_an_empty_list(client: httpx.Client) -> None:
    assert client.get("/v1/models").json()["models"] == []
    missing = client.get("/v1/models/digits")
    assert missing.status_code == 404
    assert missing.json()["known"] == []


def test_the_fake_tells_infinities_so_that_the_tests_above_mean_something(served: Served) -> None:
    assert served.fake.report("digits").lift["v2"].upper == math.inf


@pytest.mark.parametrize("question", ["decisions?after=", "explain?decision="])
def test_numbers_that_no_ledger_can_hold_are_refused(client: httpx.Client, question: str) -> None:
    assert client.get(f"/v1/models/digits/{question}{2**63}").status_code == 422
    assert client.get(f"/v1/models/digits/{question}{2**63 - 1}").status_code in {200, 404}
