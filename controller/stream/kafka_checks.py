"""What `understudy doctor` looks at in a Kafka that keeps the event log, or that policies read.

Scratch topics begin with the log's own prefix, because a user may be allowed no others, and are
deleted. No log is opened: it would make topics that stay.
"""

from __future__ import annotations

import time  # noqa: TID251 - how long a write takes is measured, nothing is decided by it
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from uuid import uuid4

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from controller.core.model.checks import Finding, failed, fine, of_error, skew, speed
from controller.errors import BackendError
from controller.stream.kafka.faults import Faults
from controller.stream.kafka.topics import Topics
from controller.stream.kafka_url import KafkaAddress, parse

_ANSWER_S: Final = 10.0
_UNREACHABLE: Final = "see that its brokers run, and that address, user and password are right"
_ACLS: Final = "grant the user the ACLs that docs/event-log.md lists"


def source(url: str, clock: Callable[[], float]) -> Iterator[Finding]:  # noqa: ARG001 - it has none
    """Reachable; nothing is written, so its clock is not seen."""
    yield _reached("source", url)[1]


def log(url: str, clock: Callable[[], float]) -> Iterator[Finding]:
    """Reachable, durable as the address says, and with the rights that the log needs."""
    address, found = _reached("event log", url)
    yield found
    if address is None:
        return
    faults = Faults(address.name)
    try:
        with faults.mapped(), _scratch(address, faults) as topic:
            yield _durable(address, faults, topic)
        with faults.mapped(), _scratch(address, faults, stamped=True) as topic:
            yield from _written(address, faults, topic, clock)
    except BackendError as exc:
        yield of_error("event log: rights", exc, _ACLS)


def _reached(check: str, url: str) -> tuple[KafkaAddress | None, Finding]:
    """The address where it can be reached, and what was found."""
    try:
        address = parse(url)
        faults = Faults(address.name)
        with faults.mapped():
            admin = AdminClient({**address.client, **faults.settings()})
            brokers = admin.list_topics(timeout=_ANSWER_S).brokers
    except BackendError as exc:
        return None, of_error(check, exc, _UNREACHABLE)
    return address, fine(check, f"{address.name}, {len(brokers)} brokers")


def _durable(address: KafkaAddress, faults: Faults, topic: str) -> Finding:
    """Whether a topic made as the log makes its own is kept as durably as the address says."""
    topics = Topics(address, faults)
    check = "event log: durability"
    try:
        topics.ensure([topic], marks="")
    except BackendError as exc:
        return of_error(check, exc, _ACLS)
    return fine(check, topics.durability)


def _written(
    address: KafkaAddress, faults: Faults, topic: str, clock: Callable[[], float]
) -> Iterator[Finding]:
    """Commit one transaction, by whose answer the broker's clock is seen."""
    name = {"transactional.id": f"{address.prefix}.doctor.{uuid4().hex}"}
    producer = Producer({**address.client, **faults.settings(), **name})
    producer.init_transactions(_ANSWER_S)
    stamps: list[int] = []

    def told(_error: KafkaError | None, message: Any) -> None:
        stamps.append(message.timestamp()[1])

    began, before = time.perf_counter(), clock()
    producer.begin_transaction()
    producer.produce(topic, b"doctor", on_delivery=told)
    producer.flush(_ANSWER_S)
    ours = (before + clock()) / 2
    producer.commit_transaction(_ANSWER_S)
    yield fine("event log: rights", "it may make topics, write and commit")
    yield speed("event log: append", time.perf_counter() - began, of="a transaction")
    if stamps:
        yield skew("event log: clock", theirs=stamps[0] / 1000, ours=ours, whose="Kafka")
    else:
        yield failed("event log: append", "the record was not delivered", _UNREACHABLE)


@contextmanager
def _scratch(address: KafkaAddress, faults: Faults, *, stamped: bool = False) -> Iterator[str]:
    """The name of a topic that is deleted at the end; it is made where it is `stamped`."""
    topic = f"{address.prefix}.doctor.{uuid4().hex}"
    admin = AdminClient({**address.client, **faults.settings()})
    try:
        if stamped:
            settings = {"message.timestamp.type": "LogAppendTime"}
            new = NewTopic(topic, 1, -1, config=settings)
            admin.create_topics([new])[topic].result(_ANSWER_S)
        yield topic
    finally:
        with suppress(KafkaException, KafkaError):
            admin.delete_topics([topic])[topic].result(_ANSWER_S)
