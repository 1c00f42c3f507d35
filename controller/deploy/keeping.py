"""Objects of one resource, watched and kept as they are: what an answer to a write said, or later.

A spec that was written here is in the cache before its watch tells of it, and what the watch tells
of an older generation is passed over. So who reads after a write never sees what was before it.

The watch begins with the first `start`, because the resource may be one that a cluster lacks, and
costs one request however many objects there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from controller.deploy.client import Connection
from controller.deploy.faults import FieldConflict, NotFound, Stale
from controller.deploy.found import Key, key_of
from controller.deploy.objects import Change, Object, Resource
from controller.deploy.plan import Patch
from controller.deploy.watching import Feed, Watchers
from controller.errors import BackendError, Retryable

UNKNOWN_AFTER_S: Final = 10.0
_PROBE_AFTER_S: Final = 4.0
_GLANCE_S: Final = 1.0
_LOOKS: Final = 4


class Kept:
    """One resource in some namespaces (an empty sequence: in all). Any thread may call.

    changed  called with the key of an object that is other than it was, from a watcher's thread
    clock    monotonic seconds
    fence    raises `Deposed` when another controller leads
    """

    def __init__(  # noqa: PLR0913 - what is kept, whom it tells, and who may write
        self,
        connection: Connection,
        resource: Resource,
        *,
        namespaces: Sequence[str],
        clock: Callable[[], float],
        changed: Callable[[Key], None],
        fence: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._fence = fence
        self._resource = resource
        self._clock = clock
        self._changed = changed
        self._news = threading.Condition()
        self._objects: dict[Key, Object] = {}
        self._stopping = threading.Event()
        self._is_started = False
        feeds = [Feed(resource, namespace) for namespace in (namespaces or (None,))]
        self._watchers = Watchers(connection, feeds, self, clock)
        self._glancing = threading.Thread(target=self._glance, name="glancing", daemon=True)

    def start(self) -> None:
        """Begin to watch; again is nothing."""
        with self._news:
            if self._is_started:
                return
            self._is_started = True
        self._watchers.start()
        self._glancing.start()

    def stop(self) -> None:
        """End all threads."""
        self._stopping.set()
        with self._news:
            is_started = self._is_started
            self._news.notify_all()
        if not is_started:
            return
        self._watchers.stop()
        self._glancing.join()

    @property
    def is_known(self) -> bool:
        """Whether everything has been looked at since the start."""
        return self._watchers.is_known

    @property
    def is_lost(self) -> bool:
        """Whether nobody knows any more how the objects are."""
        is_silent = self._connection.silent_s > UNKNOWN_AFTER_S
        return is_silent or self._watchers.is_lost(UNKNOWN_AFTER_S)

    @property
    def trouble(self) -> str | None:
        """Why they cannot be watched."""
        return self._watchers.trouble

    def get(self, key: Key) -> Object | None:
        """An object as it was seen last."""
        with self._news:
            return self._objects.get(key)

    def fetch(self, key: Key) -> Object:
        """An object as it is now. Raises `NotFound`."""
        try:
            return self.put(self._connection.get(self._resource.path(*key)))
        except NotFound as exc:
            self._drop(key)
            raise NotFound(
                f"there is no {self._resource.kind} {key[1]} in namespace {key[0]} ({exc}): "
                "create it, or name another one in the policy"
            ) from exc

    def write(self, key: Key, step: Callable[[Object], Patch | None]) -> Object:
        """Apply what `step` makes of the object until it makes nothing; gives what there is then.

        What was seen last is looked at first, so that a change is one request. What `step` raises
        of that is believed only when it was read anew. A body names the version that was looked at,
        and the fence is asked before each apply: whoever slept in between is refused, looks again,
        and is told that another leads (see `kubernetes`).
        """
        found = self.get(key)
        is_fresh = found is None
        found = found or self.fetch(key)
        for _ in range(_LOOKS):
            try:
                change = step(found)
                if change is None:
                    return found
                found = self._apply(key, change)
                is_fresh = True
            except (Stale, FieldConflict):
                found, is_fresh = self.fetch(key), True
            except BackendError:
                if is_fresh:
                    raise
                found, is_fresh = self.fetch(key), True
        what = f"{self._resource.kind} {'/'.join(key)}"
        raise Retryable(f"{what} is changed by somebody else all the time")

    def _apply(self, key: Key, change: Patch) -> Object:
        self._fence()
        path = self._resource.path(*key)
        return self.put(self._connection.apply(path, change.body, force=change.force))

    def put(self, found: Object) -> Object:
        """Keep what the API server answered; gives the newest that is known."""
        key = key_of(found)
        with self._news:
            old = self._objects.get(key)
            if old is not None and _is_newer(old, found):
                return old
            self._objects[key] = found
            self._news.notify_all()
        return found

    def wait(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until it is so, looking whenever an object is new."""
        end = self._clock() + timeout_s
        with self._news:
            while not self._stopping.is_set():
                if is_so():
                    return True
                left_s = end - self._clock()
                if left_s <= 0 or not self._news.wait(left_s):
                    return is_so()
        return False

    # --- what the watchers tell -----------------------------------------------------------------

    def replaced(self, feed: Feed, items: list[Object]) -> None:
        """Everything, anew."""
        head = {"apiVersion": self._resource.version, "kind": self._resource.kind}
        present = {key_of(each) for each in items}
        with self._news:
            kept = [k for k in self._objects if feed.namespace in {None, k[0]}]
        for key in kept:
            if key not in present:
                self._drop(key)
        for each in items:
            self._take(head | each)

    def changed(self, _feed: Feed, change: Change) -> None:
        """One object."""
        if change.type == "DELETED":
            self._drop(key_of(change.object))
        else:
            self._take(change.object)

    def _take(self, found: Object) -> None:
        if "deletionTimestamp" in found["metadata"]:
            self._drop(key_of(found))
            return
        self.put(found)
        self._changed(key_of(found))

    def _drop(self, key: Key) -> None:
        with self._news:
            is_news = self._objects.pop(key, None) is not None
            self._news.notify_all()
        if is_news:
            self._changed(key)

    def _glance(self) -> None:
        while not self._stopping.wait(_GLANCE_S):
            self._connection.probe(_PROBE_AFTER_S)


def _is_newer(old: Object, found: Object) -> bool:
    """Whether a spec of the same object is older than the one that is kept."""
    mine, other = old["metadata"], found["metadata"]
    is_same = mine["uid"] == other["uid"]
    return is_same and int(mine.get("generation", 0)) > int(other.get("generation", 0))
