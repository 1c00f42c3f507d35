"""Which policies are in force: the RolloutPolicy objects of a cluster, watched.

Every object is one of these, and says so in its condition `Valid`:

    in force        its present document is what its model is rolled out by
    faulty          the document cannot be used. The one before stays in force, if there was one:
                    a slip of the pen must not stop a rollout, nor change it
    second          its model's name, or its route's prefix, belongs to another object already. Who
                    has it keeps it; after a restart, whoever the object's status says had it, then
                    the older one. When it becomes free, the next one gets it

Invariant: no two policies in force have one model or one prefix. Whoever listens is told of each
change once, in an order in which that is true after every call: what gives way first.

After a restart "the one before" is what the ledger adopted last, which `remembered` gives.

What is in force does not depend on whether the API server can be reached: a watch that is lost
changes nothing, and the list after it says what was missed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog

from controller.core.model import Json
from controller.core.policy import API_VERSION, KIND, Policy, digest, parse
from controller.core.policy.crd import PLURAL
from controller.deploy.client import Connection
from controller.deploy.events import Reference
from controller.deploy.found import Key, key_of
from controller.deploy.held import (
    DUPLICATE_MODEL,
    DUPLICATE_ROUTE,
    AppliedPolicy,
    Claim,
    Held,
    claims_of,
    read,
    second,
    with_before,
)
from controller.deploy.manifests import LAST_APPLIED, source
from controller.deploy.objects import Change, Object, Resource
from controller.deploy.status import VALID, Validity
from controller.deploy.watching import Feed, Watchers
from controller.errors import PolicyError

POLICIES: Final = Resource(API_VERSION, PLURAL, KIND)

log = structlog.get_logger()


class Listener(Protocol):
    """Who carries out policies. Called from the watcher's thread, one call at a time."""

    def applied(self, applied: AppliedPolicy) -> None:
        """This policy is in force from now on, new or instead of the one of the same model."""
        ...

    def removed(self, model: str) -> None:
        """No policy of this model is in force any more."""
        ...

    def judged(
        self,
        reference: Reference,
        validity: Validity,
        status: dict[str, Json],
        *,
        is_in_force: bool,
    ) -> None:
        """What is to be said of an object; `status` is what it said when it was read.

        is_in_force  whether a policy of this object is, be it its present one or the one before
        """
        ...

    def forgotten(self, reference: Reference) -> None:
        """The object is gone."""
        ...


class ClusterPolicies:
    """Watches RolloutPolicy objects in some namespaces (an empty sequence: in all).

    remembered  the document of a model's policy that was in force last, of an earlier process
    clock       monotonic seconds
    """

    def __init__(
        self,
        connection: Connection,
        *,
        namespaces: Sequence[str],
        listener: Listener,
        remembered: Callable[[str], str | None],
        clock: Callable[[], float],
    ) -> None:
        self._listener = listener
        self._remembered = remembered
        self._lock = threading.RLock()
        self._objects: dict[Key, Held] = {}
        self._owners: dict[Claim, Key] = {}
        feeds = [Feed(POLICIES, namespace) for namespace in (namespaces or (None,))]
        self._watchers = Watchers(connection, feeds, self, clock)

    def start(self) -> None:
        """Begin to watch."""
        self._watchers.start()

    def stop(self) -> None:
        """End, and wait for the threads."""
        self._watchers.stop()

    @property
    def is_known(self) -> bool:
        """Whether all objects have been listed since the start."""
        return self._watchers.is_known

    @property
    def trouble(self) -> str | None:
        """Why policies cannot be watched now."""
        return self._watchers.trouble

    @property
    def faults(self) -> dict[str, str]:
        """What is wrong with objects, by their name for people."""
        with self._lock:
            return {
                source(*key): held.said.message
                for key, held in sorted(self._objects.items())
                if held.said is not None and not held.said.is_valid
            }

    def in_force(self) -> list[AppliedPolicy]:
        """Every policy that is in force, by model."""
        with self._lock:
            every = [held.in_force for held in self._objects.values() if held.in_force is not None]
        return sorted(every, key=lambda applied: applied.policy.model)

    def reference(self, model: str) -> Reference | None:
        """The object whose policy is in force for a model."""
        with self._lock:
            owner = self._owners.get(("model", model))
            return self._objects[owner].reference if owner is not None else None

    # --- what the watcher tells -----------------------------------------------------------------

    def replaced(self, feed: Feed, items: list[Object]) -> None:
        """All objects that there are."""
        with self._lock:
            present = {key_of(item) for item in items}
            for key in list(self._objects):
                if key not in present and feed.namespace in (None, key[0]):
                    self._drop(key)
            changed = [held.key for item in items if (held := self._put(item)) is not None]
            self._settle(changed)

    def changed(self, feed: Feed, change: Change) -> None:  # noqa: ARG002 - a Sink's signature
        """One object."""
        with self._lock:
            if change.type == "DELETED":
                self._drop(key_of(change.object))
                self._settle(())
            elif (held := self._put(change.object)) is not None:
                self._settle((held.key,))

    # --- inside ---------------------------------------------------------------------------------

    def _put(self, found: Object) -> Held | None:
        """Keep an object; None when nothing of it that matters has changed.

        Writing its status is a change, too: most of what a watch tells is our own echo.
        """
        meta = found["metadata"]
        key = key_of(found)
        note = (meta.get("annotations") or {}).get(LAST_APPLIED)
        seen = (meta["uid"], meta["generation"], hash(note))
        old = self._objects.get(key)
        if old is not None and old.seen == seen:
            return None
        if old is not None and old.reference.uid != meta["uid"]:
            self._drop(key)  # deleted and made anew while nobody watched
            old = None
        held = read(found, seen)
        if old is not None:
            held.in_force, held.claims, held.told = old.in_force, old.claims, old.told
            held.was_valid = old.was_valid
        self._objects[key] = held
        return held

    def _drop(self, key: Key) -> None:
        held = self._objects.pop(key, None)
        if held is None:
            return
        self._release(held)
        self._listener.forgotten(held.reference)

    def _release(self, held: Held) -> None:
        for claim in held.claims:
            del self._owners[claim]
        held.claims = frozenset()
        if held.in_force is not None:
            held.in_force = None
            self._listener.removed(held.key[1])

    def _settle(self, changed: Iterable[Key]) -> None:
        """Put in force what can be, until nothing more can: what gave way may help another."""
        waiting = {
            key
            for key, held in self._objects.items()
            if held.said is not None and held.said.reason in {DUPLICATE_MODEL, DUPLICATE_ROUTE}
        }
        queue = sorted(waiting.union(changed), key=self._precedence)
        again = True
        while again:
            again = False
            for key in queue:
                before = self._objects[key].claims
                self._judge(self._objects[key])
                again = again or bool(before - self._objects[key].claims)

    def _precedence(self, key: Key) -> tuple[object, ...]:
        held = self._objects[key]
        return (held.in_force is None, not held.was_valid, held.created, key)

    def _judge(self, held: Held) -> None:
        if held.policy is None or held.document is None:
            self._keep_the_one_before(held)
            return
        rival = self._rival(held.key, claims_of(held.policy))
        if rival is not None:
            fault = second(*rival)
            self._say(held, with_before(fault, held.in_force))
            return
        self._enforce(held, held.policy, held.document)
        self._say(held, VALID)

    def _keep_the_one_before(self, held: Held) -> None:
        assert held.fault is not None
        if held.in_force is None:
            self._recall(held)
        self._say(held, with_before(held.fault, held.in_force))

    def _recall(self, held: Held) -> None:
        """Go on with what an earlier process had in force."""
        document = self._remembered(held.key[1])
        if document is None:
            return
        try:
            policy = parse(document, "the ledger")
        except PolicyError as exc:
            log.warning("policy of before cannot be used", model=held.key[1], reason=str(exc))
            return
        if policy.model == held.key[1] and self._rival(held.key, claims_of(policy)) is None:
            self._enforce(held, policy, document)

    def _rival(self, key: Key, claims: frozenset[Claim]) -> tuple[Claim, Key] | None:
        for claim in sorted(claims):
            owner = self._owners.get(claim)
            if owner is not None and owner != key:
                return claim, owner
        return None

    def _enforce(self, held: Held, policy: Policy, document: str) -> None:
        claims = claims_of(policy)
        for claim in held.claims - claims:
            del self._owners[claim]
        for claim in claims:
            self._owners[claim] = held.key
        held.claims = claims
        before = held.in_force
        held.in_force = AppliedPolicy(policy, document, held.reference)
        if before is None or digest(before.policy) != digest(policy):
            self._listener.applied(held.in_force)

    def _say(self, held: Held, validity: Validity) -> None:
        held.was_valid = validity.is_valid
        said = (validity, held.reference.generation)
        if held.told != said:
            held.told = said
            is_in_force = held.in_force is not None
            self._listener.judged(held.reference, validity, held.status, is_in_force=is_in_force)
            held.status = {}  # whoever listens has it; a thousand of them are megabytes
