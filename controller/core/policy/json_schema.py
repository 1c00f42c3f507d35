"""The JSON Schema of a policy as users write it, and the way about in it.

Every node has a phrase that says what may stand there; see `quantities`. The schema accepts all
that `parse` accepts. It is a little more lenient, since a pattern on text cannot compare: `0%`
where a share above 0 is asked for, or rules between fields, are found by `parse` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any, TypeAlias, cast

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema

from controller.core.model import Json
from controller.core.policy.manifest import Policy

Node: TypeAlias = dict[str, Any]
"""One JSON Schema object."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _AsWritten(GenerateJsonSchema):
    """Keeps only titles that we wrote: pydantic's own repeat the name of the field."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002
        return False

    def model_schema(self, schema: Any) -> Node:
        node = super().model_schema(schema)
        node.pop("title", None)
        return node


@cache
def _schema() -> Node:
    core: CoreSchema = Policy.__pydantic_core_schema__
    body = _AsWritten(by_alias=True, ref_template="#/$defs/{model}").generate(core)
    return {"$schema": _DIALECT, "title": "RolloutPolicy", **body}


def schema() -> dict[str, Json]:
    """JSON Schema (draft 2020-12) of a policy; durations and shares as users write them."""
    return cast("dict[str, Json]", deepcopy(_schema()))


def root() -> Node:
    """The schema of the whole document, shared: not to be changed."""
    return _schema()


def resolve(node: Node) -> Node:
    """The schema that `node` stands for: through references, and without the "or null"."""
    if "$ref" in node:
        return resolve(_schema()["$defs"][node["$ref"].rsplit("/", 1)[1]])
    if "title" in node or "anyOf" not in node:
        return node
    return resolve(next(n for n in node["anyOf"] if n.get("type") != "null"))


def node_at(path: Sequence[str | int]) -> Node | None:
    """The resolved schema of the value at `path`; None for a place that the schema lacks."""
    node: Node | None = resolve(_schema())
    for key in path:
        if node is None:
            return None
        node = _below(node, key)
    return node


def _below(node: Node, key: str | int) -> Node | None:
    if isinstance(key, str):
        child = node.get("properties", {}).get(key) or node.get("additionalProperties")
        return resolve(child) if isinstance(child, dict) else None
    fixed = node.get("prefixItems", [])
    child = fixed[key] if key < len(fixed) else node.get("items")
    return resolve(child) if isinstance(child, dict) else None


def choices(node: Node) -> tuple[str, ...]:
    """The closed set of values that may stand here; empty when it is not a closed set."""
    if "const" in node:
        return (str(node["const"]),)
    return tuple(str(choice) for choice in node.get("enum", ()))


def phrase(node: Node) -> str:
    """What may stand here, for people; reads well after "expected"."""
    if "title" in node and node is not _schema():
        return str(node["title"])
    if names := choices(node):
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if fields := node.get("properties"):
        return f"a mapping with the fields {', '.join(fields)}"
    if node.get("type") == "array":
        return "a list"
    return "a mapping of text to text" if node.get("type") == "object" else "text"
