"""A topic on three brokers, of which one hangs: the others answer, and nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes import until
from tests.stores.kafka_cluster import BROKERS, KafkaCluster
from tests.topics.brokers import ReplicatedTopics, topic_name
from tests.topics.conftest import MAP, Desk, click, policy

GOES_ON_S = 10.0
"""Silence until it counts (3 s), a question to the one that hangs (3 s), a pause, and slack."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as running:
        yield running


def test_a_broker_that_hangs_holds_no_reader_when_others_lead(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    topics, topic = ReplicatedTopics(cluster.bootstrap, BROKERS), topic_name()
    topics.make(topic, partitions=1)
    source = policy("m", topics.source(topic, map=MAP))
    with closing(Desk(tmp_path, {"kafka": topics.url}, source)) as at:
        at.settle()
        topics.produce(topic, [click(0)])
        at.turn_until(lambda: len(at.lines("m")) == 1)
        hung = until("it has a leader", lambda: cluster.leader(topic))
        hung.pause()
        try:
            until("another leads", lambda: cluster.leader(topic) not in {None, hung})
            topics.produce(topic, [click(1)])
            began = time.monotonic()
            at.turn_until(lambda: len(at.lines("m")) == 2, timeout_s=60)
            assert time.monotonic() - began < GOES_ON_S
        finally:
            hung.resume()
            cluster.start()
