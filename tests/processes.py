"""Child processes that end with the tests, however those end, and ports for them."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_FIRST, _PER_PROCESS, _BLOCKS = 10_300, 250, 38
"""Below 19 800: the kernel takes none of these ports for an outgoing connection (a server that is
stopped and started again finds its port still free, though its clients have been knocking all the
while), and `serve` seeks ports for its Envoys from 20 000 on."""


@functools.cache
def _own_ports() -> tuple[Iterator[int], socket.socket]:
    """The ports of one block, round and round, which no other process of the tests has.

    Between the choice of a port and its binding a neighbour could choose it too. The name of the
    socket reserves the block: the kernel gives it to one process, and takes it back at its end.
    """
    for block in range(_BLOCKS):
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0understudy-tests-ports-{block}")
        except OSError:
            mark.close()
            continue
        first = _FIRST + block * _PER_PROCESS
        return itertools.cycle(range(first, first + _PER_PROCESS)), mark
    raise AssertionError(f"{_BLOCKS} processes of the tests have taken all ports")


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, and that nobody else is about to."""
    for port in itertools.islice(_own_ports()[0], _PER_PROCESS):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("every port of this process is taken")


def until(what: str, is_so: Callable[[], T], timeout_s: float = 30, every_s: float = 0.05) -> T:
    """The first answer of `is_so` that is true."""
    end = time.monotonic() + timeout_s
    while True:
        if answer := is_so():
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; the last answer: {answer!r}")
        time.sleep(every_s)


class Child:
    """One program; `start` and `stop` may alternate. Its words go to `log`.

    The kernel kills it when the thread that started it ends (PR_SET_PDEATHSIG), so that a killed
    pytest leaves nothing behind; start it from a thread that lives on.
    """

    def __init__(
        self, name: str, command: Sequence[object], log: Path, prefix: Sequence[object] = ()
    ) -> None:
        self.name, self.log = name, log
        leash = ("setpriv", "--pdeathsig", "KILL", "--")
        self._command = [str(part) for part in (*prefix, *leash, *command)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process' number; an error before `start`."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; readiness is for the caller to see."""
        assert not self.is_running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C in a terminal reaches pytest alone.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.log.parent,
            )

    def check(self) -> None:
        """Fail with its last words if it has ended."""
        assert self.is_running, f"{self.name} has ended; its last words:\n{self.tail()}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def stop(self, grace_s: float = 0) -> None:
        """End it: with SIGTERM first if there is a grace period. Without effect if it has ended."""
        if self._process is None:
            return
        if grace_s and self.is_running:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self._process.kill()
        self._process.wait()

    def tail(self, lines: int = 25) -> str:
        """The last lines that it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
