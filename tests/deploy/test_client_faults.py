from __future__ import annotations

import json

import pytest

from controller.deploy.faults import Claim, Exists, FieldConflict, Gone, NotFound, Stale, fault
from controller.deploy.objects import AUTOSCALERS, SERVICES
from controller.errors import BackendError, Conflict, Permanent, Retryable


def status(reason: str = "", **more: object) -> bytes:
    return json.dumps({"kind": "Status", "message": "so it is", "reason": reason, **more}).encode()


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (400, status("BadRequest"), Permanent),
        (401, status("Unauthorized"), Permanent),
        (403, status("Forbidden"), Permanent),
        (404, status("NotFound"), NotFound),
        (405, b"", Permanent),
        (409, status("AlreadyExists"), Exists),
        (409, status("Conflict"), Stale),
        (410, status("Expired"), Gone),
        (415, b"no", Permanent),
        (422, status("Invalid"), Permanent),
        (429, status("TooManyRequests"), Retryable),
        (500, b"\xff\xfe", Retryable),
        (503, b"[1]", Retryable),
        (504, status("Timeout"), Retryable),
    ],
)
def test_each_answer_is_one_of_our_faults(code: int, body: bytes, kind: type) -> None:
    found = fault(code, body, {})
    assert type(found) is kind
    assert isinstance(found, BackendError)
    assert str(found)


def test_conflict_names_fields_and_managers() -> None:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl" using apps/v1',
            "field": ".spec.replicas",
        }
    ]
    found = fault(409, status("Conflict", details={"causes": causes}), {})
    assert isinstance(found, FieldConflict)
    assert isinstance(found, Conflict)
    assert found.claims == (Claim(".spec.replicas", 'conflict with "kubectl" using apps/v1'),)


def test_server_says_how_long_to_wait() -> None:
    found = fault(429, status(), {"Retry-After": "7"})
    assert isinstance(found, Retryable)
    assert found.after_s == 7.0


def test_paths() -> None:
    assert SERVICES.path() == "/api/v1/services"
    assert SERVICES.path("models") == "/api/v1/namespaces/models/services"
    assert AUTOSCALERS.path("models", "x") == (
        "/apis/autoscaling/v2/namespaces/models/horizontalpodautoscalers/x"
    )
