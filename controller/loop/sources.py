"""Where events come from beside the API: what the wheel asks of an access log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from controller.stream import Mark


class Source(Protocol):
    """Something that events are read from, such as an access log."""

    def drain(self) -> Drained | None:
        """The next events, or None when there are none now."""
        ...

    async def committed(self, position: str) -> None:
        """The events up to this position are durable."""
        ...


class Drained:
    """What a source gave: events by model, lines it could not read, and how far it was read.

    requests  for each of the events, by model, the request that it is about; where it is left out,
              the events are looked at
    """

    __slots__ = ("lines", "mark", "refused", "requests")

    def __init__(
        self,
        lines: Mapping[str, Sequence[bytes]],
        refused: Sequence[tuple[str, str, bytes]],
        mark: Mark,
        requests: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.lines = lines
        self.refused = refused
        self.mark = mark
        self.requests = requests or {}
