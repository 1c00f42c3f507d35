"""Ships the access log of a router to a controller elsewhere: every line at least once.

One loop reads and sends:

    read the next lines -> exposures -> send until they are taken -> write the position -> delete
    files that are wholly behind it

Invariant: the position on disk is never ahead of what the sink has taken, so a crash at any point
sends some lines again and loses none; exposures are idempotent by their request id. A line that is
no exposure is sent as it is, because the controller counts and keeps what it cannot read.

Another loop keeps the disk in order while the first may be waiting for a controller that is away:
it rotates a log that has grown large, and beyond the disk's limit deletes the oldest rotated files
whole, but for the one that is being sent: what is in memory is on the disk, too, so that a kill
loses nothing that nobody counted. That is the only way in which lines are lost; their number is
counted and logged.

Rejected: dropping the newest lines (the oldest exposures are those whose attribution window closes
first, so they are worth least); sending from memory only (a restart of the sidecar would lose it).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from controller.errors import Permanent, Retryable
from controller.router.access_log import exposure_lines
from controller.router.admin import Admin
from controller.router.sink import Sink
from controller.router.tail import Tail, rotated, rotation_target

EVERY_S = 1.0
"""Between reads while the log gives nothing more: exposures come in micro-batches anyway."""

LEAST = 500
"""Events in one request, at least. A controller that has no time answers many late, and would have
to take them all again: each attempt that fails halves the next request, each that succeeds doubles
it."""

BACKOFF_S = (0.5, 5.0)
"""Between attempts that fail: less than the controller waits for us after an outage."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes: of a read, of a log that is rotated, of all files of the log."""

    batch: int = 1 << 20
    rotate: int = 64 << 20
    disk: int = 1 << 30


@dataclass(slots=True)
class Counts:
    """Lines of the log by what became of them, since the start.

    shipped    taken by the sink as exposures
    malformed  taken by the sink as they are, to be counted there; or empty
    unmatched  requests that were of no model
    refused    of those shipped, what the sink would not use
    dropped    lost: the disk was full, or the sink will never take them
    failures   attempts to send that failed
    unwritten  attempts of the router to write to its log that failed: those lines never were
    """

    shipped: int = 0
    malformed: int = 0
    unmatched: int = 0
    refused: int = 0
    dropped: int = 0
    failures: int = 0
    unwritten: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    """What a read gave, and where the log goes on after it."""

    position: str
    events: Sequence[bytes]
    bad: Sequence[bytes]
    unmatched: int


class Shipper:
    """Ships one log; all methods belong to one event loop.

    admin  the router's admin interface; without it the log is not rotated, and so never dropped
    """

    def __init__(
        self,
        log_path: Path,
        state: Path,
        sink: Sink,
        *,
        admin: Admin | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._path = log_path
        self._kept = state / "position"
        self._sink = sink
        self._admin = admin
        self._limits = limits or Limits()
        self._committed = _read_position(self._kept)
        self._tail = Tail(log_path, self._committed)
        self._ending = asyncio.Event()
        self._patience_s = BACKOFF_S[0]
        self._most = sys.maxsize
        self._unwritten: int | None = None
        self.counts = Counts()
        self.trouble: str | None = None

    async def run(self, *, until_router_is_gone: bool = False) -> None:
        """Ship until `stop`, and then until nothing is left.

        until_router_is_gone  after `stop`, wait for what a router writes that is draining
        """
        while True:
            is_over = self._ending.is_set() and await self._is_over(until_router_is_gone)
            if (batch := self._next()) is not None:
                await self._deliver(batch)
            elif is_over:
                return
            else:
                await self._pause(EVERY_S)

    def stop(self) -> None:
        """Let `run` return once it has shipped what there is."""
        self._ending.set()

    def abandon(self) -> None:
        """Say what is left after a `run` that was cut short."""
        log.warning("not all was shipped; the next start goes on", bytes=self.waiting_bytes)

    async def tidy(self) -> None:
        """Keep the disk in order, for ever."""
        while True:
            with suppress(OSError):  # a file went meanwhile; the next look sees it
                await self._rotate()
                self._drop()
            await self._ask_after_writes()
            await asyncio.sleep(EVERY_S)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the log that the sink has not taken."""
        files = _sizes(self._path)
        inode, offset = _place(self._committed)
        behind = next((i for i, (each, _) in enumerate(files) if each == inode), None)
        if behind is None:
            return sum(size for _, size in files)
        return max(0, sum(size for _, size in files[behind:]) - offset)

    # --- reading and sending ------------------------------------------------------------------

    def _next(self) -> _Batch | None:
        lines, position = self._tail.read(self._limits.batch)
        if not lines or position is None:
            return None
        decoded = exposure_lines(lines)
        events = [event for each in decoded.events.values() for event in each]
        return _Batch(position, events, [line for line, _ in decoded.bad], decoded.unmatched)

    async def _deliver(self, batch: _Batch) -> None:
        """Send until it is taken, then commit."""
        await self._send([*batch.events, *(line for line in batch.bad if line.strip())])
        self.counts.shipped += len(batch.events)
        self.counts.malformed += len(batch.bad)
        self.counts.unmatched += batch.unmatched
        self._commit(batch.position)

    async def _send(self, lines: Sequence[bytes]) -> None:
        while lines:
            some = lines[: self._most]
            try:
                refusals = await self._sink.send(some)
            except Retryable as exc:
                self._most = max(LEAST, len(some) // 2)
                await self._failed(exc)
                continue
            except Permanent as exc:
                await self._divided(some, exc)
            else:
                self._most = max(self._most, 2 * len(some))
                self._succeeded(refusals)
            lines = lines[len(some) :]

    async def _divided(self, lines: Sequence[bytes], fault: Permanent) -> None:
        """Send halves of what will not be taken whole, until the line is found that is at fault."""
        if len(lines) > 1:
            middle = len(lines) // 2
            await self._send(lines[:middle])
            await self._send(lines[middle:])
            return
        self.counts.dropped += 1
        log.error("a line is dropped that will never be taken", line=repr(lines[0]), why=str(fault))

    async def _failed(self, fault: Retryable) -> None:
        self.counts.failures += 1
        wait_s = max(fault.after_s, self._patience_s)
        self._patience_s = min(2 * self._patience_s, BACKOFF_S[1])
        self.trouble = str(fault)
        log.warning("not shipped yet", why=str(fault), again_in_s=wait_s)
        await self._pause(wait_s)

    def _succeeded(self, refusals: Sequence[str]) -> None:
        self._patience_s = BACKOFF_S[0]
        if self.trouble is not None:
            self.trouble = None
            log.info("shipping again")
        if refusals:
            self.counts.refused += len(refusals)
            log.warning("refused", lines=len(refusals), first=refusals[0])

    def _commit(self, position: str) -> None:
        """Write the position down, and delete files that are wholly behind it.

        Where the disk is full, the position on it stays behind, which a later one makes good; a
        restart before that sends some lines again. Deleting may be what makes room.
        """
        fresh = self._kept.with_suffix(".new")
        try:
            fresh.write_text(position)
            fresh.replace(self._kept)
        except OSError as exc:
            log.warning("the position is not written down", why=str(exc))
        self._committed = position
        self._tail.forget(position)

    async def _pause(self, seconds: float) -> None:
        """Wait, shorter when asked to end."""
        if self._ending.is_set():
            await asyncio.sleep(min(seconds, BACKOFF_S[0]))
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    async def _is_over(self, until_router_is_gone: bool) -> bool:  # noqa: FBT001 - of `run`
        """Whether no more lines will come; asked before the last read."""
        return not until_router_is_gone or self._admin is None or await self._admin.is_gone()

    # --- the disk -----------------------------------------------------------------------------

    async def _rotate(self) -> None:
        """Rotate a large log; where the router was not reached the last time, ask it again."""
        if self._admin is None:
            return
        if self._path.exists():
            if self._path.stat().st_size <= self._limits.rotate:
                return
            self._path.rename(rotation_target(self._path))
        elif not rotated(self._path):
            return
        try:
            await self._admin.reopen_logs()
        except Retryable as exc:
            log.warning("the router has not reopened its log yet", why=str(exc))

    async def _ask_after_writes(self) -> None:
        """Notice what the router could not write; the first answer says what was before us."""
        if self._admin is None:
            return
        try:
            found = await self._admin.failed_writes()
        except Retryable:
            return  # it is not there, and writes nothing
        before, self._unwritten = self._unwritten, found
        fresh = found if before is not None and found < before else found - (before or 0)
        if before is None or not fresh:
            return
        self.counts.unwritten += fresh
        log.error("the router cannot write its log, exposures are lost: make room", writes=fresh)

    def _drop(self) -> None:
        """Delete the oldest rotated files while all files are beyond the disk's limit."""
        files = [*rotated(self._path), *([self._path] if self._path.exists() else [])]
        total = sum(each.stat().st_size for each in files)
        for oldest in files[:-1]:
            if total <= self._limits.disk:
                return
            if oldest.stat().st_ino == _place(self._tail.position)[0]:
                continue
            total -= oldest.stat().st_size
            lost = _lines(oldest)
            oldest.unlink()
            self.counts.dropped += lost
            log.error("lines are dropped: the disk limit", file=oldest.name, lines=lost)


def _lines(file: Path) -> int:
    """How many lines a file has, the last one with or without its end."""
    count, last = 0, b"\n"
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")


def _read_position(file: Path) -> str | None:
    """The position of an earlier run; without one that can be read, everything is sent again."""
    try:
        text = file.read_text()
        _place(text)
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("the position cannot be read; the whole log is sent again", file=str(file))
        return None
    return text


def _place(position: str | None) -> tuple[int, int]:
    """Inode and offset of a position; no file has the inode -1."""
    if position is None:
        return -1, 0
    inode, offset, _head = position.split(":", 2)
    return int(inode), int(offset)


def _sizes(path: Path) -> list[tuple[int, int]]:
    """Inode and size of each file of a log, oldest first."""
    found = []
    for each in (*rotated(path), path):
        with suppress(FileNotFoundError):
            stat = each.stat()
            found.append((stat.st_ino, stat.st_size))
    return found
