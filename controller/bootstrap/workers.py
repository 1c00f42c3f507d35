"""Workers of partitions: one in this process, or some as children of `serve`.

A child is on a leash: it ends with the controller that started it, however that ends. One that died
is started again; the others have taken its partitions by then or do so soon. Addresses of stores
may hold passwords, so they go to children by the environment.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time  # noqa: TID251 - the wall clock is taken here and handed to the worker
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from controller.bootstrap.ending import Ending
from controller.core.policy import Policy
from controller.errors import Retryable
from controller.ledger import Limits, open_ledger
from controller.loop.worker import Worker
from controller.settings import Retention, StoreUrls, configure_logs
from controller.stream import open_stream

_AGAIN_S: Final = 1.0
_END_S: Final = 10.0

log = structlog.get_logger()


def work(stores: StoreUrls, keep: Retention, *, slots: int) -> int:
    """Fold partitions until SIGTERM or Ctrl-C; the exit code."""
    configure_logs()
    stopping, limits = threading.Event(), limits_of(keep)
    ending = Ending(stopping.set)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ending)
    name = f"{socket.gethostname()}_{os.getpid()}"
    while not stopping.is_set():
        try:
            with (
                closing(open_stream(stores.stream)) as stream,
                closing(open_ledger(stores.ledger, clock=time.time, limits=limits)) as ledger,
            ):
                worker = Worker(
                    name, stream=stream, ledger=ledger, slots=slots, clock=time.monotonic
                )
                log.info("worker", name=name, slots=slots)
                worker.run(stopping)
        except Retryable as exc:
            log.warning("waiting for the stores", why=str(exc))
            stopping.wait(exc.after_s)
    return 0


def limits_of(keep: Retention) -> Limits:
    """What the ledger drops."""
    return Limits(keep.log_s, keep.rejected, keep.decisions_s)


def wanted(policies: Sequence[Policy], asked: int | None) -> int:
    """How many children `serve` starts: what was asked, else one for each partition and core."""
    if asked is not None:
        return asked
    partitions = [policy.spec.partitions for policy in policies if policy.spec.partitions > 1]
    return min(sum(partitions), os.cpu_count() or 1)


class Children:
    """Worker processes of this machine."""

    def __init__(self, stores: StoreUrls, state: Path, keep: Retention, count: int) -> None:
        self._stores = stores
        self._keep = keep
        self._state = state
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * count

    async def keep(self) -> None:
        """Start them, and again whenever one has ended; until cancelled."""
        while True:
            for place, process in enumerate(self._processes):
                if process is not None and process.poll() is None:
                    continue
                if process is not None:
                    log.warning("a worker has ended", code=process.returncode)
                try:
                    # From this very thread: its end would be taken for that of the parent.
                    self._processes[place] = self._spawn()
                except OSError as exc:
                    log.warning("a worker cannot be started", why=str(exc))
            await asyncio.sleep(_AGAIN_S)

    async def stop(self) -> None:
        """End them; those that do not end by themselves are killed."""
        running = [each for each in self._processes if each is not None]
        for process in running:
            process.terminate()
        await asyncio.gather(*(asyncio.to_thread(_ended, process) for process in running))

    def _spawn(self) -> subprocess.Popen[bytes]:
        leash = ("-m", "controller.leash", str(os.getpid()), sys.executable)
        own = ("-m", "controller.cli", "worker", "--state", str(self._state.absolute()))
        addresses = {
            "UNDERSTUDY_STREAM": self._stores.stream,
            "UNDERSTUDY_LEDGER": self._stores.ledger,
            "UNDERSTUDY_RETAIN": _span(self._keep.log_s),
            "UNDERSTUDY_KEEP_REJECTED": str(self._keep.rejected),
        }
        return subprocess.Popen(
            [sys.executable, *leash, *own],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | addresses,
            start_new_session=True,
        )


def _span(seconds: float | None) -> str:
    return "forever" if seconds is None else f"{math.ceil(seconds)}s"


def _ended(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
