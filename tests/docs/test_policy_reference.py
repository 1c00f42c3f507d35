"""The policy reference is what the schema says, all of it."""

from __future__ import annotations

import re

from controller.core.policy import UNSUPPORTED, schema
from docs.generate import POLICY_REFERENCE, policy_reference


def test_committed_page_equals_the_generated_one():
    page = POLICY_REFERENCE.read_text(encoding="utf-8")
    assert page == policy_reference(), "run `make docs`"


def test_every_field_of_the_schema_is_in_the_page_with_its_description():
    page = policy_reference()
    found = schema()
    for definition in (found, *found["$defs"].values()):
        for name, field in definition["properties"].items():
            description = re.escape(" ".join(field["description"].split()))
            assert re.search(rf"^\| `{name}` \|.*\| {description}", page, re.MULTILINE), name


def test_every_link_leads_to_a_heading():
    page = policy_reference()
    headings = re.findall(r"^## `?(.*?)`?$", page, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9_-]", "", heading.lower()) for heading in headings}
    links = set(re.findall(r"\]\(#([^)]*)\)", page))
    assert links
    assert links <= anchors
    assert len(anchors) == len(headings)


def test_what_is_not_supported_yet_is_marked():
    rows = policy_reference().splitlines()
    for refused in UNSUPPORTED:
        name = refused.path.rsplit(".", 1)[1]
        marked = [row for row in rows if row.startswith(f"| `{name}` |") and refused.what in row]
        assert any("Not supported yet" in row for row in marked), refused.path
