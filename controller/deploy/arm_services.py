"""The arms' own Services: made for each Deployment that somebody has asked for.

A headless Service, owned by its Deployment, is what makes EndpointSlices per arm, and what an
HTTPRoute can name. It is made the first time that somebody asks for the arms of a policy, because
only the policy knows the port; again when it was changed or deleted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import structlog

from controller.core.policy import Policy
from controller.deploy.cache import Cache
from controller.deploy.client import Connection
from controller.deploy.found import ArmService, Deployment, Key
from controller.deploy.objects import DEPLOYMENTS, SERVICES, Object
from controller.deploy.words import OURS, selector, service_name
from controller.errors import BackendError

AGAIN_S: Final = 15.0
"""Before a Service that could not be made is tried again."""
_LOOK_S: Final = 1.0

log = structlog.get_logger()


def service_of(found: Deployment) -> Key:
    """Namespace and name of an arm's own Service."""
    return found.key[0], service_name(found.model, found.version)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A Service that an arm is to have."""

    deployment: Deployment
    port: int
    target_port: int

    @property
    def key(self) -> Key:
        return service_of(self.deployment)

    def is_met(self, found: ArmService | None) -> bool:
        return (
            found is not None
            and found.arm == self.deployment.arm
            and found.owner == self.deployment.uid
            and found.ports == ((self.port, self.target_port),)
        )

    @property
    def body(self) -> Object:
        found = self.deployment
        body = SERVICES.head(*self.key)
        body["metadata"]["labels"] = {**selector(found.model, found.version), **OURS}
        body["metadata"]["ownerReferences"] = [
            {
                "apiVersion": DEPLOYMENTS.version,
                "kind": DEPLOYMENTS.kind,
                "name": found.key[1],
                "uid": found.uid,
            }
        ]
        ports = [{"name": "model", "port": self.port, "targetPort": self.target_port}]
        body["spec"] = {
            "clusterIP": "None",
            "selector": selector(found.model, found.version),
            "ports": ports,
        }
        return body


class ArmServices:
    """Makes them in a thread of its own.

    cache      of the objects that are there, and the lock that guards it
    may_write  whether Services may be made: not by a controller that only stands by
    clock      monotonic seconds
    """

    def __init__(
        self,
        connection: Connection,
        cache: Cache,
        lock: threading.Lock,
        *,
        may_write: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._lock = lock
        self._may_write = may_write
        self._clock = clock
        self._wanted: dict[Key, _Wanted] = {}
        self._tried: dict[Key, float] = {}
        self._troubles: dict[Key, str] = {}
        self._stopping = threading.Event()
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._ensure, name="arm services", daemon=True)

    def start(self) -> None:
        """Begin to make what is wanted."""
        self._thread.start()

    def stop(self) -> None:
        """End; a request that is under way is waited for."""
        self._stopping.set()
        self._work.set()
        self._thread.join()

    def trouble(self, found: Deployment) -> str | None:
        """Why a Deployment has no Service. The lock is held."""
        return self._troubles.get(service_of(found))

    @property
    def troubles(self) -> list[str]:
        """Why Services could not be made. The lock is held."""
        return list(self._troubles.values())

    def want(self, deployments: Collection[Deployment], policy: Policy) -> None:
        """These Deployments are to have theirs, with the ports of the policy. The lock is held."""
        deploy = policy.spec.deploy
        assert deploy is not None
        assert deploy.kubernetes is not None
        target_port = deploy.kubernetes.port
        port = (deploy.gateway.service_port if deploy.gateway else None) or target_port
        for each in deployments:
            wanted = _Wanted(each, port, target_port)
            if not wanted.is_met(self._cache.service(wanted.key)):
                if self._wanted.get(wanted.key) != wanted:
                    self._wanted[wanted.key] = wanted
                    self._tried.pop(wanted.key, None)
                    self._work.set()
            elif wanted.key in self._wanted:
                self._forget(wanted.key)

    def _ensure(self) -> None:
        while not self._stopping.is_set():
            self._work.wait(_LOOK_S)
            self._work.clear()
            if not self._may_write():
                continue
            for wanted in self._due():
                if not self._stopping.is_set():
                    self._make(wanted)

    def _due(self) -> list[_Wanted]:
        """Services to make now; those of Deployments that are gone are forgotten."""
        now = self._clock()
        with self._lock:
            for key, wanted in list(self._wanted.items()):
                if not self._cache.has(wanted.deployment):
                    self._forget(key)
            return [
                wanted
                for key, wanted in self._wanted.items()
                if key not in self._tried or now - self._tried[key] >= AGAIN_S
            ]

    def _forget(self, key: Key) -> None:
        """Nothing is to be done, or to be said, about a Service any more."""
        self._wanted.pop(key, None)
        self._tried.pop(key, None)
        self._troubles.pop(key, None)

    def _make(self, wanted: _Wanted) -> None:
        try:
            made = self._connection.apply(SERVICES.path(*wanted.key), wanted.body)
        except BackendError as exc:
            trouble = f"Service {wanted.key[0]}/{wanted.key[1]} cannot be made: {exc}"
            with self._lock:
                self._tried[wanted.key] = self._clock()
                is_new = self._troubles.get(wanted.key) != trouble
                self._troubles[wanted.key] = trouble
            if is_new:
                log.warning("an arm has no endpoints", reason=trouble)
            return
        with self._lock:
            # What the watch will tell; until then it would be made again and again.
            self._cache.put("services", made)
            self._forget(wanted.key)
