"""Every error is an RFC 9457 document."""

from __future__ import annotations

import httpx
import pytest

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


def test_every_leaf_of_the_tree_of_errors_has_a_status() -> None:
    def leaves(cls: type[errors.UnderstudyError]) -> set[type[errors.UnderstudyError]]:
        below = cls.__subclasses__()
        return {leaf for sub in below for leaf in leaves(sub)} if below else {cls}

    ours = {leaf for leaf in leaves(errors.UnderstudyError) if leaf.__module__ == errors.__name__}
    assert ours == set(STATUS)
