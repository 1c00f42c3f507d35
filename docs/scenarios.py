"""The page of scenarios, made from their schema and from the built-in files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controller.core.policy.json_schema import phrase
from controller.sim import scenario as scenarios
from controller.sim.faults import AsWritten, resolved
from controller.sim.scenario import Scenario

SCENARIOS_PAGE = Path(__file__).parent / "scenario-reference.md"

_HEAD = """\
<!-- Made by `make docs` from controller/sim. Do not edit. -->
# Scenario reference

What a scenario of `understudy simulate` may say; [Simulate](simulate.md) tells what it is for. All
fields have a default, so a file says only what is special. Fields that are not listed here are
errors. Durations carry a unit, as in `90s`; shares are written `5%` or `0.05`; a *moment* is a
duration, or a share of a whole that the policy or the run knows.
"""


def scenarios_page() -> str:
    """The page `scenario-reference.md`, as Markdown."""
    root = Scenario.model_json_schema(schema_generator=AsWritten)
    parts = [_section(root, path, node) for path, node in _objects(root, "", root)]
    return _HEAD + _built_in() + "".join(parts)


def _built_in() -> str:
    rows = []
    for name in scenarios.names():
        text = (scenarios.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        own = [line for line in text.splitlines() if not line.startswith("description:")]
        said = "; ".join(f"`{line}`" for line in own if line.strip())
        rows.append(f"| `{name}` | {scenarios.load(name).description} | {said or 'defaults'} |\n")
    return f"\n## Built in\n\n| name | what it is | file |\n|---|---|---|\n{''.join(rows)}"


def _objects(
    root: dict[str, Any], path: str, node: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the schema with its path, parents first."""
    yield path, node
    for name, field in node["properties"].items():
        below, child = _item(root, f"{path}.{name}" if path else name, field)
        if "properties" in child:
            yield from _objects(root, below, child)


def _item(root: dict[str, Any], path: str, field: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    node = resolved(root, field)
    if "items" in node:
        return f"{path}[]", resolved(root, node["items"])
    if isinstance(node.get("additionalProperties"), dict):
        return f"{path}.NAME", resolved(root, node["additionalProperties"])
    return path, node


def _section(root: dict[str, Any], path: str, node: dict[str, Any]) -> str:
    required = node.get("required", ())
    rows = "".join(
        _row(root, f"{path}.{name}" if path else name, field, is_required=name in required)
        for name, field in node["properties"].items()
    )
    title = f"`{path}`" if path else "The file"
    head = "| field | written as | default | meaning |\n|---|---|---|---|\n"
    return f"\n## {title}\n\n{node['description']}\n\n{head}{rows}"


def _row(root: dict[str, Any], path: str, field: dict[str, Any], *, is_required: bool) -> str:
    name = path.rsplit(".", 1)[-1]
    default = "**required**" if is_required else _default(field.get("default"))
    meaning = " ".join(str(field["description"]).split())
    return f"| `{name}` | {_written_as(root, path, field)} | {default} | {meaning} |\n"


def _written_as(root: dict[str, Any], path: str, field: dict[str, Any]) -> str:
    below, child = _item(root, path, field)
    if "properties" not in child:
        return phrase(child)
    anchor = "".join(c for c in below.lower() if c.isalnum() or c in "_-")
    link = f"[`{below}`](#{anchor})"
    return link if below == path else f"{'list' if '[]' in below else 'mapping'} of {link}"


def _default(default: object) -> str:
    if default is None:
        return "absent"
    return f"`{default}`" if default and isinstance(default, str) else f"`{json.dumps(default)}`"
