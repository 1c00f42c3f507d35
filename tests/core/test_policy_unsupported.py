"""What has no effect yet is refused, and nothing else is."""

from __future__ import annotations

import re

import pytest

from controller.core.policy import (
    UNSUPPORTED,
    digest,
    parse,
)
from controller.core.policy.json_schema import node_at
from tests.core.policy_texts import (
    EVERY_FIELD,
    SMALLEST,
    document,
    faults,
    objects,
    written,
)

# --- not supported yet ------------------------------------------------------------------------

REFUSED = [
    ("spec.gates.approval", {"gates": {"approval": "before_promote"}}),
    ("spec.gates.approval", {"gates": {"approval": "every_stage"}}),
    ("spec.gates.freeze", {"gates": {"freeze": [{"cron": "0 17 * * FRI", "duration": "60h"}]}}),
]


@pytest.mark.parametrize(("path", "spec"), REFUSED)
def test_field_without_effect_yet_is_refused_and_nothing_else_is_wrong_with_it(path, spec):
    (problem,) = faults(written(document(**spec)))
    assert problem.path == path
    assert problem.line is not None
    assert "not supported yet" in problem.expected


def test_every_row_of_the_table_is_exercised_and_points_into_the_schema():
    for row in UNSUPPORTED:
        keys = [k for part in row.path.split(".") for k in part.replace("[]", " 0").split()]
        assert node_at([0 if key == "0" else key for key in keys]) is not None
        refused = [
            faults(written(document(**spec)))[0].expected
            for path, spec in REFUSED
            if path.replace("[0]", "[]") == row.path
        ]
        assert row.expected in refused


def test_policy_with_every_field_of_the_format_lacks_only_what_is_not_supported_yet():
    assert [(p.line, p.path) for p in faults(EVERY_FIELD)] == [(54, "spec.gates.freeze")]
    mentioned = set(re.findall(r"(\w+):", EVERY_FIELD))
    fields = {name for names in objects() for name in names}
    excluded = {"cookie", "kserve", "gateway", "service_port"}
    assert fields - mentioned == excluded, "a field that this test does not show"
    assert all("not supported yet" in p.expected for p in faults(EVERY_FIELD))


@pytest.mark.parametrize("text", ["\ufeff" + SMALLEST, SMALLEST.replace("\n", "\r\n")])
def test_byte_order_mark_and_line_ends_of_other_systems_change_nothing(text):
    assert digest(parse(text, "file.yaml")) == digest(parse(SMALLEST, "file.yaml"))


def test_unused_fields_without_effect_may_be_spelt_out():
    spec = {
        "candidates": {"on_new": "queue"},
        "gates": {"approval": "none", "freeze": []},
        "deploy": None,
        "notify": [],
    }
    plain = parse(SMALLEST, "file.yaml")
    assert digest(parse(written(document(**spec)), "file.yaml")) == digest(plain)
