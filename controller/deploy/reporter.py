"""What Understudy writes into a cluster for people: statuses of policies, and Events.

One thread writes; whoever tells it something never waits. Of a status only the newest counts: what
was told while the API server was away and is overtaken is never written. News is written at once;
numbers that move with every request at most every `NUMBERS_S` per policy; what is as it was
written last, never. Of Events the oldest are dropped when there are too many, and counted.

Only a controller that leads writes (`may_write`); what a standby is told it keeps, so that it
writes what is true as soon as it leads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from controller.core.model import Json
from controller.deploy.client import Connection
from controller.deploy.events import EVENTS, Reference
from controller.deploy.faults import Exists, NotFound, Stale
from controller.deploy.objects import Object
from controller.deploy.policies import POLICIES
from controller.deploy.status import Told
from controller.errors import BackendError, Retryable

NUMBERS_S: Final = 30.0
"""Between two writes of a status in which only numbers have changed."""

LATER_S: Final = 60.0
"""Before a status that the API server refused is tried again."""

MOST_EVENTS: Final = 1_000
"""Events that wait for the API server."""

_LONGEST_PAUSE_S: Final = 10.0
_GLANCE_S: Final = 0.25

log = structlog.get_logger()


@dataclass(slots=True)
class _Page:
    """One policy's status: what is true, what stands there, and from when it may be written."""

    reference: Reference
    wanted: Told
    written: Told | None = None
    not_before: float = 0.0

    def due_at(self) -> float | None:
        """When it is to be written; None: it stands there already."""
        if self.written is not None and self.written.status == self.wanted.status:
            return None
        if self.written is not None and self.written.news == self.wanted.news:
            return self.not_before
        return 0.0


class Reporter:
    """Writes statuses and Events from its own thread, from `start` to `stop`.

    may_write  whether this controller leads
    clock      monotonic seconds
    """

    def __init__(
        self,
        connection: Connection,
        *,
        may_write: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._may_write = may_write
        self._clock = clock
        self._lock = threading.Lock()
        self._pages: dict[str, _Page] = {}
        self._unwritten: set[str] = set()
        self._refused: dict[str, float] = {}
        self._events: deque[Object] = deque(maxlen=MOST_EVENTS)
        self._stopping = threading.Event()
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self.trouble: str | None = None
        self.dropped = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is news and end; waits for no API server that is away."""
        self._stopping.set()
        self._work.set()
        self._thread.join()

    def status(self) -> dict[str, Json]:
        """For people."""
        with self._lock:
            return {
                "statuses_waiting": len(self._unwritten),
                "events_waiting": len(self._events),
                "events_dropped": self.dropped,
                "trouble": self.trouble,
            }

    def tell_status(self, reference: Reference, told: Told) -> None:
        """This is the status of a policy's object now."""
        with self._lock:
            page = self._pages.get(reference.uid)
            if page is None:
                self._pages[reference.uid] = page = _Page(reference, told)
            page.reference, page.wanted = reference, told
            self._note(page)
            is_news = page.written is None or page.written.news != told.news
        if is_news:
            self._work.set()

    def forget(self, reference: Reference) -> None:
        """The object is gone."""
        with self._lock:
            self._pages.pop(reference.uid, None)
            self._unwritten.discard(reference.uid)
            self._refused.pop(reference.uid, None)

    def tell_event(self, event: Object) -> None:
        """This happened."""
        with self._lock:
            if len(self._events) == MOST_EVENTS:
                self.dropped += 1
            self._events.append(event)
        self._work.set()

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.is_set():
            if pause_s:
                self._stopping.wait(pause_s)
            else:
                self._work.wait(_GLANCE_S)
            self._work.clear()
            pause_s = self._try_round(pause_s)
        self._try_round(0.0)

    def _try_round(self, pause_s: float) -> float:
        """Write what is due; how long to wait before the next attempt."""
        if not self._may_write():
            return 0.0
        try:
            self._write_statuses()
            self._write_events()
        except Retryable as exc:
            self._worry(str(exc))
            return min(max(exc.after_s, 2 * pause_s), _LONGEST_PAUSE_S)
        if not self._refused:
            self.trouble = None
        return 0.0

    def _worry(self, sentence: str) -> None:
        if self.trouble != sentence:
            log.warning("cannot report to the cluster", reason=sentence)
        self.trouble = sentence

    def _write_statuses(self) -> None:
        while (page := self._next()) is not None:
            told, reference = page.wanted, page.reference
            self._write_status(page, reference, told)
            if self._stopping.is_set() and not self._has_news():
                return

    def _has_news(self) -> bool:
        with self._lock:
            return any(self._pages[uid].due_at() == 0.0 for uid in self._unwritten)

    def _next(self) -> _Page | None:
        """The page that has been due for longest."""
        now = self._clock()
        with self._lock:
            due = [
                (at, uid)
                for uid in self._unwritten
                if (at := self._pages[uid].due_at()) is not None
                and max(at, self._refused.get(uid, 0.0)) <= now
            ]
            return self._pages[min(due)[1]] if due else None

    def _write_status(self, page: _Page, reference: Reference, told: Told) -> None:
        body = POLICIES.head(reference.namespace, reference.name)
        body["metadata"]["uid"] = reference.uid  # never of another object of the same name
        body["status"] = told.status
        path = POLICIES.path(reference.namespace, reference.name)
        try:
            self._connection.apply(path, body, subresource="status", force=True)
        except (NotFound, Stale):
            self.forget(reference)  # it is gone, or another one has its name now
            return
        except Retryable:
            raise
        except BackendError as exc:
            self._refused[reference.uid] = self._clock() + LATER_S
            self._worry(f"the status of {reference.namespace}/{reference.name}: {exc}")
            return
        with self._lock:
            self._refused.pop(reference.uid, None)
            page.written = told
            page.not_before = self._clock() + NUMBERS_S
            if self._pages.get(reference.uid) is page:
                self._note(page)

    def _note(self, page: _Page) -> None:
        """Whether a page is to be written: only those are looked at again and again."""
        if page.due_at() is None:
            self._unwritten.discard(page.reference.uid)
        else:
            self._unwritten.add(page.reference.uid)

    def _write_events(self) -> None:
        while True:
            with self._lock:
                if not self._events:
                    return
                event = self._events[0]
            self._write_event(event)
            with self._lock:
                if self._events and self._events[0] is event:
                    self._events.popleft()

    def _write_event(self, event: Object) -> None:
        try:
            self._connection.create(EVENTS.path(event["metadata"]["namespace"]), event)
        except (Exists, NotFound):
            return  # it was told already; or its namespace is gone
        except Retryable:
            raise
        except BackendError as exc:
            log.warning("event refused", note=event["note"], reason=str(exc))
