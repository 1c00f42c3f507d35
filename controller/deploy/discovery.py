"""The arms of all models, as the cluster has them: watched, cached, and given from the cache.

Four resources are watched: Deployments and our own arms' Services and EndpointSlices by their
labels, HorizontalPodAutoscalers all. Nothing is asked per model and nothing is asked again and
again: what an idle cluster costs does not depend on how many models there are.

For each arm a headless Service is kept, owned by its Deployment: it is what makes EndpointSlices
per arm, and what an HTTPRoute can name. It is made the first time that somebody asks for the
arms of a policy, because only the policy knows the port.

When nobody has heard of the API server for a while, or a watch has been broken for as long, all
arms are `unknown`, and known again as soon as every watch goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from controller.core.model import Json, Version
from controller.core.policy import Policy
from controller.deploy.client import (
    AUTOSCALERS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    SERVICES,
    Change,
    Connection,
    Object,
)
from controller.deploy.found import (
    ArmService,
    Cache,
    Deployment,
    Key,
    found_arm,
    key_of,
    out_of_sight,
)
from controller.deploy.target import FoundArm
from controller.deploy.watching import Feed, Watcher
from controller.deploy.words import MANAGED_BY, MODEL, OURS, VERSION, selector, service_name
from controller.errors import BackendError

UNKNOWN_AFTER_S: Final = 10.0
PROBE_AFTER: Final = 0.4
"""The part of that silence after which the API server is asked whether it is there."""
GLANCE_S: Final = 1.0
AGAIN_S: Final = 15.0
"""Before a Service that could not be made is tried again."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A Service that an arm is to have."""

    deployment: Deployment
    port: int
    target_port: int

    @property
    def key(self) -> Key:
        return self.deployment.key[0], service_name(self.deployment.model, self.deployment.version)

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


class ClusterDiscovery:
    """Watches namespaces (an empty sequence: all of them) and knows the arms of every model.

    changed    called with a model's name when something of it changed, from any thread
    may_write  whether Services may be made: not by a controller that only stands by
    clock      monotonic seconds
    patience_s silence after which nothing is known any more
    """

    def __init__(  # noqa: PLR0913 - what it watches, whom it tells, and how long it waits
        self,
        connection: Connection,
        *,
        namespaces: Sequence[str],
        changed: Callable[[str], None],
        may_write: Callable[[], bool],
        clock: Callable[[], float],
        patience_s: float = UNKNOWN_AFTER_S,
    ) -> None:
        self._connection = connection
        self._patience_s = patience_s
        self._changed = changed
        self._may_write = may_write
        self._clock = clock
        self._lock = threading.Lock()
        self._cache = Cache()
        self._wanted: dict[Key, _Wanted] = {}
        self._tried: dict[Key, float] = {}
        self._troubles: dict[Key, str] = {}
        self._stopping = threading.Event()
        self._work = threading.Event()
        self._is_lost = False
        self._watchers = [
            Watcher(connection, feed, self, clock)
            for namespace in (namespaces or (None,))
            for feed in _feeds(namespace)
        ]
        self._glancing = threading.Thread(target=self._glance, name="discovery", daemon=True)
        self._ensuring = threading.Thread(target=self._ensure, name="arm services", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        for watcher in self._watchers:
            watcher.start()
        self._glancing.start()
        self._ensuring.start()

    def stop(self) -> None:
        """End all threads; a request that is under way is waited for."""
        self._stopping.set()
        self._work.set()
        for watcher in self._watchers:
            watcher.stop()
        for watcher in self._watchers:
            watcher.join()
        self._glancing.join()
        self._ensuring.join()

    @property
    def is_known(self) -> bool:
        """Whether everything has been looked at since the start."""
        return all(watcher.has_listed for watcher in self._watchers)

    @property
    def trouble(self) -> str | None:
        """Why nothing is known of the cluster, or what is wrong with some objects in it."""
        for watcher in self._watchers:
            if watcher.trouble is not None:
                return f"{watcher.feed} cannot be watched: {watcher.trouble}"
        with self._lock:
            return next(iter(self._troubles.values()), None)

    def problems(self, policy: Policy) -> list[str]:
        """What people must mend in the objects of a model, as sentences."""
        namespace, model = policy.namespace, policy.model
        with self._lock:
            found = self._cache.deployments(namespace, model)
            doubles = self._cache.doubles(namespace, model)
            services = [self._troubles.get(_service(each)) for each in found.values()]
        names = [
            (f"Deployment {each.key[1]}: {text}")
            for each in found.values()
            for text in each.problems
        ]
        names += [
            f"Deployment {each.key[1]}: version {each.version} is Deployment "
            f"{found[each.version].key[1]} already; this one is left out"
            for each in doubles
        ]
        return names + [text for text in services if text]

    def status(self) -> dict[str, Json]:
        """For people."""
        with self._lock:
            models = len(self._cache.models)
        return {
            "api_server": self._connection.host,
            "reachable": not self._is_lost,
            "silent_s": round(self._connection.silent_s, 1) if self._is_lost else 0.0,
            "models": models,
            "lists": sum(watcher.lists for watcher in self._watchers),
            "trouble": self.trouble,
        }

    def found(self, policy: Policy, versions: Mapping[str, Version]) -> Mapping[str, FoundArm]:
        """The arms of the policy's model, and those of `versions` that are not there, as gone.

        Empty before the cluster has been looked at for the first time, unless that takes so long
        that everything is unknown.
        """
        target = policy.spec.deploy.kubernetes if policy.spec.deploy is not None else None
        if target is None:
            return {}
        if not self.is_known:
            return {name: FoundArm(name, "unknown", 0, 0) for name in versions if self._is_lost}
        model = (policy.namespace, policy.model)
        with self._lock:
            deployments = self._cache.deployments(*model)
            arms = {name: self._arm(each, target.port) for name, each in deployments.items()}
            self._want(deployments.values(), policy)
        arms |= {name: FoundArm(name, "gone", 0, 0) for name in versions if name not in arms}
        if self._is_lost:
            return {name: out_of_sight(arm) for name, arm in arms.items()}
        return arms

    def _arm(self, found: Deployment, port: int) -> FoundArm:
        limit = self._cache.limit(found.key)
        return found_arm(found, limit, self._cache.addresses(_service(found)), port)

    # --- what the watchers tell -----------------------------------------------------------------

    def replaced(self, feed: Feed, items: list[Object]) -> None:
        """Everything of a feed, anew."""
        plural = feed.resource.plural
        present = {key_of(each) for each in items}
        with self._lock:
            touched = set().union(*(self._put(plural, each) for each in items))
            for key in self._cache.keys(plural):
                if key not in present and feed.namespace in (None, key[0]):
                    touched |= self._drop(plural, key)
        self._tell(touched)

    def changed(self, feed: Feed, change: Change) -> None:
        """One object of a feed."""
        plural = feed.resource.plural
        with self._lock:
            if change.type == "DELETED":
                touched = self._drop(plural, key_of(change.object))
            else:
                touched = self._put(plural, change.object)
        self._tell(touched)

    def _put(self, plural: str, found: Object) -> set[Key]:
        match plural:
            case "deployments":
                return self._cache.put_deployment(found)
            case "horizontalpodautoscalers":
                return self._cache.put_autoscaler(found)
            case "services":
                return self._cache.put_service(found)
            case _:
                return self._cache.put_slice(found)

    def _drop(self, plural: str, key: Key) -> set[Key]:
        match plural:
            case "deployments":
                return self._cache.drop_deployment(key)
            case "horizontalpodautoscalers":
                return self._cache.drop_autoscaler(key)
            case "services":
                return self._cache.drop_service(key)
            case _:
                return self._cache.drop_slice(key)

    def _tell(self, touched: set[Key]) -> None:
        for _namespace, model in sorted(touched):
            self._changed(model)

    # --- is anybody there? ----------------------------------------------------------------------

    def _glance(self) -> None:
        while not self._stopping.wait(GLANCE_S):
            if self._connection.silent_s > PROBE_AFTER * self._patience_s:
                self._probe()
            is_lost = self._connection.silent_s > self._patience_s or self._has_lost_a_watch()
            if is_lost != self._is_lost:
                self._turned(is_lost=is_lost)

    def _probe(self) -> None:
        try:
            self._connection.ping()
        except BackendError as exc:
            log.debug("the API server does not answer", reason=str(exc))

    def _has_lost_a_watch(self) -> bool:
        now = self._clock()
        patience_s = 0.0 if self._is_lost else self._patience_s
        return any(
            at is not None and now - at >= patience_s for at in (w.lost_at for w in self._watchers)
        )

    def _turned(self, *, is_lost: bool) -> None:
        self._is_lost = is_lost
        if is_lost:
            log.error("the cluster is out of sight", reason=self.trouble)
        else:
            log.info("the cluster is in sight again")
        with self._lock:
            models = set(self._cache.models)
        self._tell(models)

    # --- the arms' own Services -----------------------------------------------------------------

    def _want(self, deployments: Collection[Deployment], policy: Policy) -> None:
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
            self._work.wait(GLANCE_S)
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
            self._cache.put_service(made)
            self._forget(wanted.key)


def _feeds(namespace: str | None) -> list[Feed]:
    ours = f"{MODEL},{VERSION},{MANAGED_BY}={OURS[MANAGED_BY]}"
    return [
        Feed(DEPLOYMENTS, namespace, f"{MODEL},{VERSION}"),
        Feed(AUTOSCALERS, namespace),
        Feed(SERVICES, namespace, ours),
        Feed(ENDPOINT_SLICES, namespace, ours),
    ]


def _service(found: Deployment) -> Key:
    return found.key[0], service_name(found.model, found.version)
