"""What becomes of the records of a topic, for each model that reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from controller.core.model import Reason
from controller.errors import EventError
from controller.loop.door import misplaced
from controller.stream.mapping import Opened, Route
from controller.stream.records import Record
from controller.stream.wire import Canonical


class Tally(msgspec.Struct):
    """What became of the records of a topic, for one model.

    used     events that the log has, of records
    skipped  not chosen by `when`, or of another model
    dead     in the table of refused events
    """

    used: int = 0
    skipped: int = 0
    dead: int = 0


class Sieve:
    """Sorts records into events of models, skipped ones, and those that cannot be used."""

    def __init__(
        self,
        origin: str,
        routes: Mapping[str | None, Sequence[Route]],
        tallies: Mapping[str, Tally],
        *,
        now: float,
    ) -> None:
        self._origin = origin
        self._routes = routes
        self._now = now
        self.events: list[Canonical] = []
        self.refused: list[tuple[str, str, str, bytes]] = []
        models = {each.model for found in routes.values() for each in found}
        self.tallies = {
            model: msgspec.structs.replace(tallies.get(model, Tally())) for model in sorted(models)
        }

    def sift(self, record: Record) -> None:
        """Put one record where it belongs, for each model that reads the topic."""
        if not record.body:  # a deletion, in a compacted topic
            for tally in self.tallies.values():
                tally.skipped += 1
            return
        faults: dict[str, str] = {}
        for field, routes in self._routes.items():
            opened = Opened(record, self._origin, field)
            for each in routes:
                tally = self.tallies[each.model]
                try:
                    events = each.events(opened) if each.chooses(opened) else ()
                except EventError as error:
                    events = (error,)
                if not events:
                    tally.skipped += 1
                for event in events:
                    self._put(event, tally, faults)
        if faults:
            place, text = self._origin + record.place, record.text()
            self.refused += [(place, reason, why, text) for why, reason in faults.items()]

    def _put(self, event: Canonical | EventError, tally: Tally, faults: dict[str, str]) -> None:
        """One row of refused events for one fault, however many models have it."""
        if isinstance(event, EventError):
            faults[str(event)] = event.reason
        elif (why := misplaced(event, self._now)) is not None:
            faults[why] = Reason.MALFORMED
        else:
            tally.used += 1
            self.events.append(event)
            return
        tally.dead += 1
