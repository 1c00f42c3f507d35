"""One resource, listed once and then watched: a thread that keeps somebody informed.

    list -> watch from there -> … the watch ends -> watch from where it was -> …
      ^                               410, the history is gone                 |
      +-------------------------------------------------------------------------+

A list is made at the start and when the API server has forgotten what happened since; never only
because a connection broke. Bookmarks move the position while nothing happens. `lost_at` says since
when it has not been listening: a watch that the API server ended as usual and that is open again
at once never was lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from controller.deploy.client import Connection
from controller.deploy.faults import Gone
from controller.deploy.objects import Change, Object, Resource
from controller.deploy.open_watch import Watching
from controller.errors import BackendError

FIRST_S, LONGEST_S = 0.2, 2.0
"""Pauses between attempts."""

log = structlog.get_logger()


class Sink(Protocol):
    """Who is kept informed. Called from the watcher's thread, one call at a time."""

    def replaced(self, feed: Feed, items: list[Object]) -> None:
        """All objects that there are."""
        ...

    def changed(self, feed: Feed, change: Change) -> None:
        """One object, as it is now or was at last."""
        ...


@dataclass(frozen=True, slots=True)
class Feed:
    """What is watched: a resource, in one namespace or (None) in all, by labels."""

    resource: Resource
    namespace: str | None
    labels: str = ""

    @property
    def path(self) -> str:
        """Where the API server has it."""
        return self.resource.path(self.namespace)

    def __str__(self) -> str:
        """For people."""
        where = f"namespace {self.namespace}" if self.namespace else "all namespaces"
        return f"{self.resource.plural} in {where}"


class Watcher:
    """Keeps a sink informed of one feed, from `start` to `stop`."""

    def __init__(
        self, connection: Connection, feed: Feed, sink: Sink, clock: Callable[[], float]
    ) -> None:
        self.feed = feed
        self.has_listed = False
        self.lost_at: float | None = clock()
        self.trouble: str | None = None
        self.lists = 0
        self._connection = connection
        self._sink = sink
        self._clock = clock
        self._version: str | None = None
        self._stopping = threading.Event()
        self._watching: Watching | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {feed}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, also a watch that is waiting."""
        self._stopping.set()
        if self._watching is not None:
            self._watching.stop()

    def join(self) -> None:
        """Wait for the thread to end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            if not self._stopping.is_set():
                # A bug. What is known gets old, and nobody may rely on it.
                self._say("nobody watches any more, see the log")
                self._lose()

    def _watch(self) -> None:
        pause_s = FIRST_S
        while not self._stopping.is_set():
            began = self._clock()
            try:
                self._listen()
                self.trouble = None
            except Gone:
                log.info("watch is too old, listing again", what=str(self.feed))
                self._version = None
                self._lose()
            except BackendError as exc:
                self._say(str(exc))
                self._lose()
            is_short = self._clock() - began < 1.0
            pause_s = min(2 * pause_s, LONGEST_S) if is_short else FIRST_S
            if is_short:
                self._stopping.wait(pause_s)

    def _lose(self) -> None:
        if self.lost_at is None:
            self.lost_at = self._clock()

    def _say(self, sentence: str) -> None:
        if self.trouble != sentence and not self._stopping.is_set():
            log.warning("not watching", what=str(self.feed), reason=sentence)
        self.trouble = sentence

    def _listen(self) -> None:
        """List if need be, and watch until the watch ends."""
        if self._version is None:
            listing = self._connection.list(self.feed.path, labels=self.feed.labels)
            self.lists += 1
            self._sink.replaced(self.feed, listing.items)
            self._version = listing.version
            self.has_listed = True
        self._watching = self._connection.watch(
            self.feed.path,
            version=self._version,
            labels=self.feed.labels,
            opened=self._opened,
        )
        if self._stopping.is_set():
            return
        for change in self._watching:
            if change.type != "BOOKMARK":
                self._sink.changed(self.feed, change)
            self._version = change.version

    def _opened(self) -> None:
        self.lost_at = None
        self.trouble = None


class Watchers:
    """The watchers of several feeds, which begin and end together."""

    def __init__(
        self, connection: Connection, feeds: Iterable[Feed], sink: Sink, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._every = [Watcher(connection, feed, sink, clock) for feed in feeds]

    def start(self) -> None:
        """Begin to watch."""
        for watcher in self._every:
            watcher.start()

    def stop(self) -> None:
        """End, and wait for the threads."""
        for watcher in self._every:
            watcher.stop()
        for watcher in self._every:
            watcher.join()

    @property
    def is_known(self) -> bool:
        """Whether everything has been looked at since the start."""
        return all(watcher.has_listed for watcher in self._every)

    @property
    def trouble(self) -> str | None:
        """Why one of them cannot watch."""
        found = ((each.feed, each.trouble) for each in self._every)
        return next((f"{feed} cannot be watched: {why}" for feed, why in found if why), None)

    @property
    def lists(self) -> int:
        """How often everything was listed."""
        return sum(watcher.lists for watcher in self._every)

    def is_lost(self, patience_s: float) -> bool:
        """Whether one of them has not been listening for so long."""
        now = self._clock()
        lost = (watcher.lost_at for watcher in self._every)
        return any(at is not None and now - at >= patience_s for at in lost)
