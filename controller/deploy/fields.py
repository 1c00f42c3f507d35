"""Fields of objects: their values, and who has written them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from controller.deploy.objects import Object
from controller.deploy.words import MANAGER

Field: TypeAlias = tuple[str, ...]
"""The way to a field, from the root of an object."""


def named(found: Object) -> str:
    """An object for people."""
    meta = found["metadata"]
    return f"{found['kind']} {meta['namespace']}/{meta['name']}"


def value(found: Object, field: Field) -> Any:
    """The value of a field; None where it is not set."""
    here: Any = found
    for name in field:
        if not isinstance(here, dict) or name not in here:
            return None
        here = here[name]
    return here


def owners(found: Object, field: Field) -> Iterator[Object]:
    """Entries of managedFields that name the field."""
    for entry in found["metadata"].get("managedFields") or []:
        here: Any = entry.get("fieldsV1") or {}
        for name in field:
            here = here.get(f"f:{name}")
            if here is None:
                break
        else:
            yield entry


def is_us(owner: Object) -> bool:
    """Whether an entry of managedFields is ours."""
    return owner.get("manager") == MANAGER and owner.get("operation") == "Apply"
