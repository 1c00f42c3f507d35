"""One open watch: a connection on which the API server tells what happens.

When to list, to resume and to wait is `watching.py`. The reading of a watch is the `kubernetes`
package's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final, Protocol

from kubernetes.client import ApiException
from kubernetes.watch import Watch
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

from controller.deploy.faults import of_status, unreachable
from controller.deploy.objects import Change
from controller.errors import Retryable

WATCH_S: Final = 300
"""How long the API server may keep one watch open; it is then resumed."""


class Line(Protocol):
    """What a watch is opened on: a connection to the API server."""

    @property
    def host(self) -> str:
        """Where the API server is, for people."""
        ...

    def stream(self, path: str, query: Mapping[str, str]) -> HTTPResponse:
        """The open answer to a watch."""
        ...

    def hear(self) -> None:
        """Note that the API server spoke."""
        ...


class Watching:
    """One open watch: an iterator of changes. `stop` ends it, from any thread."""

    def __init__(
        self,
        connection: Line,
        path: str,
        query: Mapping[str, str],
        opened: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._path = path
        self._query = query
        self._opened = opened
        self._answer: HTTPResponse | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """End the iteration, also where it waits for the API server.

        `Watch.stop` would not do: it is forgotten when it comes before the answer does.
        """
        self._is_stopped = True
        if self._answer is not None:
            _hang_up(self._answer)

    def __iter__(self) -> Iterator[Change]:
        """Changes and bookmarks as they come.

        Raises `Gone` when the position is too old, `Retryable` when the connection is lost.
        """
        try:
            for event in Watch().stream(self._open, timeout_seconds=WATCH_S):
                if self._is_stopped:
                    return
                self._connection.hear()
                if event is not None:
                    yield Change(event["type"], event["object"])
        except (KeyError, TypeError) as exc:
            raise Retryable(f"the API server tells of what is no event: {exc!r}") from exc
        except ApiException as exc:
            raise of_status(int(exc.status or 0), str(exc.reason)) from exc
        except (HTTPError, OSError) as exc:
            if not self._is_stopped:
                raise unreachable(self._connection.host, exc) from exc

    def _open(self, *, timeout_seconds: int, **_kwargs: object) -> HTTPResponse:
        query = {**self._query, "watch": "true", "timeoutSeconds": str(timeout_seconds)}
        self._answer = self._connection.stream(self._path, query)
        if self._is_stopped:
            _hang_up(self._answer)
        self._opened()
        return self._answer


def _hang_up(answer: HTTPResponse) -> None:
    """Close the socket under an answer, which ends a read that is waiting in another thread."""
    sock = getattr(answer.connection, "sock", None)
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
