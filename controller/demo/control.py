"""The demo's side of the controller's HTTP API: events in, versions in, reports and decisions out.

A thin client on purpose: it knows the contract and nothing of the controller's code. Foreign errors
become `Retryable` (429, 5xx, no connection) or `Permanent` (the controller said no).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from controller.errors import Permanent, Retryable


class Arm(msgspec.Struct):
    """One arm of a report; see contract 4.4."""

    arm: str
    role: str = ""
    weight: int = 0
    weight_in_force: int = 0
    exposures: int = 0
    outcomes: int = 0
    pending: int = 0
    rewards: int = 0
    mean: float | None = None
    interval: tuple[float | None, float | None] | None = None


class Report(msgspec.Struct):
    """What `/v1/models/{model}/arms` answers, as far as the demo looks at it."""

    phase: str
    champion: str
    reason: str = ""
    stage: str = ""
    step: int = 0
    epoch: int = 0
    candidate: str | None = None
    arms: list[Arm] = []
    rejected: dict[str, int] = {}

    def weight_in_force(self, arm: str) -> int:
        """The share that the routers give to an arm, basis points; 0 for one they do not know."""
        return next((a.weight_in_force for a in self.arms if a.arm == arm), 0)


class Decision(msgspec.Struct):
    """A line of the ledger, as far as the demo looks at it."""

    candidate: str = ""
    phase: str = ""
    verdict: str = ""
    reason: str = ""


class _Decisions(msgspec.Struct):
    decisions: list[Decision]


class _Posted(msgspec.Struct):
    rejected: list[dict[str, Any]] = []


@dataclass(frozen=True, slots=True)
class Control:
    """A client of one controller."""

    http: httpx.AsyncClient
    model: str

    async def post_events(self, lines: Sequence[bytes]) -> list[str]:
        """Post events; gives the errors of those that were refused, one string each.

        Raises:
            Retryable: none of them may have been accepted; post them all again.
        """
        body = b"\n".join(lines) + b"\n"
        headers = {"content-type": "application/x-ndjson"}
        response = await self._send("POST", "/v1/events", content=body, headers=headers)
        posted = msgspec.json.decode(response.content, type=_Posted)
        return [str(refused.get("error", "refused")) for refused in posted.rejected]

    async def offer(self, version: str, endpoint: str, *, parent: str, accuracy: float) -> None:
        """Register a version as a candidate."""
        document = {
            "version": version,
            "endpoints": [endpoint],
            "parent": parent,
            "metrics": {"accuracy": accuracy},
        }
        await self._send("POST", f"/v1/models/{self.model}/candidates", json=document)

    async def report(self) -> Report:
        """Where the model stands."""
        response = await self._send("GET", f"/v1/models/{self.model}/arms")
        return msgspec.json.decode(response.content, type=Report)

    async def decisions(self) -> list[Decision]:
        """The decisions so far, oldest first."""
        query = "newest_first=false&limit=1000"
        response = await self._send("GET", f"/v1/models/{self.model}/decisions?{query}")
        return msgspec.json.decode(response.content, type=_Decisions).decisions

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            response = await self.http.request(method, path, **content)
        except httpx.TransportError as exc:
            raise Retryable(f"{method} {path}: {type(exc).__name__}", after_s=0.1) from exc
        if response.status_code == 429 or response.status_code >= 500:
            raise Retryable(
                f"{method} {path}: status {response.status_code}",
                after_s=_after_s(response.headers.get("retry-after")),
            )
        if response.status_code >= 400:
            raise Permanent(f"{method} {path}: {response.status_code} {response.text[:500]}")
        return response


def _after_s(header: str | None) -> float:
    """The seconds that a server asks to wait; dates are legal there, and not worth a parser."""
    try:
        return min(10.0, float(header)) if header else 0.1
    except ValueError:
        return 1.0
