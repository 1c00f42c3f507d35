"""What the API asks of the loop: reads from the last turn, writes through the log.

Reads never touch a state that a turn is working on: they see the report that the last turn left.
Writes are events. An operator's command is checked against the last report, so that a wish that
does not fit is refused at once with a reason; the engine checks it again in its place in the log,
because by then the phase may have changed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import uuid4

from controller.core.admission import is_new
from controller.core.commands import misnamed, unfit
from controller.core.explain import explanation
from controller.core.model import Json, Operation, Reason, Report, Role, Version
from controller.core.record import decision_document
from controller.core.sentences import decision_explanation
from controller.core.split import assign_many, is_segment, propensity
from controller.errors import CommandError, EventError
from controller.ledger import Ledger
from controller.loop.fold import Turned
from controller.loop.wheel import Clock, Router, Wheel
from controller.stream import codec
from controller.stream.wire import Canonical

HISTORY = 600
"""Reports kept for the plots; when there are more, every second one is dropped."""

AHEAD_S = 300.0
"""How far ahead of our clock an event's time may be: more would never close."""

OURS = {
    "tick": "ticks are made by the controller",
    "capacity": "capacities are what the controller sees in the cluster",
    "command": "commands go to POST /v1/models/{model}/…, candidates to …/candidates",
}


class LoopBackend:
    """The controller as the API sees it."""

    def __init__(
        self, models: Sequence[str], *, ledger: Ledger, router: Router, clock: Clock
    ) -> None:
        self._models = tuple(models)
        self._ledger = ledger
        self._router = router
        self._clock = clock
        self._turned: dict[str, Turned] = {}
        self._history: dict[str, deque[Report]] = {model: deque() for model in models}
        self._listeners: set[asyncio.Queue[Report]] = set()
        self.wheel: Wheel | None = None

    # --- what the wheel tells -----------------------------------------------------------------

    def told(self, model: str, turned: Turned) -> None:
        """A turn of `model` is over."""
        before = self._turned.get(model)
        self._turned[model] = turned
        report = turned.report
        if before is not None and replace(before.report, time=report.time) == report:
            return
        history = self._history[model]
        history.append(report)
        if len(history) > HISTORY:
            self._history[model] = deque(list(history)[::2])
        self._publish(model)

    def worried(self) -> None:
        """What holds a model, or the log or the router, came or went: people see it at once."""
        for model in self._turned:
            self._publish(model)

    def _publish(self, model: str) -> None:
        report = self.report(model)
        for queue in self._listeners:
            queue.put_nowait(report)

    @property
    def is_complete(self) -> bool:
        """Whether every model's log has been read."""
        return set(self._turned) == set(self._models)

    # --- reads --------------------------------------------------------------------------------

    def models(self) -> tuple[str, ...]:
        """The models that have a policy."""
        return self._models

    def report(self, model: str) -> Report:
        """Where `model` stands; with the trouble that holds it, if any."""
        report = self._turned[model].report
        health = dict(report.health)
        if (trouble := self._trouble(model)) is not None:
            health["trouble"] = trouble
        refusal = self._router.status().get("last_nack")
        if refusal is not None and report.epoch_in_force < report.epoch:
            health["split"] = f"refused by the router, the one before stays: {refusal}"
        return replace(report, health=health)

    def decisions(
        self, model: str, *, after: int = 0, limit: int = 100, newest_first: bool = True
    ) -> list[dict[str, Json]]:
        """Decisions with a number above `after`."""
        self._known(model)
        if not newest_first:
            found = self._ledger.decisions(model, after=after, limit=limit)
            return [decision_document(decision) for decision in found]
        last = self._ledger.last_decision(model)
        first = max(after, last.number - limit) if last else after
        found = self._ledger.decisions(model, after=first, limit=limit)
        return [decision_document(decision) for decision in reversed(found)]

    def explain(self, model: str, number: int | None) -> dict[str, Json]:
        """A decision with its numbers; without a number, what holds the model now."""
        self._known(model)
        if number is not None:
            decision = self._ledger.decision(model, number)
            if decision is None:
                raise KeyError(number)
            return decision_explanation(decision_document(decision))
        turned = self._turned[model]
        last = self._ledger.last_decision(model)
        return {
            **explanation(turned.policy, turned.state),
            "health": self.report(model).health,
            "last_decision": decision_document(last) if last else None,
        }

    def history(self, model: str) -> list[Report]:
        """Recent reports, oldest first."""
        return list(self._history[model])

    async def changes(self) -> AsyncIterator[Report]:
        """Every new report from now on."""
        queue: asyncio.Queue[Report] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    def ready(self) -> dict[str, bool | str]:
        """Whether each component does its work."""
        troubles = self.wheel.troubles if self.wheel else {}
        connected = self._router.status().get("connected", 0)
        return {
            "log and ledger": "; ".join(troubles.values()) or True,
            "models": True if self.is_complete else "the log is still being read",
            "router": True if connected or not self._models else "no router is connected",
            "splits": True if self._is_settled() else "the router has not accepted a split yet",
        }

    def router_status(self) -> dict[str, Json]:
        """Connected routers and refusals."""
        return self._router.status()

    # --- writes -------------------------------------------------------------------------------

    async def ingest(self, events: Sequence[Canonical | EventError]) -> list[str | None]:
        """Keep what can be used in the log, the rest in the table of refused events."""
        latest = self._clock() + AHEAD_S
        errors: list[str | None] = []
        lines: dict[str, list[bytes]] = {}
        refused: list[tuple[str, str, bytes]] = []
        for event in events:
            if isinstance(event, EventError):
                refused.append((event.reason, str(event), event.event))
                errors.append(str(event))
                continue
            fault = self._fault(event, latest)
            errors.append(fault)
            if fault is not None:
                refused.append((Reason.MALFORMED, fault, event.line))
            elif event.model is not None:
                lines.setdefault(event.model, []).append(event.line)
        if lines:
            await self._wheel.append(lines)
        if refused:
            await asyncio.to_thread(self._ledger.reject, "api", refused)
        return errors

    def _fault(self, event: Canonical, latest: float) -> str | None:
        if event.type in OURS:
            return OURS[event.type]
        if event.model not in self._models:
            return f"model: found {event.model!r}, expected one of {', '.join(self._models)}"
        if event.time > latest:
            return f"time: found {event.time}, which is more than {AHEAD_S:g} s ahead of our clock"
        return None

    async def command(
        self, model: str, operation: Operation, *, by: str, reason: str, version: str | None = None
    ) -> Report:
        """Carry out an operator's command."""
        self._require(model, operation, version)
        line = codec.command_line(
            model,
            time=self._clock(),
            command=operation,
            by=by,
            reason=reason,
            version=version,
        )
        await self._wheel.append_and_turn(model, line)
        return self.report(model)

    async def candidate(self, model: str, version: dict[str, Json]) -> Report:
        """Offer a version."""
        state = self._turned[model].state
        name = str(version["version"])
        if not is_new(state, name):
            raise CommandError(f"{name} is the champion, or in the queue, or was tried already")
        known = Version(
            name=name,
            endpoints=tuple(version.get("endpoints") or ()),  # type: ignore[arg-type]
            parent=version.get("parent"),  # type: ignore[arg-type]
            trained_at=version.get("trained_at"),  # type: ignore[arg-type]
            metrics=dict(version.get("metrics") or {}),  # type: ignore[arg-type]
            uri=version.get("uri"),  # type: ignore[arg-type]
        )
        covariates: dict[str, float] = version.get("covariates") or {}  # type: ignore[assignment]
        line = codec.version_line(
            model,
            time=self._clock(),
            version=known,
            role=Role.CANDIDATE,
            covariates=covariates,
        )
        await self._wheel.append_and_turn(model, line)
        return self.report(model)

    def assign(
        self, model: str, units: Sequence[str | None], segment: str | None = None
    ) -> list[dict[str, Json]]:
        """The arm of each unit under the present split; a unit of its own gets a request id.

        All of them are in `segment`, which is None in the rows where it can be none.
        """
        wanted = self._turned[model].state.split
        named = segment if segment is not None and is_segment(segment) else None
        request_ids = [str(uuid4()) for _ in units]
        hashed = [
            own if unit is None else unit for unit, own in zip(units, request_ids, strict=True)
        ]
        arms = assign_many(wanted, hashed, named)
        chance = {arm: propensity(wanted, arm, named) for arm in dict.fromkeys(arms)}
        return [
            {
                "unit": unit,
                "arm": arm,
                "epoch": wanted.epoch,
                "propensity": chance[arm],
                "request_id": request_id,
                "segment": named,
            }
            for unit, arm, request_id in zip(units, arms, request_ids, strict=True)
        ]

    # --- inside -------------------------------------------------------------------------------

    @property
    def _wheel(self) -> Wheel:
        assert self.wheel is not None
        return self.wheel

    def _known(self, model: str) -> None:
        if model not in self._models:
            raise KeyError(model)

    def _is_settled(self) -> bool:
        return self.wheel is not None and self.wheel.is_settled

    def _trouble(self, model: str) -> str | None:
        return self.wheel.trouble(model) if self.wheel else None

    def _require(self, model: str, operation: Operation, version: str | None) -> None:
        state = self._turned[model].state
        if (refusal := unfit(state, operation)) is not None:
            raise CommandError(f"{operation.value} does not fit: {refusal}")
        if (fault := misnamed(state, operation, version)) is not None:
            raise CommandError(f"{operation.value}: {fault}")
