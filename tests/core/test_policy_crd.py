"""The CRD: what a cluster's API server would say against it, and that it is of the same policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from controller.cli.app import app
from controller.core.policy import schema
from controller.core.policy.crd import as_meant, crd
from controller.core.policy.crd_rules import RULES
from tests.core.broken_policies import RULES as BROKEN
from tests.core.policy_texts import document, faults, written

Node = dict[str, Any]

POLYMORPHIC = "x-kubernetes-preserve-unknown-fields"
VALIDATIONS = "x-kubernetes-validations"


def document_schema() -> Node:
    (version,) = crd()["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def spec_schema() -> Node:
    return document_schema()["properties"]["spec"]


def nodes(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            yield from nodes(node[name], f"{path}[]")


def test_every_node_has_a_type_or_is_text_or_number():
    for path, node in nodes(document_schema()):
        assert ("type" in node) != (node.get(POLYMORPHIC) is True), path
        if POLYMORPHIC in node and ".when[]" not in path:  # text, number, boolean, or a list
            assert {"pattern", "minimum", "maximum"} <= node.keys(), path


def test_nothing_stands_in_it_that_a_structural_schema_forbids():
    forbidden = {"$ref", "$defs", "title", "const", "prefixItems", "default", "oneOf"}
    for path, node in nodes(document_schema()):
        assert not forbidden & node.keys(), path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_every_field_of_the_schema_is_there_with_its_description():
    described = {path: node.get("description", "") for path, node in nodes(spec_schema())}
    definitions = schema()["$defs"]

    def check(name: str, path: str) -> None:
        for field, node in definitions[name]["properties"].items():
            assert " ".join(node["description"].split()) in described[f"{path}.{field}"]
            below = f"{path}.{field}"
            options = [node, *node.get("anyOf", ()), node.get("items", {})]
            for option in (o for o in options if "$ref" in o):
                deeper = below + "[]" if option is node.get("items") else below
                check(option["$ref"].rsplit("/", 1)[1], deeper)

    check("Spec", "")


def test_no_field_of_an_object_that_is_required_is_missing():
    spec = spec_schema()
    assert set(spec["required"]) == {"route", "champion", "reward", "stages"}
    assert spec["properties"]["reward"]["required"] == ["event"]


def test_defaults_are_told_and_not_put_in():
    canary = spec_schema()["properties"]["stages"]["items"]["properties"]["canary"]["properties"]
    assert canary["min_duration"]["description"].endswith("Default: 5m.")
    assert canary["margin"]["description"].endswith("Default: 1%.")
    assert "default" not in canary["margin"]


def test_texts_and_lists_that_rules_look_at_have_bounds():
    for path, node in nodes(spec_schema()):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "string" and VALIDATIONS in node:
            assert "maxLength" in node, path


@pytest.mark.parametrize(("spec", "words"), BROKEN)
def test_rule_of_cel_has_the_words_that_parse_has(spec, words):
    said = [problem.expected for problem in faults(written(document(**spec)))]
    assert words in said


def test_every_rule_of_cel_has_an_example_that_breaks_it():
    known = [words for rules in RULES.values() for _, words in rules]
    assert sorted(known) == sorted(words for _, words in BROKEN)
    found = [
        rule["message"] for _, node in nodes(spec_schema()) for rule in node.get(VALIDATIONS, ())
    ]
    assert set(known) <= set(found)


def test_null_is_kept_for_parse_to_refuse_where_it_does_not_mean_left_out():
    nullable = {path for path, node in nodes(spec_schema()) if node.get("nullable")}
    for path in (".guardrails", ".reward.window", ".candidates", ".gates.cooldown"):
        assert path in nullable
        top, _, below = path[1:].partition(".")
        value: Any = None if not below else {below: None}
        if top == "reward":
            value["event"] = "e"
        assert faults(written(document(**{top: value})))
    assert not {".deploy", ".route.unit", ".route.prefix"} & nullable


def test_on_that_was_read_as_true_is_taken_for_on():
    assert as_meant([{"true": ["promoted"], "webhook": "w"}]) == [
        {"on": ["promoted"], "webhook": "w"}
    ]
    both = {"true": [], "on": []}
    assert as_meant(both) == both


def test_columns_are_those_that_people_were_promised():
    (version,) = crd()["spec"]["versions"]
    names = [column["name"].upper() for column in version["additionalPrinterColumns"]]
    assert " ".join(names) == "MODEL PHASE CHAMPION CANDIDATE STEP WEIGHT LIFT AGE"


def test_command_prints_the_definition():
    result = CliRunner().invoke(app, ["schema", "--crd"])
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout) == crd()
