"""A cluster of Redis of our own: primaries, and a replica of each where that is wanted."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from contextlib import ExitStack
from typing import Any, Self

from redis.cluster import ClusterNode, RedisCluster

from tests.processes import free_port, until
from tests.stores.redis import NOT_INSTALLED, Redis

NODE_TIMEOUT_MS = 1_000
"""How long a node may be silent before another takes its place."""


class Cluster:
    """Three primaries, each with so many replicas; `address` gives a log of its own in it."""

    def __init__(self, replicas: int = 0) -> None:
        self._replicas = replicas
        self._names = itertools.count(1)
        self._stack = ExitStack()
        self.nodes: list[Redis] = []

    def start(self) -> Self:
        """Ready for commands."""
        program = shutil.which("redis-cli")
        assert program, NOT_INSTALLED
        options = {"cluster-enabled": "yes", "cluster-node-timeout": NODE_TIMEOUT_MS}
        for _ in range(3 * (1 + self._replicas)):
            node = Redis(**options, **{"cluster-port": free_port()})
            self.nodes.append(self._stack.enter_context(node))
        hosts = [f"127.0.0.1:{node.port}" for node in self.nodes]
        command = [program, "--cluster", "create", *hosts]
        options_ = ["--cluster-replicas", str(self._replicas), "--cluster-yes"]
        subprocess.run([*command, *options_], check=True, capture_output=True)
        until("every node knows the cluster", lambda: all(map(self._is_ready, self.nodes)))
        return self

    def address(self, **options: object) -> str:
        """The address of a new log."""
        given = {"prefix": f"log{next(self._names)}", "replicas": self._replicas} | options
        query = "&".join(f"{name}={value}" for name, value in given.items())
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}?{query}"

    def client(self) -> RedisCluster:
        """A client of the whole, to look behind the log's back; also where a node is silent."""
        make: Any = ClusterNode
        nodes = [make("127.0.0.1", node.port) for node in self.nodes]
        return RedisCluster(startup_nodes=nodes, socket_timeout=0.5, require_full_coverage=False)

    def holder(self, key: str) -> Redis:
        """The primary that has a key."""
        with self.client() as client:
            port = client.get_node_from_key(key).port
        return next(node for node in self.nodes if node.port == port)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _is_ready(self, node: Redis) -> bool:
        with node.client() as client:
            info = client.execute_command("CLUSTER INFO")
            text = info if isinstance(info, str) else str(info)
            links = client.info("replication")
        is_linked = links["role"] == "master" or links["master_link_status"] == "up"
        has_replicas = links["role"] != "master" or links["connected_slaves"] >= self._replicas
        return "'cluster_state': 'ok'" in text and is_linked and has_replicas
