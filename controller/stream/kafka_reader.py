"""A topic of somebody's Kafka, read partition by partition.

Partitions and offsets are assigned by hand: the position is stored with the events that were read
(see `loop.feeds`), so there is no group, nothing is committed to the broker, and its rights for
groups are not needed. Only what was committed by its producer is read (`read_committed`).

All that was there has been taken when every partition's position has reached the end that it had
when it was asked for. The ends are asked for anew in each idle read: a broker that does not answer
is then told apart from one that has nothing.

    a first look        fixes the offsets from which all later ones go on
    a new partition     is read from its beginning: it came after the first look
    an offset is gone   go on at the earliest that there is; what lies between is counted as lost
    the topic is new    (it has another id): go on at its beginning
    its end is gone     (the same id, and it ends before our position): go on at the end
"""

from __future__ import annotations

import re
import time  # noqa: TID251 - how long ago partitions were looked at; nothing is decided by it
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from controller.errors import BackendError, Permanent, Retryable
from controller.stream.kafka_offsets import told
from controller.stream.kafka_url import parse
from controller.stream.records import MAX_RECORD_BYTES, Position, Record, Taken

BATCH: Final = 5_000
"""Records of one read."""

WAIT_S: Final = 0.25
"""How long a read waits for as many records."""

PARTITIONS_S: Final = 5.0
"""Between looks for new partitions."""

_ID: Final = "topic"
_TIMEOUT_S: Final = 3.0
_SETTINGS: Final[dict[str, str | int | bool]] = {
    "group.id": "understudy",  # the client wants one; nothing is committed under it
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "queued.max.messages.kbytes": 32_768,
    "fetch.wait.max.ms": 250,
}


class KafkaReader:
    """The topic `topic` of the Kafka at `url`, from `position` on.

    start     where to begin without a position; a number is a time, in epoch seconds
    position  partition -> offset of the next record, and the topic's id, as an earlier one gave it
    """

    def __init__(
        self,
        url: str,
        topic: str,
        *,
        start: Literal["latest", "earliest"] | float,
        position: Position | None,
    ) -> None:
        address = parse(url)
        self._name = f"kafka://{address.bootstrap}"
        self._topic = topic
        self._start = start
        self._at: dict[int, int] | None = None
        self._topic_id = ""
        if position is not None:
            self._topic_id = str(position.get(_ID, ""))
            self._at = {int(p): int(offset) for p, offset in position.items() if p != _ID}
        self._ends: dict[int, int] = {}
        self._looked = float("-inf")
        self._lost = 0
        self._began_anew = False
        # Errors of single brokers come by the way. Whether a question is answered is what counts;
        # where it is not, they tell why.
        self._heard: KafkaError | None = None
        client: dict[str, Any] = {**address.client, "error_cb": self._hear}
        try:
            self._consumer = Consumer({**client, **_SETTINGS})
            self._admin = AdminClient(client)
        except KafkaException as exc:
            raise Permanent(f"{self._name}: {exc.args[0].str()}: correct --kafka") from exc

    def read(self) -> Taken:
        """The next records; waits a moment where none are known to be there."""
        try:
            taken = self._read()
        except KafkaException as exc:
            self._admin.poll(0)  # brings what it heard
            raise self._ours(exc.args[0]) from exc
        self._heard = None
        return taken

    def close(self) -> None:
        """Let go of the connections."""
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()

    def _read(self) -> Taken:
        if self._at is None:
            return self._begun()
        self._look_for_partitions()
        was_idle = self._is_at_end
        if was_idle:
            self._ends = self._asked(self._at, "latest")
            if any(end < self._at[p] for p, end in self._ends.items()):
                self._is_another()
                self._ends = self._asked(self._at, "latest")
        records = self._consumed()
        lost, self._lost = self._lost, 0
        anew, self._began_anew = self._began_anew, False
        return Taken(
            records,
            self._position(),
            # The ends that count are those of this read, not of one before it.
            is_complete=was_idle and self._is_at_end,
            behind=sum(max(0, end - self._at[p]) for p, end in self._ends.items()),
            lost=lost,
            began_anew=anew,
        )

    def _begun(self) -> Taken:
        """A first look; of a topic that is not there, all that it will have comes after it."""
        try:
            found = self._partitions()
        except KafkaException as exc:
            if exc.args[0].code() not in _MISSING:
                raise
            found = []
        self._at = self._asked(found, self._start)
        return Taken((), self._position(), is_complete=False)

    @property
    def _is_at_end(self) -> bool:
        """Whether all has been taken up to the ends that are known."""
        assert self._at is not None
        return all(self._at[p] >= end for p, end in self._ends.items())

    def _position(self) -> Position:
        own: Position = {_ID: self._topic_id} if self._topic_id else {}
        return own | {str(p): offset for p, offset in sorted((self._at or {}).items())}

    # --- partitions -----------------------------------------------------------------------------

    def _look_for_partitions(self) -> None:
        """Read new partitions from their beginning, and all of a topic that was made anew."""
        now = time.monotonic()
        if self._at is None or now - self._looked < PARTITIONS_S:
            return
        before, is_first = self._topic_id, self._looked == float("-inf")
        found = self._partitions()
        self._looked = now
        if before not in {"", self._topic_id}:
            self._began_anew = True
            self._at = {}
        fresh = [p for p in found if p not in self._at]
        if fresh or is_first:
            self._at |= self._asked(fresh, "earliest")
            self._ends = dict.fromkeys(self._at, -1)
            self._assign()

    def _partitions(self) -> list[int]:
        """The topic's partitions, and which topic it is, as the brokers know it now."""
        asked = self._admin.describe_topics(
            TopicCollection([self._topic]), request_timeout=_TIMEOUT_S
        )
        found = asked[self._topic].result()
        self._topic_id = "" if found.topic_id is None else str(found.topic_id)
        return sorted(each.id for each in found.partitions)

    def _asked(
        self, partitions: Iterable[int], what: Literal["latest", "earliest"] | float
    ) -> dict[int, int]:
        """Offsets: the first ones, those after the last records, or the first ones since a time."""
        if what == "earliest":
            spec = OffsetSpec.earliest()
        elif what == "latest":
            spec = OffsetSpec.latest()
        else:
            spec = OffsetSpec.for_timestamp(max(0, int(what * 1_000)))
        asked = {TopicPartition(self._topic, p): spec for p in partitions}
        if not asked:
            return {}
        answers = self._admin.list_offsets(
            asked,
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_TIMEOUT_S,
        )
        found = {place.partition: told(future) for place, future in answers.items()}
        none_since = [p for p, offset in found.items() if offset < 0]
        return found | (self._asked(none_since, "latest") if none_since else {})

    def _assign(self) -> None:
        assert self._at is not None
        self._consumer.assign(
            [TopicPartition(self._topic, p, offset) for p, offset in sorted(self._at.items())]
        )

    def _is_another(self) -> bool:
        """Whether the topic is not the one that was read so far; then reading begins anew."""
        before, self._looked = self._topic_id, float("-inf")
        self._look_for_partitions()
        return self._topic_id != before

    # --- records --------------------------------------------------------------------------------

    def _consumed(self) -> list[Record]:
        """Records in order, and the position after them."""
        assert self._at is not None
        records = []
        for message in self._consumer.consume(BATCH, WAIT_S):
            partition, offset = message.partition(), message.offset()
            error = message.error()
            if error is not None and error.code() in _GONE:
                self._find_again()
                break  # what else was fetched is fetched again from where reading goes on
            if error is not None:
                self._note(error, partition, offset)
                continue
            if partition is None or offset is None or self._at.get(partition, offset) > offset:
                continue  # fetched before an assignment that has moved on
            self._at[partition] = offset + 1
            records.append(_record(message, partition, offset))
        return records

    def _note(self, error: KafkaError, partition: int | None, offset: int | None) -> None:
        """What comes in the place of a record: an end, or an outage."""
        assert self._at is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's name for it
            # Beyond the last record there may be marks of transactions, which no record tells.
            if partition in self._at and offset is not None:
                self._at[partition] = max(self._at[partition], offset)
        elif not error.retriable() and code not in _PASSING:
            raise self._ours(error)

    def _find_again(self) -> None:
        """Go on with what there is where the broker says that it has no such offset.

        Before the first one it has given up what we did not read. After the last one, in the same
        topic, brokers had to do without a copy (an unclean election) and give offsets out again.
        Its word counts, not a comparison with ends, which may be old for a moment.
        """
        assert self._at is not None
        if self._is_another():
            return
        first, ends = self._asked(self._at, "earliest"), self._asked(self._at, "latest")
        for partition, offset in self._at.items():
            if offset < first[partition]:
                self._lost += first[partition] - offset
            self._began_anew |= offset > ends[partition]
            self._at[partition] = min(max(offset, first[partition]), ends[partition])
        self._ends = ends
        self._assign()

    def _hear(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - says less than the others
            self._heard = error

    def _ours(self, error: KafkaError) -> BackendError:
        if error.code() in _PASSING and self._heard is not None:
            error = self._heard
        # How long an attempt took would make every one of them a trouble of its own.
        said = f"{self._name}: {_TOOK.sub('', error.str())}"
        code = error.code()
        if code in _MISSING:
            return Retryable(
                f"{self._name} has no topic {self._topic!r} (yet): it is read once there is one; "
                "if there should be, correct spec.sources",
                after_s=2.0,
            )
        if code in _REFUSED:
            return Permanent(
                f"{said}: see to the user and the password of --kafka, and to its rights to read "
                f"and describe the topic {self._topic!r}"
            )
        return Retryable(said, after_s=1.0)


_TOOK: Final = re.compile(r" \(after \d+ms.*?\)")
_GONE: Final = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)  # noqa: SLF001
_PASSING: Final = (
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._MAX_POLL_EXCEEDED,  # noqa: SLF001
)
"""Outages of which the next question tells whether they last."""
_MISSING: Final = (
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.LEADER_NOT_AVAILABLE,
)
_REFUSED: Final = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,  # noqa: SLF001
    KafkaError._SSL,  # noqa: SLF001
)


def _record(message: Message, partition: int, offset: int) -> Record:
    kind, milliseconds = message.timestamp()
    time_s = float("nan") if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds / 1_000
    headers = message.headers()
    return Record(
        f"/{partition}@{offset}",
        time_s,
        _bytes(message.value()),
        _texts(headers) if isinstance(headers, list) else None,
    )


def _bytes(value: str | bytes | None) -> bytes:
    """The body; a deletion in a compacted topic has none."""
    return value.encode() if isinstance(value, str) else value or b""


def _texts(headers: Sequence[tuple[str, str | bytes | None]]) -> dict[str, str]:
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
        for name, value in headers
        if value is None or len(value) <= MAX_RECORD_BYTES
    }
