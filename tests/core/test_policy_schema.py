"""The JSON Schema of policies, judged by another reader; the words for every fault of it."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from controller.core.policy import (
    Policy,
    schema,
)
from controller.core.policy.document import read
from controller.core.policy.faults import ANSWERS
from tests.core.policy_texts import (
    EVERY_FIELD,
    POLICIES,
    VALUES,
    document,
    faults,
    places,
    written,
)

# --- the map of pydantic's faults -------------------------------------------------------------

BOUNDS = {
    "gt": "greater_than",
    "ge": "greater_than_equal",
    "lt": "less_than",
    "le": "less_than_equal",
}
STRING_BOUNDS = {
    "min_length": "string_too_short",
    "max_length": "string_too_long",
    "pattern": "string_pattern_mismatch",
}
LENGTHS = {"min_length": "too_short", "max_length": "too_long"}
NO_FAULT_OF_ITS_OWN = {
    "any",
    "no-info",
    "with-info",
    "default",
    "nullable",
    "definitions",
    "definition-ref",
    "model-field",
}


ALWAYS = {
    "model": {"model_type", "broken_rule"},
    "model-fields": {"missing", "extra_forbidden"},
    "literal": {"literal_error"},
    "dict": {"dict_type"},
    "str": {"string_type", "string_unicode"},
    "int": {"int_type"},
    "float": {"float_type"},
    "tuple": {"tuple_type"},
    "function-before": {"value_error"},
    "function-after": {"value_error"},
    "function-wrap": {"value_error"},
    "function-plain": {"value_error"},
}


def errors_of(node: dict[str, Any], *, converted: bool) -> set[str]:
    """The error types of one node; `converted`: a validator before it gave its type."""
    kind = node["type"]
    assert kind in ALWAYS or kind in NO_FAULT_OF_ITS_OWN, f"a new kind of schema: {kind}"
    errors = set() if converted else set(ALWAYS.get(kind, ()))
    limits = {"str": STRING_BOUNDS, "tuple": LENGTHS, "int": BOUNDS, "float": BOUNDS}
    errors |= {error for limit, error in limits.get(kind, {}).items() if limit in node}
    if kind in {"int", "float"}:
        assert node.get("strict") or converted, "a lax number can be text: more error types"
    if kind == "float" and node.get("allow_inf_nan") is False:
        errors.add("finite_number")
    if kind == "tuple" and "variadic_item_index" not in node:
        errors |= {"missing", "too_long"}
    return errors


def possible_errors(node: object, *, converted: bool = False) -> set[str]:
    if isinstance(node, (list, tuple)):
        return set().union(*(possible_errors(child) for child in node))
    if not isinstance(node, dict):
        return set()
    is_node = isinstance(node.get("type"), str)  # else a mapping of fields to nodes
    skipped = {"type", "metadata", "serialization", "config"} if is_node else set()
    own = errors_of(node, converted=converted) if is_node else set()
    before = node.get("type") == "function-before"
    children = [child for key, child in node.items() if key not in skipped]
    return own.union(*(possible_errors(child, converted=before) for child in children))


def test_every_error_type_of_the_schema_has_its_words_and_no_other_has():
    assert possible_errors(Policy.__pydantic_core_schema__) == set(ANSWERS)


# --- JSON Schema ------------------------------------------------------------------------------


SCHEMA = jsonschema.Draft202012Validator(schema())


def conforms(values: object) -> bool:
    return SCHEMA.is_valid(values)


def test_schema_is_a_valid_schema_of_its_draft():
    jsonschema.Draft202012Validator.check_schema(schema())


def test_policy_with_every_field_conforms_to_the_schema():
    assert conforms(read(EVERY_FIELD).value)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_examples_conform_to_the_schema(path):
    assert conforms(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "spec",
    [
        {"reward": {}},
        {"reward": {"event": "e", "window": 30}},
        {"reward": {"event": "e", "window": "30"}},
        {"reward": {"event": "e", "aggregate": "median"}},
        {"reward": {"event": "e", "range": [0]}},
        {"stages": []},
        {"stages": [{"canary": {"steps": []}}]},
        {"stages": [{"canary": {"steps": ["5"]}}]},
        {"stages": [{"canary": {"steps": [5]}}]},
        {"stages": [{"canary": {"steps": [0.1], "min_outcomes": 0}}]},
        {"champion": {"version": "v1", "endpoints": ["localhost"]}},
        {"rewards": {}},
        {"reward": {"event": "e", "kind": "count"}},
        {"reward": {"event": "e", "min_units": 0}},
        {"reward": {"event": "e", "contamination": 2}},
        {"guardrails": [{"metric": "reward", "event": "r", "max_increase": -0.1}]},
        {"guardrails": [{"metric": "reward", "event": "r", "max_increase": "1"}]},
        {"guardrails": [{"metric": "reward", "event": "r", "max_increase": 1, "range": [0]}]},
        {"guardrails": [{"metric": "reward", "event": "r", "max_increase": 1, "window": 5}]},
        {"guardrails": [{"metric": "reward", "event": "r", "max_increase": 1, "aggregate": "x"}]},
        {"stages": [{"canary": {"steps": [0.1], "margin": 0}}]},
        {"stages": [{"canary": {"steps": [0.1], "budget": 1.5}}]},
        {"stages": [{"thompson": {"segments": {}}}]},
        {"stages": [{"thompson": {"segments": {"header": "x y"}}}]},
        {"stages": [{"thompson": {"segments": {"header": "x", "max": 0}}}]},
        {"candidates": {"on_new": "drop"}},
        {"health": {"stale_after": 60}},
        {"health": {"join_rate": 50}},
    ],
)
def test_broken_policies_do_not_conform_to_the_schema(spec):
    assert conforms(document())
    assert not conforms(document(**spec))
    assert faults(written(document(**spec)))


def test_defaults_in_the_schema_are_shown_as_users_write_them():
    definitions = schema()["$defs"]
    canary = definitions["Canary"]["properties"]
    assert (canary["min_duration"]["default"], canary["margin"]["default"]) == ("5m", "1%")
    assert canary["budget"]["default"] == "0.5%"
    assert definitions["DataHealth"]["properties"]["stale_after"]["default"] == "10m"
    assert definitions["DataHealth"]["properties"]["join_rate"]["default"] == "50%"
    assert definitions["Reward"]["properties"]["contamination"]["default"] == "0%"
    assert definitions["Reward"]["properties"]["window"]["default"] == "30s"
    assert definitions["Reward"]["properties"]["range"]["default"] == [0, 1]
    assert definitions["Spec"]["properties"]["gates"]["default"] == {}


def test_defaults_in_the_schema_mean_what_leaving_the_field_out_means():
    for name, definition in schema()["$defs"].items():
        if definition.get("required") or name in {"Unit", "Stage", "Deploy", "Map", "Source"}:
            continue
        defaults = {k: copy.deepcopy(v["default"]) for k, v in definition["properties"].items()}
        model = getattr(__import__("controller.core.policy", fromlist=[name]), name)
        assert model.model_validate(defaults) == model.model_validate({})


def test_every_field_of_the_schema_has_a_description():
    found = schema()
    for name, definition in {"": found, **found["$defs"]}.items():
        assert name == "" or definition["description"]
        for field, node in definition["properties"].items():
            assert node.get("description"), (name, field)


def test_changing_the_schema_that_was_given_changes_nothing():
    schema()["properties"].clear()
    assert schema()["properties"]


def test_whatever_parse_accepts_conforms_to_the_schema():
    accepted = 0
    for text in (EVERY_FIELD, *(file.read_text("utf-8") for file in POLICIES)):
        values = read(text).value
        for path, value in itertools.product(places(values), VALUES):
            changed = copy.deepcopy(values)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            try:
                Policy.model_validate(changed)
            except ValidationError:
                continue
            accepted += 1
            assert conforms(changed), (path, value)
    assert accepted > 800
