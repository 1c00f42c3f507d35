"""What is known of every model's objects: what the watchers tell, by model. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from controller.deploy.found import (
    ArmService,
    Autoscaler,
    Deployment,
    Key,
    Slice,
    arm_service,
    autoscaler,
    deployment,
    endpoint_slice,
    key_of,
)
from controller.deploy.objects import Object

_Entry = TypeVar("_Entry")


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

    def put(self, plural: str, found: Object) -> set[Key]:
        """An object of a resource as it is now."""
        match plural:
            case "deployments":
                return self._put_deployment(found)
            case "horizontalpodautoscalers":
                return self._put_autoscaler(found)
            case "services":
                return self._put_service(found)
            case _:
                return self._put_slice(found)

    def drop(self, plural: str, key: Key) -> set[Key]:
        """It is not there any more."""
        match plural:
            case "deployments":
                return self._drop_deployment(key)
            case "horizontalpodautoscalers":
                return self._drop_autoscaler(key)
            case "services":
                return self._drop_service(key)
            case _:
                return self._drop_slice(key)

    def keys(self, plural: str) -> list[Key]:
        """All that is kept of one resource."""
        kept: Mapping[str, Mapping[Key, object]] = {
            "deployments": self._deployments,
            "horizontalpodautoscalers": self._autoscalers,
            "services": self._services,
            "endpointslices": self._slices,
        }
        return list(kept[plural])

    def _put_deployment(self, found: Object) -> set[Key]:
        key, new = key_of(found), deployment(found)
        old = self._deployments.get(key)
        if old == new:
            return set()
        changed = self._drop_deployment(key)
        if new is None:
            return changed
        self._deployments[key] = new
        self._by_model.setdefault((key[0], new.model), {})[key] = new
        return changed | {(key[0], new.model)}

    def _drop_deployment(self, key: Key) -> set[Key]:
        old = self._deployments.pop(key, None)
        if old is None:
            return set()
        model = (key[0], old.model)
        _remove(self._by_model, model, key)
        return {model}

    def _put_autoscaler(self, found: Object) -> set[Key]:
        key, new = key_of(found), autoscaler(found)
        if self._autoscalers.get(key) == new:
            return set()
        changed = self._drop_autoscaler(key)
        if new is None:
            return changed
        self._autoscalers[key] = new
        self._limits.setdefault(new.target, {})[key] = new.maximum
        return changed | self._model_of(new.target)

    def _drop_autoscaler(self, key: Key) -> set[Key]:
        old = self._autoscalers.pop(key, None)
        if old is None:
            return set()
        _remove(self._limits, old.target, key)
        return self._model_of(old.target)

    def _put_service(self, found: Object) -> set[Key]:
        key, new = key_of(found), arm_service(found)
        if self._services.get(key) == new:
            return set()
        changed = self._drop_service(key)
        if new is not None:
            self._services[key] = new
            changed |= {new.arm[:2]}
        return changed

    def _drop_service(self, key: Key) -> set[Key]:
        old = self._services.pop(key, None)
        return set() if old is None else {old.arm[:2]}

    def _put_slice(self, found: Object) -> set[Key]:
        key, new = key_of(found), endpoint_slice(found)
        if self._slices.get(key) == new:
            return set()
        changed = self._drop_slice(key)
        if new is None:
            return changed
        self._slices[key] = new
        self._by_service.setdefault((key[0], new.service), {})[key] = new
        return changed | {new.arm[:2]}

    def _drop_slice(self, key: Key) -> set[Key]:
        old = self._slices.pop(key, None)
        if old is None:
            return set()
        _remove(self._by_service, (key[0], old.service), key)
        return {old.arm[:2]}

    def _model_of(self, deployment_key: Key) -> set[Key]:
        found = self._deployments.get(deployment_key)
        return set() if found is None else {(deployment_key[0], found.model)}


def _remove(index: dict[Key, dict[Key, _Entry]], under: Key, key: Key) -> None:
    """Take one entry out of an index, and the place of its last one with it."""
    entries = index[under]
    del entries[key]
    if not entries:
        del index[under]
