"""A pool of keep-alive HTTP/1.1 connections, for requests that must be counted one by one.

A request is sent once and never again: whether an answer that got lost was an exposure is for the
accounts to find out, and a silent retry would hide it. That, and 0.2 ms of CPU per request where
httpx takes 1 ms, is why the users have a client of their own; the framing is h11's.

Invariant: a connection goes back to the pool only after a complete answer on it; whatever else
happens (error, time-out, cancellation) it is closed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Lost(Exception):  # noqa: N818 - the accounts' word
    """A request without an answer; the text says why."""


class Pool:
    """Connections to one server, opened as they are needed, at most `size` at once."""

    def __init__(self, url: str, *, size: int = 64, timeout_s: float = 5.0) -> None:
        address = urlsplit(url)
        if address.hostname is None:
            raise ValueError(f"found {url!r}, expected a URL such as http://127.0.0.1:8080")
        self._host, self._port = address.hostname, address.port or 80
        self._authority = address.netloc
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(size)
        self._idle: list[_Connection] = []

    async def post(self, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Send one request, wait for its answer.

        Raises:
            Lost: no connection, no complete answer, or no answer within the time-out.
        """
        request = h11.Request(
            method="POST",
            target=target,
            headers=[
                ("host", self._authority),
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                *headers.items(),
            ],
        )
        async with self._places:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._exchange(request, body)
            except TimeoutError as exc:
                raise Lost(f"no answer within {self._timeout_s:g} s") from exc
            except OSError as exc:
                raise Lost(f"connection: {exc}") from exc
            except h11.RemoteProtocolError as exc:
                raise Lost(f"answer: {exc}") from exc

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _exchange(self, request: h11.Request, body: bytes) -> Answer:
        connection = await self._take()
        try:
            answer = await connection.exchange(request, body)
        except BaseException:
            connection.close()
            raise
        if connection.renew():
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
            connection.close()
        return _Connection(*await asyncio.open_connection(self._host, self._port))


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)

    def is_open(self) -> bool:
        """Whether the server has not closed it while it was idle."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    async def exchange(self, request: h11.Request, body: bytes) -> Answer:
        parts = (request, h11.Data(data=body), h11.EndOfMessage())
        self._writer.write(b"".join(self._http.send(part) or b"" for part in parts))
        response: h11.Response | None = None
        received: list[bytes] = []
        while True:
            match await self._next():
                case h11.Response() as head:
                    response = head
                case h11.Data(data=data):
                    received.append(bytes(data))
                case h11.EndOfMessage():
                    break
                case h11.ConnectionClosed():
                    raise Lost("connection: closed before an answer came")
        assert response is not None
        headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}
        return Answer(response.status_code, headers, b"".join(received))

    def renew(self) -> bool:
        """Make ready for the next request; False when the server wants the connection closed."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def close(self) -> None:
        self._writer.close()

    async def _next(self) -> h11.Event:
        while not isinstance(event := self._http.next_event(), h11.Event):
            if event is h11.PAUSED:
                raise Lost("answer: more of it than was asked for")
            self._http.receive_data(await self._reader.read(_CHUNK))
        return event
