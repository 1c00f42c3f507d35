"""What is known of the ends of topics, and how it is brought up to date.

Of each log a `Tail` knows our end and the place in Kafka up to which it has looked; what came since
is read, usually nothing. The newest blocks stay in memory: the controller reads what it has just
appended, and then asks Kafka no more than whether anybody else did.

Invariant: `end` is our offset after the last committed block before Kafka's offset `next`, before
which every transaction has ended; the blocks in memory are the last ones before it, without a hole.

What was acknowledged stands before `stable` (`append` waits for that), so a read in any process
shows it without waiting for anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Final

from controller.stream.kafka.faults import Faults, Gone, Hanging
from controller.stream.kafka.heal import PATIENCE_S
from controller.stream.kafka.reader import Reader
from controller.stream.kafka.records import Draft, Placed, Record, Ruler, start_at
from controller.stream.kafka.topics import Span, Topics

_MEMORY: Final = 32 << 20
_BLOCK_AT_LEAST: Final = 512
_STEP_BACK: Final = 8


@dataclass(slots=True)
class Tail:
    """What is known of one topic.

    next    Kafka's offset up to which it was looked at; -1: not at all
    anchor  the last record where that only says that the log ends here
    marks   source -> position, of the topic of marks
    sought  our offsets of the records of the transaction that is looked for, in their order
    """

    topic: str
    next: int = -1
    ruler: Ruler = field(default_factory=lambda: Ruler(0, 0))
    anchor: Record | None = None
    blocks: deque[Placed] = field(default_factory=deque)
    marks: dict[str, str] | None = None
    sought: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Our offset after the last block; of marks always 0."""
        return self.ruler.end

    def kept(self, start: int, stop: int) -> list[Placed]:
        """The blocks from the one that holds `start` on to `stop`, if they are in memory."""
        found: list[Placed] = []
        for block in reversed(self.blocks):
            if block.end <= start:
                break
            if block.start < stop:
                found.append(block)
        found.reverse()
        return found if found and found[0].start <= start else []


class Tails:
    """The tails of a log's topics. Not for several threads at once.

    marks  the topic that keeps them
    """

    def __init__(self, topics: Topics, reader: Reader, faults: Faults, marks: str) -> None:
        self._topics, self._reader, self._faults = topics, reader, faults
        self._marks = marks
        self._tails: dict[str, Tail] = {}
        self._recent: deque[tuple[Tail, int]] = deque()
        self._bytes = 0
        self._token: bytes | None = None

    def seek(self, token: bytes) -> None:
        """Look out for the records of this transaction, until for those of another."""
        if token != self._token:
            self._token = token
            for tail in self._tails.values():
                tail.sought = []

    def last(self, topic: str) -> Tail | None:
        """What was known when it was last brought up to date."""
        return self._tails.get(topic)

    def present_all(
        self, topics: Sequence[str], *, is_settled: bool = False
    ) -> dict[str, Tail | None]:
        """The same as `present` for many."""
        spans = self._topics.spans(topics)
        return {t: self.present(t, is_settled=is_settled, span=spans.get(t)) for t in topics}

    def present(
        self, topic: str, *, is_settled: bool = False, span: Span | None = None
    ) -> Tail | None:
        """What is so now; None when there is no such topic.

        is_settled  whether it must be known what became of all records that are there by now
        span        where its records are, if it was just looked at

        Raises:
            Hanging: they have no end yet.
        """
        span = span or self._topics.span(topic)
        if span is None:
            if topic in self._tails:
                raise self._faults.damaged(f"the topic {topic} is gone")
            return None
        if is_settled:
            span = self._settled(topic, span)
        tail = self._tails.get(topic) or Tail(topic, marks={} if topic == self._marks else None)
        if tail.next < 0:
            self._begin(tail, span)
            self._tails[topic] = tail
        elif span.stable < tail.next:
            raise self._faults.damaged(
                f"{topic} ends at Kafka's offset {span.stable}, but {tail.next} was acknowledged"
            )
        if span.stable > tail.next:
            self._go_on(tail, span)
        return tail

    def committed(
        self, drafts: Sequence[Draft], last: dict[str, int], spans: Mapping[str, Span], token: bytes
    ) -> None:
        """Take note of our own transaction, which ends by now.

        last   Kafka's offset of the last record of each topic; -1: not known
        spans  where the records are after it

        Nothing is read where nobody else has written since: then our records stand where we had
        looked last, and behind them only the mark that they are committed.
        """
        by_topic: dict[str, list[Draft]] = {topic: [] for topic in last}
        for draft in drafts:
            by_topic[draft.topic].append(draft)
        for topic, own in by_topic.items():
            tail, span = self._tails[topic], spans[topic]
            next_ = tail.next + len(own)
            if last[topic] == next_ - 1 and span.stable == span.high == next_ + 1:
                for at, draft in enumerate(own, tail.next):
                    self._absorb(tail, draft.written(at, token, len(drafts)))
                tail.next = span.stable
            elif span.stable > tail.next:
                self._go_on(tail, span)

    def _begin(self, tail: Tail, span: Span) -> None:
        """Find the end of a log; of marks, which are read as a whole, the beginning."""
        if tail.marks is not None:
            tail.next = span.low
            return
        at, back = span.stable, _STEP_BACK
        records, start = list[Record](), start_at(at, ())
        while start is None and at > span.low:
            at = max(span.low, span.stable - back)
            records = list(self._reader.records(tail.topic, at, span.stable))
            start = start_at(at, records)
            back *= _STEP_BACK
        if start is None:
            raise self._faults.damaged(f"{tail.topic} has lost the records that tell where it ends")
        tail.ruler = Ruler(at, start)
        for record in records:
            self._place(tail, record)
        tail.next = span.stable

    def _go_on(self, tail: Tail, span: Span) -> None:
        try:
            for record in self._reader.records(tail.topic, tail.next, span.stable):
                self._absorb(tail, record)
                tail.next = record.at + 1
        except Gone:  # trimmed by another process: only what is left is of use
            self._forget(tail)
            self._begin(tail, span)
        tail.next = max(tail.next, span.stable)

    def _forget(self, tail: Tail) -> None:
        tail.next, tail.anchor = -1, None
        tail.blocks.clear()
        self._bytes -= sum(size for owner, size in self._recent if owner is tail)
        self._recent = deque(each for each in self._recent if each[0] is not tail)

    def _settled(self, topic: str, span: Span) -> Span:
        high = span.high
        for pause_s in PATIENCE_S:
            if span.stable >= high:
                return span
            Event().wait(pause_s)
            span = self._topics.span(topic) or span
        raise Hanging(f"event log: records of {topic} have no end: they are given one")

    def _absorb(self, tail: Tail, record: Record) -> None:
        if tail.marks is not None:
            tail.marks[record.key.decode()] = record.value.decode()
            if record.token == self._token:
                tail.sought.append(0)
            return
        placed = self._place(tail, record)
        if record.count:
            self._keep(tail, placed)

    def _place(self, tail: Tail, record: Record) -> Placed:
        try:
            placed = tail.ruler.placed(record)
        except ValueError as exc:
            raise self._faults.damaged(f"{tail.topic}: {exc}") from exc
        tail.anchor = record if (record.count, record.known) == (0, placed.end) else None
        if record.token == self._token:
            tail.sought.append(placed.start)
        return placed

    def _keep(self, tail: Tail, block: Placed) -> None:
        size = max(len(block.record.value), _BLOCK_AT_LEAST)
        tail.blocks.append(block)
        self._recent.append((tail, size))
        self._bytes += size
        while self._bytes > _MEMORY:
            oldest, freed = self._recent.popleft()
            oldest.blocks.popleft()
            self._bytes -= freed
