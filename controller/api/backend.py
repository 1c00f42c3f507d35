"""What the API needs of the controller: one protocol, which the loop meets, and a class in tests.

Rejected: handing the routes the loop itself. Then every test of a status code would need a router,
a log and a ledger, and nobody could say what of the loop the API relies on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from controller.core.model import Json, Operation, Report
from controller.errors import EventError
from controller.stream.codec import Canonical


class Backend(Protocol):
    """The controller as the API sees it. Reads are immediate; writes are durable on return."""

    def models(self) -> tuple[str, ...]:
        """The models that have a policy, in the order in which people should see them."""
        ...

    def held(self) -> dict[str, str]:
        """Models of which nothing can be said since the start, and why. Not among `models`."""
        ...

    def report(self, model: str) -> Report:
        """Where `model` stands now. Raises `KeyError` for an unknown model."""
        ...

    def decisions(
        self, model: str, *, after: int = 0, limit: int = 100, newest_first: bool = True
    ) -> list[dict[str, Json]]:
        """Decisions with a number above `after`, at most `limit` of them."""
        ...

    def explain(self, model: str, number: int | None) -> dict[str, Json]:
        """A decision with its numbers; None asks for the present. Raises `KeyError`."""
        ...

    def evidence(self, model: str) -> dict[str, Json]:
        """As `explain` of the present, without its last decision: the ledger is not asked."""
        ...

    def history(self, model: str) -> list[Report]:
        """Recent reports, oldest first, thinned to at most 600: what the plots are drawn from."""
        ...

    async def ingest(self, events: Sequence[Canonical | EventError]) -> list[str | None]:
        """One error text, or None when accepted, per event; durable on return.

        Raises `Retryable` when the log is out of reach, `Busy` when it cannot follow; then nothing
        was accepted. What was refused is kept too, but nobody waits for that.
        """
        ...

    async def command(
        self,
        model: str,
        operation: Operation,
        *,
        by: str,
        reason: str,
        version: str | None = None,
    ) -> Report:
        """Carry out an operator's command.

        Raises `CommandError` if it does not fit the phase, `Standby` where another one leads.
        """
        ...

    async def candidate(self, model: str, version: dict[str, Json]) -> Report:
        """Offer a version; its fields are those of a `version` event. Raises as `command`."""
        ...

    def assign(
        self, model: str, units: Sequence[str | None], segment: str | None = None
    ) -> list[dict[str, Json]]:
        """`arm`, `epoch`, `propensity`, `request_id`, `segment` per unit; None is its own unit."""
        ...

    def changes(self) -> AsyncIterator[Report]:
        """Every new report of every model, from now on, until the controller ends."""
        ...

    def ready(self) -> dict[str, bool | str]:
        """Component -> True, or what is missing."""
        ...

    def intake_status(self) -> dict[str, Json]:
        """How intake goes, for `/metrics`.

        Since this process started: `refused` (events by reason), `unkept` (how many of them were
        only counted) and `withheld` (the same of dead letters, by model). Now: `lag` (model ->
        events in its log that are not folded yet) and `turn_s` (how long the present turn has
        taken).
        """
        ...

    def leads(self) -> bool:
        """Whether this controller acts. A standby answers reads and takes in events."""
        ...

    def router_status(self) -> dict[str, Json]:
        """`connected` (routers, a number), `nacks` (a count), and whatever else is known."""
        ...
