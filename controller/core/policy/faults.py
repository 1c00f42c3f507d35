"""What pydantic found, told in the words of the author of the file.

A fault says where, what was found as it was written, and what was expected. What was expected is
the phrase of the type (see `quantities`), not the one bound that happened to be broken: an author
who wrote `0` where a whole number of at least 1 is asked for needs the type, not "greater than".
Every error type that the schema can give stands in `ANSWERS`; a test walks the schema for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from typing import Final, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from controller.core.policy.base import BROKEN_RULE
from controller.core.policy.document import Document, Path, render
from controller.core.policy.json_schema import choices, node_at, phrase
from controller.errors import InvariantError, Problem

Answer: TypeAlias = Callable[[Document, ErrorDetails, Path], Problem]

_LIKENESS: Final = 0.6
_LIKENESS_OF_SHORT: Final = 0.5
_SHORT: Final = 3


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` was probably meant to be; None when none is near."""
    wanted = _plain(word)
    scored = [(SequenceMatcher(None, wanted, _plain(name)).ratio(), name) for name in known]
    likeness, name = max(scored, default=(0.0, ""))
    enough = _LIKENESS_OF_SHORT if min(len(wanted), len(name)) <= _SHORT else _LIKENESS
    return name if likeness >= enough else None


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def problems(document: Document, exc: ValidationError) -> tuple[Problem, ...]:
    """All faults of `exc`, each at its place in the document."""
    faults = exc.errors(include_url=False)
    return tuple(_problem(document, fault) for fault in faults if not _is_echo(fault))


def _is_echo(fault: ErrorDetails) -> bool:
    """Whether a list is called too short only because its items are faulty themselves."""
    context = fault.get("ctx", {})
    return fault["type"] == "too_short" and len(fault["input"]) >= context["min_length"]


def _problem(document: Document, fault: ErrorDetails) -> Problem:
    path = tuple(fault["loc"])
    if fault["type"] not in ANSWERS:
        raise InvariantError(f"no words for the fault {fault['type']} at {render(path)}")
    return ANSWERS[fault["type"]](document, fault, path)


def _missing(document: Document, fault: ErrorDetails, path: Path) -> Problem:  # noqa: ARG001
    node, parent = node_at(path), node_at(path[:-1])
    if node is None or parent is None:
        raise InvariantError(f"the schema has no place {render(path)}")
    is_item = isinstance(path[-1], int)
    expected = phrase(parent) if is_item else f"the field {path[-1]}: {phrase(node)}"
    return Problem(render(path), "nothing", expected, *document.at(path[:-1]))


def _unknown_field(document: Document, fault: ErrorDetails, path: Path) -> Problem:  # noqa: ARG001
    name = str(path[-1])
    known = tuple((node_at(path[:-1]) or {}).get("properties", {}))
    expected = f"one of the fields {', '.join(known)}"
    mark = document.keys[path].start_mark
    near = nearest(name, known)
    return Problem(render(path), name, expected, mark.line + 1, mark.column + 1, near)


def _wrong_value(document: Document, fault: ErrorDetails, path: Path) -> Problem:
    node = node_at(path)
    if node is None:
        raise InvariantError(f"the schema has no place {render(path)}")
    given = fault["input"]
    near = nearest(given, choices(node)) if isinstance(given, str) else None
    return Problem(
        render(path), _found(document, fault, path), phrase(node), *document.at(path), near
    )


def _own_words(document: Document, fault: ErrorDetails, path: Path) -> Problem:
    context = fault.get("ctx", {})
    expected = str(context["expected"] if fault["type"] == BROKEN_RULE else context["error"])
    return Problem(render(path), _found(document, fault, path), expected, *document.at(path))


def _found(document: Document, fault: ErrorDetails, path: Path) -> str:
    """The value as written; a default that does not fit what was written is named as such."""
    if path and path not in document.values:
        return f"{fault['input']} (the default)"
    return document.found(path)


ANSWERS: Final[dict[str, Answer]] = {
    "missing": _missing,
    "extra_forbidden": _unknown_field,
    BROKEN_RULE: _own_words,
    "value_error": _own_words,
    "literal_error": _wrong_value,
    "model_type": _wrong_value,
    "dict_type": _wrong_value,
    "tuple_type": _wrong_value,
    "too_short": _wrong_value,
    "too_long": _wrong_value,
    "string_type": _wrong_value,
    "string_unicode": _wrong_value,
    "string_too_short": _wrong_value,
    "string_too_long": _wrong_value,
    "string_pattern_mismatch": _wrong_value,
    "int_type": _wrong_value,
    "float_type": _wrong_value,
    "finite_number": _wrong_value,
    "greater_than": _wrong_value,
    "greater_than_equal": _wrong_value,
    "less_than": _wrong_value,
    "less_than_equal": _wrong_value,
}
