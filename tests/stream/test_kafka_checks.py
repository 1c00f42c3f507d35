"""`understudy doctor` on a real Kafka: right, careless, away; and nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from controller.core.model.checks import Finding, Status
from controller.stream.checks import check_source, check_stream
from tests.processes import free_port
from tests.stores.kafka import Kafka


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with Kafka() as server:
        yield server


def by_status(found: list[Finding], status: Status) -> dict[str, Finding]:
    return {each.check: each for each in found if each.status is status}


def test_a_kafka_that_keeps_what_it_should_is_fine_and_as_it_was(kafka: Kafka) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    before = set(admin.list_topics(timeout=10).topics)
    found = list(check_stream(kafka.address(durability="always"), time.time))
    assert not by_status(found, Status.FAILED), found
    fine = by_status(found, Status.OK).keys()
    assert {"event log", "event log: durability", "event log: rights", "event log: clock"} <= fine
    after = set(admin.list_topics(timeout=10).topics)
    assert not {topic for topic in after - before if "doctor" in topic}
    assert [each.status for each in check_source(kafka.address(), time.time)] == [Status.OK]


def test_one_broker_is_not_replicated_and_an_hour_is_an_hour(kafka: Kafka) -> None:
    found = list(check_stream(kafka.address(durability="replicated"), lambda: time.time() + 3_600))
    failures = by_status(found, Status.FAILED)
    assert failures.keys() == {"event log: durability", "event log: clock"}
    assert failures["event log: durability"].remedy
    assert "3600" in failures["event log: clock"].found


def test_a_kafka_that_is_away_fails_without_its_password() -> None:
    url = f"kafka://ana:hunter2@127.0.0.1:{free_port()}/p"
    for found in (check_stream(url, time.time), check_source(url, time.time)):
        (away,) = found
        assert away.status is Status.FAILED
        assert "hunter2" not in str(away)
        assert "brokers" in away.remedy
