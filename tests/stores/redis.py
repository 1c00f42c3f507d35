"""A Redis of our own: an instance in a folder, on a free port, that ends with the tests."""

from __future__ import annotations

import itertools
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Self

import redis

from tests.processes import Child, free_port, until

NOT_INSTALLED = "Redis is not installed: run `make services`"


class Redis:
    """One instance, which keeps everything on the disk; `address` gives a log of its own in it."""

    def __init__(self, **settings: object) -> None:
        program = shutil.which("redis-server")
        assert program, NOT_INSTALLED
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-redis-"))
        self.port = free_port()
        self._names = itertools.count(1)
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self._folder,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "repl-diskless-sync-delay": 0,
        } | settings
        given = [text for name, value in options.items() for text in (f"--{name}", value)]
        self._server = Child("redis-server", (program, *given), self._folder / "log")

    def start(self) -> Self:
        """Ready for commands."""
        self._server.start()
        until("Redis answers", self._answers, every_s=0.02)
        return self

    def kill(self) -> None:
        """SIGKILL: what it did not write down is lost."""
        self._server.stop()

    def pause(self) -> None:
        """Be silent, as if cut off, until `resume`."""
        self._server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._server.signal(signal.SIGCONT)

    def address(self, **options: object) -> str:
        """The address of a new log."""
        given = {"prefix": f"log{next(self._names)}"} | options
        query = "&".join(f"{name}={value}" for name, value in given.items())
        return f"redis://127.0.0.1:{self.port}/0?{query}"

    def client(self) -> redis.Redis:
        """A plain client, to look behind the log's back."""
        return redis.Redis(port=self.port)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        self._server.check()
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False
