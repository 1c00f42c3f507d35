"""What pydantic found in a scenario, one line a fault: file, line, field, found, expected."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

from controller.core.policy.base import BROKEN_RULE
from controller.core.policy.document import Document, Path, render
from controller.core.policy.faults import nearest
from controller.errors import Problem

_INPUT = "Input should be "


class AsWritten(GenerateJsonSchema):
    """Keeps only titles that we wrote: pydantic's own repeat the name of the field."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """Without the name of the class."""
        node = super().model_schema(schema)
        node.pop("title", None)
        return node


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
        name, known = str(path[-1]), tuple(node_at(model, path[:-1])["properties"])
        mark = document.keys[path].start_mark
        expected = f"one of the fields {', '.join(known)}"
        near = nearest(name, known)
        return Problem(render(path), name, expected, mark.line + 1, mark.column + 1, near)
    if fault["type"] == "missing":
        return Problem(render(path), "nothing", f"the field {path[-1]}", *document.at(path[:-1]))
    expected = _expected(fault, model, path)
    return Problem(render(path), document.found(path), expected, *document.at(path))


def _expected(fault: ErrorDetails, model: type[BaseModel], path: Path) -> str:
    context = fault.get("ctx", {})
    if fault["type"] == BROKEN_RULE:
        return str(context["expected"])
    if fault["type"] == "value_error":
        return str(context["error"])
    if fault["type"] == "model_type":
        return "a mapping of fields"
    if title := node_at(model, path).get("title"):
        return str(title)
    message = fault["msg"]
    return message.removeprefix(_INPUT) if message.startswith(_INPUT) else message


def node_at(model: type[BaseModel], path: Path) -> dict[str, Any]:
    """The JSON Schema of what may stand at `path`; titles are phrases for people."""
    root = model.model_json_schema(schema_generator=AsWritten)
    node = root
    for key in path:
        node = resolved(root, node)
        node = (
            node["items"]
            if isinstance(key, int)
            else node.get("properties", {}).get(key) or node["additionalProperties"]
        )
    return resolved(root, node)


def resolved(root: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The schema behind references, and without the "or null"."""
    if "$ref" in node:
        return resolved(root, root["$defs"][node["$ref"].rsplit("/", 1)[1]])
    if "title" not in node and "anyOf" in node:
        return resolved(root, next(n for n in node["anyOf"] if n.get("type") != "null"))
    return node
