"""Streams of others behind Sentinels and in a cluster: another node takes over, and is read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import redis

from controller.settings import source_urls
from tests.processes import until
from tests.stores.redis import Redis
from tests.stores.redis_cluster import Cluster
from tests.stores.redis_sentinel import Watched
from tests.topics.conftest import MAP, Desk, click, policy

GOES_ON_S = 10.0
"""A question to the one that hangs (3 s), a pause, the next, and slack."""


def produce(node: Redis, stream: str, numbers: range) -> None:
    """Each is with the replica, too, when it returns."""
    with node.client() as client:
        for n in numbers:
            client.xadd(stream, {"json": json.dumps(click(n))})
        assert client.execute_command("WAIT", 1, 5_000) == 1


def followed(
    folder: Path, url: str, way: str, streams: list[str], holder: Callable[[str], Redis]
) -> None:
    """Lose who has the first stream, and read on where another has it."""
    sources = [{"redis": {"stream": each, "field": "json", "map": MAP}} for each in streams]
    urls = source_urls(kafka=None, redis=url, stream=None)
    with closing(Desk(folder, urls, policy("m", *sources))) as at:
        for stream in streams:
            produce(holder(stream), stream, range(1))  # so that they are there
        at.settle()
        for number, stream in enumerate(streams, 1):
            produce(holder(stream), stream, range(100 * number, 100 * number + 10))
        at.settle()
        assert len(at.lines("m")) == 10 * len(streams)
        lost = holder(streams[0])
        (lost.kill if way == "kill" else lost.pause)()
        heir = until("another is the primary", lambda: (h := holder(streams[0])) is not lost and h)
        with heir.client() as client:
            until("it takes entries", lambda: client.info("replication")["role"] == "master")
            for n in range(1_000, 1_010):
                client.xadd(streams[0], {"json": json.dumps(click(n))})
        began = time.monotonic()
        at.turn_until(lambda: len(at.lines("m")) == 10 * len(streams) + 10, timeout_s=60)
        assert time.monotonic() - began < GOES_ON_S
        requests = [line["request_id"] for line in at.lines("m")]
        assert len(set(requests)) == len(requests)
        (lost.start if way == "kill" else lost.resume)()


@pytest.mark.parametrize("way", ["kill", "pause"])
def test_a_stream_behind_sentinels_is_read_on_at_the_new_primary(tmp_path: Path, way: str) -> None:
    with Watched() as watched:
        followed(tmp_path, watched.address(), way, ["clicks"], lambda _: watched.primary())


@pytest.mark.parametrize("way", ["kill", "pause"])
def test_streams_of_a_cluster_are_read_where_they_are(tmp_path: Path, way: str) -> None:
    with Cluster(replicas=1) as cluster:
        streams = [f"clicks{n}" for n in range(4)]
        assert len({cluster.holder(each).port for each in streams}) > 1
        followed(tmp_path, cluster.address(), way, streams, cluster.holder)


def test_entries_that_a_failover_lost_are_not_missed_and_the_others_not_read_again(
    tmp_path: Path,
) -> None:
    with Redis() as server, server.client() as client:
        source = {"redis": {"stream": "clicks", "field": "json", "map": MAP}}
        url = f"redis://127.0.0.1:{server.port}/0"
        with closing(Desk(tmp_path, {"redis": url}, policy("m", source))) as at:
            client.xadd("clicks", {"json": json.dumps(click(0))})
            at.settle()
            for n in range(1, 11):
                client.xadd("clicks", {"json": json.dumps(click(n))})
            at.settle()
            _forget(client, "clicks", 2)
            at.settle()
            for n in range(11, 14):
                client.xadd("clicks", {"json": json.dumps(click(n))})
            at.settle()
            assert [line["request_id"] for line in at.lines("m")] == [f"r{n}" for n in range(1, 14)]
            counts = at.counts("m", "redis:clicks")
            assert (counts["read"], counts["lost"], counts["behind"]) == (13, 0, 0)


def _forget(client: redis.Redis, stream: str, count: int) -> None:
    """As a replica that never got the last entries has it."""
    added = client.xinfo_stream(stream)["entries-added"]
    for identifier, _ in client.xrevrange(stream, count=count):
        client.xdel(stream, identifier)
    ((last, _),) = client.xrevrange(stream, count=1)
    ours = ("ENTRIESADDED", added - count, "MAXDELETEDID", "0-0")
    client.execute_command("XSETID", stream, last, *ours)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://127.0.0.1:1/ours", "No master found"),
        ("redis+cluster://ana:hunter2@127.0.0.1:1", "cannot be connected"),
        ("redis+sentinel://127.0.0.1:1", "no name of a primary"),
    ],
)
def test_those_who_do_not_answer_are_told_with_the_reason(
    tmp_path: Path, url: str, why: str
) -> None:
    source = policy("m", {"redis": {"stream": "clicks", "map": MAP}})
    with closing(Desk(tmp_path, {"redis": url}, source)) as at:
        at.turn_until(lambda: at.wheel.feed_troubles)
        trouble = at.health("m")["trouble"]
    assert why in trouble
    assert "hunter2" not in trouble
