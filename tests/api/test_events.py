"""`POST /v1/events`: every form, every limit."""

from __future__ import annotations

import gzip
import json

import httpx
import pytest

from tests.api.conftest import Served

REWARD = {
    "type": "reward", "time": 1795423625.9, "model": "digits", "id": "e1", "request_id": "r1",
    "name": "correct", "value": 1,
}  # fmt: skip
CLOUD = {
    "specversion": "1.0", "id": "e2", "source": "/shop", "type": "dev.understudy.reward",
    "time": "2026-11-23T09:27:05Z",
    "data": {"model": "digits", "request_id": "r2", "name": "correct", "value": 1},
}  # fmt: skip
ONE, CLOUD_ONE = json.dumps(REWARD).encode(), json.dumps(CLOUD).encode()


@pytest.mark.parametrize(
    ("media_type", "body", "count"),
    [
        ("application/x-ndjson", ONE + b"\n" + ONE + b"\n", 2),
        ("application/json", b"[" + ONE + b"," + ONE + b"]", 2),
        ("application/json", ONE, 1),
        ("application/cloudevents+json", CLOUD_ONE, 1),
        ("application/cloudevents-batch+json", b"[" + CLOUD_ONE + b"]", 1),
        ("application/x-ndjson", (ONE + b"\n") * 4_000, 4_000),  # decoded in a thread
    ],
)
def test_events_are_taken_in_every_form(
    served: Served, media_type: str, body: bytes, count: int
) -> None:
    answer = served.client.post("/v1/events", content=body, headers={"content-type": media_type})
    assert answer.status_code == 202
    assert answer.json() == {"accepted": count, "rejected": []}
    assert len(served.fake.log) == count


def test_a_cloud_event_in_binary_mode_is_told_by_its_headers(served: Served) -> None:
    headers = {
        "content-type": "application/json", "ce-specversion": "1.0", "ce-id": "e3",
        "ce-source": "/shop", "ce-type": "dev.understudy.reward",
        "ce-time": "2026-11-23T09:27:05Z",
    }  # fmt: skip
    answer = served.client.post("/v1/events", json=CLOUD["data"], headers=headers)
    assert answer.json() == {"accepted": 1, "rejected": []}


def test_one_bad_event_never_costs_the_others(served: Served) -> None:
    body = ONE + b'\n{"type":"reward"}\nnonsense\n' + ONE
    answer = served.client.post("/v1/events", content=body)
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    assert [row["index"] for row in answer.json()["rejected"]] == [1, 2]
    assert all(row["error"] for row in answer.json()["rejected"])
    assert len(served.fake.log) == 2


def test_gzip_is_unpacked(served: Served) -> None:
    body = gzip.compress(ONE + b"\n") + gzip.compress(ONE + b"\n")  # two members, as `cat` makes
    answer = served.client.post("/v1/events", content=body, headers={"content-encoding": "gzip"})
    assert answer.json()["accepted"] == 2


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b"not gzip at all", 400),
        ("gzip", gzip.compress(ONE)[:-9], 400),
        ("br", ONE, 415),
        ("gzip", gzip.compress(bytes(17 << 20)), 413),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_a_problem(
    served: Served, encoding: str, body: bytes, status: int
) -> None:
    answer = served.client.post("/v1/events", content=body, headers={"content-encoding": encoding})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert served.fake.log == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_16_mib_is_413_with_the_limit(client: httpx.Client, chunked: bool) -> None:
    parts = [bytes(1 << 20)] * 17
    body = iter(parts) if chunked else b"".join(parts)
    answer = client.post("/v1/events", content=body)
    assert answer.status_code == 413
    assert answer.json()["limit_bytes"] == 16 << 20


def test_a_body_of_just_16_mib_is_read(client: httpx.Client) -> None:
    answer = client.post("/v1/events", content=ONE + b" " * ((16 << 20) - len(ONE)))
    assert answer.json() == {"accepted": 1, "rejected": []}


def test_a_log_out_of_reach_is_503_and_says_when_to_come_again(served: Served) -> None:
    served.fake.is_log_reachable = False
    answer = served.client.post("/v1/events", content=ONE)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["detail"] == "the event log is out of reach"
