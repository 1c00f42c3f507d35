"""The two kinds of topics, told apart for tests that are the same for both."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

from tests.stores.kafka import Kafka
from tests.stores.redis import Redis

_NAMES = itertools.count(1)


def topic_name() -> str:
    return f"clicks{next(_NAMES)}"


class ReplicatedTopics:
    """Topics of some brokers, of which each has a copy."""

    kind = "kafka"

    def __init__(self, bootstrap: str, copies: int) -> None:
        self._copies = copies
        self.url = f"kafka://{bootstrap}"
        self._settings = settings = {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "socket.timeout.ms": 1_000,  # one that hangs is not asked for a minute
            "socket.connection.setup.timeout.ms": 1_000,
        }
        self.producer = self._producer()
        self.admin = AdminClient(settings)

    def source(self, topic: str, **records: Any) -> dict[str, Any]:
        return {"kafka": {"topic": topic, **records}}

    def make(self, topic: str, partitions: int = 3, **config: str) -> None:
        config.setdefault("max.message.bytes", "20000000")
        new = NewTopic(topic, partitions, self._copies, config=config)
        made = self.admin.create_topics([new], request_timeout=20)
        made[topic].result(20)

    def _producer(self) -> Producer:
        return Producer({**self._settings, "linger.ms": 5, "message.max.bytes": 20_000_000})

    def extend(self, topic: str, partitions: int) -> None:
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(20)
        self.producer = self._producer()  # the one before knows the old number for minutes

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(20)

    def produce(self, topic: str, bodies: Iterable[object], **options: Any) -> None:
        """JSON of what is no bytes; all are acknowledged when it returns."""
        failed: list[object] = []
        for body in bodies:
            value = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            while True:
                try:
                    self.producer.produce(
                        topic, value, on_delivery=lambda e, _: e and failed.append(e), **options
                    )
                    break
                except BufferError:
                    self.producer.poll(0.1)
        assert self.producer.flush(60) == 0
        assert not failed, failed[0]

    def trim(self, topic: str, keep: int) -> None:
        """Give up all but the last `keep` records of partition 0."""
        end = TopicPartition(topic, 0)
        ends = self.admin.list_offsets({end: OffsetSpec.latest()})
        place = TopicPartition(topic, 0, ends[end].result(20).offset - keep)
        self.admin.delete_records([place])[place].result(20)


class KafkaTopics(ReplicatedTopics):
    """Topics of a broker."""

    def __init__(self, broker: Kafka) -> None:
        self.broker = broker
        super().__init__(broker.bootstrap, copies=1)

    def kill(self) -> None:
        self.broker.kill()

    def start(self) -> None:
        self.broker.start()


class RedisTopics:
    """Streams of an instance; records stand as JSON in the field `json`."""

    kind = "redis"

    def __init__(self, server: Redis) -> None:
        self.server = server
        self.url = f"redis://127.0.0.1:{server.port}/0"

    def source(self, topic: str, **records: Any) -> dict[str, Any]:
        return {"redis": {"stream": topic, "field": "json", **records}}

    def make(self, topic: str, partitions: int = 1) -> None:
        with self.server.client() as client:
            client.xtrim(topic, 0) if client.xadd(topic, {"json": "x"}) else None

    def delete(self, topic: str) -> None:
        with self.server.client() as client:
            client.delete(topic)

    def produce(self, topic: str, bodies: Iterable[object]) -> None:
        with self.server.client() as client:
            pipeline = client.pipeline(transaction=False)
            for body in bodies:
                value = body if isinstance(body, bytes) else json.dumps(body).encode()
                pipeline.xadd(topic, {"json": value})
            pipeline.execute()

    def trim(self, topic: str, keep: int) -> None:
        with self.server.client() as client:
            client.xtrim(topic, keep, approximate=False)

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


Topics = KafkaTopics | RedisTopics
