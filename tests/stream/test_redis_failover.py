"""A replica takes over in the middle of appends: what was acknowledged stays, and stays once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from controller.errors import Permanent, Retryable
from controller.stream import Mark, open_stream
from controller.stream.redis_address import address_of
from tests.processes import until
from tests.stores.redis import Redis
from tests.stores.redis_cluster import Cluster
from tests.stores.redis_sentinel import Watched
from tests.stream.failover import Writer, check

GOES_ON_S = 12.0
"""Silence until it counts (1 s), the election, the return of the one that was lost, and slack."""
ALL_BACK_S = 30.0
"""The same, and until the Sentinels make a replica of the one that was lost: some 10 s."""


@pytest.fixture
def sentinel() -> Iterator[Watched]:
    with Watched(replicas=2) as running:
        yield running


def test_a_replica_that_sentinels_promote_goes_on_with_all_that_was_acknowledged(
    sentinel: Watched,
) -> None:
    # One of the two is enough when the primary dies.
    _lost(sentinel.address(replicas=1), "kill", sentinel.primary(), sentinel.primary)


def test_a_primary_that_was_only_stopped_does_not_acknowledge_what_its_heir_has_not(
    sentinel: Watched,
) -> None:
    _lost(sentinel.address(), "pause", sentinel.primary(), sentinel.primary, ALL_BACK_S)


@pytest.mark.parametrize("way", ["kill", "pause"])
def test_a_replica_that_a_cluster_promotes_goes_on_with_all_that_was_acknowledged(way: str) -> None:
    with Cluster(replicas=1) as cluster:
        url = cluster.address()
        key = f"{{{address_of(url).prefix}/b}}:ends"
        _lost(url, way, cluster.holder(key), lambda: cluster.holder(key))


def _lost(
    url: str,
    way: str,
    primary: Redis,
    now: Callable[[], Redis],
    within_s: float = GOES_ON_S,
) -> None:
    """Lose the primary in the middle of appends, let another take over, and bring it back."""
    with closing(open_stream(url)) as stream, Writer(stream) as writer:
        writer.goes_on()
        (primary.kill if way == "kill" else primary.pause)()
        until("another is the primary", lambda: now() is not primary)
        # The new one has no replica yet: an append must not count before it has.
        (primary.start if way == "kill" else primary.resume)()
        writer.goes_on()
    assert writer.longest_s < within_s
    assert len(writer.acknowledged) > 20
    check(writer, url)


def test_an_append_that_only_the_primary_has_is_not_acknowledged(
    redis_sentinel: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.stream.redis._REPLICAS_MS", 100)
    monkeypatch.setattr("controller.stream.redis._FAILOVER_S", 0.3)
    replica = next(n for n in redis_sentinel.nodes if n is not redis_sentinel.primary())
    with closing(open_stream(redis_sentinel.address())) as stream:
        stream.append({"m": [b"1"]})
        replica.kill()
        try:
            with pytest.raises(Retryable, match="0 of 1 replicas have the events"):
                stream.append({"m": [b"2"]})
        finally:
            replica.start()
    with closing(open_stream(redis_sentinel.address(replicas=0))) as stream:
        assert stream.append({"m": [b"1"]}) == {"m": 0}


def test_a_slot_that_moves_to_another_node_is_followed(redis_cluster: Cluster) -> None:
    url = redis_cluster.address()
    prefix = address_of(url).prefix
    with closing(open_stream(url)) as stream:
        stream.append({"m": [b"1"]})
        source = redis_cluster.holder(f"{{{prefix}/m}}:ends")
        target = next(node for node in redis_cluster.nodes if node is not source)
        _move(redis_cluster, f"{{{prefix}/m}}:ends", source, target)
        assert stream.append({"m": [b"2"]}, mark=Mark("tail", "2")) == {"m": 1}
        assert [line for b in stream.read("m", 0) for line in b.lines] == [b"1", b"2"]


def _move(cluster: Cluster, key: str, source: Redis, target: Redis) -> None:
    """What `redis-cli --cluster reshard` does with one slot."""
    with source.client() as one, target.client() as other:
        slot = one.execute_command("CLUSTER KEYSLOT", key)
        names = [c.execute_command("CLUSTER MYID").decode() for c in (one, other)]
        other.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[0])
        one.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[1])
        keys = one.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000)
        one.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in cluster.nodes:
            with node.client() as client:
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[1])


def test_logs_of_a_cluster_are_spread_over_its_nodes(redis_cluster: Cluster) -> None:
    url = redis_cluster.address()
    prefix = address_of(url).prefix
    models = [f"m{i}" for i in range(30)]
    with closing(open_stream(url)) as stream:
        stream.append({model: [b"1"] for model in models})
    holders = {redis_cluster.holder(f"{{{prefix}/{m}}}:log:{m}").port for m in models}
    assert holders == {node.port for node in redis_cluster.nodes}


# --- addresses ----------------------------------------------------------------------------------


def test_an_address_says_where_and_shows_no_password() -> None:
    found = address_of(
        "rediss+sentinel://ana:s%40cret@h1:1,h2/ours/3?sentinel_password=hush&prefix=p&replicas=2"
    )
    assert (found.kind, found.is_secure, found.name, found.database) == (
        "sentinel",
        True,
        "ours",
        3,
    )
    assert found.hosts == (("h1", 1), ("h2", 26379))
    assert (found.username, found.password) == ("ana", "s@cret")
    assert found.sentinel_login == {"password": "hush"}
    assert found.text == "rediss+sentinel://h1:1,h2/ours/3"
    assert "cret" not in repr(found)
    assert "hush" not in repr(found)
    assert [address_of(u).replicas for u in ("redis://h", "redis+cluster://h")] == [0, None]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://h:1", "no name of a primary"),
        ("redis+sentinel://h:1/ours/x", "the number of a database"),
        ("redis+cluster://h:1/2", "a cluster of Redis has only 0"),
        ("redis+cluster://h:1?sentinel_password=x", "the option 'sentinel_password'"),
        ("redis+cluster://h:1,:2", "expected HOST:PORT"),
        ("redis+cluster://h:port", "expected HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_is_an_error(url: str, why: str) -> None:
    with pytest.raises(Permanent, match=why):
        open_stream(url)


def test_one_node_of_a_cluster_is_no_redis_for_a_log(redis_cluster: Cluster) -> None:
    holder = redis_cluster.holder("{understudy}:format")
    node = next(node for node in redis_cluster.nodes if node is not holder)
    with pytest.raises(Permanent, match=r"write redis\+cluster://"):
        open_stream(f"redis://127.0.0.1:{node.port}/0")


@pytest.mark.parametrize(
    "scheme", ["redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/x"]
)
def test_nobody_there_is_retryable(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.stream.redis._LOOK_S", 0.2)
    with pytest.raises(Retryable):
        open_stream(scheme)
