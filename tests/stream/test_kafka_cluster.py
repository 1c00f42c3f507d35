"""The event log on three brokers, as docs/event-log.md says: one is lost, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from controller.errors import Retryable
from controller.stream import Mark, open_stream
from controller.stream import kafka as module
from controller.stream.kafka import writer
from controller.stream.kafka_url import parse
from tests.processes import until
from tests.stores.kafka import Kafka
from tests.stores.kafka_cluster import TRANSACTIONS, KafkaCluster
from tests.stream.failover import Writer, check
from tests.stream.test_contract import (  # noqa: F401 - they run here, on three brokers
    everything,
    test_a_log_outlives_its_process,
    test_a_read_of_what_was_trimmed_says_where_the_log_begins,
    test_an_append_of_nothing_gives_the_end_and_keeps_its_mark,
    test_an_append_that_trims_its_own_model_keeps_what_it_appends,
    test_events_come_back_in_order_with_their_offsets,
    test_marks_of_sources_are_apart_and_the_last_one_counts,
    test_models_count_apart,
)

GOES_ON_S = 15.0
"""Silence until it counts (1.5 s), elections of controllers and of leaders, and slack."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as running:
        yield running


@pytest.fixture
def kafka(cluster: KafkaCluster) -> KafkaCluster:
    """What the address of a log is asked for."""
    return cluster


def leader(cluster: KafkaCluster, topic: str) -> Kafka:
    return until(f"{topic} has a leader", lambda: cluster.leader(topic))


@contextmanager
def lost(cluster: KafkaCluster, broker: Kafka, way: str) -> Iterator[None]:
    """It is killed, or hangs; then it is back."""
    if way == "kill":
        with cluster.without(broker):
            yield
        return
    broker.pause()
    try:
        yield
    finally:
        broker.resume()
        cluster.start()


def survives(cluster: KafkaCluster, url: str, way: str, topic_of: Callable[[], str]) -> None:
    """Lose who leads a topic in the middle of appends, and go on without it, and with it again."""
    with closing(open_stream(url)) as stream, Writer(stream, pause_s=0.05) as appends:
        appends.goes_on()
        topic = topic_of()
        gone = leader(cluster, topic)
        with lost(cluster, gone, way):
            until("another leads", lambda: cluster.leader(topic) not in {None, gone})
            appends.goes_on()
        appends.goes_on()
    assert appends.longest_s < GOES_ON_S
    check(appends, url)


@pytest.mark.parametrize("way", ["kill", "pause"])
def test_the_leader_of_a_log_is_lost_in_the_middle_of_appends(
    cluster: KafkaCluster, url: str, way: str
) -> None:
    """Of one whose leader does not coordinate transactions, too."""

    def topic_of() -> str:
        topics = [f"{parse(url).prefix}.log.{log}" for log in "abc"]
        coordinator = leader(cluster, TRANSACTIONS)
        return next(each for each in topics if leader(cluster, each) is not coordinator)

    survives(cluster, url, way, topic_of)


def test_the_coordinator_of_transactions_is_killed_in_the_middle_of_appends(
    cluster: KafkaCluster, url: str
) -> None:
    survives(cluster, url, "kill", lambda: TRANSACTIONS)


def test_too_few_brokers_are_said_and_lose_nothing(
    cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One log asks for all three copies in step, another for two: one broker is lost, then two."""
    first, second, _ = cluster.brokers
    strict_url, usual_url = cluster.address(min_insync=3), cluster.address()
    with closing(open_stream(strict_url)) as strict, closing(open_stream(usual_url)) as usual:
        for stream in (strict, usual):
            assert stream.append({"m": [b"1"]}, mark=Mark("tail", "1")) == {"m": 0}
        with monkeypatch.context() as impatient, cluster.without(first):
            impatient.setattr(module, "_APPEND_S", 1.0)
            impatient.setattr(writer, "_FLUSH_S", 2.0)
            topic = f"{parse(strict_url).prefix}.log.m"
            until("it is missed", lambda: cluster.in_step(topic) == 2)
            short = f"2 of 3 copies of {topic} are in step, and min.insync.replicas is 3"
            with pytest.raises(Retryable, match=short):
                strict.append({"m": [b"2"]}, mark=Mark("tail", "2"))
            impatient.undo()
            assert usual.append({"m": [b"2"]}, mark=Mark("tail", "2")) == {"m": 1}
            second.kill()
            impatient.setattr(module, "_APPEND_S", 1.0)
            impatient.setattr(writer, "_FLUSH_S", 2.0)
            with pytest.raises(Retryable, match="see that its brokers run"):
                usual.append({"m": [b"lost or not"]}, mark=Mark("tail", "3"))
        for stream in (strict, usual):
            at = stream.append({"m": [b"3"]}, mark=Mark("tail", "4"))["m"]
            found = everything(stream, "m")
            assert len(found) == at + 1
            assert (found[0], found[-1]) == (b"1", b"3")
            assert stream.mark("tail") == "4"
        assert everything(usual, "m")[:2] == [b"1", b"2"]
