"""The server: uvicorn, made to be one part of a process that has others.

Three habits of uvicorn are changed. It waits for open responses before it tells an application that
it is ending, and a stream of events never ends by itself: so the hub is closed at the moment in
which the server begins to end, or Ctrl-C would hang with one dashboard open. It takes the process's
signals and raises them again afterwards, which would end the process before the router and the log
are closed: whoever runs the loop owns the signals, and calls `stop`. It ends the process when its
port is taken: here the port is bound at once, and `OSError` is raised to the caller.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvicorn
from fastapi import FastAPI

from controller.api.connections import Door, limit
from controller.api.live import Hub

_GRACE_S = 3
"""How long requests in flight may take once the server ends."""


class Server(uvicorn.Server):
    """A server of one app on one socket, which is bound from the beginning.

    url        where it listens, with the port that was found
    listening  set once it answers
    """

    def __init__(self, config: uvicorn.Config, hub: Hub, listener: socket.socket) -> None:
        super().__init__(config)
        self._hub = hub
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.listening = asyncio.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until `stop` is called."""
        await super().serve([self._listener, *(sockets or [])])

    def stop(self) -> None:
        """Begin to end; `serve` returns within the grace, and at once when nothing is in flight."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams, then connections, then the application."""
        self._hub.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs the loop."""
        yield


def server(app: FastAPI, *, host: str = "127.0.0.1", port: int = 0) -> Server:
    """A server of `app` on a port that is bound when this returns; 0 finds a free one.

    Raises:
        OSError: the port is taken, or the host is not this machine's.
    """
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", Door(limit=limit())),
        ws="none",
        lifespan="on",
        log_level="error",  # a client that talks nonsense is no news
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=config.backlog)
    # asyncio does so for sockets that say that they are TCP, which those of `create_server` do not:
    # head and body of an answer are two writes, and the second would wait 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Server(config, app.state.hub, listener)
