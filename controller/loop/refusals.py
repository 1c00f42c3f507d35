"""What was refused at the door is kept for people, without making anybody wait who was let in.

The table of refused events is in the ledger, and the ledger may be slow, locked or away. So they
wait in memory, and a thread of their own writes them in batches. All are counted, by reason; kept
are as many as an `Allowance` gives and as may wait at once. How many were not kept is counted as
well, and stands in the table itself as a row of its own.

A caller may wait a moment until what it brought is kept (`settled`); it never waits where the last
attempt failed. What waits in memory is lost with the process: its senders were told.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeAlias

import structlog

from controller.errors import Retryable, UnderstudyError
from controller.loop.allowance import Allowance

WAITING: Final = 20_000
WAITING_BYTES: Final = 16 << 20
"""Refused events that wait in memory, at most, and their texts."""

TEXT_BYTES: Final = 4_096
"""Of an event: as much as the ledger keeps."""

BATCH: Final = 1_000
PATIENCE_S: Final = 0.5
_AGAIN_S: Final = 2.0

UNKEPT: Final = "not_kept"
"""The reason of the rows that say how many were not kept."""

Refused: TypeAlias = tuple[str, str, bytes]
"""Reason, detail and the event's text."""

log = structlog.get_logger()


class Refusals:
    """Keeps refused events; all methods belong to one event loop.

    reject   the ledger's own, called in a thread
    refused  how many there were since the start, by reason
    unkept   how many of them were only counted
    """

    def __init__(self, reject: Callable[[str, Sequence[Refused]], None], source: str) -> None:
        self._reject = reject
        self._source = source
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="refusals")
        self._waiting: deque[Refused] = deque()
        self._bytes = 0
        self._allowance = Allowance()
        self._untold = 0
        self._work: asyncio.Task[None] | None = None
        self._is_well = True
        self._is_closing = False
        self.refused: Counter[str] = Counter()
        self.unkept = 0

    def keep(self, refused: Sequence[Refused]) -> None:
        """Count them, and keep as many as there is room for."""
        self.refused.update(reason for reason, _, _ in refused)
        room = min(len(refused), WAITING - len(self._waiting))
        room = self._allowance.take(room, at=asyncio.get_running_loop().time())
        kept = 0
        for reason, detail, text in refused[:room]:
            if self._bytes >= WAITING_BYTES:
                break
            self._waiting.append((reason, detail[:TEXT_BYTES], text[:TEXT_BYTES]))
            self._bytes += _size(self._waiting[-1])
            kept += 1
        self.unkept += len(refused) - kept
        self._untold += len(refused) - kept
        if self._waiting and (self._work is None or self._work.done()):
            self._work = asyncio.create_task(self._empty())

    async def settled(self) -> None:
        """Wait until all is kept; not for long, and not at all where the last attempt failed."""
        if self._work is not None and self._is_well:
            await asyncio.wait({self._work}, timeout=PATIENCE_S)
            self._is_well &= self._work.done()

    async def close(self) -> None:
        """Keep what still waits; not for long."""
        self._is_closing = True
        if self._work is not None:
            await asyncio.wait({self._work}, timeout=_AGAIN_S)
        self._thread.shutdown(wait=False, cancel_futures=True)
        if left := len(self._waiting):
            log.warning("refused events are lost that waited for the ledger", events=left)

    async def _empty(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = list(islice(self._waiting, BATCH))
            untold, told = self._untold, list(batch)
            if untold:
                told.append((UNKEPT, f"{untold} more refused events were counted, not kept", b""))
            writing = loop.run_in_executor(self._thread, self._reject, self._source, told)
            await asyncio.wait({writing})
            fault = writing.exception()
            if isinstance(fault, Retryable) and not self._is_closing:
                self._is_well = False
                await asyncio.sleep(_AGAIN_S)
                continue
            if fault is not None:
                self._give_up(fault, len(batch))
            else:
                self._is_well = True
                self._untold -= untold
            for _ in batch:
                self._bytes -= _size(self._waiting.popleft())

    def _give_up(self, fault: BaseException, count: int) -> None:
        """These will never be kept: the ledger is another's, or damaged."""
        self.unkept += count
        self._untold += count
        is_bug = not isinstance(fault, UnderstudyError)
        log.warning(
            "refused events are not kept",
            events=count,
            why=str(fault),
            exc_info=fault if is_bug else None,
        )


def _size(refused: Refused) -> int:
    return len(refused[1]) + len(refused[2])
