"""Values that are made by the hundred in a tick, at a fraction of the usual price.

A tick in which little came is some hundred small values, each made from the last one or from a few
columns. `dataclasses.replace` walks over all fields and calls the constructor; the constructor of a
frozen dataclass calls `object.__setattr__` for each of them. Both are most of what such a tick
costs, so values on its way have no slots: their fields are one dict, which is written or copied in
one go. They are as frozen as any other.

Rejected: values that only the type checker freezes (somebody would change one some day), tuples
with names (the ledger writes dataclasses, field by field).
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

Value = TypeVar("Value")


def evolved(value: Value, **changes: Any) -> Value:
    """The value with these fields changed: what `replace` gives, of any dataclass without slots."""
    new = object.__new__(type(value))
    new.__dict__.update(value.__dict__)
    new.__dict__.update(changes)
    return new


def quick(kind: type[Value]) -> type[Value]:
    """The frozen dataclass with a constructor that takes a third of the time; it has no slots.

    Raises:
        TypeError: it has slots, a step after the constructor, or a default that is made anew.
    """
    every = fields(kind)  # type: ignore[arg-type]
    is_plain = all(field.default_factory is MISSING and field.init for field in every)
    if hasattr(kind, "__slots__") or hasattr(kind, "__post_init__") or not is_plain:
        raise TypeError(f"{kind.__name__} is no plain dataclass")
    defaults = {f"_{f.name}": f.default for f in every if f.default is not MISSING}
    given = (f"{f.name}=_{f.name}" if f"_{f.name}" in defaults else f.name for f in every)
    lines = [f"def __init__(self, {', '.join(given)}):", " known = self.__dict__"]
    lines += [f" known[{f.name!r}] = {f.name}" for f in every]
    made: dict[str, Any] = {}
    exec("\n".join(lines), defaults, made)  # noqa: S102 - as dataclasses make theirs
    made["__init__"].__qualname__ = f"{kind.__qualname__}.__init__"
    kind.__init__ = made["__init__"]  # type: ignore[method-assign]
    return kind
