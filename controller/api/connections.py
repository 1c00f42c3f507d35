"""Connections: as many as there is room for, and none that is held for nothing.

uvicorn waits for ever for the first request of a connection, and for the rest of a head that has
begun. So a thousand connections that say nothing would use up the process's files, and nobody else
could come in. Here a connection in which no request is under way is closed after `HEAD_S`, and
where there are more than `limit`, the one that has been idle longest makes room for the new one. If
none is idle, the new one is answered 503.

A connection that is closed while its client does not read goes on holding its answer, which may be
megabytes, and its file. So it is cut off after `HEAD_S` more, and a second for each
`FLUSH_BYTES_PER_S` of it.

h11 takes heads of up to 64 KiB and no more, which is why it is the parser whatever else is
installed.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

LIMIT: Final = 1_000
HEAD_S: Final = 10.0
FLUSH_BYTES_PER_S: Final = 64 << 10

_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


def limit() -> int:
    """How many connections there may be: half of the files that the process may open at most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return LIMIT if soft == resource.RLIM_INFINITY else min(LIMIT, soft // 2)


class Door:
    """Makes the connections of one server, and closes those that are in the way."""

    def __init__(self, *, limit: int, head_s: float = HEAD_S) -> None:
        self.limit = limit
        self.head_s = head_s
        self.open: set[Connection] = set()
        self.idle: dict[Connection, None] = {}
        """Those without a request, the longest idle first."""

    def __call__(self, **given: Any) -> Connection:
        """What uvicorn asks for where a client has connected."""
        return Connection(self, **given)


class Connection(H11Protocol):
    """One connection, which knows whether a request is under way."""

    def __init__(self, door: Door, **given: Any) -> None:
        super().__init__(**given)
        self._door = door
        self._impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, or another's, or go."""
        super().connection_made(transport)
        door = self._door
        if len(door.open) >= door.limit and not self._take_place():
            transport.write(_FULL)
            transport.close()
            return
        door.open.add(self)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note whether a request is under way by now."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Idle again, unless the next request is here already."""
        super().on_response_complete()
        self._look()

    def _look(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        is_busy = cycle is not None and not cycle.response_complete
        if is_busy or self not in self._door.open:
            self._calm()
        elif self._impatience is None:
            self._door.idle[self] = None
            self._impatience = self.loop.call_later(self._door.head_s, self._end)

    def _calm(self) -> None:
        self._door.idle.pop(self, None)
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _leave(self) -> None:
        self._calm()
        self._door.open.discard(self)

    def _end(self) -> None:
        """Close; what was said of a request will not be answered, and what was answered is sent."""
        self._leave()
        self.transport.close()
        if waiting := self.transport.get_write_buffer_size():
            wait_s = self._door.head_s + waiting / FLUSH_BYTES_PER_S
            self.loop.call_later(wait_s, self.transport.abort)

    def _take_place(self) -> bool:
        longest = next(iter(self._door.idle), None)
        if longest is None:
            return False
        longest._end()  # noqa: SLF001 - one of our own
        return True
