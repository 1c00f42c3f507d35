"""What the Helm chart takes from code: the CRD, the routers' bootstrap, the table of its values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from controller.core.policy.crd import crd
from controller.router.bootstrap import remote
from controller.router.fleet import ADMIN_PORT, LOG_PATH, PROBE_PORT, Fleet

CHART = Path(__file__).parents[1] / "charts" / "understudy"
CRD_FILE = CHART / "files" / "rolloutpolicy-crd.yaml"
BOOTSTRAP_FILE = CHART / "files" / "router-bootstrap.yaml"
README = CHART / "README.md"

XDS_HOST, XDS_PORT = "XDS-HOST", 18000
"""What the template puts the name of the headless Service in place of, and its port."""

_MADE = "# Made by `make docs`. Do not edit.\n"
_TABLE = re.compile(r"(?<=<!-- values -->\n).*?(?=<!-- end of values -->)", re.DOTALL)


def chart_crd() -> str:
    """The definition that the chart installs: Helm keeps it when the chart is uninstalled."""
    document: dict[str, Any] = crd()
    metadata = document["metadata"]
    metadata["annotations"] = {
        **metadata.get("annotations", {}),
        "helm.sh/resource-policy": "keep",
    }
    return _MADE + _yaml(document)


def chart_bootstrap() -> str:
    """The bootstrap of the chart's routers, as `understudy router-bootstrap` prints it."""
    document = remote(
        node="router",
        xds=[(XDS_HOST, XDS_PORT)],
        place=Fleet.listener,
        admin=("127.0.0.1", ADMIN_PORT),
        probe=("0.0.0.0", PROBE_PORT),  # noqa: S104 - a pod's
    )
    assert Fleet.listener.log_path == LOG_PATH
    return _MADE + _yaml(document)


def _yaml(document: object) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


# --- the table of values ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart: path, default, and what its comment says."""

    path: str
    default: str
    meaning: str


def values() -> Iterator[Value]:
    """Every value that has a comment, in the order of the file."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    tree: dict[str, Any] = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        depth = (len(line) - len(line.lstrip())) // 2
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
        elif found := re.match(r"([A-Za-z]+):", stripped):
            path = [*path[:depth], found[1]]
            if comment:
                yield Value(".".join(path), _default(_at(tree, path)), " ".join(comment))
            comment = []
        else:
            comment = []


def _at(tree: Any, path: list[str]) -> Any:
    for each in path:
        tree = tree[each]
    return tree


def _default(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def chart_readme() -> str:
    """The chart's README with its table renewed."""
    rows = "".join(
        f"| `{each.path}` | `{each.default}` | {each.meaning.replace('|', chr(92) + '|')} |\n"
        for each in values()
    )
    table = f"| value | default | meaning |\n|---|---|---|\n{rows}"
    text = README.read_text(encoding="utf-8")
    made, count = _TABLE.subn(lambda _: table, text)
    assert count == 1, f"{README} has no place for the table of values"
    return made
