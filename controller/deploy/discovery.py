"""The arms of all models, as the cluster has them: watched, cached, and given from the cache.

Four resources are watched: Deployments and our own arms' Services and EndpointSlices by their
labels, HorizontalPodAutoscalers all. Nothing is asked per model and nothing is asked again and
again: what an idle cluster costs does not depend on how many models there are.

For each arm a Service of its own is kept, see `arm_services`.

When nobody has heard of the API server for a while, or a watch has been broken for as long, all
arms are `unknown`, and known again as soon as every watch goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from controller.core.model import Json, Version
from controller.core.policy import Policy
from controller.deploy.arm_services import ArmServices, service_of
from controller.deploy.cache import Cache
from controller.deploy.client import Connection
from controller.deploy.found import (
    Deployment,
    Key,
    found_arm,
    key_of,
    out_of_sight,
)
from controller.deploy.objects import (
    AUTOSCALERS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    SERVICES,
    Change,
    Object,
)
from controller.deploy.target import FoundArm
from controller.deploy.watching import Feed, Watchers
from controller.deploy.words import MANAGED_BY, MODEL, OURS, VERSION

UNKNOWN_AFTER_S: Final = 10.0
PROBE_AFTER: Final = 0.4
"""The part of that silence after which the API server is asked whether it is there."""
GLANCE_S: Final = 1.0

log = structlog.get_logger()


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
        self._lock = threading.Lock()
        self._cache = Cache()
        self._services = ArmServices(
            connection, self._cache, self._lock, may_write=may_write, clock=clock
        )
        self._stopping = threading.Event()
        self._is_lost = False
        feeds = [feed for namespace in (namespaces or (None,)) for feed in _feeds(namespace)]
        self._watchers = Watchers(connection, feeds, self, clock)
        self._glancing = threading.Thread(target=self._glance, name="discovery", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._watchers.start()
        self._glancing.start()
        self._services.start()

    def stop(self) -> None:
        """End all threads; a request that is under way is waited for."""
        self._stopping.set()
        self._services.stop()
        self._watchers.stop()
        self._glancing.join()

    @property
    def is_known(self) -> bool:
        """Whether everything has been looked at since the start."""
        return self._watchers.is_known

    @property
    def trouble(self) -> str | None:
        """Why nothing is known of the cluster, or what is wrong with some objects in it."""
        if (trouble := self._watchers.trouble) is not None:
            return trouble
        with self._lock:
            return next(iter(self._services.troubles), None)

    def deployment(self, policy: Policy, version: str) -> tuple[str, str, str] | None:
        """Namespace, name and uid of an arm's Deployment, where there is one."""
        with self._lock:
            found = self._cache.deployments(policy.namespace, policy.model).get(version)
        return None if found is None else (*found.key, found.uid)

    def problems(self, policy: Policy) -> list[str]:
        """What people must mend in the objects of a model, as sentences."""
        namespace, model = policy.namespace, policy.model
        with self._lock:
            found = self._cache.deployments(namespace, model)
            doubles = self._cache.doubles(namespace, model)
            services = [self._services.trouble(each) for each in found.values()]
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
            "lists": self._watchers.lists,
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
            self._services.want(deployments.values(), policy)
        arms |= {name: FoundArm(name, "gone", 0, 0) for name in versions if name not in arms}
        if self._is_lost:
            return {name: out_of_sight(arm) for name, arm in arms.items()}
        return arms

    def _arm(self, found: Deployment, port: int) -> FoundArm:
        limit = self._cache.limit(found.key)
        return found_arm(found, limit, self._cache.addresses(service_of(found)), port)

    # --- what the watchers tell -----------------------------------------------------------------

    def replaced(self, feed: Feed, items: list[Object]) -> None:
        """Everything of a feed, anew."""
        plural = feed.resource.plural
        present = {key_of(each) for each in items}
        with self._lock:
            touched = set().union(*(self._cache.put(plural, each) for each in items))
            for key in self._cache.keys(plural):
                if key not in present and feed.namespace in (None, key[0]):
                    touched |= self._cache.drop(plural, key)
        self._tell(touched)

    def changed(self, feed: Feed, change: Change) -> None:
        """One object of a feed."""
        plural = feed.resource.plural
        with self._lock:
            if change.type == "DELETED":
                touched = self._cache.drop(plural, key_of(change.object))
            else:
                touched = self._cache.put(plural, change.object)
        self._tell(touched)

    def _tell(self, touched: set[Key]) -> None:
        for _namespace, model in sorted(touched):
            self._changed(model)

    # --- is anybody there? ----------------------------------------------------------------------

    def _glance(self) -> None:
        while not self._stopping.wait(GLANCE_S):
            self._connection.probe(PROBE_AFTER * self._patience_s)
            # Known again only when every watch goes on.
            lost_for_s = 0.0 if self._is_lost else self._patience_s
            is_silent = self._connection.silent_s > self._patience_s
            is_lost = is_silent or self._watchers.is_lost(lost_for_s)
            if is_lost != self._is_lost:
                self._turned(is_lost=is_lost)

    def _turned(self, *, is_lost: bool) -> None:
        self._is_lost = is_lost
        if is_lost:
            log.error("the cluster is out of sight", reason=self.trouble)
        else:
            log.info("the cluster is in sight again")
        with self._lock:
            models = set(self._cache.models)
        self._tell(models)


def _feeds(namespace: str | None) -> list[Feed]:
    ours = f"{MODEL},{VERSION},{MANAGED_BY}={OURS[MANAGED_BY]}"
    return [
        Feed(DEPLOYMENTS, namespace, f"{MODEL},{VERSION}"),
        Feed(AUTOSCALERS, namespace),
        Feed(SERVICES, namespace, ours),
        Feed(ENDPOINT_SLICES, namespace, ours),
    ]
