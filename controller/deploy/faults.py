"""What an answer of the API server that is no success means: each fault is one of ours. Pure.

out of reach, 429, 5xx              Retryable
409, somebody changed it meanwhile  Stale (Retryable): read again
410, the position is too old        Gone (Retryable): list again
404                                 NotFound (Permanent)
409, it exists already              Exists (Permanent)
409, another manager owns a field   FieldConflict (Conflict), which names managers and fields
401, 403, 400, 422 and the rest     Permanent, in the API server's own words
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from controller.deploy.objects import Object
from controller.errors import Conflict, Permanent, Retryable

_UNTYPED: Final = "failed to create typed patch object"
"""What an apply with a field that does not exist is answered with, as a 500 (1.36)."""


class NotFound(Permanent):
    """There is no such object, or no such resource."""


class Exists(Permanent):
    """The object that was to be created is there already."""


class Stale(Retryable):
    """Somebody changed the object since it was read."""


class Gone(Retryable):
    """The position in the history is too old: list again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A field that somebody else manages; `manager` with its operation, as the server says it."""

    field: str
    manager: str


class FieldConflict(Conflict):
    """Other managers own fields that were to be applied."""

    def __init__(self, message: str, claims: tuple[Claim, ...]) -> None:
        self.claims = claims
        super().__init__(message)


def unreachable(host: str, exc: Exception) -> Retryable:
    """The API server did not answer."""
    why = getattr(exc, "reason", None) or exc
    return Retryable(f"the API server at {host} cannot be reached: {why}")


def fault(status: int, data: bytes, headers: Mapping[str, str]) -> Exception:
    """What an answer that is no success means."""
    body: Object = {}
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        decoded = msgspec.json.decode(data)
        body = decoded if isinstance(decoded, dict) else {}
    message = str(body.get("message") or data[:200].decode(errors="replace") or "no reason given")
    reason = str(body.get("reason", ""))
    claims = tuple(
        Claim(str(cause.get("field", "")), str(cause.get("message", "")))
        for cause in (body.get("details") or {}).get("causes") or []
        if cause.get("reason") == "FieldManagerConflict"
    )
    if status == 409 and claims:
        return FieldConflict(message, claims)
    after = headers.get("Retry-After", "")
    return of_status(status, message, reason, float(after) if after.isdecimal() else 1.0)


def of_status(status: int, message: str, reason: str = "", after_s: float = 1.0) -> Exception:
    """What a status means, with what the API server said of it."""
    if status == 404:
        return NotFound(message)
    if status == 410:
        return Gone(message)
    if status == 409:
        return Exists(message) if reason == "AlreadyExists" else Stale(message)
    if status == 429 or (status >= 500 and _UNTYPED not in message):
        return Retryable(f"the API server answers {status}: {message}", after_s=after_s)
    return Permanent(f"the API server answers {status}: {message}")
