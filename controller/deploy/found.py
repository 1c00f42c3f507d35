"""Objects of the API server -> what matters of them -> arms. Pure.

An arm is a Deployment with the labels of a model and a version. It is ready as far as its own
Service says so, because that is where traffic goes, and no further than the Deployment says, whose
pods alone are scaled. Only these few fields of each object are kept: a thousand models' objects as
they come are a hundred megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import msgspec

from controller.deploy.objects import Object
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


def out_of_sight(arm: FoundArm) -> FoundArm:
    """The same arm while nobody knows; it keeps its endpoints, which may well answer."""
    return replace(arm, state="unknown")
