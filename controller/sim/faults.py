"""What pydantic found in a scenario, one line a fault: file, line, field, found, expected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from controller.core.policy.base import BROKEN_RULE
from controller.core.policy.document import Document, Path, render
from controller.core.policy.faults import nearest
from controller.errors import Problem

_INPUT = "Input should be "


def lines_of(
    source: str, document: Document, exc: ValidationError, model: type[BaseModel]
) -> list[str]:
    """Every fault of `exc` as `FILE:LINE:COLUMN: FIELD: found …, expected …`, in file order."""
    found = [_problem(document, fault, model) for fault in exc.errors(include_url=False)]
    found.sort(key=lambda p: (p.line or 0, p.column or 0, p.path))
    return [f"{source}:{p.line}:{p.column}: {p.sentence()}" for p in found]


def _problem(document: Document, fault: ErrorDetails, model: type[BaseModel]) -> Problem:
    path = tuple(fault["loc"])
    if fault["type"] == "extra_forbidden":
        name, known = str(path[-1]), tuple(_properties(model, path[:-1]))
        mark = document.keys[path].start_mark
        expected = f"one of the fields {', '.join(known)}"
        near = nearest(name, known)
        return Problem(render(path), name, expected, mark.line + 1, mark.column + 1, near)
    if fault["type"] == "missing":
        return Problem(render(path), "nothing", f"the field {path[-1]}", *document.at(path[:-1]))
    return Problem(render(path), document.found(path), _expected(fault), *document.at(path))


def _expected(fault: ErrorDetails) -> str:
    context = fault.get("ctx", {})
    if fault["type"] == BROKEN_RULE:
        return str(context["expected"])
    if fault["type"] == "value_error":
        return str(context["error"])
    if fault["type"] == "model_type":
        return "a mapping of fields"
    message = fault["msg"]
    return message.removeprefix(_INPUT) if message.startswith(_INPUT) else message


def _properties(model: type[BaseModel], path: Path) -> Iterator[str]:
    """The names of the fields of the object at `path`."""
    root = model.model_json_schema()
    node = root
    for key in path:
        node = _resolved(root, node)
        node = (
            node["items"]
            if isinstance(key, int)
            else node.get("properties", {}).get(key) or node["additionalProperties"]
        )
    yield from _resolved(root, node)["properties"]


def _resolved(root: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The schema behind references, and without the "or null"."""
    if "$ref" in node:
        return _resolved(root, root["$defs"][node["$ref"].rsplit("/", 1)[1]])
    if "anyOf" in node:
        return _resolved(root, next(n for n in node["anyOf"] if n.get("type") != "null"))
    return node
