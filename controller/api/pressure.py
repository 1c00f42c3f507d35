"""How much is taken in at the same time: bodies being read, taken apart, waiting for the log.

Decides who is sent away with 429 before the memory grows. What counts is what is there: a body
weighs what has arrived of it (and what it unpacks to), from its first byte until its answer, so a
sender that promises much and sends nothing holds nothing. Invariant, at every moment:

    bytes of all bodies in flight    <= `BODIES_BYTES`
    requests that wait for an answer <= `REQUESTS`
    large bodies being taken apart   <= `TAKEN_APART_BYTES` of body, or one

Events in memory are several times as large as their text, which is what the third line is for: the
others wait as text. Connections are bounded by `controller.api.serving`, with whoever only holds
one.

Rejected: a limit on requests alone (one of 16 MiB is not one of 100 bytes); reserving what
`Content-Length` says (a promise costs its sender nothing).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from threading import Lock
from typing import Final, TypeVar

from controller.api.problems import ProblemError
from controller.errors import Retryable

BODIES_BYTES: Final = 64 << 20
REQUESTS: Final = 512
TAKEN_APART_BYTES: Final = 16 << 20

READERS: Final = 4
READS_WAITING: Final = 16
READ_S: Final = 5.0
"""Threads that ask the ledger, how many questions may wait for one, and for how long."""

_T = TypeVar("_T")


class Budget:
    """What may be in flight, and what is. `grow` may be called from any thread."""

    def __init__(self, *, limit_bytes: int = BODIES_BYTES, requests: int = REQUESTS) -> None:
        self._limit_bytes = limit_bytes
        self._limit_requests = requests
        self._lock = Lock()
        self._apart = asyncio.Condition()
        self._apart_bytes = 0
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        self.bytes = 0
        self.requests = 0
        self.refused = 0

    def body(self) -> Reservation:
        """The place of a body of which nothing has arrived yet."""
        return Reservation(self)

    def grow(self, size: int) -> None:
        """Take room; raises 429 when there is none."""
        with self._lock:
            if self.bytes + size <= self._limit_bytes:
                self.bytes += size
                return
        raise self._full(f"{self._limit_bytes >> 20} MiB of bodies are being taken in")

    def shrink(self, size: int) -> None:
        """Give room back."""
        with self._lock:
            self.bytes -= size

    @contextmanager
    def request(self) -> Iterator[None]:
        """One more request whose body has been read waits for its answer; 429 when too many do."""
        if self.requests >= self._limit_requests:
            raise self._full(f"{self._limit_requests} requests wait for the event log")
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @asynccontextmanager
    async def large(self, size: int) -> AsyncIterator[None]:
        """A large body's turn to be taken apart: from then until it is in the log."""
        async with self._apart:
            await self._apart.wait_for(
                lambda: not self._apart_bytes or self._apart_bytes + size <= TAKEN_APART_BYTES
            )
            self._apart_bytes += size
        try:
            yield
        finally:
            async with self._apart:
                self._apart_bytes -= size
                self._apart.notify_all()

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Do what takes long in the one thread that there is for it."""
        return await asyncio.get_running_loop().run_in_executor(self._decoder, work)

    def _full(self, why: str) -> ProblemError:
        self.refused += 1
        detail = f"{why}, which is as much as there is room for: send the same again later."
        return ProblemError(429, "busy", detail, headers={"Retry-After": "1"})


class Reservation:
    """What one body holds of the budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def grow(self, size: int) -> None:
        """Hold so much more; raises 429 when there is no room."""
        self._budget.grow(size)
        self._held += size

    def release(self) -> None:
        """Hold nothing any more."""
        held, self._held = self._held, 0
        self._budget.shrink(held)


class Readers:
    """Questions to the ledger, in threads of their own: one that hangs holds up nobody else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._asked = 0

    async def ask(self, question: Callable[[], _T]) -> _T:
        """The answer; raises `Retryable` when it does not come in time."""
        if self._asked >= READERS + READS_WAITING:
            raise Retryable("the ledger does not answer", after_s=READ_S)
        self._asked += 1
        asking = asyncio.get_running_loop().run_in_executor(self._threads, question)
        asking.add_done_callback(self._answered)
        try:
            async with asyncio.timeout(READ_S):
                return await asyncio.shield(asking)
        except TimeoutError as exc:
            why = f"the ledger has not answered for {READ_S:.0f} s"
            raise Retryable(why, after_s=READ_S) from exc

    def _answered(self, asked: asyncio.Future[_T]) -> None:
        self._asked -= 1
        if not asked.cancelled():
            asked.exception()  # whoever asked has been told, or has gone
