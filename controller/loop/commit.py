"""Group commit: events that come in while one append is under way share the next one.

An append costs one fsync, or one round trip, whatever it holds. So there is never more than one of
intake's at a time, and the next takes all that has come meanwhile, in the order in which it came.
Under no load an event waits for nobody.

Invariant: what waits is bounded. A caller is refused with `Busy` before its events are kept when

    more than `limit_bytes` of events wait already, or
    the present append has taken longer than `STALL_S`: the log is away or slow, and whoever
    comes now would only wait until its own patience ends, and then send everything again

When an append fails because the log is out of reach, all that wait fail with it: each would find
out for itself after the same time-out, one after the other.

It has a thread of its own. The default pool is shared with folds and calls of the ledger, any of
which may hang for as long as a database does. Rejected: waiting a moment for more to come (a sender
alone would pay for it); several appends at once (SQLite and Redis do one at a time anyway, and the
order of a sender's events would be lost).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from controller.errors import Busy, Retryable

LIMIT_BYTES: Final = 64 << 20
"""Of events that wait for the log."""

GROUP_BYTES: Final = 8 << 20
"""About how much one append takes, so that no transaction of the store grows without bound."""

STALL_S: Final = 3.0
LONGEST_S: Final = 30.0
"""The longest that a sender is told to wait."""

Append = Callable[[dict[str, Sequence[bytes]]], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    lines: Mapping[str, Sequence[bytes]]
    size: int
    done: asyncio.Future[None]


class GroupCommit:
    """Appends of many callers as few; all methods belong to one event loop.

    append    the log's own, called in a thread
    appended  told of each model's new end: the offset after the last event that was appended
    """

    def __init__(
        self,
        append: Append,
        *,
        appended: Callable[[Mapping[str, int]], None] = lambda _: None,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._append = append
        self._appended = appended
        self._limit_bytes = limit_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._waiting: deque[_Waiting] = deque()
        self._work: asyncio.Task[None] | None = None
        self._began_s: float | None = None
        self._took_s = 0.0
        self.waiting_bytes = 0

    async def append(self, lines: Mapping[str, Sequence[bytes]]) -> None:
        """Return once these events are durable.

        Raises:
            Busy: none of them was kept; they may be sent again after a while.
            Retryable: the log is out of reach.
        """
        size = sum(len(line) for own in lines.values() for line in own)
        self._require_room(size)
        own = _Waiting(lines, size, asyncio.get_running_loop().create_future())
        self._waiting.append(own)
        self.waiting_bytes += size
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._empty())
        await own.done

    def _require_room(self, size: int) -> None:
        if self._began_s is not None:
            age_s = asyncio.get_running_loop().time() - self._began_s
            if age_s > STALL_S:
                why = f"the event log has not answered for {age_s:.0f} s"
                raise Busy(f"{why}: send the same again later", after_s=STALL_S)
        if self._waiting and self.waiting_bytes + size > self._limit_bytes:
            groups = math.ceil(self.waiting_bytes / GROUP_BYTES)
            raise Busy(
                f"{self.waiting_bytes >> 20} MiB of events wait for the event log: send the same "
                "again later",
                after_s=min(LONGEST_S, max(1.0, groups * self._took_s)),
            )

    async def _empty(self) -> None:
        loop = asyncio.get_running_loop()
        while group := self._next():
            self._began_s = loop.time()
            appending = loop.run_in_executor(self._thread, self._append, _merged(group))
            await asyncio.wait({appending})
            self._took_s, self._began_s = loop.time() - self._began_s, None
            self._settle(group, appending)

    def _next(self) -> list[_Waiting]:
        """The callers that the next append serves: at least one, where anybody waits."""
        group: list[_Waiting] = []
        size = 0
        while self._waiting and (not group or size + self._waiting[0].size <= GROUP_BYTES):
            group.append(self._waiting.popleft())
            size += group[-1].size
        return group

    def _settle(
        self, group: Sequence[_Waiting], appending: asyncio.Future[Mapping[str, int]]
    ) -> None:
        fault = appending.exception()
        served = list(group)
        if isinstance(fault, Retryable):
            served += self._waiting
            self._waiting.clear()
        self.waiting_bytes -= sum(each.size for each in served)
        if fault is None:
            starts = appending.result()
            self._appended({m: s + _count(group, m) for m, s in starts.items()})
        for each in served:
            if each.done.done():
                continue  # its caller has gone
            if fault is None:
                each.done.set_result(None)
            else:
                each.done.set_exception(fault)


def _merged(group: Sequence[_Waiting]) -> dict[str, Sequence[bytes]]:
    if len(group) == 1:
        return dict(group[0].lines)
    merged: dict[str, list[bytes]] = {}
    for each in group:
        for model, lines in each.lines.items():
            merged.setdefault(model, []).extend(lines)
    return dict(merged)


def _count(group: Sequence[_Waiting], model: str) -> int:
    return sum(len(each.lines.get(model, ())) for each in group)
