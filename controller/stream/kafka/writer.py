"""Appends to Kafka: one transaction each, of one process.

Each writer has a `transactional.id` of its own, so that none fences another. `init_transactions`
makes Kafka end what an earlier writer of that name had under way, and refuse the rest of what it
sends, from its next request on: so this one ends what it left itself (`begin` says so), and anybody
ends what another left for good (see `heal`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from controller.stream.kafka.faults import Faults
from controller.stream.kafka.records import Draft
from controller.stream.kafka_url import KafkaAddress

_BEGIN_S: Final = 5.0
_FLUSH_S: Final = 10.0
_COMMIT_S: Final = 5.0
_TRANSACTION_MS: Final = 30_000
"""A process that died in a transaction is ended by who waits for it, or by Kafka after this."""
_MESSAGE_MS: Final = 20_000
_REQUEST_MS: Final = 5_000
"""After so long another leader is looked for, while the append goes on."""
_MANY: Final = 20
_MAX_MESSAGE: Final = 1 << 26


class Writer:
    """A producer of one log. Not for several threads at once.

    name  of this writer alone, and without a dot
    """

    def __init__(self, address: KafkaAddress, faults: Faults, name: str) -> None:
        self._faults = faults
        self._name = name
        self._tokens = itertools.count(1)
        self._producer: Producer | None = None
        self._met: set[str] = set()
        self._settings = {
            **address.client,
            "transactional.id": f"{address.prefix}.append.{name}",
            "transaction.timeout.ms": _TRANSACTION_MS,
            "message.timeout.ms": _MESSAGE_MS,
            "request.timeout.ms": _REQUEST_MS,
            "message.max.bytes": _MAX_MESSAGE,  # the topics' own limits are kept by their blocks
            "batch.size": 1 << 16,
            "linger.ms": 0,
            "compression.type": "none",  # blocks are compressed
            "topic.metadata.refresh.fast.interval.ms": 10,
            "enable.sparse.connections": False,  # else the first one is looked for twice a second
            **faults.settings(),
        }

    def token(self) -> bytes:
        """A name for the next transaction."""
        return b"%s.%d" % (self._name.encode(), next(self._tokens))

    def begin(self) -> bool:
        """Be ready to commit; whether whatever this name had under way was ended for it.

        Raises:
            Retryable: no broker answers in time.
            Permanent: they refuse us.
        """
        if self._producer is not None:
            return False
        with self._faults.mapped():
            producer = Producer(self._settings)
            try:
                producer.init_transactions(_BEGIN_S)
            finally:
                producer.poll(0)  # brings what was said on the side
        self._producer, self._met = producer, set()
        return True

    def commit(self, drafts: Sequence[Draft], token: bytes) -> dict[str, int]:
        """Put these into Kafka as one transaction; Kafka's offset of the last one of each topic.

        An offset is -1 where Kafka did not say it: what is sent again is answered without.

        Raises:
            Retryable: it may be in the log, or may not: `begin` again, and see.

        Not all readers see it yet: Kafka answers when it has decided, and tells the topics after.
        """
        assert self._producer is not None, "begin first"
        with self._faults.mapped():
            last = self._send(self._producer, drafts, token)
            self._producer.commit_transaction(_COMMIT_S)
        return last

    def abort(self, drafts: Sequence[Draft], token: bytes) -> None:
        """Write these and take them back, with whatever of ours has no end yet in their topics."""
        assert self._producer is not None, "begin first"
        with self._faults.mapped():
            self._send(self._producer, drafts, token)
            self._producer.abort_transaction(_COMMIT_S)

    def drop(self) -> None:
        """Give the producer up: what it had under way is ended by `begin`."""
        self._producer = None

    def _send(self, producer: Producer, drafts: Sequence[Draft], token: bytes) -> dict[str, int]:
        last: dict[str, int] = {}
        failed: list[KafkaError] = []
        self._meet(producer, {draft.topic for draft in drafts})
        producer.begin_transaction()
        for draft in drafts:
            producer.produce(
                draft.topic,
                draft.value,
                draft.key,
                partition=0,
                headers=draft.headers(token, len(drafts)),
                on_delivery=partial(_delivered, last, failed),
            )
        try:
            unanswered = producer.flush(_FLUSH_S)
        except SystemError:  # a fatal error arrived before the answers, and left no other trace
            producer.abort_transaction(_FLUSH_S)
            raise
        if unanswered:
            raise self._faults.timed_out("an append got no answer")
        if failed:
            raise self._faults.ours(failed[0])
        return last

    def _meet(self, producer: Producer, topics: set[str]) -> None:
        """Tell the producer of its topics at once, which it asks for one after the other."""
        new = sorted(topics - self._met)
        if len(new) > _MANY:
            producer.list_topics(timeout=_FLUSH_S)
        else:
            for topic in new:
                producer.list_topics(topic, timeout=_FLUSH_S)
        self._met |= topics


def _delivered(
    last: dict[str, int], failed: list[KafkaError], error: KafkaError | None, message: Message
) -> None:
    if error is not None:
        failed.append(error)
        return
    topic, at = message.topic(), message.offset()
    is_known = at >= 0 and last.get(topic, 0) >= 0
    last[topic] = max(at, last.get(topic, 0)) if is_known else -1
