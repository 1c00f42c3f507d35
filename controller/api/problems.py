"""Every error as an RFC 9457 problem document, whoever raised it.

Decides which status an error of the tree in `errors` becomes, and nothing else. Invariant: a
client that asked for anything and did not get it reads `application/problem+json` with `type`,
`title`, `status` and `detail`; never HTML, never FastAPI's `{"detail": …}`. Generic HTTP errors
have the type `about:blank` (the RFC's word for "the status says it all"); ours are URNs, because a
URL that nobody serves is a promise not kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from controller.core.model import Json
from controller.errors import (
    Busy,
    CommandError,
    EventError,
    InvariantError,
    Permanent,
    PolicyError,
    Retryable,
    Standby,
    UnderstudyError,
)

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[UnderstudyError], tuple[int, str]] = {
    PolicyError: (422, "policy"),
    EventError: (400, "event"),
    CommandError: (409, "command"),
    Standby: (503, "standby"),
    Busy: (429, "busy"),
    Retryable: (503, "out-of-reach"),
    Permanent: (502, "backend"),
    InvariantError: (500, "invariant"),
}
"""Status and kind of each error of the tree; the first that fits counts."""


class ProblemError(HTTPException):
    """Ends a request with a problem document; `extra` are the document's extension members."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        extra: Mapping[str, Json] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers=dict(headers or {}))
        self.kind = kind
        self.extra = dict(extra or {})


def unknown_model(model: str, known: tuple[str, ...]) -> ProblemError:
    """404 that lists the models there are."""
    names = ", ".join(known) or "none"
    detail = f"There is no model {model!r}. Known models: {names}."
    return ProblemError(404, "unknown-model", detail, extra={"known": list(known)})


def held_model(model: str, why: str) -> ProblemError:
    """503 that says why nothing is known of a model."""
    return ProblemError(503, "held", f"{model} is held since the start: {why}")


def document(exc: Exception, instance: str) -> Response:
    """The response that tells a client of `exc`, met while answering the path `instance`."""
    problem = _problem_of(exc)
    kind = problem.kind
    body: dict[str, Json] = {
        "type": f"urn:understudy:problem:{kind}" if kind else "about:blank",
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": problem.detail,
        "instance": instance,
        **problem.extra,
    }
    return Response(
        json.dumps(body, ensure_ascii=False, allow_nan=False),
        status_code=problem.status_code,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


def _problem_of(exc: Exception) -> ProblemError:
    if isinstance(exc, ProblemError):
        return exc
    if isinstance(exc, HTTPException):
        return ProblemError(exc.status_code, "", _sentence(exc), headers=exc.headers)
    if isinstance(exc, RequestValidationError):
        return _invalid(exc)
    if isinstance(exc, UnderstudyError):
        return _of_tree(exc)
    if isinstance(exc, ClientDisconnect):  # nobody reads this
        return ProblemError(400, "", "The sender went away before its body was there.")
    return ProblemError(500, "", "Understudy failed to answer; its log says why.")


def _sentence(exc: HTTPException) -> str:
    if exc.status_code == 404:
        return "There is nothing at this path; /openapi.json lists what there is."
    if exc.status_code == 405:
        return f"This path takes other methods: {(exc.headers or {}).get('Allow', 'none')}."
    return exc.detail


def _invalid(exc: RequestValidationError) -> ProblemError:
    errors: list[Json] = [
        {"where": ".".join(str(part) for part in e["loc"]), "error": str(e["msg"])}
        for e in exc.errors()
    ]
    first = exc.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return ProblemError(422, "invalid", f"{where}: {first['msg']}", extra={"errors": errors})


def _of_tree(exc: UnderstudyError) -> ProblemError:
    status, kind = next(
        (found for cls, found in STATUS.items() if isinstance(exc, cls)), (500, "internal")
    )
    if isinstance(exc, Retryable):
        wait = str(max(1, math.ceil(exc.after_s)))
        headers, leader = {"Retry-After": wait}, {}
        if isinstance(exc, Standby):
            leader = {"leader": exc.leader}
            # On a new connection, the next try may meet the leader.
            headers["Connection"] = "close"
        return ProblemError(status, kind, str(exc), extra=leader, headers=headers)
    extra: dict[str, Json] = {"reason": exc.reason} if isinstance(exc, EventError) else {}
    return ProblemError(status, kind, str(exc), extra=extra)


async def _answer(request: Request, exc: Exception) -> Response:
    return document(exc, request.url.path)


def install(app: FastAPI) -> None:
    """Let every error of `app` be answered with a problem document.

    What is only an `Exception` is logged with its trace as well.
    """
    known = (HTTPException, RequestValidationError, UnderstudyError, ClientDisconnect)
    for cls in (*known, Exception):
        app.add_exception_handler(cls, _answer)
