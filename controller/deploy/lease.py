"""Who leads: one holder of the Lease `understudy` (`coordination.k8s.io/v1`) at a time.

The rules are those of client-go, so that `kubectl get lease` reads as people expect, but for two:

    a standby takes a Lease that nobody holds, or one that it has seen unchanged for as long as the
        Lease itself says, by its own monotonic clock: no two clocks are ever compared
    a standby that could not look for `deadline_s` begins to count anew, because the leader could
        not renew then either: a leader outlives an outage of the API server (not so in client-go)
    a leader stops when it sees another holder, and only then: while the API server is away nobody
        can take over, except when the leader alone is cut off, and then the terms of the ledger
        fence it (client-go stops at its deadline, which would hold a rollout for no reason)

Worst case from `kill -9` to the next leader: a renewal is seen `retry_s` late, and then `lease_s`
pass; the standby wakes at that moment and not at its next round. With 10 s and 2 s that is 12 s.
A leader that ends gives the Lease back, and the next one has it within `retry_s`.

`kubernetes.leaderelection` (37.0) was looked at and is not used. It ends at its deadline while the
API server is away; it cannot be stopped and does not give the Lease back; a connection that is
refused ends its thread, since its lock catches only answers of the API server; it measures time by
the wall clock; and it works on typed models, which the rest of this layer does without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import structlog

from controller.deploy.client import Connection
from controller.deploy.faults import Exists, NotFound, Stale
from controller.deploy.objects import Object, Resource
from controller.errors import BackendError

Clock: TypeAlias = Callable[[], float]

LEASES: Final = Resource("coordination.k8s.io/v1", "leases", "Lease")
NAME: Final = "understudy"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a Lease lasts, how long one may fail to look at it, and how often one looks."""

    lease_s: float = 10.0
    deadline_s: float = 7.0
    retry_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A Lease as it was found, and since when it has looked like this."""

    document: Object
    since: float

    @property
    def holder(self) -> str:
        """Who holds it; empty when nobody does."""
        return str(self._spec.get("holderIdentity") or "")

    @property
    def transitions(self) -> int:
        """How often it changed hands."""
        return int(self._spec.get("leaseTransitions") or 0)

    @property
    def ends(self) -> float:
        """When it ends if it is not renewed."""
        return self.since + float(self._spec.get("leaseDurationSeconds") or 0)

    def is_as(self, document: Object) -> bool:
        """Whether the Lease has not been renewed between this and that."""
        return bool(self._spec == (document.get("spec") or {}))

    @property
    def _spec(self) -> dict[str, Any]:
        return self.document.get("spec") or {}


class Lease:
    """This controller's part in the election, in a thread of its own.

    identity  unique to this process: a restarted one is another
    clock     monotonic seconds
    wall      epoch seconds, only written into the Lease for people to read
    gained    called in the thread when this controller leads from now on
    lost      called in the thread with a sentence when it no longer does; not after `stop`

    `holder` is who was seen to lead last; `trouble` says why the Lease cannot be looked after.
    """

    def __init__(  # noqa: PLR0913 - what an election needs
        self,
        connection: Connection,
        *,
        identity: str,
        clock: Clock,
        wall: Clock,
        gained: Callable[[], None],
        lost: Callable[[str], None],
        timing: Timing | None = None,
    ) -> None:
        self.identity = identity
        self.is_leader = False
        self.holder = ""
        self.trouble: str | None = None
        self._connection = connection
        self._clock = clock
        self._wall = wall
        self._gained = gained
        self._lost = lost
        self._timing = timing or Timing()
        self._path = LEASES.path(connection.namespace, NAME)
        self._seen: Seen | None = None
        self._looked = float("-inf")
        self._acquired = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Stand for election from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Withdraw, and give the Lease back if it is ours. Stop acting first."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._try(self._turn)
                self._stopping.wait(self._pause())
        finally:
            if self.is_leader and not self._stopping.is_set():
                self._lose("nobody looks after the Lease any more")
        if self.is_leader:
            self.is_leader = False
            self._try(self._release)

    def _try(self, work: Callable[[], None]) -> None:
        """Do it; when the API server does not, say so once, and it is tried again."""
        try:
            work()
        except BackendError as exc:
            if self.trouble is None:
                log.warning("lease", holder=self.holder, leads=self.is_leader, trouble=str(exc))
            self.trouble = str(exc)
        else:
            self.trouble = None

    def _pause(self) -> float:
        """Until the next look: the usual time, or until the Lease that we wait for ends."""
        usual = self._timing.retry_s
        if self._seen is None or self.is_leader or self.trouble is not None:
            return usual
        return min(usual, max(0.05, self._seen.ends - self._clock()))

    def _turn(self) -> None:
        if self.is_leader and self._seen is not None:
            try:
                self._write(self._seen)  # optimistic: nobody else has touched it
            except (Stale, NotFound):
                self._seen = None
            else:
                return
        self._look()

    def _look(self) -> None:
        try:
            document = self._connection.get(self._path)
        except NotFound:
            self._create()
            return
        seen = self._seen = self._observed(document)
        self.holder = seen.holder
        if seen.holder == self.identity:  # also where the answer to our own writing was lost
            self._write(seen)
            return
        if seen.holder and self.is_leader:
            self._lose(f"{seen.holder} holds the Lease")
        elif not seen.holder or self._clock() >= seen.ends:
            self._take(seen)

    def _observed(self, document: Object) -> Seen:
        """The Lease, and since when it has been so in front of our eyes without a long blink."""
        now, before = self._clock(), self._seen
        has_blinked = now - self._looked > self._timing.deadline_s
        self._looked = now
        if before is None or has_blinked or not before.is_as(document):
            return Seen(document, now)
        return Seen(document, before.since)

    def _take(self, seen: Seen) -> None:
        try:
            self._write(seen)
        except Stale:
            return  # another was faster, or it has just been renewed
        log.info("leading", identity=self.identity, before=seen.holder or None)

    def _create(self) -> None:
        head = LEASES.head(self._connection.namespace, NAME)
        body = head | {"spec": self._spec(None)}
        path = LEASES.path(self._connection.namespace)
        try:
            self._hold(self._connection.create(path, body))
        except Exists:
            return  # another was faster

    def _write(self, seen: Seen) -> None:
        """Renew or take; `Stale` when anybody has changed it since it was seen."""
        self._hold(self._connection.replace(self._path, self._with(seen, self._spec(seen))))

    def _hold(self, document: Object) -> None:
        self._looked = self._clock()
        self._seen = Seen(document, self._looked)
        self.holder = self.identity
        if not self.is_leader:
            self.is_leader = True
            self._gained()

    def _lose(self, why: str) -> None:
        self.is_leader = False
        log.error("lost the lead", identity=self.identity, why=why)
        self._lost(why)

    def _release(self) -> None:
        """Leave the Lease to whoever looks next, if it still is as we left it."""
        if self._seen is None:
            return
        nobodys = {"holderIdentity": None, "leaseDurationSeconds": 1}
        spec = self._spec(self._seen) | nobodys
        try:
            self._connection.replace(self._path, self._with(self._seen, spec))
        except Stale:
            return  # it is another's already
        self.holder = ""

    def _spec(self, seen: Seen | None) -> dict[str, Any]:
        """What we write: that we hold it, since when, and until when."""
        now = self._now()
        is_ours = seen is not None and seen.holder == self.identity
        if not is_ours or not self._acquired:
            self._acquired = now
        transitions = 0 if seen is None else seen.transitions + (0 if is_ours else 1)
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._timing.lease_s)),
            "acquireTime": self._acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    def _with(self, seen: Seen, spec: dict[str, Any]) -> Object:
        """The Lease with our part replaced; what others keep in it stays."""
        return seen.document | {"spec": (seen.document.get("spec") or {}) | spec}

    def _now(self) -> str:
        return datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
