"""Makes the pages that are made from code: `python -m docs.generate`, run by `make docs`.

The policy reference is the JSON Schema of a policy, read aloud: one table per object, in the
order of the document. The page of the phases is `docs.phases`. Pages written by hand were
rejected, since they are wrong by the next field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controller.core.policy import UNSUPPORTED, schema
from controller.core.policy.json_schema import phrase, resolve
from docs.chart import (
    BOOTSTRAP_FILE,
    CRD_FILE,
    README,
    chart_bootstrap,
    chart_crd,
    chart_readme,
)
from docs.commands import CLI_PAGE, cli_page
from docs.health import HTTP_PAGE, http_page
from docs.phases import PHASES_PAGE, phases_page
from docs.scenarios import SCENARIOS_PAGE, scenarios_page

POLICY_REFERENCE = Path(__file__).parent / "policy-reference.md"

_HEAD = """\
<!-- Made by `make docs` from controller/core/policy. Do not edit. -->
# Policy reference

One YAML file describes how the versions of one model are rolled out; `policies/` holds examples
with a comment on each line. The same file is a Kubernetes manifest. Fields that are not listed here
are errors, and so is what is not supported yet: nothing in a policy is silently ignored.
`understudy check FILE` tells every fault with its line, `understudy schema` prints this page as
JSON Schema. A file has at most 1 MiB, and each in a folder a model and a prefix of its own.

Durations carry a unit: `ms`, `s`, `m`, `h`, `d` or `w`, as in `90s` or `1.5h`. Shares are written
`5%` or `0.05`.
"""


def policy_reference() -> str:
    """The page `policy-reference.md`, as Markdown."""
    document = schema()
    body = "".join(_section(path, node) for path, node in _objects("", resolve(document)))
    return f"{_HEAD}{body}"


def _objects(path: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the schema with its path, parents first, in the order of the document."""
    yield path, node
    for name, field in node["properties"].items():
        below, child = _item(f"{path}.{name}" if path else name, resolve(field))
        if "properties" in child:
            yield from _objects(below, child)


def _item(path: str, node: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if "items" in node and "prefixItems" not in node:
        return f"{path}[]", resolve(node["items"])
    return path, node


def _section(path: str, node: dict[str, Any]) -> str:
    title = f"`{path}`" if path else "The document"
    rows = "".join(
        _row(f"{path}.{name}" if path else name, name, field, name in node.get("required", ()))
        for name, field in node["properties"].items()
    )
    head = "| field | written as | default | meaning |\n|---|---|---|---|\n"
    return f"\n## {title}\n\n{_one_line(node['description'])}\n\n{head}{rows}"


def _row(path: str, name: str, field: dict[str, Any], is_required: bool) -> str:  # noqa: FBT001
    default = "**required**" if is_required else _default(field.get("default"))
    cells = (f"`{name}`", _written_as(path, field), default, _meaning(path, field))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _written_as(path: str, field: dict[str, Any]) -> str:
    node = resolve(field)
    below, child = _item(path, node)
    if "properties" in child:
        link = f"[`{below}`](#{_anchor(below)})"
        return link if below == path else f"list of {link}"
    if below != path and "title" not in node:
        return f"list; each {phrase(child)}"
    return phrase(node)


def _default(default: object) -> str:
    if default is None:
        return "absent"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def _meaning(path: str, field: dict[str, Any]) -> str:
    refused = [row.what for row in UNSUPPORTED if row.path == path]
    note = f" *Not supported yet: {', '.join(refused)}.*" if refused else ""
    return f"{_one_line(field['description'])}{note}"


def _one_line(text: str) -> str:
    """A cell of a table is one line, a docstring may be more."""
    return " ".join(text.split())


def _anchor(path: str) -> str:
    """The fragment that a heading gets on code hosts: punctuation goes."""
    return "".join(c for c in path.lower() if c.isalnum() or c in "_-")


if __name__ == "__main__":
    POLICY_REFERENCE.write_text(policy_reference(), encoding="utf-8")
    PHASES_PAGE.write_text(phases_page(), encoding="utf-8")
    CLI_PAGE.write_text(cli_page(), encoding="utf-8")
    SCENARIOS_PAGE.write_text(scenarios_page(), encoding="utf-8")
    HTTP_PAGE.write_text(http_page(), encoding="utf-8")
    CRD_FILE.write_text(chart_crd(), encoding="utf-8")
    BOOTSTRAP_FILE.write_text(chart_bootstrap(), encoding="utf-8")
    README.write_text(chart_readme(), encoding="utf-8")
