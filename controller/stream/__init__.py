"""The event log: one ordered, durable log per model. The log is the truth.

A `Stream` keeps events as the lines of contract 4.2 (canonical JSON Lines: `time` in epoch
seconds), in blocks: one block per flush. It numbers the events of each model from 0; that number
is the event's offset for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive events of one model: `lines` are JSON documents without line ends."""

    start: int
    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a source of events has been read: stored with the events that it gave.

    source    names the source, such as `access_log`
    position  opaque to the stream; whatever the source needs to go on from there
    """

    source: str
    position: str


class Stream(Protocol):
    """An ordered, durable log per model."""

    def append(
        self, lines: dict[str, Sequence[bytes]], *, mark: Mark | None = None
    ) -> dict[str, int]:
        """Append events to each model's log, all or nothing, durably when it returns.

        The `mark` is stored in the same transaction. Gives the offset of the first appended event
        of each model. Raises `Retryable` when the store is out of reach.
        """
        ...

    def read(self, model: str, start: int, *, limit: int = 100_000) -> Iterator[Block]:
        """Blocks of `model` from offset `start` on, in order, to the end of the log as it is now.

        The first block is cut so that it begins at `start`. `limit` is about how many events are
        read.
        """
        ...

    def mark(self, source: str) -> str | None:
        """The position last stored for `source`, None when there is none."""
        ...

    def close(self) -> None:
        """Release the store."""
        ...
