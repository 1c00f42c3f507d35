"""Every error is an RFC 9457 document."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.requests import ClientDisconnect

from controller import errors
from controller.api.problems import STATUS
from tests.api.conftest import Served

MODEL = "/v1/models/digits"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing/here", 404),
        ("GET", "/assets/nothing.js", 404),
        ("GET", "/v1/models/nobody", 404),
        ("POST", "/v1/models/nobody/pause", 404),
        ("DELETE", MODEL, 405),
        ("GET", f"{MODEL}/decisions?limit=0", 422),
        ("GET", f"{MODEL}/explain?decision=x", 422),
        ("POST", f"{MODEL}/approve", 501),
        ("POST", f"{MODEL}/resume", 409),
        ("POST", f"{MODEL}/candidates", 422),
    ],
)
def test_errors_are_problem_documents(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["instance"] == path.partition("?")[0]
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"] == "about:blank" or problem["type"].startswith("urn:understudy:")


def test_an_unknown_model_is_answered_with_the_known_ones(client: httpx.Client) -> None:
    problem = client.get("/v1/models/digit/arms").json()
    assert problem["known"] == ["digits"]
    assert problem["detail"] == "There is no model 'digit'. Known models: digits."


def test_malformed_json_is_a_problem_that_says_where(client: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post(f"{MODEL}/pause", content=b'{"reason": ', headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"].startswith("body")


def test_a_bug_is_a_problem_too(served: Served) -> None:
    served.fake.ledger.clear()
    served.fake.past.clear()
    answer = served.client.get(f"{MODEL}/history")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"


def test_every_error_of_the_tree_has_a_status() -> None:
    def below(cls: type[errors.UnderstudyError]) -> set[type[errors.UnderstudyError]]:
        return {cls}.union(*(below(sub) for sub in cls.__subclasses__()))

    groups = {errors.UnderstudyError, errors.BackendError}
    ours = {cls for cls in below(errors.UnderstudyError) if cls.__module__ == errors.__name__}
    assert {cls for cls in ours - groups if not issubclass(cls, tuple(STATUS))} == set()


def test_the_nearest_status_of_an_error_counts() -> None:
    found = list(STATUS)
    for number, cls in enumerate(found):
        assert not any(issubclass(cls, before) for before in found[:number]), cls


def test_a_sender_that_goes_away_in_mid_body_is_no_fault_of_ours(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """As a killed shipper does. Nothing is taken in, and no trace is logged."""
    at = urlsplit(served.url)
    with socket.create_connection((at.hostname, at.port)) as sender:
        head = b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"
        sender.sendall(head)
        time.sleep(0.1)  # it is being read
    time.sleep(0.2)
    assert served.client.get("/healthz").status_code == 200
    faults = [each.exc_info[1] for each in caplog.records if each.exc_info]
    assert [each for each in faults if isinstance(each, ClientDisconnect)] == []
    assert served.fake.log == []
