"""The topics of a log: made where they are absent, and refused where they would lose events.

What durable means is set in Kafka, and looked at when a topic is first used (`durability`):

    replicated   the default: each event is on two brokers or more when `append` returns, so that
                 the death of one machine takes nothing with it: at least two copies of which at
                 least two are in step (min.insync.replicas)
    always       on the disk of every broker in step when `append` returns, as Redis' `always`; one
                 broker is enough. Topics are made with flush.messages=1; the topic in which Kafka
                 keeps its transactions needs the same, or a commit is lost where its events are not
    unchecked    nobody looks

In all of them `append` waits for every broker that is in step. Kafka itself answers before it has
synced: without `always`, a power cut of all brokers at once takes the last moments with it; a crash
of Kafka alone does not.

A topic whose records expire, are compacted, or whose leader may be a broker that was behind is
refused: the log is not a buffer.
"""

# ruff: noqa: SLF001 - the client marks its own errors by an underscore

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, TypeVar

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    TopicPartitionInfo,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from controller.errors import BackendError, Permanent, Retryable
from controller.stream.kafka.faults import Faults
from controller.stream.kafka_offsets import told
from controller.stream.kafka_url import KafkaAddress

T = TypeVar("T")

DURABILITIES: Final = ("replicated", "always", "unchecked")
TRANSACTIONS: Final = "__transaction_state"

_ANSWER_S: Final = 5.0
_OFFSET_S: Final = 1.5
"""A leader that was lost does not answer, and the client waits for it; then it learns of the next.
"""
_MAKE_S: Final = 30.0
"""A thousand topics take a while, once."""
_PATIENCE_S: Final = (0.02, 0.1, 0.4, 1.0)
_NEW_S: Final = (0.02, 0.1, 0.4, 1.0, 2.0, 4.0)
_MAX_MESSAGE: Final = 1_000_000
"""What a record may have where nobody looks: Kafka's own default is a little more."""
_MIN_MESSAGE: Final = 128 << 10
_ROOM: Final = 4_096
"""Header and frame of a record."""

_LOG: Final = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "unclean.leader.election.enable": "false",
    # Space comes back by whole files, so they are small: a log keeps up to one more than it needs.
    "segment.bytes": str(16 << 20),
}
_MARKS: Final = {
    "cleanup.policy": "compact",
    "unclean.leader.election.enable": "false",
    # A file that is still written to is not compacted, and all of it is read at a start.
    "segment.bytes": str(1 << 20),
}
_KEPT: Final = ("cleanup.policy", "retention.ms", "retention.bytes")


@dataclass(frozen=True, slots=True)
class Span:
    """Kafka's offsets of a partition.

    low     of the oldest record
    stable  before which every transaction has ended, and readers of what is committed get
    high    after the last record that every broker in step has
    """

    low: int
    stable: int
    high: int


class Topics:
    """The topics of the log at `address`.

    Raises:
        Permanent: an option is not known.
    """

    def __init__(self, address: KafkaAddress, faults: Faults) -> None:
        self._faults = faults
        self._name = address.name
        options = {"durability": DURABILITIES[0], "replication": "-1", "min_insync": ""}
        options |= address.options
        self.durability = _durability(options["durability"])
        self._copies = _count("replication", options["replication"])
        self._min_insync = options["min_insync"]
        _count("min_insync", options["min_insync"] or "1")
        self._limits: dict[str, int] = {}
        self._in_step: dict[str, int] = {}
        with faults.mapped():
            self._admin = AdminClient({**address.client, **faults.settings()})

    def room(self, topic: str) -> int:
        """How many bytes the value of a record may have; after `ensure`."""
        return self._limits[topic] - _ROOM

    def ensure(self, topics: Collection[str], marks: str) -> None:
        """Make those that are absent; refuse those that are not fit. Each is looked at once.

        marks  the one among them that is compacted
        """
        new = sorted(set(topics) - self._limits.keys())
        if not new:
            return
        found = self._described(new)
        if absent := [topic for topic in new if topic not in found]:
            self._make(absent, marks)
            found |= self._patiently(lambda: self._all_described(absent))
        if self.durability == "unchecked":
            self._limits |= dict.fromkeys(new, _MAX_MESSAGE)
            return
        settings = self._patiently(lambda: self._settings(new))
        for topic in new:
            kept = _MARKS if topic == marks else _LOG
            self._check_kept(topic, settings[topic], kept)
            self._check_durable(topic, settings[topic], found.get(topic, 1))
        self._limits |= {topic: _limit(settings[topic]) for topic in new}
        self._in_step |= {topic: _in_step(settings[topic]) for topic in new}

    def check_transactions(self) -> None:
        """Refuse to commit where Kafka may forget that it did. After the first transaction."""
        if self.durability != "unchecked":
            copies = self._described([TRANSACTIONS]).get(TRANSACTIONS, 1)
            self._check_durable(TRANSACTIONS, self._settings([TRANSACTIONS])[TRANSACTIONS], copies)

    def shortage(self, topics: Collection[str]) -> str | None:
        """What is said of an append that Kafka keeps waiting, as too few brokers are in step."""
        try:
            self._look_around()
            found = self._partitions(topics)
        except BackendError:
            return None
        for topic, partition in found.items():
            needed, there = self._in_step.get(topic, 0), len(partition.isr)
            if there < needed:
                return (
                    f"event log {self._name}: {there} of {len(partition.replicas)} copies of "
                    f"{topic} are in step, and min.insync.replicas is {needed}: nothing is written "
                    "until more are; see that all brokers run"
                )
        return None

    def span(self, topic: str) -> Span | None:
        """Where the records of a topic are; None when there is no such topic."""
        for pause_s in _PATIENCE_S:
            try:
                return self._span(topic)
            except KafkaException as exc:
                self._require_passing(exc)
            # No leader to ask may also mean that it has just been made, or that its broker is gone.
            if not self._described([topic]):
                return None
            Event().wait(pause_s)
            self._look_around(topic)  # or else an old leader would be asked for minutes
        raise self._faults.timed_out(f"{topic} has no leader now")

    def spans(self, topics: Collection[str]) -> dict[str, Span]:
        """Those of many topics at once; what cannot be told at once is left out."""
        found = {}
        for topic, futures in self._asked(topics).items():
            try:
                found[topic] = Span(*map(told, futures))
            except KafkaException as exc:
                self._require_passing(exc)
                self._look_around(topic)
        return found

    def _span(self, topic: str) -> Span:
        return Span(*map(told, self._asked([topic])[topic]))

    def _require_passing(self, exc: KafkaException) -> None:
        """Raise, unless a topic that is new or just got another leader explains it."""
        if exc.args[0].code() not in _ABSENT | _LED_BY_ANOTHER | _UNANSWERED:
            raise self._faults.ours(exc.args[0]) from exc

    def _asked(self, topics: Collection[str]) -> dict[str, list[Future[Any]]]:
        places = {topic: TopicPartition(topic, 0) for topic in topics}
        every, committed = IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED
        answers = [
            self._admin.list_offsets(
                dict.fromkeys(places.values(), spec),
                isolation_level=level,
                request_timeout=_OFFSET_S,
            )
            # Last what may only grow while we ask: what is stable is not above what is high.
            for spec, level in (
                (OffsetSpec.earliest(), every),
                (OffsetSpec.latest(), committed),
                (OffsetSpec.latest(), every),
            )
        ]
        return {topic: [answer[place] for answer in answers] for topic, place in places.items()}

    def all(self, prefix: str) -> list[str]:
        """The names of all topics that begin so."""
        with self._faults.mapped():
            found = self._admin.list_topics(timeout=_ANSWER_S).topics
        return sorted(topic for topic in found if topic.startswith(prefix))

    def drop_before(self, topic: str, at: int) -> None:
        """Delete the records before Kafka's offset `at`."""
        place = TopicPartition(topic, 0, at)
        with self._faults.mapped():
            self._admin.delete_records([place], request_timeout=_ANSWER_S)[place].result()

    def _look_around(self, *topics: str) -> None:
        """Have the client learn who is there now, of itself it asks every few minutes.

        It sends some questions to the one that it was told to be the controller, and waits for
        that one when it is dead.
        """
        with self._faults.mapped():
            self._admin.list_topics(*topics, timeout=_ANSWER_S)

    def _described(self, topics: Collection[str], *, is_led: bool = False) -> dict[str, int]:
        """How many copies there are of those that exist; that have a leader, too, if asked for."""
        self._look_around()
        return {
            topic: len(partition.replicas)
            for topic, partition in self._partitions(topics).items()
            if partition.leader is not None or not is_led
        }

    def _partitions(self, topics: Collection[str]) -> dict[str, TopicPartitionInfo]:
        """What the cluster says of the partition of each of those that exist."""
        asked = self._admin.describe_topics(
            TopicCollection(list(topics)), request_timeout=_ANSWER_S
        )
        found = {}
        for topic, future in asked.items():
            try:
                found[topic] = future.result().partitions[0]
            except KafkaException as exc:
                if exc.args[0].code() not in _ABSENT:
                    raise self._faults.ours(exc.args[0]) from exc
        return found

    def _all_described(self, topics: Collection[str]) -> dict[str, int]:
        found = self._described(topics, is_led=True)
        if missing := sorted(set(topics) - found.keys()):
            raise self._faults.timed_out(f"{missing[0]} was made, and is not there yet")
        return found

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do this again for a moment: not every broker knows of a new topic at once."""
        for pause_s in _NEW_S:
            try:
                return work()
            except Retryable:
                Event().wait(pause_s)
        return work()

    def _make(self, topics: Collection[str], marks: str) -> None:
        made = [
            NewTopic(topic, 1, self._copies, config=self._config(topic == marks))
            for topic in topics
        ]
        self._look_around()
        asked = self._admin.create_topics(made, operation_timeout=_MAKE_S, request_timeout=_MAKE_S)
        for topic, future in asked.items():
            try:
                future.result()
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    error = self._faults.ours(exc.args[0])
                    raise type(error)(f"{error} (making the topic {topic})") from exc

    def _config(self, is_marks: bool) -> dict[str, str]:  # noqa: FBT001 - the word is the sentence
        config = dict(_MARKS if is_marks else _LOG)
        if self.durability == "always":
            config["flush.messages"] = "1"
        if self._min_insync:
            config["min.insync.replicas"] = self._min_insync
        return config

    def _settings(self, topics: Collection[str]) -> dict[str, dict[str, str]]:
        resources = {topic: ConfigResource(ResourceType.TOPIC, topic) for topic in topics}
        asked = self._admin.describe_configs(list(resources.values()), request_timeout=_ANSWER_S)
        try:
            with self._faults.mapped():
                found = {topic: asked[each].result() for topic, each in resources.items()}
        except Permanent as exc:
            raise Permanent(
                f"{exc}: whether events are safe there cannot be seen; if you know that they are, "
                "add ?durability=unchecked to the address"
            ) from exc
        return {
            topic: {name: entry.value for name, entry in entries.items()}
            for topic, entries in found.items()
        }

    def _check_kept(
        self, topic: str, settings: Mapping[str, str], expected: dict[str, str]
    ) -> None:
        for name in _KEPT:
            if name in expected and settings[name] != expected[name]:
                raise self._unfit(topic, name, settings[name], expected[name])
        if settings["unclean.leader.election.enable"] == "true":
            raise self._unfit(topic, "unclean.leader.election.enable", "true", "false")
        if int(settings["max.message.bytes"]) < _MIN_MESSAGE:
            found = settings["max.message.bytes"]
            raise self._unfit(topic, "max.message.bytes", found, str(_MIN_MESSAGE))

    def _check_durable(self, topic: str, settings: Mapping[str, str], copies: int) -> None:
        if self.durability == "always":
            if settings["flush.messages"] != "1":
                raise self._unfit(topic, "flush.messages", settings["flush.messages"], "1")
            return
        in_step = _in_step(settings)
        if copies < 2:
            raise Permanent(
                f"event log {self._name}: found {copies} copy of the topic {topic}, expected two "
                "or more: use more brokers (?replication=3 in the address makes topics so), or say "
                "what is enough with ?durability=always, which syncs to the disk (or unchecked)"
            )
        if in_step < 2:
            raise self._unfit(topic, "min.insync.replicas", str(in_step), "2")

    def _unfit(self, topic: str, setting: str, found: str, expected: str) -> Permanent:
        return Permanent(
            f"event log {self._name}: found {setting}={found} at the topic {topic}, expected "
            f"{expected}: set it with kafka-configs --alter --topic {topic} --add-config "
            f"{setting}={expected}, or say what is enough with ?durability in the address"
        )


_ABSENT: Final = frozenset(
    {KafkaError._NOENT, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}
)
_LED_BY_ANOTHER: Final = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
    }
)


_UNANSWERED: Final = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._DESTROY_BROKER,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
    }
)


def _in_step(settings: Mapping[str, str]) -> int:
    return int(settings["min.insync.replicas"])


def _limit(settings: Mapping[str, str]) -> int:
    return int(settings["max.message.bytes"])


def _durability(found: str) -> str:
    if found not in DURABILITIES:
        raise Permanent(
            f"event log: found durability={found}, expected one of {', '.join(DURABILITIES)}"
        )
    return found


def _count(name: str, found: str) -> int:
    if found == "-1" or (found.isdecimal() and 0 < int(found) < 1 << 15):
        return int(found)
    raise Permanent(f"event log: found {name}={found}, expected a number of brokers")
