"""Where shipped exposures go: one method, so that a queue can take the place of the controller.

The contract of `send`: when it returns, the events are durable at the other side; when it raises,
they may be or may not, and the same events are sent again. Events are idempotent, so that is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import httpx
import msgspec

from controller.errors import Permanent, Retryable

TIMEOUT_S = 10.0

_BAD_BODY = frozenset({400, 413, 415, 422})
"""Answers that are about this body, not about the state of the controller."""


class Sink(Protocol):
    """Takes events for good."""

    async def send(self, events: Sequence[bytes]) -> Sequence[str]:
        """Have these events kept; why some were refused, which the other side counts.

        Raises:
            Retryable: the same call may succeed later.
            Permanent: these events will never be taken as they are.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class _Rejected(msgspec.Struct):
    index: int
    error: str


class _Intake(msgspec.Struct):
    accepted: int
    rejected: list[_Rejected] = []


class HttpSink:
    """`POST /v1/events` of a controller.

    Every failure closes the connection: behind one name there may be several controllers, only one
    of which takes events, and a connection that is kept would lead to the same one for ever.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = f"{url.rstrip('/')}/v1/events"
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None

    async def send(self, events: Sequence[bytes]) -> Sequence[str]:
        """Post the events as JSON Lines; done once the controller has answered 202."""
        try:
            answer = await self._connected().post(
                self._url,
                content=b"\n".join(events),
                headers={"content-type": "application/x-ndjson"},
            )
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            await self.close()
            raise Retryable(f"{self._url} does not answer: {type(exc).__name__} {exc}") from exc
        if answer.status_code == 202:
            return _refusals(answer.content)
        await self.close()
        said = f"{self._url} answered {answer.status_code}: {answer.text[:200]}"
        if answer.status_code in _BAD_BODY:
            raise Permanent(said)
        raise Retryable(said, after_s=_retry_after_s(answer.headers.get("retry-after", "")))

    async def close(self) -> None:
        """Close the connection; the next `send` opens another."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=self._timeout_s, trust_env=False)
        return self._client


def _refusals(body: bytes) -> Sequence[str]:
    """What the controller refused of events that it has taken in."""
    try:
        return [each.error for each in msgspec.json.decode(body, type=_Intake).rejected]
    except msgspec.DecodeError as exc:
        raise Retryable(f"202 without the answer of a controller: {body[:200]!r}") from exc


def _retry_after_s(text: str) -> float:
    """Seconds of a `Retry-After` header; 0 when it has none (a date is no count of seconds)."""
    return float(text) if text.isdecimal() else 0.0
