"""What the API asks of the loop: reads from the last turn, writes through the log.

Reads never touch a state that a turn is working on: they see the report that the last turn left.
Writes are events. An operator's command is checked against the last report, so that a wish that
does not fit is refused at once with a reason; the engine checks it again in its place in the log,
because by then the phase may have changed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from uuid import uuid4

from controller.core.admission import is_new
from controller.core.commands import misnamed, unfit
from controller.core.explain import explanation
from controller.core.model import HealthKey, Json, Operation, Reason, Report, Role, Version
from controller.core.partition import log_name
from controller.core.record import decision_document
from controller.core.sentences import decision_explanation
from controller.core.split import assign_many, is_segment, propensity
from controller.errors import CommandError, EventError
from controller.ledger import Ledger
from controller.loop.door import misplaced
from controller.loop.fold import Turned
from controller.loop.refusals import Refusals
from controller.loop.routes import Router
from controller.loop.standby import StandbyWheel
from controller.loop.wheel import Clock, Wheel
from controller.stream import codec
from controller.stream.wire import Canonical

HISTORY = 600
"""Reports kept for the plots; when there are more, every second one is dropped."""

SHOWN_MODELS = 10
"""How many models an error names."""

LONG_TURN_S = 15.0
"""A turn that takes longer is a trouble; it waits for the log or the ledger."""


class LoopBackend:
    """The controller as the API sees it.

    waits_for_routers  whether it is ready only with a router that has its splits. Where routers are
                       elsewhere it is not so: an API that goes away with them could not help them
    latest             the latest time that it may be now, where that is not what the clock says
    worries            what else does not work for a model, as sentences by name
    """

    def __init__(  # noqa: PLR0913 - what it is asked of comes from many
        self,
        models: Sequence[str],
        *,
        ledger: Ledger,
        router: Router,
        clock: Clock,
        waits_for_routers: bool = True,
        worries: Callable[[str], Mapping[HealthKey, str | None]] = lambda _: {},
        latest: Clock | None = None,
    ) -> None:
        self._models = dict.fromkeys(models)
        self._waits_for_routers = waits_for_routers
        self._worries = worries
        self._ledger = ledger
        self._router = router
        self._clock = clock
        self._latest = latest or clock
        self._turned: dict[str, Turned] = {}
        self._history: dict[str, deque[Report]] = {model: deque() for model in models}
        self._listeners: set[asyncio.Queue[Report]] = set()
        self.refusals = Refusals(ledger.reject, "api")
        self.wheel: Wheel | StandbyWheel | None = None

    # --- what the wheel tells -----------------------------------------------------------------

    def told(self, model: str, turned: Turned) -> None:
        """A turn of `model` is over."""
        if model not in self._models:
            return
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

    def adopt(self, model: str) -> None:
        """There is a policy of `model` from now on."""
        self._models[model] = None
        self._history.setdefault(model, deque())

    def forget(self, model: str) -> None:
        """There is no policy of `model` any more; what was written of it stays in the ledger."""
        self._models.pop(model, None)
        self._turned.pop(model, None)
        self._history.pop(model, None)

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
        return self._turned.keys() == self._models.keys()

    @property
    def is_answering(self) -> bool:
        """Whether of every model it is known where it stands, or why that is not known."""
        return self._turned.keys() | self.held().keys() == self._models.keys()

    # --- reads --------------------------------------------------------------------------------

    def models(self) -> tuple[str, ...]:
        """The models that have a policy, and of which it is known where they stand."""
        return tuple(m for m in self._models if m in self._turned)

    def held(self) -> dict[str, str]:
        """The models that could not be folded since the start, and why."""
        unknown = (model for model in self._models if model not in self._turned)
        return {model: why for model in unknown if (why := self._trouble(model)) is not None}

    def report(self, model: str) -> Report:
        """Where `model` stands; with the trouble that holds it, if any."""
        report = self._turned[model].report
        health = report.health | self._sources(model)
        if (trouble := self._trouble(model)) is not None:
            health["trouble"] = trouble
        health |= {name: text for name, text in self._worries(model).items() if text}
        if isinstance(partitions := health.get("partitions"), list):
            health["partitions"] = [self._held(model, row) for row in partitions]
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
        last = self._ledger.last_decision(model)
        shown = decision_document(last) if last else None
        return {**self.evidence(model), "last_decision": shown}

    def evidence(self, model: str) -> dict[str, Json]:
        """What holds the model now, without a question to the ledger."""
        turned = self._turned[model]
        return {
            **explanation(turned.policy, turned.state),
            "health": dict(self.report(model).health.items()),
            "last_decision": None,
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
        """Whether each component does its work. A standby's only work is to know."""
        troubles = dict(self.wheel.troubles) if self.wheel else {}
        if self.wheel is not None and self.wheel.turn_s > LONG_TURN_S:
            long = f"the present turn has taken {self.wheel.turn_s:.0f} s: log or ledger hang"
            troubles["the turn"] = long
        connected = self._router.status().get("connected", 0)
        own: dict[str, bool | str] = {
            "log and ledger": "; ".join(troubles.values()) or True,
            "models": True if self.is_complete else "the log is still being read",
        }
        if not self._waits_for_routers or not self.leads():
            return own
        return {
            **own,
            "router": True if connected or not self._models else "no router is connected",
            "splits": True if self._is_settled() else "the router has not accepted a split yet",
        }

    def leads(self) -> bool:
        """Whether this controller acts; a standby only answers."""
        return not isinstance(self.wheel, StandbyWheel)

    def router_status(self) -> dict[str, Json]:
        """Connected routers and refusals."""
        return self._router.status()

    def intake_status(self) -> dict[str, Json]:
        """What was refused at the door, and how far the folds are behind it."""
        wheel = self.wheel
        return {
            "refused": dict(self.refusals.refused),
            "unkept": self.refusals.unkept,
            "lag": {model: wheel.lag(model) if wheel else 0 for model in self.models()},
            "withheld": {m: wheel.withheld(m) if wheel else 0 for m in self.models()},
            "turn_s": wheel.turn_s if wheel else 0.0,
        }

    # --- writes -------------------------------------------------------------------------------

    async def ingest(self, events: Sequence[Canonical | EventError]) -> list[str | None]:
        """Keep what can be used in the log, the rest in the table of refused events.

        The table is the ledger's, which good events do not wait for.
        """
        now = self._latest()
        errors: list[str | None] = []
        taken: list[Canonical] = []
        refused: list[tuple[str, str, bytes]] = []
        for event in events:
            if isinstance(event, EventError):
                refused.append((event.reason, str(event), event.event))
                errors.append(str(event))
                continue
            fault = self._fault(event, now)
            errors.append(fault)
            if fault is not None:
                refused.append((Reason.MALFORMED, fault, event.line))
            else:
                taken.append(event)
        if taken:
            await self._wheel.take_in(taken)
        if refused:
            self.refusals.keep(refused)
            await self.refusals.settled()
        return errors

    def _fault(self, event: Canonical, now: float) -> str | None:
        if (why := misplaced(event, now)) is not None:
            return why
        if event.model not in self._models:
            return f"model: found {event.model!r}, expected one of {self._known_models()}"
        return None

    async def command(
        self, model: str, operation: Operation, *, by: str, reason: str, version: str | None = None
    ) -> Report:
        """Carry out an operator's command."""
        self._require_lead()
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
        self._require_lead()
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
    def _wheel(self) -> Wheel | StandbyWheel:
        assert self.wheel is not None
        return self.wheel

    def _held(self, model: str, row: Json) -> Json:
        """What is known of a partition, with the worker that folds it."""
        assert isinstance(row, dict)
        number = row["partition"]
        assert isinstance(number, int)
        return row | {"holder": self._wheel.layout.holders.get(log_name(model, number), "")}

    def _known_models(self) -> str:
        """The models, or the first of them: there may be as many refusals as there are events."""
        names = [*islice(self._models, SHOWN_MODELS)]
        return ", ".join(names) + (", …" if len(self._models) > SHOWN_MODELS else "")

    def _known(self, model: str) -> None:
        if model not in self._models:
            raise KeyError(model)

    def _is_settled(self) -> bool:
        return self.wheel is not None and self.wheel.is_settled

    def _trouble(self, model: str) -> str | None:
        return self.wheel.trouble(model) if self.wheel else None

    def _sources(self, model: str) -> dict[HealthKey, Json]:
        """What came of the topics that the model reads, where it reads any."""
        found = self.wheel.sources(model) if isinstance(self.wheel, Wheel) else {}
        return {"sources": found} if found else {}

    def _require_lead(self) -> None:
        if isinstance(self.wheel, StandbyWheel):
            self.wheel.refuse()

    def _require(self, model: str, operation: Operation, version: str | None) -> None:
        state = self._turned[model].state
        if (refusal := unfit(state, operation)) is not None:
            raise CommandError(f"{operation.value} does not fit: {refusal}")
        if (fault := misnamed(state, operation, version)) is not None:
            raise CommandError(f"{operation.value}: {fault}")
