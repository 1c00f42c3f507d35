"""Who may not come in: foreign web pages, misdirected browsers, bodies without end.

The API has no login of its own; it listens on loopback or behind whatever a cluster puts before it.
What must never be is that a page on the open web, loaded in the browser of someone who can reach
the API, moves traffic (PEERS.md 13 names a dashboard where it can). Invariant: a request that may
change something is passed on only if

1. a browser did not mark it as coming from another origin (`Sec-Fetch-Site`, which pages cannot
   forge, and `Origin`, for browsers that do not send the former). Same *site* is not enough:
   `localhost:3000` is the same site as `localhost:8800`;
2. its body, if any, says `application/json`, which a foreign page can only send after a preflight
   that we do not answer. `/v1/events` takes more media types and relies on 1;
3. its `Host` is one of `hosts`, where they are given: the answer to DNS rebinding, where the
   browser believes the foreign page to be of the same origin.

Rejected: a CSRF token. The dashboard is read-only, so nobody would ever fetch one.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api.pressure import Budget, Reservation
from controller.api.problems import ProblemError, document

BODY_LIMIT = 16 * 1024 * 1024
"""Bytes of a request's body, as sent and as decompressed."""

DRAINED = 4 * BODY_LIMIT
"""Bytes read and dropped of a body that is too large, so that its sender reads our answer."""

BODY_S = 15.0
BODY_BYTES_PER_S = 128 * 1024
"""A body must be there after so many seconds, and one more for each so many of its bytes."""

_DRAIN_S = 5.0

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_ANY_MEDIA_TYPE = frozenset({"/v1/events"})


class Guard:
    """ASGI middleware that turns such requests away and bounds the bodies of the others.

    budget  what all bodies together may hold
    """

    def __init__(
        self, app: ASGIApp, *, budget: Budget, hosts: frozenset[str] | None = None
    ) -> None:
        self._app = app
        self._budget = budget
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _with_headers(send)
        refusal = refuse(scope["method"], scope["path"], Headers(scope=scope), self._hosts)
        if refusal is not None:
            await document(refusal, scope["path"])(scope, receive, reply)
            return
        held = self._budget.body()
        scope.setdefault("state", {})["body"] = held
        try:
            await self._app(scope, _bounded(receive, held), reply)
        finally:
            held.release()


def refuse(
    method: str, path: str, headers: Headers, hosts: frozenset[str] | None
) -> ProblemError | None:
    """Why a request is turned away, None when it is not."""
    host = headers.get("host", "")
    if hosts is not None and _name(host) not in hosts:
        return ProblemError(421, "host", f"This server does not answer for the host {host!r}.")
    if method in _SAFE:
        return None
    if _is_foreign(headers, host):
        detail = "A web page of another origin may not send this; use the command line or a script."
        return ProblemError(403, "cross-site", detail)
    if path not in _ANY_MEDIA_TYPE and _has_body(headers) and not _is_json(headers):
        return ProblemError(415, "media-type", "The body must be sent as application/json.")
    return None


def _is_foreign(headers: Headers, host: str) -> bool:
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return True
    origin = headers.get("origin")
    return origin is not None and _netloc(origin) != host.lower()


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _name(host: str) -> str:
    """The host of a `Host` header, without its port, in lower case; empty where it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:  # such as http://[::1
        return ""


def _netloc(origin: str) -> str | None:
    """Host and port of an `Origin` header, in lower case; None where it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _bounded(receive: Receive, held: Reservation) -> Receive:
    """`receive` that raises 413, 429 or 408 where a body is too large, one too many, or too slow.

    A bounded rest of it is read and dropped before, so that its sender reads the answer.
    """
    seen = 0
    is_whole = False
    began_s = asyncio.get_running_loop().time()

    async def bounded() -> Message:
        nonlocal seen, is_whole
        if is_whole:
            return await receive()  # waits for the sender to go away
        try:
            async with asyncio.timeout_at(began_s + BODY_S + seen / BODY_BYTES_PER_S):
                message = await receive()
        except TimeoutError as exc:
            raise _too_slow() from exc
        size = len(message.get("body", b""))
        seen += size
        is_whole = not message.get("more_body", False)
        try:
            if seen > BODY_LIMIT:
                raise too_large()
            held.grow(size)
        except ProblemError:
            held.release()
            await _drop(receive, message, seen)
            raise
        return message

    return bounded


async def _drop(receive: Receive, message: Message, seen: int) -> None:
    try:
        async with asyncio.timeout(_DRAIN_S):
            while message.get("more_body", False) and seen < DRAINED:
                message = await receive()
                seen += len(message.get("body", b""))
    except TimeoutError:
        return


def _too_slow() -> ProblemError:
    detail = (
        f"The body was not there after {BODY_S:.0f} s, and one more for each "
        f"{BODY_BYTES_PER_S >> 10} KiB of it."
    )
    return ProblemError(408, "too-slow", detail, headers={"Connection": "close"})


def too_large() -> ProblemError:
    """413, with the limit."""
    detail = f"The body may have {BODY_LIMIT >> 20} MiB (also decompressed); send it in parts."
    return ProblemError(413, "too-large", detail, extra={"limit_bytes": BODY_LIMIT})


def _with_headers(send: Send) -> Send:
    extra = [(k.lower().encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]

    async def reply(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return reply
