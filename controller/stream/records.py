"""Records of topics that are not ours, and what reads them.

A `Reader` is one topic, from a position on. It knows how its broker is asked, and nothing of what
records mean: that is `controller.stream.mapping`'s matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

Position: TypeAlias = dict[str, str | int]
"""How far a topic has been read, as JSON; a reader goes on from one that it gave itself."""

MAX_RECORD_BYTES = 1 << 20
"""The longest record that is looked into."""

MAX_TEXT_BYTES = 4_096
"""How much is kept of a record that cannot be used."""


SKEW_S = 60.0
"""How much earlier a late first look begins: producers have clocks of their own."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record.

    place    where in its topic it is, such as `/3@12345`: with the topic's name, its identity
    time     epoch seconds at which it came into the topic; NaN where the topic does not say
    body     JSON text, or fields and what they have; empty where the record says nothing
    headers  what Kafka has beside the body
    """

    place: str
    time: float
    body: bytes | dict[str, bytes]
    headers: Mapping[str, str] | None = None

    def text(self) -> bytes:
        """The body, for people: of a record that cannot be used."""
        if isinstance(self.body, bytes):
            return self.body[:MAX_TEXT_BYTES]
        fields = {name: value.decode("utf-8", "replace") for name, value in self.body.items()}
        return msgspec.json.encode(fields)[:MAX_TEXT_BYTES]


class Taken(msgspec.Struct, frozen=True):
    """What one `read` gave.

    position      where the next read goes on
    is_complete   with this, all has been taken that the topic had when `read` was called
    behind        records that are there and not taken yet
    lost          records that the topic gave up before they were read, found out by this read
    began_anew    the topic was deleted and made again: what was not read of the old one is gone
    """

    records: Sequence[Record]
    position: Position
    is_complete: bool
    behind: int = 0
    lost: int = 0
    began_anew: bool = False


class Reader(Protocol):
    """One topic, read from a position on, in order of each of its partitions."""

    def read(self) -> Taken:
        """The next records; waits for some a moment.

        Raises:
            Retryable: the broker is out of reach, or there is no such topic (yet).
            Permanent: somebody must mend something.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
