"""Reads the records of one topic from any place, of committed transactions only.

One consumer, told each time where to read: there is no group, and Kafka keeps no position of ours.
It is left where it is as long as somebody reads on from there, and rests otherwise: a consumer
that waits at an end asks for news all the time.

Rejected: a consumer per log (each has threads and connections of its own), all logs assigned at
once (every request then names all of them).
"""

# ruff: noqa: SLF001 - the client marks its own errors by an underscore

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from controller.stream.kafka.faults import Faults, Gone
from controller.stream.kafka.records import Record, parsed, start_at
from controller.stream.kafka_url import KafkaAddress

_ANSWER_S: Final = 5.0
_FEW: Final = 64
"""As many records are read one after the other rather than searched."""


class Reader:
    """The consumer of one log. Not for several threads at once.

    is_all  also what no transaction has committed, or not yet
    """

    def __init__(self, address: KafkaAddress, faults: Faults, *, is_all: bool = False) -> None:
        self._faults = faults
        self._place: tuple[str, int] | None = None
        self._met: set[str] = set()
        settings = {
            **address.client,
            "group.id": address.prefix,  # asked for by the client; nobody joins it
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_uncommitted" if is_all else "read_committed",
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 1,  # a read that waits at an end would keep the next one waiting
            "fetch.queue.backoff.ms": 1,
            "queued.max.messages.kbytes": 16_384,
            **faults.settings(),
        }
        with faults.mapped():
            self._consumer = Consumer(settings)

    def meet(self, topic: str) -> None:
        """Fail now where no broker answers, or none lets us in."""
        with self._faults.mapped():
            try:
                self._consumer.list_topics(topic, timeout=_ANSWER_S)
            finally:
                self._consumer.poll(0)  # brings what was said on the side

    def records(self, topic: str, at: int, until: int) -> Iterator[Record]:
        """Records of `topic` from Kafka's offset `at` to before `until`, in order.

        May be given up at any record, and called again from there.

        Raises:
            Retryable: no broker answers in time.
            Gone: records at this place were deleted.
            Permanent: one of them is not ours.
        """
        if at >= until:
            return
        with self._faults.mapped():
            if self._place != (topic, at):
                self._go(topic, at)
            while (message := self._next(topic, until)) is not None:
                offset = message.offset()
                assert offset is not None
                if offset >= until:
                    break
                self._place = (topic, offset + 1)
                yield self._parsed(topic, offset, message)
                if offset + 1 >= until:
                    return
        self.rest()

    def start(self, topic: str, at: int, until: int) -> int | None:
        """Our offset at Kafka's offset `at`; None when no record before `until` tells."""
        return start_at(at, self.records(topic, at, until))

    def near(self, topic: str, start: int, known: tuple[int, int], until: int) -> tuple[int, int]:
        """A place shortly before our offset `start`, in Kafka's offsets and in ours.

        known  such a place before it
        """
        stop = until
        while stop - known[0] > _FEW:
            middle = (known[0] + stop) // 2
            found = self.start(topic, middle, until)
            if found is None or found > start:
                stop = middle
            else:
                known = (middle, found)
        return known

    def rest(self) -> None:
        """Ask for no more."""
        if self._place is not None:
            self._place = None
            self._consumer.unassign()

    def close(self) -> None:
        """Release the connections."""
        self._consumer.close()

    def _go(self, topic: str, at: int) -> None:
        if topic not in self._met:  # without, the client looks for its leader once a second
            self._consumer.list_topics(topic, timeout=_ANSWER_S)
            self._met.add(topic)
        self._place = (topic, at)
        self._consumer.assign([TopicPartition(topic, 0, at)])

    def _next(self, topic: str, until: int) -> Message | None:
        """The next record, None at the end, which is not before `until`."""
        message = self._consumer.poll(_ANSWER_S)
        while message is not None and (_is_of_group(message) or _is_early_end(message, until)):
            message = self._consumer.poll(_ANSWER_S)
        if message is None:
            self._lost()
            raise self._faults.timed_out(f"{topic} could not be read")
        if (error := message.error()) is None:
            return message
        if error.code() == KafkaError._PARTITION_EOF:
            return None
        self._lost()
        if error.code() in _GONE:
            raise Gone(f"{topic}: {error.str()}")
        raise self._faults.ours(error)

    def _lost(self) -> None:
        """Begin anew next time, with what the cluster then says of the topic."""
        self._met.clear()
        self.rest()

    def _parsed(self, topic: str, at: int, message: Message) -> Record:
        headers = [(name, text or b"") for name, text in message.headers() or ()]
        try:
            return parsed(at, headers, message.key(), message.value())
        except ValueError as exc:
            raise self._faults.damaged(f"{topic}: {exc}") from exc


def _is_of_group(message: Message) -> bool:
    """Whether it only says that we may not join a group, which we do not."""
    error = message.error()
    return error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED


def _is_early_end(message: Message, until: int) -> bool:
    """Whether it tells of an end that there was when it was asked for more before."""
    error, at = message.error(), message.offset()
    is_end = error is not None and error.code() == KafkaError._PARTITION_EOF
    return is_end and at is not None and at < until


_GONE: Final = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
