"""A way to the API server that can be cut: bytes are passed on, connections are counted."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Proxy:
    """Listens on a loopback port; `with Proxy(port) as proxy`."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._is_passable = True
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        with self._lock:
            every, self._open = self._open, []
        for each in every:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def block(self) -> None:
        """Reset every connection, and each new one, until `unblock`."""
        self._is_passable = False
        self.cut()

    def unblock(self) -> None:
        """Let connections through again."""
        self._is_passable = True

    def _accept(self) -> None:
        while True:
            try:
                incoming, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_passable:
                incoming.close()
                continue
            try:
                outgoing = socket.create_connection(self._target)
            except OSError:
                incoming.close()
                continue
            with self._lock:
                self._open += [incoming, outgoing]
            for pair in ((incoming, outgoing), (outgoing, incoming)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
