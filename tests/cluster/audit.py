"""What was asked of the API server: its audit log as records.

Each request counts once. A watch is there from its start (stage ResponseStarted), any other request
from its end; the log is written before the answer is complete, so what a client has seen answered
may need a moment to be here: wait for it with `until`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `resource` carries its subresource as RBAC does (`pods/status`)."""

    id: str
    user: str
    agent: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    uri: str
    code: int
    is_allowed: bool
    reason: str
    """Which binding allowed it, in the authoriser's words."""
    received: str
    """RFC 3339, microseconds."""

    @property
    def permission(self) -> tuple[str, str, str]:
        """What an RBAC rule has to grant: (group, resource or path, verb)."""
        return self.group, self.resource or self.uri.partition("?")[0], self.verb


class Audit:
    """The log of one control plane."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        """A position; `requests(since=...)` gives what came after it."""
        return self._path.stat().st_size

    def requests(
        self,
        *,
        since: int = 0,
        user: str | None = None,
        agent: str | None = None,
        verb: str | None = None,
        resource: str | None = None,
        is_so: Callable[[Request], bool] = lambda _: True,
    ) -> list[Request]:
        """Requests in the order of the log; `agent` needs to be a part of the user agent only."""
        found: dict[str, Request] = {}
        with self._path.open("rb") as log:
            log.seek(since)
            # A last line without its end is being written.
            for line in log.read().split(b"\n")[:-1]:
                request = _request(json.loads(line))
                found[request.id] = request
        return [
            each
            for each in found.values()
            if user in {None, each.user}
            and (agent is None or agent in each.agent)
            and verb in {None, each.verb}
            and resource in {None, each.resource}
            and is_so(each)
        ]

    def permissions(self, user: str, *, since: int = 0) -> set[tuple[str, str, str]]:
        """Every (group, resource, verb) that the user needed, granted or not."""
        return {each.permission for each in self.requests(since=since, user=user)}


def _request(event: dict[str, Any]) -> Request:
    target, notes = event.get("objectRef", {}), event.get("annotations", {})
    parts = (target.get("resource", ""), target.get("subresource", ""))
    return Request(
        id=event["auditID"],
        user=event["user"].get("username", ""),
        agent=event.get("userAgent", ""),
        verb=event["verb"],
        group=target.get("apiGroup", ""),
        resource="/".join(part for part in parts if part),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        uri=event["requestURI"],
        code=event.get("responseStatus", {}).get("code", 0),
        is_allowed=notes.get("authorization.k8s.io/decision") == "allow",
        reason=notes.get("authorization.k8s.io/reason", ""),
        received=event["requestReceivedTimestamp"],
    )
