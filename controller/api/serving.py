"""The server: uvicorn, whose shutdown ends the event streams first.

Uvicorn waits for open responses before it tells an application that it is ending, and a stream of
events never ends by itself: with one dashboard open, Ctrl-C would hang until a time-out. So the
hub is closed at the moment in which the server begins to end.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from controller.api.live import Hub

_GRACE_S = 3
"""How long requests in flight may take once the server ends."""


class Server(uvicorn.Server):
    """A uvicorn server that closes its streams when it ends."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process: it has a router and a log to end as well."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams, then connections, then the application."""
        self._hub.close()
        await super().shutdown(sockets)


def server(app: FastAPI, *, host: str = "127.0.0.1", port: int = 0) -> Server:
    """A server of `app`; `await server.serve()` runs it, `should_exit = True` ends it."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return Server(config, app.state.hub)
