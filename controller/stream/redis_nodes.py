"""Which Redis has a key now: the only one, the one that Sentinels name, or a node of a cluster.

A `Nodes` gives clients and nothing else; what is sent, and what is done when it fails, is the
matter of `redis` and `redis_reader`. `renew` says that a client was the wrong one: the primary is
another by now, or a slot has moved.

redis-py's own cluster client is used for the map of slots only. It sends a script and the WAIT that
belongs to it over different connections, and then WAIT knows of nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import redis
from redis import exceptions as faults
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from controller.errors import BackendError, Permanent, Retryable
from controller.stream.redis_address import Address

_CONNECT_S: Final = 3.0
_ANSWER_S: Final = 5.0
_IDLE_CHECK_S: Final = 15
_TRIES: Final = 3


class Moved(Retryable):
    """Another node is the one to ask, or will be in a moment."""


class Nodes(Protocol):
    """The nodes that are primaries now, and how many replicas they have."""

    def of(self, key: str) -> redis.Redis:
        """The node that has this key."""
        ...

    def all(self) -> list[redis.Redis]:
        """Every primary."""
        ...

    def replicas(self, key: str) -> int:
        """How many there are of the node that has this key, as of the last `renew`."""
        ...

    def renew(self) -> None:
        """Look again which they are."""
        ...

    def close(self) -> None:
        """Release the connections. Closing twice is fine."""
        ...


def nodes_of(address: Address, *, answer_s: float = _ANSWER_S, tries: int = _TRIES) -> Nodes:
    """The nodes at an address. Raises redis-py's errors and `RedisClusterException`.

    answer_s  how long an answer is waited for
    tries     how often one that does not answer is asked
    """
    options = _common(address, answer_s)
    if address.kind == "cluster":
        return _Cluster(address, options)
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), tries - 1)
    of_one = {**options, "db": address.database, "retry": retry}
    return _One(address, of_one) if address.kind == "one" else _Watched(address, of_one)


class _One:
    """One Redis, which is always the one to ask, with nobody to take its place."""

    def __init__(self, address: Address, options: dict[str, Any]) -> None:
        ((host, port),) = address.hosts
        self._client = redis.Redis(host=host, port=port, **options)

    def of(self, key: str) -> redis.Redis:  # noqa: ARG002 - there is only one
        return self._client

    def all(self) -> list[redis.Redis]:
        return [self._client]

    def replicas(self, key: str) -> int:  # noqa: ARG002 - there is only one
        return 0

    def renew(self) -> None:
        self._client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        self._client.close()


class _Watched(_One):
    """The primary that Sentinels name: redis-py asks them when it connects."""

    def __init__(self, address: Address, options: dict[str, Any]) -> None:
        ours = {n: v for n, v in options.items() if n not in {"username", "password", "db"}}
        ours["retry"] = Retry(NoBackoff(), 0)  # there are others to ask
        make: Any = Sentinel
        self._sentinels = make(
            list(address.hosts), sentinel_kwargs=ours | address.sentinel_login, **options
        )
        self._name = address.name
        self._client = self._sentinels.master_for(address.name)
        self._replicas: int | None = None

    def replicas(self, key: str) -> int:  # noqa: ARG002 - they are the same for all keys
        if self._replicas is None:
            self._replicas = self._counted()
        return self._replicas

    def renew(self) -> None:
        super().renew()
        self._replicas = None

    def _counted(self) -> int:
        """As many as any Sentinel knows of, whether they answer or not."""
        found, fault = [], None
        for sentinel in self._sentinels.sentinels:
            try:
                found.append(int(sentinel.sentinel_master(self._name)["num-slaves"]))
            except faults.RedisError as exc:
                fault = exc
        if not found:
            raise faults.ConnectionError("no Sentinel tells how many replicas there are") from fault
        return max(found)


class _Cluster:
    """The primaries of a cluster, by slot."""

    def __init__(self, address: Address, options: dict[str, Any]) -> None:
        make: Any = ClusterNode
        nodes = [make(host, port) for host, port in address.hosts]
        self._cluster: Any = RedisCluster(
            startup_nodes=nodes, require_full_coverage=False, **options
        )

    def of(self, key: str) -> redis.Redis:
        node = self._cluster.get_node_from_key(key)
        found: redis.Redis = self._cluster.get_redis_connection(node)
        return found

    def all(self) -> list[redis.Redis]:
        return [self._cluster.get_redis_connection(n) for n in self._cluster.get_primaries()]

    def replicas(self, key: str) -> int:
        _, *others = self._cluster.nodes_manager.slots_cache[self._cluster.keyslot(key)]
        return len(others)

    def renew(self) -> None:
        self._cluster.nodes_manager.initialize()

    def close(self) -> None:
        self._cluster.close()


def _common(address: Address, answer_s: float) -> dict[str, Any]:
    return {
        "username": address.username,
        "password": address.password,
        "ssl": address.is_secure,
        "socket_connect_timeout": _CONNECT_S,
        "socket_timeout": answer_s,
        "socket_keepalive": True,
        "health_check_interval": _IDLE_CHECK_S,
    }


# --- errors -------------------------------------------------------------------------------------


@contextmanager
def mapped(name: str, *, is_cluster: bool) -> Iterator[None]:
    """Foreign errors become ours; `name` is what people are told of."""
    try:
        yield
    except (faults.RedisError, faults.RedisClusterException) as exc:
        if isinstance(exc, faults.AskError) and not is_cluster:
            raise Permanent(
                f"{name}: found a node of a cluster, expected one Redis: write "
                "redis+cluster://HOST:PORT,HOST:PORT"
            ) from exc
        raise _ours(name, exc) from exc


def damaged(name: str, what: str) -> Permanent:
    """The log is not as it was written."""
    return Permanent(f"{name} is damaged: {what}: stop the controller and restore it from a backup")


def _ours(name: str, exc: Exception) -> BackendError:
    message = f"{name}: {str(exc).partition(' : <')[0]}"  # a Sentinel's says how its client is made
    word = str(exc).partition(" ")[0]
    if "DAMAGED" in str(exc):
        return damaged(name, str(exc).partition("DAMAGED ")[2])
    if isinstance(exc, _REFUSALS):
        return Permanent(f"{message}: see to the user, the password and what it may do")
    if isinstance(exc, _MOVED) or word in _MOVED_WORDS:
        return Moved(f"{message}: it is tried again", after_s=1.0)
    if isinstance(exc, _TRANSIENT) or word in _TRANSIENT_WORDS:
        return Retryable(f"{message}: it is tried again", after_s=1.0)
    return Permanent(message)


_REFUSALS: Final = (
    faults.AuthenticationError,
    faults.AuthorizationError,
    faults.NoPermissionError,
)
"""Looked at before the transient ones, of which some are a kind."""
_MOVED: Final = (
    faults.ConnectionError,
    faults.TimeoutError,
    faults.ReadOnlyError,
    faults.AskError,
    faults.TryAgainError,
    faults.ClusterDownError,
    faults.RedisClusterException,
)
_MOVED_WORDS: Final = frozenset({"LOADING", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "UNBLOCKED"})
"""First words of answers by which a node says that it is not the one to ask, or not yet."""
_TRANSIENT: Final = (faults.OutOfMemoryError,)
_TRANSIENT_WORDS: Final = frozenset({"OOM", "MISCONF", "NOREPLICAS", "BUSY"})
"""Those that an operator with more room can mend."""
