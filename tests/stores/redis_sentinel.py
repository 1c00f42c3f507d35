"""A Redis of our own that may fail over: a primary, replicas, and Sentinels that watch them."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import redis

from tests.processes import Child, free_port, until
from tests.stores.redis import NOT_INSTALLED, Redis

DOWN_MS = 1_000
"""How long the primary may be silent before the replica takes its place."""

NAME = "ours"


class Watched:
    """One primary, its replicas, three Sentinels; `address` gives a log of its own.

    After a failover the old primary is a replica only some 10 s after it came back: who wants to go
    on before then needs two replicas.
    """

    def __init__(self, replicas: int = 1) -> None:
        self._replicas = replicas
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-sentinels-"))
        self._names = itertools.count(1)
        self._stack = ExitStack()
        self._ports = [free_port() for _ in range(3)]
        self.nodes: list[Redis] = []

    def start(self) -> Self:
        """Ready for commands, and to fail over."""
        first = self._stack.enter_context(Redis())
        self.nodes = [first]
        for _ in range(self._replicas):
            replica = Redis(replicaof=f"127.0.0.1 {first.port}")
            self.nodes.append(self._stack.enter_context(replica))
        for port in self._ports:
            self._watch(port, first.port)
        until("the Sentinels know each other and the replicas", self._is_ready)
        return self

    def address(self, **options: object) -> str:
        """The address of a new log."""
        given = {"prefix": f"log{next(self._names)}"} | options
        query = "&".join(f"{name}={value}" for name, value in given.items())
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"redis+sentinel://{hosts}/{NAME}/0?{query}"

    def primary(self) -> Redis:
        """The node that the Sentinels say is the primary."""
        with self._sentinel(self._ports[0]) as client:
            _, port = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", NAME)
        return next(node for node in self.nodes if node.port == int(port))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self, port: int, primary: int) -> None:
        program = shutil.which("redis-server")
        assert program, NOT_INSTALLED
        file = self._folder / f"{port}.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_MS}\n"
            f"sentinel failover-timeout {NAME} 5000\n"
        )
        name = f"sentinel-{port}"
        child = Child(name, (program, file, "--sentinel"), self._folder / f"{port}.log")
        child.start()
        self._stack.callback(child.stop)

    def _sentinel(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, decode_responses=True)

    def _is_ready(self) -> bool:
        return all(map(self._knows_all, self._ports))

    def _knows_all(self, port: int) -> bool:
        try:
            with self._sentinel(port) as client:
                (found,) = client.execute_command("SENTINEL MASTERS").values()
        except (redis.ConnectionError, ValueError):
            return False
        return int(found["num-other-sentinels"]) == 2 and int(found["num-slaves"]) == self._replicas
