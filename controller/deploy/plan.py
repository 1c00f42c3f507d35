"""What makes an object as it is wanted: patches for the API server. Pure.

A field of an object belongs to whoever wrote it last. The rules, for every field that
Understudy wants to have a value:

    it has that value already              nothing is done, whoever owns it
    nobody owns it, or only we do          it is applied
    managers own it that `apply`           Conflict: they hold it, and would write it again
    writers own it that updated it once    it is taken over, once, and the object's annotation
    (kubectl create, scale, edit …)        `understudy.dev/fields` says so
    … and it had been taken over before    Conflict: somebody took it back

An apply names every field that we own already, since what it leaves out is removed. It carries the
object's uid, so that no object is made where one was deleted meanwhile, and, where something is
taken over, its resourceVersion, so that nothing is taken that nobody looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controller.deploy.fields import Field, is_us, named, owners, value
from controller.deploy.objects import Object
from controller.deploy.words import FIELDS, MIN_REPLICAS, MODEL, ROLE, VERSION
from controller.errors import Conflict

REPLICAS: Final[Field] = ("spec", "replicas")
MINIMUM: Final[Field] = ("spec", "minReplicas")
SELECTOR: Final[Field] = ("spec", "selector")
ROLE_LABEL: Final[Field] = ("metadata", "labels", ROLE)
FIELDS_NOTE: Final[Field] = ("metadata", "annotations", FIELDS)
MINIMUM_NOTE: Final[Field] = ("metadata", "annotations", MIN_REPLICAS)

_OURS: Final = {
    "Deployment": (REPLICAS, ROLE_LABEL, FIELDS_NOTE),
    "HorizontalPodAutoscaler": (MINIMUM, MINIMUM_NOTE, FIELDS_NOTE),
    "Service": (SELECTOR, FIELDS_NOTE),
}
"""The fields that we may come to own, by kind."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A body for server-side apply, and whether it takes fields over."""

    body: Object
    force: bool


def scale(
    deployment: Object, autoscaler: Object | None, replicas: int
) -> tuple[Patch | None, Patch | None]:
    """What lets at least `replicas` run: patches for the Deployment and for its autoscaler.

    0 means: none at all. Where an autoscaler scales, its minimum is raised and replicas are its to
    write; only to and from 0, where it does not act by itself, are they written.
    """
    has = int(value(deployment, REPLICAS) or 0)
    if autoscaler is None:
        wanted = replicas if replicas == 0 or has < replicas else has
        return patch(deployment, {REPLICAS: wanted}), None
    if replicas == 0:
        return patch(deployment, {REPLICAS: 0}), give_back(autoscaler)
    wakes = patch(deployment, {REPLICAS: replicas}) if has == 0 else None
    return wakes, _raised(autoscaler, replicas)


def _raised(autoscaler: Object, replicas: int) -> Patch | None:
    minimum = int(value(autoscaler, MINIMUM) or 1)
    wanted = min(replicas, int(autoscaler["spec"]["maxReplicas"]))
    if minimum >= wanted:
        return None
    original = str(value(autoscaler, MINIMUM_NOTE) or minimum)
    return patch(autoscaler, {MINIMUM: wanted, MINIMUM_NOTE: original})


def give_back(found: Object) -> Patch | None:
    """What leaves an object's scale to whoever had it before.

    An autoscaler gets its own minimum again. Replicas stay as they are, because a field that
    nobody owns any more would fall to its default of one; but they may be taken over anew.
    """
    field = REPLICAS if found["kind"] == "Deployment" else MINIMUM
    original = value(found, MINIMUM_NOTE)
    if field not in _taken(found) and original is None:
        return None
    wanted: dict[Field, Any] = {MINIMUM_NOTE: None}
    if original is not None and original.isdecimal() and MINIMUM in _owned(found):
        wanted[MINIMUM] = int(original)
    return patch(found, wanted, released=(field,))


def label(deployment: Object, role: str) -> Patch | None:
    """What makes the role of an arm readable."""
    return patch(deployment, {ROLE_LABEL: role})


def point(service: Object, model: str, version: str) -> Patch | None:
    """What makes a Service select one arm. A selector is one field: the rest of it is kept."""
    selector = dict(value(service, SELECTOR) or {})
    return patch(service, {SELECTOR: {**selector, MODEL: model, VERSION: version}})


def patch(
    found: Object, wanted: Mapping[Field, Any], *, released: Sequence[Field] = ()
) -> Patch | None:
    """What gives fields the values that are wanted; None when they have them.

    A wanted None removes a field of ours. `released` may be taken over again by a later patch.
    Raises `Conflict` where somebody else holds a field.
    """
    changed = {field: v for field, v in wanted.items() if value(found, field) != v}
    taken = _taken(found)
    after = taken - set(released)
    if not changed and after == taken:
        return None
    forced = {field for field, v in changed.items() if v is not None and _takes(found, field, v)}
    after |= forced
    kept = {field: value(found, field) for field in _owned(found)}
    values = kept | changed | {FIELDS_NOTE: _note(after)}
    body = _head(found)
    for field, v in sorted(values.items()):
        if v is not None:
            _put(body, field, v)
    if forced:
        body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
    return Patch(body, bool(forced))


def _takes(found: Object, field: Field, wanted: object) -> bool:
    """Whether the field is to be taken from others who only updated it."""
    others = [each for each in owners(found, field) if not is_us(each)]
    held = [each for each in others if each.get("operation") == "Apply"]
    if held:
        raise Conflict(_held(found, field, wanted, held[0]["manager"]))
    writers = [each for each in others if not _is_former_scaler(each)]
    if writers and field in _taken(found) and field not in _owned(found):
        raise Conflict(_taken_back(found, field, wanted, writers[0]["manager"]))
    return bool(others)


def _is_former_scaler(owner: Object) -> bool:
    """An autoscaler that wrote replicas; where it still exists, they are not ours to write."""
    return owner.get("manager") == "kube-controller-manager" and owner.get("subresource") == "scale"


def _held(found: Object, field: Field, wanted: object, manager: str) -> str:
    return (
        f"{named(found)}: {_dotted(field)} is {_shown(value(found, field))} and applied by "
        f"{manager!r}; Understudy wants {_shown(wanted)}. Take the field out of what {manager} "
        f"applies{_instead(field)}"
    )


def _taken_back(found: Object, field: Field, wanted: object, manager: str) -> str:
    return (
        f"{named(found)}: {_dotted(field)} was changed to {_shown(value(found, field))} by "
        f"{manager!r} after Understudy had taken it over; Understudy wants {_shown(wanted)}. "
        f"Remove the annotation {FIELDS} to hand it over again{_instead(field)}"
    )


def _instead(field: Field) -> str:
    if field in {REPLICAS, MINIMUM}:
        return ", or set deploy.kubernetes.scaling: observed"
    return ", or let a pull request change it (deploy.webhook)"


def _shown(value_: object) -> str:
    if isinstance(value_, dict):
        return ",".join(f"{k}={v}" for k, v in sorted(value_.items()))
    return "not set" if value_ is None else str(value_)


def _put(body: Object, field: Field, v: object) -> None:
    here = body
    for name in field[:-1]:
        here = here.setdefault(name, {})
    here[field[-1]] = v


def _head(found: Object) -> Object:
    meta = {name: found["metadata"][name] for name in ("name", "namespace", "uid")}
    return {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": meta}


def _owned(found: Object) -> set[Field]:
    """The fields that we own."""
    return {f for f in _OURS[found["kind"]] if any(is_us(each) for each in owners(found, f))}


def _taken(found: Object) -> set[Field]:
    """The fields that we took over."""
    names = str(value(found, FIELDS_NOTE) or "").split(",")
    return {field for field in _OURS[found["kind"]] if _dotted(field) in names}


def _note(taken: Collection[Field]) -> str | None:
    return ",".join(sorted(_dotted(field) for field in taken)) or None


def _dotted(field: Field) -> str:
    """A field for people, and for the annotation: `spec.replicas`, `metadata.labels[…]`."""
    if field[0] == "metadata":
        return f"{field[0]}.{field[1]}[{field[2]}]"
    return ".".join(field)
