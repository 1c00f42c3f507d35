"""The event log in a Kafka, for those who run one: a topic of one partition per log.

    PREFIX.log.MODEL    blocks (see `records`), in the order of our offsets, which are dense:
                        Kafka's are not, because transactions leave marks of their own in between
    PREFIX.marks        compacted: source -> position
    PREFIX.append.NAME  the name of a process' transactions

An append is one transaction over all its topics. Each process has transactions of its own, and
none keeps another from appending: our offset of an event is the number of those that stand before
it in its topic, in committed records, whoever wrote them. So an append knows its offsets when it is
visible, not before. Appends of several threads that come while a transaction is under way share the
next one.

Invariant: what stands before the first record whose transaction has not ended changes no more.

An append returns when its records are visible: they are not as long as a transaction that began
before in one of its topics is under way, which takes milliseconds, or until somebody ends it for a
process that died in one (see `heal`). They become visible topic by topic, and block by block where
they are too many for one, so while another process appends, a reader may see its mark a moment
before its events.

If the answer to a commit is lost, Kafka is asked what became of it: whoever begins anew finds its
own earlier transaction ended, waits until the fate of all records that are there is known, and
looks for those with its token. So an append is in the log once. Only one that failed for good, a
`Retryable` for its caller, may be in the log all the same.

A process that was given up and goes on (it was stopped, or cut off) appends nothing unseen: if its
transaction was ended, Kafka refuses the rest; if not, it is an append like any other.

Nothing of ours is kept in a consumer group: offsets live with our state, in the ledger. The block
that holds an offset is found by a search over the topic (a record says how many events its writer
knew of, and up to where), once; after that a read goes on where the last one of its log ended.
Trimming deletes what lies before the place that a block's record tells of; where that would be all
blocks, an empty one stays and says where the log ends.

Options of the address are `durability`, `replication` and `min_insync`: see `topics`.

Rejected: one topic for all logs (an append to a thousand models would be as quick as one to a
single model, but who reads one log must read all of them, and none can be trimmed); a consumer
group (positions would not commit with what was decided); Kafka's offsets as ours (not dense); one
name for the transactions of all (a lock, which takes half a second to change hands); blocks without
transactions, told apart by their readers (several logs and a mark could not be atomic).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Event, Lock
from time import monotonic  # noqa: TID251 - how long a broker is waited for, not when things happen
from typing import Final
from uuid import uuid4

from controller.errors import InvariantError, Permanent, Retryable, Trimmed
from controller.stream import Block, Mark
from controller.stream.kafka.faults import Faults, Gone, Hanging
from controller.stream.kafka.heal import PATIENCE_S, Healer
from controller.stream.kafka.plan import Request, answer, ends_of, planned, topics_of
from controller.stream.kafka.reader import Reader
from controller.stream.kafka.records import (
    Placed,
    Ruler,
    is_topic,
    topic_of_log,
    topic_of_marks,
)
from controller.stream.kafka.tails import Tail, Tails
from controller.stream.kafka.topics import Span, Topics
from controller.stream.kafka.writer import Writer
from controller.stream.kafka_url import parse
from controller.stream.packing import Packed, packed, unpacked

_APPEND_S: Final = 10.0
"""After this no further try of an append begins."""
_PAUSE_S: Final = 0.1
_CHUNK: Final = 4 << 20
_CHUNK_BLOCKS: Final = 256


class KafkaStream:
    """A `Stream` in the Kafka at `url`: `kafka://HOST:PORT[,…][/PREFIX][?OPTIONS]`.

    See `controller.stream.kafka_url` for the address. Calls may come from any thread.

    Raises:
        Permanent: the address is wrong, the Kafka is not fit to keep a log, or refuses us.
        Retryable: it is out of reach.
    """

    def __init__(self, url: str) -> None:
        address = parse(url)
        self._name, self._prefix = address.name, address.prefix
        self._marks = topic_of_marks(address.prefix)
        self._faults = Faults(address.name)
        self._topics = Topics(address, self._faults)
        self._reader = Reader(address, self._faults)
        self._reader.meet(self._marks)
        self._writer = Writer(address, self._faults, uuid4().hex)
        self._healer = Healer(
            self._topics,
            partial(Writer, address, self._faults),
            lambda: Reader(address, self._faults, is_all=True),
            self._reader,
            f"{address.prefix}.",
        )
        self._tails = Tails(self._topics, self._reader, self._faults, self._marks)
        self._reading = Lock()  # of consumer and tails
        self._appending = Lock()  # of the producer
        self._queueing = Lock()
        self._queue: list[Request] = []
        self._is_checked = False
        self._is_closed = False
        self._places: dict[str, tuple[int, int]] = {}
        self._firsts: dict[str, int] = {}

    def append(
        self,
        lines: Mapping[str, Sequence[bytes]],
        *,
        mark: Mark | None = None,
        trim: Mapping[str, int] | None = None,
    ) -> dict[str, int]:
        """Append events to each model's log, all or nothing, durably when it returns."""
        self._refuse_if_closed()
        topics = {model: self._topic(model) for model in lines}
        request = self._request(
            {topics[model]: own for model, own in lines.items()},
            mark,
            {self._topic(model): offset for model, offset in (trim or {}).items()},
        )
        with self._queueing:
            self._queue.append(request)
        with self._appending:
            if not request.is_done:
                with self._queueing:
                    group, self._queue = self._queue, []
                self._append(group)
        if request.error is not None:
            raise request.error
        self._trim(request)
        return {model: request.starts[topic] for model, topic in topics.items()}

    def read(self, model: str, start: int, *, limit: int = 100_000) -> Iterator[Block]:
        """Blocks from `start` to the end of the log as it is at this call, about `limit` events."""
        self._refuse_if_closed()
        if start < 0:
            raise InvariantError(f"read from offset {start}: offsets count from 0")
        topic, end = self._topic(model), self.end(model)
        if start < (first := self._firsts.get(topic, 0)):
            raise Trimmed(model, first)
        # Not itself a generator: one would look for the end at its first `next` only.
        return self._blocks(model, topic, start, min(end, start + limit))

    def mark(self, source: str) -> str | None:
        """The position last stored for `source`, None when there is none."""
        self._refuse_if_closed()
        with self._reading:
            tail = self._tails.present(self._marks)
            return None if tail is None or tail.marks is None else tail.marks.get(source)

    def end(self, model: str) -> int:
        """The offset that the next event of `model` will have."""
        self._refuse_if_closed()
        with self._reading:
            tail = self._tails.present(self._topic(model))
            return 0 if tail is None else tail.end

    def close(self) -> None:
        """Release the connections. Closing twice is fine."""
        with self._appending, self._reading:
            if not self._is_closed:
                self._is_closed = True
                self._writer.drop()
                self._reader.close()

    def _topic(self, model: str) -> str:
        topic = topic_of_log(self._prefix, model)
        if "_" in model or not is_topic(topic):
            raise Permanent(f"event log {self._name}: a log can not be named {model!r} in Kafka")
        return topic

    def _request(
        self, lines: Mapping[str, Sequence[bytes]], mark: Mark | None, trim: dict[str, int]
    ) -> Request:
        written = [topic for topic, own in lines.items() if own]
        blocks = {topic: packed(own) for topic, own in lines.items()}
        self._topics.ensure([*written, *([self._marks] if mark else [])], self._marks)
        for topic in written:
            blocks[topic] = self._fitting(topic, lines[topic], blocks[topic])
        return Request(blocks, mark, trim)

    def _fitting(self, topic: str, lines: Sequence[bytes], blocks: list[Packed]) -> list[Packed]:
        """The same in blocks that a record of this topic may hold."""
        room = self._topics.room(topic)
        if all(len(body) <= room for _, body in blocks):
            return blocks
        if len(lines) == 1:
            raise Permanent(
                f"event log {self._name}: found an event of {len(blocks[0][1])} bytes, packed, "
                f"expected at most {room}: raise max.message.bytes of the topic {topic}"
            )
        parts = 1 + sum(len(body) for _, body in blocks) // (room // 2)
        step = max(1, len(lines) // parts)
        return [
            block
            for at in range(0, len(lines), step)
            for part in (lines[at : at + step],)
            for block in self._fitting(topic, part, packed(part))
        ]

    def _append(self, group: Sequence[Request]) -> None:
        """Append these in one transaction, or give each the error."""
        try:
            self._refuse_if_closed()
            self._persist(group)
        except BaseException as exc:
            self._writer.drop()
            for request in group:
                request.error = exc
            if not isinstance(exc, Exception):
                raise
        finally:
            for request in group:
                request.is_done = True

    def _persist(self, group: Sequence[Request]) -> None:
        """Write, again where that failed for a while or its outcome is unknown."""
        token, began, pause_s = self._writer.token(), monotonic(), _PAUSE_S
        is_again = False
        while True:
            try:
                return self._write(group, token, is_again=is_again)
            except Retryable as exc:
                self._writer.drop()
                if monotonic() + pause_s - began > _APPEND_S:
                    short = self._topics.shortage(topics_of(group, self._marks))
                    if short is None:
                        raise
                    raise Retryable(short) from exc
            Event().wait(pause_s)
            pause_s *= 2
            is_again = True

    def _write(self, group: Sequence[Request], token: bytes, *, is_again: bool) -> None:
        if any(request.is_written for request in group):
            self._begin()
        with self._reading:
            self._tails.seek(token)
            try:
                tails = self._known(group, is_settled=is_again)
            except Hanging:
                self._healer.heal()
                raise
            # Read here: a reader may move them at any time.
            known = {topic: (tail.next, tail.end) for topic, tail in tails.items()}
            anchored = [topic for topic, tail in tails.items() if tail.anchor is not None]
        is_there = any(tail.sought for tail in tails.values())  # and its answer was lost
        if not is_there and (drafts := planned(group, known, self._marks, anchored)):
            self._begin()
            last = self._writer.commit(drafts, token)
            spans = self._visible(last)
            with self._reading:
                self._tails.committed(drafts, last, spans, token)
        ends = {topic: end for topic, (_, end) in known.items()}
        answer(group, ends, {topic: tail.sought for topic, tail in tails.items()})

    def _begin(self) -> None:
        if self._writer.begin() and not self._is_checked:
            self._topics.check_transactions()
            self._is_checked = True

    def _known(self, group: Sequence[Request], *, is_settled: bool) -> dict[str, Tail]:
        """What is known of these topics; as it is now, where more than a write is asked for."""
        topics, ends = topics_of(group, self._marks), ends_of(group)
        asked = [t for t in topics if is_settled or t in ends or self._tails.last(t) is None]
        if asked:
            self._tails.present_all(asked, is_settled=is_settled)
        return {topic: self._tails.last(topic) or Tail(topic) for topic in topics}

    def _visible(self, last: Mapping[str, int]) -> dict[str, Span]:
        """Wait until readers get the records that end there: before, they may yet hang."""
        needed = dict(last)
        for pause_s in PATIENCE_S:
            spans = self._topics.spans(last)
            for topic in spans:
                if needed[topic] < 0:
                    needed[topic] = spans[topic].high - 1
            if all(topic in spans and spans[topic].stable > at for topic, at in needed.items()):
                return spans
            Event().wait(pause_s)
        with self._reading:
            self._healer.heal()
        raise Retryable(f"event log {self._name}: what was committed can not be read", after_s=0.1)

    def _trim(self, request: Request) -> None:
        """Drop blocks that lie before what is still needed; what is appended stays appended."""
        with suppress(*([Retryable] if request.is_written else [])):
            for topic, offset in request.trim.items():
                if offset > self._firsts.get(topic, 0):
                    with self._reading:
                        self._trim_topic(topic, offset)

    def _trim_topic(self, topic: str, offset: int) -> None:
        tail, span = self._tails.present(topic), self._topics.span(topic)
        if tail is None or span is None or not tail.end:
            return
        kept = tail.anchor
        if kept is None or offset < tail.end:
            needed = min(offset, tail.end - 1)
            place = self._place(topic, needed, tail.next)
            block = next(self._from(topic, place, needed, tail.next), None)
            self._reader.rest()
            if block is None:
                return
            kept = block.record
        if kept.base > span.low:
            self._topics.drop_before(topic, kept.base)
        self._firsts[topic] = kept.known

    def _blocks(self, model: str, topic: str, start: int, stop: int) -> Iterator[Block]:
        while start < stop:
            for block in self._chunk(model, topic, start, stop):
                yield Block(start, self._lines(topic, block)[start - block.start :])
                start = block.end

    def _chunk(self, model: str, topic: str, start: int, stop: int) -> list[Placed]:
        """Some blocks from the one that holds `start` on; at least that one."""
        with self._reading:
            self._refuse_if_closed()
            tail = self._tails.last(topic)
            assert tail is not None, "its end was looked for"
            if kept := tail.kept(start, stop):
                return kept
            try:
                found = self._fetched(model, tail, start, stop)
            except Gone:
                self._places.pop(topic, None)
                found = self._fetched(model, tail, start, stop)
            if not found and (span := self._topics.span(topic)) and span.stable < tail.next:
                raise Retryable(f"event log {self._name}: {topic} has a new leader", after_s=0.1)
        if not found:
            raise self._faults.damaged(f"offset {start} of {model} is missing")
        return found

    def _fetched(self, model: str, tail: Tail, start: int, stop: int) -> list[Placed]:
        place = self._places.get(tail.topic)
        if place is None or place[1] != start:
            place = self._place(tail.topic, start, tail.next)
        if place[1] > start:
            raise Trimmed(model, place[1])
        found: list[Placed] = []
        size = 0
        for block in self._from(tail.topic, place, start, tail.next):
            found.append(block)
            size += len(block.record.value)
            self._places[tail.topic] = (block.record.at + 1, block.end)
            if block.end >= stop:
                self._reader.rest()
                break
            if size >= _CHUNK or len(found) >= _CHUNK_BLOCKS:
                break
        return found

    def _place(self, topic: str, start: int, until: int) -> tuple[int, int]:
        """Kafka's offset and ours of a place before `start`; of the first one, where that is later.

        until  Kafka's offset up to which was looked
        """
        span = self._topics.span(topic)
        low = span.low if span else 0
        first = self._reader.start(topic, low, until)
        if first is None:
            raise self._faults.damaged(f"{topic} has lost the records that tell where it begins")
        return self._reader.near(topic, start, (low, first), until)

    def _from(self, topic: str, place: tuple[int, int], start: int, until: int) -> Iterator[Placed]:
        """The blocks from the one that holds `start` on, which `place` is not after."""
        ruler = Ruler(*place)
        for record in self._reader.records(topic, place[0], until):
            try:
                block = ruler.placed(record)
            except ValueError as exc:
                raise self._faults.damaged(f"{topic}: {exc}") from exc
            if record.count and block.end > start:
                yield block

    def _lines(self, topic: str, block: Placed) -> tuple[bytes, ...]:
        try:
            return unpacked(block.record.count, block.record.value)
        except ValueError as exc:
            raise self._faults.damaged(f"block {block.start} of {topic}: {exc}") from exc

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise Permanent(f"event log {self._name}: it was closed")
