"""The pages say what the code says: links, commands, routes, fields, words, errors."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from controller import errors
from controller.api.app import create_app
from controller.core.model import Phase, Reason
from docs.commands import CLI_PAGE, cli_page, commands
from docs.health import HTTP_PAGE, http_page
from tests.api.fake import Fake

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if ".venv" not in path.parts
)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
NOT_NAMED = (
    "pypi" + ".org",
    "python" + "hosted",
    "crates" + ".io",
    "npm" + "js",
    "/work/" + "shared",
    "../" + "shared",
)
"""Registries and places that are no part of the project; written so that this file has none."""


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_every_relative_link_leads_somewhere(path: Path):
    for link in LINK.findall(page(str(path))):
        if link.startswith(("http://", "https://")):
            continue
        name, _, fragment = link.partition("#")
        target = (ROOT / path.parent / name) if name else ROOT / path
        assert target.exists(), link
        if fragment:
            assert fragment in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_reached_from_the_index_or_the_readme():
    linked = set(LINK.findall(page("docs/index.md")))
    assert {path.name for path in PAGES if path.parent == Path("docs")} - {"index.md"} <= {
        *linked,
        *(link.removeprefix("docs/") for link in LINK.findall(page("README.md"))),
    }


def test_the_committed_page_of_commands_equals_the_generated_one():
    assert CLI_PAGE.read_text(encoding="utf-8") == cli_page(), "run `make docs`"


def test_every_command_and_option_is_on_its_page_with_a_meaning():
    sections = dict(
        re.findall(r"^## `(.*?)`\n(.*?)(?=^## |\Z)", cli_page(), re.MULTILINE | re.DOTALL)
    )
    found = dict(commands())
    assert set(sections) == set(found)
    for name, command in found.items():
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                continue
            for option in parameter.opts:
                row = rf"^\| .*`{option}`.* \| .* \| \S.* \|$"
                assert re.search(row, sections[name], re.MULTILINE), (name, option)


def test_commands_that_the_pages_tell_people_to_type_exist():
    found = dict(commands())
    typed = [
        (str(path), line)
        for path in PAGES
        for block in re.findall(r"^```sh\n(.*?)^```", page(str(path)), re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
        if line.startswith("understudy ") and line != "understudy --help"
    ]
    assert len(typed) > 10
    for where, line in typed:
        name = next((n for n in found if f"{line} ".startswith(f"{n} ")), None)
        assert name is not None, (where, line)
        known = {option for parameter in found[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= known, (where, line)


def test_the_house_has_the_rooms_that_the_import_contract_knows_from_top_to_bottom():
    contracts = tomllib.loads(page("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = [layer.split(" | ") for layer in contracts[0]["layers"]]
    house = page("docs/design.md").split("## The house")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", house, re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == layers


@pytest.mark.parametrize("room", ["api", "bootstrap", "cli", "demo", "deploy", "ledger"])
def test_every_module_is_on_the_map_of_its_room(room: str):
    folder = ROOT / "controller" / room
    map_ = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    modules = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    absent = {name for name in modules if not re.search(rf"\b{name}\b", str(map_))}
    assert absent <= {"__init__", "__main__"}


def test_every_http_route_is_documented_and_no_other():
    app = create_app(Fake("digits"))
    routes = {
        f"{method.upper()} {path}"
        for path, operations in app.openapi()["paths"].items()
        for method in operations
    }
    rows = re.findall(r"^\| `((?:GET|POST) /\S*)`", page("docs/http-api.md"), re.MULTILINE)
    listed = set(rows)
    assert len(listed) == len(rows), "a route has two rows"
    assert listed - routes == {"GET /", "GET /openapi.json"}
    assert routes <= listed


def test_the_committed_table_of_health_equals_the_generated_one():
    assert HTTP_PAGE.read_text(encoding="utf-8") == http_page(), "run `make docs`"


@pytest.mark.parametrize("reason", Reason, ids=str)
def test_every_reason_for_not_using_an_event_is_explained(reason: Reason):
    assert re.search(rf"^\| `{reason}` \| \S", page("docs/events.md"), re.MULTILINE)


@pytest.mark.parametrize("phase", Phase, ids=str)
def test_every_phase_is_explained(phase: Phase):
    assert f"`{phase}`" in page("docs/concepts.md").split("## Phases")[1]


def test_every_error_is_explained():
    text = page("docs/design.md").split("## Errors")[1]
    tree = [
        name
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.UnderstudyError)
    ]
    assert len(tree) >= 8
    for name in tree:
        assert f"`{name}`" in text, name


def test_the_changelog_has_a_section_for_this_version_and_for_the_next():
    [version] = re.findall(r'^version = "(.*)"$', page("pyproject.toml"), re.MULTILINE)
    headings = re.findall(r"^## \[(.*?)\]", page("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert version in headings


def test_each_decision_says_what_was_decided_why_and_what_was_rejected():
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        text = path.read_text(encoding="utf-8")
        assert len(text.split()) < 400, path.name
        for part in ("**Decided.**", "**Why.**", "**Rejected.**"):
            assert part in text, path.name


def test_ci_runs_tests_and_checks():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert text.index("make test") < text.index("make check")


def test_no_file_names_a_registry_or_a_place_outside_the_project():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 100
    for path in files:
        text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        for name in NOT_NAMED:
            assert name not in text, f"{path.relative_to(ROOT)} names {name}"
