"""Objects of the API server -> what matters of them -> arms. Pure.

An arm is a Deployment with the labels of a model and a version. It is ready as far as its own
Service says so, because that is where traffic goes, and no further than the Deployment says, whose
pods alone are scaled. Only these few fields of each object are kept: a thousand models' objects as
they come are a hundred megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, TypeVar

import msgspec

from controller.deploy.client import Object
from controller.deploy.target import FoundArm
from controller.deploy.words import (
    METRICS,
    MODEL,
    PARENT,
    ROLE,
    TRAINED_AT,
    URI,
    VERSION,
    selector,
)

Key: TypeAlias = tuple[str, str]
"""Namespace and name."""

Arm: TypeAlias = tuple[str, str, str]
"""Namespace, model and version."""

_Entry = TypeVar("_Entry")

_SERVICE_NAME: Final = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A labelled Deployment; `problems` are what people must mend, as sentences."""

    key: Key
    uid: str
    model: str
    version: str
    role: str | None
    replicas: int
    ready: int
    parent: str | None = None
    trained_at: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    uri: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def arm(self) -> Arm:
        """Which arm it is."""
        return self.key[0], self.model, self.version


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """A HorizontalPodAutoscaler of a Deployment; `target` is the Deployment."""

    key: Key
    target: Key
    maximum: int


@dataclass(frozen=True, slots=True)
class ArmService:
    """An arm's own Service."""

    key: Key
    arm: Arm
    owner: str
    ports: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the endpoints behind an arm's own Service: addresses of those that are ready."""

    key: Key
    arm: Arm
    service: str
    ready: tuple[str, ...]


def deployment(found: Object) -> Deployment | None:
    """None: not labelled, or about to be deleted."""
    meta = found["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    model, version = labels.get(MODEL), labels.get(VERSION)
    if not model or not version or "deletionTimestamp" in meta:
        return None
    spec, status = found.get("spec") or {}, found.get("status") or {}
    metrics, problems = _metrics(notes.get(METRICS))
    pod = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if not selector(model, version).items() <= pod.items():
        problems += (f"its pod template lacks the labels {MODEL} and {VERSION} of the Deployment",)
    return Deployment(
        key=_key(meta),
        uid=meta["uid"],
        model=model,
        version=version,
        role=labels.get(ROLE),
        replicas=int(spec.get("replicas", 1)),
        ready=int(status.get("readyReplicas") or 0),
        parent=notes.get(PARENT),
        trained_at=notes.get(TRAINED_AT),
        metrics=metrics,
        uri=notes.get(URI),
        problems=problems,
    )


def autoscaler(found: Object) -> Autoscaler | None:
    """None: it scales something else than a Deployment."""
    meta, spec = found["metadata"], found["spec"]
    target = spec["scaleTargetRef"]
    if target.get("kind") != "Deployment":
        return None
    key = _key(meta)
    return Autoscaler(key, (key[0], target["name"]), int(spec["maxReplicas"]))


def arm_service(found: Object) -> ArmService | None:
    """None: not of an arm."""
    meta = found["metadata"]
    arm = _arm(meta)
    if arm is None or "deletionTimestamp" in meta:
        return None
    owners = [each["uid"] for each in meta.get("ownerReferences") or []]
    ports = tuple(
        (int(each["port"]), int(target))
        for each in found["spec"].get("ports") or []
        if isinstance(target := each.get("targetPort", each["port"]), int)
    )
    return ArmService(_key(meta), arm, owners[0] if owners else "", ports)


def endpoint_slice(found: Object) -> Slice | None:
    """None: not of an arm, or of names instead of addresses."""
    meta = found["metadata"]
    arm = _arm(meta)
    if arm is None or found.get("addressType") == "FQDN":
        return None
    ready = sorted(
        each["addresses"][0]
        for each in found.get("endpoints") or []
        if (each.get("conditions") or {}).get("ready") is not False
    )
    service = (meta.get("labels") or {}).get(_SERVICE_NAME, "")
    return Slice(_key(meta), arm, service, tuple(ready))


def _key(meta: Object) -> Key:
    return meta["namespace"], meta["name"]


def key_of(found: Object) -> Key:
    """Namespace and name of an object."""
    return _key(found["metadata"])


def _arm(meta: Object) -> Arm | None:
    labels = meta.get("labels") or {}
    if not labels.get(MODEL) or not labels.get(VERSION):
        return None
    return meta["namespace"], labels[MODEL], labels[VERSION]


def _metrics(text: str | None) -> tuple[dict[str, float], tuple[str, ...]]:
    if text is None:
        return {}, ()
    try:
        return msgspec.json.decode(text, type=dict[str, float]), ()
    except (msgspec.DecodeError, msgspec.ValidationError):
        return {}, (f'{METRICS} holds {text[:60]!r}, expected JSON such as {{"accuracy": 0.94}}',)


# --- arms ---------------------------------------------------------------------------------------


def found_arm(
    found: Deployment, limit: int | None, addresses: tuple[str, ...], port: int
) -> FoundArm:
    """One arm; `addresses` are its Service's ready ones."""
    return FoundArm(
        version=found.version,
        state="known",
        ready=min(found.ready, len(addresses)),
        replicas=found.replicas,
        limit=limit,
        endpoints=tuple(_endpoint(address, port) for address in addresses),
        parent=found.parent,
        trained_at=found.trained_at,
        metrics=found.metrics,
        uri=found.uri,
        role=found.role,
    )


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Cache:
    """What is known of every model's objects, by model. Not thread-safe: its owner locks.

    Each `put` and `drop` gives the models that it changed, as (namespace, model).
    """

    def __init__(self) -> None:
        self._deployments: dict[Key, Deployment] = {}
        self._autoscalers: dict[Key, Autoscaler] = {}
        self._services: dict[Key, ArmService] = {}
        self._slices: dict[Key, Slice] = {}
        self._by_model: dict[Key, dict[Key, Deployment]] = {}
        self._limits: dict[Key, dict[Key, int]] = {}
        self._by_service: dict[Key, dict[Key, Slice]] = {}

    @property
    def models(self) -> list[Key]:
        """Models that have Deployments: (namespace, model)."""
        return list(self._by_model)

    def deployments(self, namespace: str, model: str) -> dict[str, Deployment]:
        """The Deployment of each version; of two for one version the first by name."""
        every = self._by_model.get((namespace, model), {})
        arms: dict[str, Deployment] = {}
        for each in sorted(every.values(), key=lambda d: d.key):
            arms.setdefault(each.version, each)
        return arms

    def has(self, found: Deployment) -> bool:
        """Whether this very Deployment is still there."""
        here = self._deployments.get(found.key)
        return here is not None and here.uid == found.uid

    def doubles(self, namespace: str, model: str) -> list[Deployment]:
        """Deployments of versions that another Deployment is already."""
        used = {each.key for each in self.deployments(namespace, model).values()}
        every = self._by_model.get((namespace, model), {})
        return [each for key, each in every.items() if key not in used]

    def service(self, key: Key) -> ArmService | None:
        """An arm's own Service."""
        return self._services.get(key)

    def limit(self, deployment_key: Key) -> int | None:
        """The most that its autoscalers allow."""
        every = self._limits.get(deployment_key)
        return min(every.values()) if every else None

    def addresses(self, service_key: Key) -> tuple[str, ...]:
        """Ready addresses behind an arm's own Service, sorted."""
        every = self._by_service.get(service_key, {})
        return tuple(sorted({a for each in every.values() for a in each.ready}))

    def put_deployment(self, found: Object) -> set[Key]:
        """A Deployment as it is now."""
        key, new = key_of(found), deployment(found)
        old = self._deployments.get(key)
        if old == new:
            return set()
        changed = self.drop_deployment(key)
        if new is None:
            return changed
        self._deployments[key] = new
        self._by_model.setdefault((key[0], new.model), {})[key] = new
        return changed | {(key[0], new.model)}

    def drop_deployment(self, key: Key) -> set[Key]:
        """It is not there any more."""
        old = self._deployments.pop(key, None)
        if old is None:
            return set()
        model = (key[0], old.model)
        _remove(self._by_model, model, key)
        return {model}

    def put_autoscaler(self, found: Object) -> set[Key]:
        """An autoscaler as it is now."""
        key, new = key_of(found), autoscaler(found)
        if self._autoscalers.get(key) == new:
            return set()
        changed = self.drop_autoscaler(key)
        if new is None:
            return changed
        self._autoscalers[key] = new
        self._limits.setdefault(new.target, {})[key] = new.maximum
        return changed | self._model_of(new.target)

    def drop_autoscaler(self, key: Key) -> set[Key]:
        """It is not there any more."""
        old = self._autoscalers.pop(key, None)
        if old is None:
            return set()
        _remove(self._limits, old.target, key)
        return self._model_of(old.target)

    def put_service(self, found: Object) -> set[Key]:
        """An arm's own Service as it is now."""
        key, new = key_of(found), arm_service(found)
        if self._services.get(key) == new:
            return set()
        changed = self.drop_service(key)
        if new is not None:
            self._services[key] = new
            changed |= {new.arm[:2]}
        return changed

    def drop_service(self, key: Key) -> set[Key]:
        """It is not there any more."""
        old = self._services.pop(key, None)
        return set() if old is None else {old.arm[:2]}

    def put_slice(self, found: Object) -> set[Key]:
        """An EndpointSlice as it is now."""
        key, new = key_of(found), endpoint_slice(found)
        if self._slices.get(key) == new:
            return set()
        changed = self.drop_slice(key)
        if new is None:
            return changed
        self._slices[key] = new
        self._by_service.setdefault((key[0], new.service), {})[key] = new
        return changed | {new.arm[:2]}

    def drop_slice(self, key: Key) -> set[Key]:
        """It is not there any more."""
        old = self._slices.pop(key, None)
        if old is None:
            return set()
        _remove(self._by_service, (key[0], old.service), key)
        return {old.arm[:2]}

    def keys(self, plural: str) -> Iterator[Key]:
        """All that is kept of one resource."""
        kept: Mapping[str, Mapping[Key, object]] = {
            "deployments": self._deployments,
            "horizontalpodautoscalers": self._autoscalers,
            "services": self._services,
            "endpointslices": self._slices,
        }
        return iter(list(kept[plural]))

    def _model_of(self, deployment_key: Key) -> set[Key]:
        found = self._deployments.get(deployment_key)
        return set() if found is None else {(deployment_key[0], found.model)}


def _remove(index: dict[Key, dict[Key, _Entry]], under: Key, key: Key) -> None:
    """Take one entry out of an index, and the place of its last one with it."""
    entries = index[under]
    del entries[key]
    if not entries:
        del index[under]


def out_of_sight(arm: FoundArm) -> FoundArm:
    """The same arm while nobody knows; it keeps its endpoints, which may well answer."""
    return replace(arm, state="unknown")
