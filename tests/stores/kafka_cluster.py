"""A Kafka of three brokers, each of them a controller as well: one may die, and all goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, PartitionMetadata

from tests.processes import free_port, until
from tests.stores.kafka import Kafka

BROKERS = 3
TRANSACTIONS = "__transaction_state"

# What three brokers keep three copies of, of which two must be in step.
_SHARED: dict[str, Any] = {
    "default_replication_factor": BROKERS,
    "min_insync_replicas": 2,
    "offsets_topic_replication_factor": BROKERS,
    "transaction_state_log_replication_factor": BROKERS,
    "transaction_state_log_min_isr": 2,
    # One that was killed is missed, and another elected, in a second or two.
    "controller_quorum_election_timeout_ms": 500,
    "controller_quorum_fetch_timeout_ms": 1_000,
}


class KafkaCluster:
    """Three brokers; `address` gives a log of its own on them."""

    def __init__(self) -> None:
        self._names = itertools.count(1)
        self._stack = ExitStack()
        controllers = [free_port() for _ in range(BROKERS)]
        self.brokers = [
            Kafka(node=number, controllers=controllers, **_SHARED)
            for number in range(1, BROKERS + 1)
        ]
        self._admin = AdminClient(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                "socket.timeout.ms": 1_000,  # one that hangs is not asked for a minute
                "socket.connection.setup.timeout.ms": 1_000,
            }
        )

    @property
    def bootstrap(self) -> str:
        """`HOST:PORT` of all brokers."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def address(self, **options: object) -> str:
        """The address of a new log, as docs/event-log.md says to write it."""
        given = {"replication": BROKERS, "min_insync": 2} | options
        query = "&".join(f"{name}={value}" for name, value in given.items())
        return f"kafka://{self.bootstrap}/log{next(self._names)}?{query}"

    def leader(self, topic: str) -> Kafka | None:
        """The broker that leads a topic's only partition, if one does and is up."""
        found = self._described(topic)
        leader = next((each for each in self.brokers if found and each.node == found.leader), None)
        return leader if leader is not None and leader.is_running else None

    def in_step(self, topic: str) -> int:
        """How many copies of the topic's only partition are in step; 0 if nobody says so now."""
        found = self._described(topic)
        return len(found.isrs) if found else 0

    def start(self) -> Self:
        """Start those that do not run; return when each is known, and in step with the others."""
        for broker in self.brokers:
            if not broker.is_running:
                broker.launch()
        until("all brokers are in step", self._is_whole, 60)
        return self

    @contextmanager
    def without(self, *lost: Kafka) -> Iterator[None]:
        """These are killed, and afterwards started again."""
        for broker in lost:
            broker.kill()
        try:
            yield
        finally:
            self.start()

    def __enter__(self) -> Self:
        for broker in self.brokers:
            self._stack.callback(broker.remove)
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _described(self, topic: str) -> PartitionMetadata | None:
        try:
            return self._admin.list_topics(topic, timeout=2).topics[topic].partitions[0]
        except (KafkaException, KeyError):  # nobody answers, or it is not known there yet
            return None

    def _is_whole(self) -> bool:
        for broker in self.brokers:
            broker.check()
        try:
            known = self._admin.list_topics(timeout=2)
        except KafkaException:
            return False
        partitions = [p for topic in known.topics.values() for p in topic.partitions.values()]
        return len(known.brokers) == BROKERS and all(
            len(each.isrs) == len(each.replicas) and each.leader > 0 for each in partitions
        )
