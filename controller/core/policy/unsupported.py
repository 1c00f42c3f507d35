"""What a policy may say one day, and is refused today: one table.

A field that is accepted and does nothing would be a lie, so each of these is an error until the
change that gives it its effect deletes its row. The rows look at the document as written: they
are reported together with all other faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from controller.core.model import Json
from controller.core.policy.document import Document, Path, render
from controller.errors import Problem

_EACH: Final = "[]"


@dataclass(frozen=True, slots=True)
class Unsupported:
    """One thing that has no effect yet.

    path     the field; `[]` stands for every item of a list
    what     what is not supported yet, for people
    instead  what to write meanwhile; reads well after "expected"
    refuses  whether a value, as written, asks for it
    """

    path: str
    what: str
    instead: str
    refuses: Callable[[Json], bool]

    @property
    def expected(self) -> str:
        """What the author is told."""
        return f"{self.instead} ({self.what} is not supported yet)"


def _is(*values: str) -> Callable[[Json], bool]:
    return lambda value: value in values


def _is_given(value: Json) -> bool:
    return value not in (None, [])


UNSUPPORTED: Final = (
    Unsupported("spec.gates.approval", "before_promote", "none", _is("before_promote")),
    Unsupported("spec.gates.approval", "every_stage", "none", _is("every_stage")),
    Unsupported("spec.gates.freeze", "freeze", "no such field", _is_given),
)


def refused(document: Document) -> Iterator[Problem]:
    """A problem for each thing in the document that has no effect yet."""
    for row in UNSUPPORTED:
        for path, value in _matches((), document.value, _keys(row.path)):
            if row.refuses(value):
                line, column = document.at(path)
                yield Problem(render(path), document.found(path), row.expected, line, column)


def _keys(path: str) -> tuple[str, ...]:
    return tuple(path.replace(_EACH, f".{_EACH}").split("."))


def _matches(path: Path, value: Json, keys: Sequence[str]) -> Iterator[tuple[Path, Json]]:
    if not keys:
        yield path, value
    elif keys[0] == _EACH and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _matches((*path, index), item, keys[1:])
    elif isinstance(value, dict) and keys[0] in value:
        yield from _matches((*path, keys[0]), value[keys[0]], keys[1:])
