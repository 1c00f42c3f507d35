"""What stands in a record of ours, and which events it holds: pure, no client.

    topic PREFIX.log.LOG   a record per block: the value is its body, the header `understudy` is
                           `2 BASE KNOWN COUNT TOKEN OF`; a COUNT of 0 says no more than what its
                           writer knew, for a log all of whose blocks were trimmed
    topic PREFIX.marks     key: the source, value: its position, header: `2 0 0 0 TOKEN OF`

The 2 is the version of this format. TOKEN is `WRITER.NUMBER`, the same for all OF records of one
transaction, so that whoever lost the answer to a commit can see whether it took place, and whoever
waits for a transaction to end knows whose it is.

No record says which events it holds, because others may write while it is on its way: that follows
from the records before it. So that nobody has to read a log from its beginning, a record says what
its writer knew: before Kafka's offset BASE the log has KNOWN events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

HEADER: Final = "understudy"
VERSION: Final = b"2"

_STEPS: Final = 256
"""So many of the last records of a topic are known by a `Ruler`, to judge what a new one says."""


@dataclass(frozen=True, slots=True)
class Record:
    """One of our records, at Kafka's offset `at`.

    known  how many events the log has before Kafka's offset `base`, which is not after `at`
    of     how many records its transaction has
    """

    at: int
    base: int
    known: int
    count: int
    token: bytes
    of: int
    key: bytes
    value: bytes

    @property
    def writer(self) -> str:
        """The name of the process that wrote it."""
        return self.token.partition(b".")[0].decode()


@dataclass(frozen=True, slots=True)
class Placed:
    """A record whose first event has our offset `start`."""

    start: int
    record: Record

    @property
    def end(self) -> int:
        """Our offset of the event after this block."""
        return self.start + self.record.count


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that is not in Kafka yet."""

    topic: str
    base: int
    known: int
    count: int
    value: bytes
    key: bytes = b""

    def headers(self, token: bytes, of: int) -> list[tuple[str, bytes]]:
        """As `parsed` reads them."""
        fields = (VERSION, self.base, self.known, self.count, token, of)
        return [(HEADER, b"%s %d %d %d %s %d" % fields)]

    def written(self, at: int, token: bytes, of: int) -> Record:
        """The record that it is once it stands at Kafka's offset `at`."""
        return Record(at, self.base, self.known, self.count, token, of, self.key, self.value)


class Ruler:
    """Gives the records of a topic, from Kafka's offset `at` on, their places.

    end  our offset after the last one
    """

    def __init__(self, at: int, end: int) -> None:
        self.end = end
        self._since = at
        self._steps: deque[tuple[int, int]] = deque(maxlen=_STEPS)

    def placed(self, record: Record) -> Placed:
        """The next record, at its place.

        Raises:
            ValueError: its writer knew of more events, or of fewer, than there are.
        """
        found = self._before(record.base)
        if record.base >= self._since and record.known != found:
            raise ValueError(
                f"record {record.at} says that {record.known} events stand before "
                f"Kafka's offset {record.base}, where {found} do"
            )
        placed = Placed(self.end, record)
        if record.count:
            self._steps.append((record.at, self.end))
            if len(self._steps) == _STEPS:
                self._since = self._steps[0][0]
            self.end = placed.end
        return placed

    def _before(self, at: int) -> int:
        found = self.end
        for place, start in reversed(self._steps):
            if place < at:
                break
            found = start
        return found


def start_at(at: int, records: Iterable[Record]) -> int | None:
    """Our offset at Kafka's offset `at`, as told by the records from there on; None: by none."""
    if at == 0:
        return 0
    passed = list[Record]()
    for record in records:
        passed.append(record)
        if record.base >= at:
            return record.known - sum(each.count for each in passed if each.at < record.base)
    return None


def parsed(
    at: int, headers: Iterable[tuple[str, bytes]], key: bytes | None, value: bytes | None
) -> Record:
    """The record that was read at `at`.

    Raises:
        ValueError: it is not ours, or of a newer Understudy.
    """
    found = next((text for name, text in headers if name == HEADER), None)
    if found is None:
        raise ValueError(f"record {at} was not written by Understudy")
    version, *fields = found.split(b" ")
    if version != VERSION:
        raise ValueError(
            f"record {at} has format {version!r}, expected {VERSION!r}: it is of another Understudy"
        )
    base, known, count, token, of = fields
    return Record(at, int(base), int(known), int(count), token, int(of), key or b"", value or b"")


def topic_of_log(prefix: str, log: str) -> str:
    """The topic of a log: `/` is no character of a topic, and `_` none of a model."""
    return f"{prefix}.log.{log.replace('/', '_')}"


def topic_of_marks(prefix: str) -> str:
    """The topic of all marks."""
    return f"{prefix}.marks"


def is_topic(topic: str) -> bool:
    """Whether Kafka takes this name."""
    return len(topic) <= 249 and all(c.isascii() and (c.isalnum() or c in "._-") for c in topic)
