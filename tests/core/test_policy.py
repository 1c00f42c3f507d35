"""Policies: every fault of a text at once, each with its place, and what a policy means."""

from __future__ import annotations

import copy
import itertools
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.core.policy import (
    UNSUPPORTED,
    Policy,
    digest,
    parse,
    position,
    schema,
    warnings,
)
from controller.core.policy.faults import ANSWERS, nearest
from controller.core.policy.json_schema import node_at
from controller.errors import PolicyError, Problem

POLICIES = sorted((Path(__file__).parents[2] / "policies").glob("*.yaml"))

SMALLEST = """\
apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: digits}
spec:
  route: {prefix: /digits/}
  champion: {version: v1}
  reward: {event: correct}
  stages:
    - canary: {steps: [5%, 25%]}
"""


def document(**spec: Any) -> dict[str, Any]:
    """The smallest policy, as values, with some fields of its spec replaced."""
    values = yaml.safe_load(SMALLEST)
    values["spec"].update(spec)
    return values


def written(values: object) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def faults(text: str) -> tuple[Problem, ...]:
    with pytest.raises(PolicyError) as caught:
        parse(text, "file.yaml")
    return caught.value.problems


def fault_at(text: str, path: str) -> Problem:
    (problem,) = [p for p in faults(text) if p.path == path]
    return problem


def replaced(old: str, new: str) -> str:
    assert SMALLEST.count(old) == 1
    return SMALLEST.replace(old, new)


# --- what is fine -----------------------------------------------------------------------------


def test_smallest_policy_has_the_documented_defaults():
    policy = parse(SMALLEST, "file.yaml")
    assert policy.model == "digits"
    assert policy.spec.route.unit is None
    assert policy.spec.champion.endpoints == ()
    assert policy.spec.reward.window == 30.0
    assert policy.spec.reward.range == (0.0, 1.0)
    canary = policy.spec.stages[0].canary
    assert canary is not None
    assert (canary.steps, canary.margin, canary.max_duration) == ((0.05, 0.25), 0.01, 86_400.0)
    assert policy.spec.gates.cooldown == 600.0
    assert policy.spec.candidates.on_new == "queue"


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_example_policy_is_fine_and_can_work(path):
    policy = parse(path.read_text(encoding="utf-8"), str(path))
    assert warnings(policy) == ()


def test_examples_show_every_stage_and_do_not_share_models_or_routes():
    policies = [parse(path.read_text(encoding="utf-8"), str(path)) for path in POLICIES]
    kinds = {stage.kind for policy in policies for stage in policy.spec.stages}
    assert kinds == {"shadow", "canary", "ab", "thompson"}
    assert len({policy.model for policy in policies}) == len(policies)
    assert len({policy.spec.route.prefix for policy in policies}) == len(policies)


def test_stages_of_one_kind_may_follow_each_other():
    stages = [{"canary": {"steps": ["1%"]}}, {"canary": {"steps": ["2%"]}}]
    policy = parse(written(document(stages=stages)), "file.yaml")
    assert [stage.kind for stage in policy.spec.stages] == ["canary", "canary"]


# --- places and words of faults ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "{event: correct}",
            "{event: correct, window: 30}",
            Problem(
                "spec.reward.window",
                "30",
                "a duration with its unit, such as 30s, 10m, 36h or 7d",
                *(7, 36),
            ),
        ),
        (
            "25%]",
            "x]",
            Problem("spec.stages[0].canary.steps[1]", "x", "a share such as 5% or 0.05", *(9, 28)),
        ),
        (
            "{event: correct}",
            "{event: correct, aggregate: lst}",
            Problem(
                "spec.reward.aggregate",
                "lst",
                "one of first, last, sum, max, mean",
                *(7, 39),
                "last",
            ),
        ),
        (
            "25%]}",
            "25%], min_outcomes: 0}",
            Problem(
                "spec.stages[0].canary.min_outcomes", "0", "a whole number of at least 1", *(9, 48)
            ),
        ),
        (
            "{prefix: /digits/}",
            "{prefix: /digits/, timeuot: 5s}",
            Problem(
                "spec.route.timeuot",
                "timeuot",
                "one of the fields prefix, unit, timeout",
                *(5, 29),
                "timeout",
            ),
        ),
        (
            "v1}",
            "1.0}",
            Problem(
                "spec.champion.version",
                "1.0",
                "a version of at most 63 letters, digits, '-', '_' and '.', such as v1 or \"1.0\"",
                *(6, 23),
            ),
        ),
        (
            "understudy.dev/v1alpha1",
            "apps/v1",
            Problem("apiVersion", "apps/v1", "understudy.dev/v1alpha1", 1, 13),
        ),
        (
            "RolloutPolicy",
            "Deployment",
            Problem("kind", "Deployment", "RolloutPolicy", 2, 7),
        ),
        (
            "[5%, 25%]",
            "[25%, 5%]",
            Problem(
                "spec.stages[0].canary.steps",
                "[25%, 5%]",
                "steps that rise, such as [1%, 5%, 25%, 50%]",
                *(9, 23),
            ),
        ),
        (
            "{event: correct}",
            "{event: correct, range: [0]}",
            Problem(
                "spec.reward.range[1]",
                "nothing",
                "two numbers [low, high] with low < high, such as [0, 1]",
                *(7, 35),
            ),
        ),
    ],
)
def test_fault_says_where_what_was_found_and_what_was_expected(old, new, expected):
    assert faults(replaced(old, new)) == (expected,)


def test_missing_field_stands_on_the_line_of_its_parent():
    text = replaced("  reward: {event: correct}\n", "  reward:\n    window: 5s\n")
    problem = fault_at(text, "spec.reward.event")
    assert (problem.found, problem.line, problem.column) == ("nothing", 7, 3)
    assert problem.expected.startswith("the field event: ")


def test_default_that_does_not_fit_the_range_is_named_as_the_default():
    text = replaced("{event: correct}", "{event: correct, range: [1, 2]}")
    problem = fault_at(text, "spec.reward.default")
    assert problem.sentence() == (
        "spec.reward.default: found 0 (the default), expected a number inside the range"
    )


def test_every_fault_is_told_at_once_in_the_order_of_the_text():
    text = """\
apiVersion: understudy.dev/v1
kind: RolloutPolicy
metadata: {name: Digits}
spec:
  route:
    prefx: /v2
    timeout: 5
    unit: {header: "a b", cookie: c}
  champion: {version: v1, endpoints: [127.0.0.1]}
  reward: {event: e, direction: minimize, join: unti}
  guardrails: [{metric: latency, max_increase: 150%}]
  stages:
    - shadow: {duratoin: 5m}
      canary: {}
  deploy: {}
"""
    found = [(p.line, p.path) for p in faults(text)]
    assert found == [
        (1, "apiVersion"),
        (3, "metadata.name"),
        (5, "spec.route.prefix"),
        (6, "spec.route.prefx"),
        (7, "spec.route.timeout"),
        (8, "spec.route.unit"),
        (8, "spec.route.unit.header"),
        (9, "spec.champion.endpoints[0]"),
        (10, "spec.reward.direction"),
        (10, "spec.reward.join"),
        (11, "spec.guardrails[0]"),
        (11, "spec.guardrails[0].metric"),
        (11, "spec.guardrails[0].max_increase"),
        (13, "spec.stages[0]"),
        (13, "spec.stages[0].shadow.duratoin"),
        (14, "spec.stages[0].canary.steps"),
        (15, "spec.deploy"),
    ]


def test_message_has_one_line_for_each_fault_with_source_line_and_column():
    with pytest.raises(PolicyError) as caught:
        parse(replaced("/digits/", "digits"), "policies/digits.yaml")
    assert str(caught.value) == (
        "policies/digits.yaml:5:19: spec.route.prefix: found digits, "
        "expected a path that begins with /, such as /v2/models/digits/"
    )


@pytest.mark.parametrize(
    ("text", "line", "column", "expected"),
    [
        ("", 1, 1, "a mapping with the fields apiVersion, kind, metadata, spec"),
        ("# only this\n", 1, 1, "a mapping with the fields apiVersion, kind, metadata, spec"),
        ("\n[1, 2]", 2, 1, "a mapping with the fields apiVersion, kind, metadata, spec"),
        ("a: b: c", 1, 5, "YAML: mapping values are not allowed here"),
        ("a:\n\t- 1", 2, 1, "YAML: while scanning for the next token, found character"),
        ("a: 1\nb: \0", 2, 4, "YAML made of printable characters"),
        ("a: &x 1\nb: *x", 2, 4, "the value itself: aliases are not allowed"),
        ("[" * 100_000, 1, 41, "at most 40 levels"),
        ('"\\UFFFFFFFF"', 1, 1, "YAML"),
        (SMALLEST + "---\n{}\n", 11, 1, "one policy in each file"),
        ("!!python/object:os.system {}", 1, 1, "a plain value, without a tag"),
        ("? [a]\n: 1", 1, 3, "the name of a field"),
    ],
)
def test_text_that_is_no_policy_is_a_fault_with_its_place(text, line, column, expected):
    assert any(
        (p.line, p.column) == (line, column) and p.expected.startswith(expected)
        for p in faults(text)
    )


def test_field_written_twice_names_both_lines():
    text = replaced(
        "  reward: {event: correct}\n", "  reward:\n    event: a\n    window: 1s\n    event: b\n"
    )
    (problem,) = faults(text)
    assert (problem.path, problem.line) == ("spec.reward.event", 10)
    assert problem.expected == "each field once: it stands on line 8 already"


@pytest.mark.parametrize(
    ("spec", "path", "expected"),
    [
        ({"stages": []}, "spec.stages", "a list of at least one stage"),
        (
            {"stages": [{"shadow": {}, "ab": {}}]},
            "spec.stages[0]",
            "exactly one of shadow, canary, ab and thompson, with its settings or {}",
        ),
        (
            {"stages": [{"ab": None}]},
            "spec.stages[0]",
            "exactly one of shadow, canary, ab and thompson, with its settings or {}",
        ),
        (
            {"gates": {"offline": {"metric": "accuracy"}}},
            "spec.gates.offline",
            "at least one of min and max_drop",
        ),
        (
            {"guardrails": [{"metric": "error_rate", "max_increase": 0.1, "quantile": 0.5}]},
            "spec.guardrails[0]",
            "a quantile with metric latency, and with no other",
        ),
        (
            {"guardrails": [{"metric": "error_rate", "max_increase": 0.1, "event": "refund"}]},
            "spec.guardrails[0]",
            "an event with metric reward, and with no other",
        ),
        (
            {"reward": {"event": "e", "range": [0, -1], "default": 0}},
            "spec.reward.range",
            "two numbers [low, high] with low < high, such as [0, 1]",
        ),
        (
            {"reward": {"event": "e", "default": 2}},
            "spec.reward.default",
            "a number inside the range",
        ),
        (
            {"reward": {"event": "e", "default": float("nan")}},
            "spec.reward.default",
            "a number inside the range",
        ),
        (
            {"stages": [{"canary": {"steps": ["0%"]}}]},
            "spec.stages[0].canary.steps[0]",
            "a share above 0%, such as 5% or 0.05",
        ),
        (
            {"stages": [{"canary": {"steps": [True]}}]},
            "spec.stages[0].canary.steps[0]",
            "a share such as 5% or 0.05",
        ),
        (
            {"stages": [{"canary": {"steps": ["5%"], "min_outcomes": True}}]},
            "spec.stages[0].canary.min_outcomes",
            "a whole number of at least 1",
        ),
        (
            {"stages": [{"canary": {"steps": ["5%"], "min_outcomes": "200"}}]},
            "spec.stages[0].canary.min_outcomes",
            "a whole number of at least 1",
        ),
        (
            {"route": {"prefix": "/", "timeout": "0s"}},
            "spec.route.timeout",
            "a duration longer than 0 with its unit, such as 30s, 10m, 36h or 7d",
        ),
        ({"route": 5}, "spec.route", "a mapping with the fields prefix, unit, timeout"),
    ],
)
def test_value_that_breaks_its_type_or_a_rule_is_refused(spec, path, expected):
    assert [(p.path, p.expected) for p in faults(written(document(**spec)))] == [(path, expected)]


# --- not supported yet ------------------------------------------------------------------------

REFUSED = [
    ("spec.reward.direction", {"reward": {"event": "e", "direction": "minimize"}}),
    ("spec.reward.range", {"reward": {"event": "e", "range": [-1, 1]}}),
    (
        "spec.guardrails[0].metric",
        {"guardrails": [{"metric": "latency", "quantile": 0.99, "max_increase": "20%"}]},
    ),
    (
        "spec.guardrails[0].metric",
        {"guardrails": [{"metric": "reward", "event": "refund", "max_increase": "1%"}]},
    ),
    ("spec.candidates.on_new", {"candidates": {"on_new": "replace"}}),
    ("spec.candidates.on_new", {"candidates": {"on_new": "join"}}),
    ("spec.gates.approval", {"gates": {"approval": "before_promote"}}),
    ("spec.gates.approval", {"gates": {"approval": "every_stage"}}),
    ("spec.gates.freeze", {"gates": {"freeze": [{"cron": "0 17 * * FRI", "duration": "60h"}]}}),
    (
        "spec.deploy",
        {"deploy": {"kubernetes": {"namespace": "models", "service": "digits", "port": 8080}}},
    ),
    ("spec.notify", {"notify": [{"webhook": "https://example.org/x"}]}),
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
    text = """\
apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata:
  name: digits
  namespace: models
  labels: {app.kubernetes.io/part-of: vision}
  annotations: {owner: "ana"}
spec:
  route:
    prefix: /v2/models/digits/
    unit: {header: x-user-id}
    timeout: 5s
  champion:
    version: v1
    endpoints: ["127.0.0.1:9001", "[::1]:9001", "models.example.org:80"]
  reward:
    event: correct
    window: 30s
    default: 0
    range: [0, 1]
    aggregate: first
    join: request_id
    direction: maximize
    grace: 1m
  guardrails:
    - {metric: error_rate, max_increase: 1%}
    - {metric: latency, quantile: 0.99, max_increase: 20%}
    - {metric: reward, event: refund, max_increase: 0.5%}
  stages:
    - shadow: {duration: 5m, percent: 10%}
    - canary:
        steps: [1%, 5%, 25%, 50%]
        min_duration: 5m
        min_outcomes: 200
        margin: 1%
        false_rollback: 1%
        false_promotion: 1%
        max_duration: 1d
        on_expiry: hold
    - ab: {share: 50%, alpha: 5%, min_effect: 1%, min_duration: 7d, max_duration: 28d}
    - thompson:
        {floor: 1%, update_every: 30s, half_life: 1d, promote_probability: 99%, max_loss: 0.1%,
         min_outcomes: 500}
  candidates: {on_new: queue}
  gates:
    offline: {metric: accuracy, min: 0.80, max_drop: 1%}
    approval: none
    freeze: [{cron: "0 17 * * FRI", duration: 60h}]
    cooldown: 10m
  deploy: {kubernetes: {namespace: models, service: digits, port: 8080, retain: 1h}}
  notify: [{webhook: "https://example.org/x", on: [promoted, rolled_back, holding]}]
"""
    assert [(p.line, p.path) for p in faults(text)] == [
        (27, "spec.guardrails[1].metric"),
        (28, "spec.guardrails[2].metric"),
        (48, "spec.gates.freeze"),
        (50, "spec.deploy"),
        (51, "spec.notify"),
    ]
    mentioned = set(re.findall(r"(\w+):", text))
    fields = {name for names in objects() for name in names}
    assert fields - mentioned == {"cookie"}, "a field that this test does not show"
    assert all("not supported yet" in p.expected for p in faults(text))


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


# --- typos ------------------------------------------------------------------------------------


def objects() -> list[tuple[str, ...]]:
    """The fields of each object of the schema."""
    found = schema()
    definitions = [found, *found["$defs"].values()]
    return [tuple(d["properties"]) for d in definitions]


def distance(a: str, b: str) -> int:
    """Levenshtein, by the textbook."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        left = [i]
        for j, y in enumerate(b, 1):
            left.append(min(row[j] + 1, left[-1] + 1, row[j - 1] + (x != y)))
        row = left
    return row[-1]


@st.composite
def typos(draw: st.DrawFn) -> tuple[str, str, tuple[str, ...]]:
    names = draw(st.sampled_from(objects()))
    name = draw(st.sampled_from([n for n in names if len(n) > 2] or names))
    at = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    typo = draw(
        st.sampled_from(
            [
                name[:at] + name[at + 1 :],
                name[:at] + letter + name[at:],
                name[:at] + letter + name[at + 1 :],
                name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :],
                name.upper(),
                name.replace("_", "-"),
            ]
        )
    )
    return name, typo, names


@given(typos())
@settings(max_examples=500, derandomize=True, deadline=None)
def test_typo_of_a_field_gives_the_nearest_name(case):
    name, typo, names = case
    # Where another name is as near by a textbook's measure, either of them is right.
    plain = typo.lower().replace("-", "_")
    least = min(distance(plain, other.lower()) for other in names)
    near = {other for other in names if distance(plain, other.lower()) <= max(least, 2)}
    assert name in near
    assert nearest(typo, names) in near


def test_word_that_resembles_nothing_gives_no_name():
    assert nearest("zzzzzz", ("prefix", "unit", "timeout")) is None
    assert nearest("anything", ()) is None


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
    assert definitions["Reward"]["properties"]["window"]["default"] == "30s"
    assert definitions["Reward"]["properties"]["range"]["default"] == [0, 1]
    assert definitions["Spec"]["properties"]["gates"]["default"] == {}


def test_defaults_in_the_schema_mean_what_leaving_the_field_out_means():
    for name, definition in schema()["$defs"].items():
        if definition.get("required") or name in {"Unit", "Stage"}:
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


# --- quantities -------------------------------------------------------------------------------

UNITS = {"ms": "1/1000", "s": "1", "m": "60", "h": "3600", "d": "86400", "w": "604800"}
decimals = st.tuples(st.integers(1, 999_999), st.integers(0, 5)).map(
    lambda pair: (
        f"{pair[0] // 10 ** pair[1]}.{pair[0] % 10 ** pair[1]:0{pair[1]}d}"
        if pair[1]
        else str(pair[0])
    )
)


@given(decimals, st.sampled_from(sorted(UNITS)))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_duration_is_the_nearest_float_to_the_exact_seconds(number, unit):
    text = replaced("{event: correct}", f"{{event: correct, window: {number}{unit}}}")
    exact = Fraction(number) * Fraction(UNITS[unit])
    assert parse(text, "file.yaml").spec.reward.window == float(exact)


@given(st.integers(1, 99_999))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_share_in_percent_and_as_a_number_is_one_share_with_one_digest(thousandths):
    def with_share(share: str) -> Policy:
        return parse(replaced("[5%, 25%]", f"[{share}]"), "file.yaml")

    percent = with_share(f"{thousandths // 1000}.{thousandths % 1000:03d}%")
    number = with_share(f"0.{thousandths:05d}")
    exact = float(Fraction(thousandths, 100_000))
    assert percent.spec.stages[0].canary.steps == (exact,)
    assert number == percent
    assert digest(number) == digest(percent)


@pytest.mark.parametrize("text", ["5", "5 s", "5x", "-5s", "s", "1e3s", "٣s", "", "5S", "1:30"])
def test_duration_without_its_unit_is_refused(text):
    policy = replaced("{event: correct}", f"{{event: correct, window: '{text}'}}")
    assert fault_at(policy, "spec.reward.window").expected.startswith("a duration with its unit")


# --- digest -----------------------------------------------------------------------------------


def test_digest_does_not_depend_on_layout_order_or_defaults_that_are_spelt_out():
    other = """\
# another layout of the same policy
kind: RolloutPolicy
"apiVersion": 'understudy.dev/v1alpha1'
spec:
  stages: [{canary: {min_duration: 300s, steps: [0.05, 25.0%]}}]
  reward:
    default: -0.0
    event: correct
    window: 0.5m
  champion: {version: v1, endpoints: []}
  route: {prefix: /digits/}
metadata:
  name: digits
  labels: {team: vision}
"""
    assert digest(parse(other, "other.yaml")) == digest(parse(SMALLEST, "file.yaml"))
    assert re.fullmatch("[0-9a-f]{64}", digest(parse(SMALLEST, "file.yaml")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: digits", "name: letters"),
        ("5%, 25%", "5%, 26%"),
        ("version: v1", "version: v2"),
        ("correct}", "correct, window: 31s}"),
        ("25%]}\n", "25%]}\n    - ab: {}\n"),
    ],
)
def test_digest_changes_with_the_meaning(old, new):
    changed = parse(replaced(old, new), "file.yaml")
    assert digest(changed) != digest(parse(SMALLEST, "file.yaml"))


# --- advice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (
            {"reward": {"event": "e", "window": "24h", "grace": "1s"}},
            "spec.stages[0].canary.max_duration",
        ),
        (
            {"stages": [{"canary": {"steps": [0.1, 0.2, 0.3], "min_duration": "9h"}}]},
            "spec.stages[0].canary.max_duration",
        ),
        ({"stages": [{"ab": {}}, {"shadow": {}}]}, "spec.stages[1].shadow"),
        (
            {
                "stages": [{"canary": {"steps": [0.1], "margin": 0.2}}],
                "reward": {"event": "e", "range": [0, 0.2]},
            },
            "spec.stages[0].canary.margin",
        ),
        ({"stages": [{"canary": {"steps": [0.5, 1]}}]}, "spec.stages[0].canary.steps[1]"),
        (
            {"stages": [{"ab": {"min_duration": "7d", "max_duration": "6d"}}]},
            "spec.stages[0].ab.max_duration",
        ),
        (
            {"stages": [{"ab": {}}], "reward": {"event": "e", "window": "29d"}},
            "spec.stages[0].ab.max_duration",
        ),
        ({"stages": [{"thompson": {"floor": "50%"}}]}, "spec.stages[0].thompson.floor"),
        ({"reward": {"event": "e", "join": "unit"}}, "spec.reward.join"),
    ],
)
def test_policy_that_cannot_work_gets_advice(spec, path):
    (advice,) = warnings(parse(written(document(**spec)), "file.yaml"))
    assert advice.path == path
    assert advice.sentence


@pytest.mark.parametrize(
    "spec",
    [
        {"reward": {"event": "e", "window": "23h", "grace": "1h"}},
        {"stages": [{"canary": {"steps": [0.1, 0.2], "min_duration": "12h"}}]},
        {"stages": [{"shadow": {}}, {"ab": {"min_duration": "28d"}}]},
        {"stages": [{"thompson": {"floor": "49%"}}]},
        {
            "reward": {"event": "e", "join": "unit"},
            "route": {"prefix": "/", "unit": {"header": "x-user"}},
        },
    ],
)
def test_policy_that_can_just_work_gets_none(spec):
    assert warnings(parse(written(document(**spec)), "file.yaml")) == ()


def test_position_finds_what_was_written_and_else_its_parent():
    assert position(SMALLEST, "spec.stages[0].canary.steps[1]") == (9, 28)
    assert position(SMALLEST, "spec.stages[0].canary.max_duration") == (9, 15)
    assert position(SMALLEST, "spec.gates.cooldown") == (4, 1)
    assert position(SMALLEST, "nowhere") == (1, 1)


# --- whatever the text ------------------------------------------------------------------------


def outcome(text: str) -> Policy | PolicyError:
    """What `parse` gives or raises: anything but these two ends the test."""
    try:
        return parse(text, "file.yaml")
    except PolicyError as error:
        fault = error
    lines = text.count("\n") + len(re.findall("[\r\x85\u2028\u2029]", text)) + 1
    assert fault.problems
    for problem in fault.problems:
        assert problem.expected
        assert problem.found
        assert 1 <= (problem.line or 0) <= lines
        assert (problem.column or 0) >= 1
    return fault


@given(st.text() | st.text(alphabet=" \n\t:-{}[],?&*!|>'\"%@`#a1\\uU\0\ud800"))
@example('"\\ud800": "\\ud800"')
@example("%YAML 9" + "9" * 5_000 + ".1")
@example("a: !!int five\nb: !!float x\nc: !!bool x\nd: !!timestamp x")
@example("a: 2026-99-99\nb: 0x_\nc: " + "9" * 5_000)
@example("<<: {a: 1}\n=: 2\n: 3\nnull: 4\n~: 5\nyes: 6")
@settings(max_examples=500, derandomize=True, deadline=None)
def test_parse_raises_nothing_but_policy_errors_on_any_text(text):
    assert isinstance(outcome(text), PolicyError)


@given(st.data())
@settings(max_examples=250, derandomize=True, deadline=None)
def test_parse_raises_nothing_but_policy_errors_on_damaged_policies(data):
    text = data.draw(st.sampled_from([SMALLEST, *(p.read_text("utf-8") for p in POLICIES)]))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 30, len(text))))
    damage = data.draw(
        st.text(max_size=5) | st.sampled_from(['"\\ud800"', "1" * 400, ".nan", "- "])
    )
    outcome(text[:start] + damage + text[end:])


VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 2, 200, 0.0, 0.05, 0.5, 0.999, 1.0, 1.5, float("inf"), 10**400),
    *(
        "",
        "v1",
        "1.0",
        "V_1",
        "a b",
        "é",
        "\ud800",
        "x" * 64,
        "/",
        "x-user",
        "127.0.0.1:1",
        "[::1]:1",
    ),
    *("0%", "5%", "50%", "100%", "150%", "0.3%", " 5%", "5 %", "0s", "1ms", "1.5h", "90d", "1e3s"),
    *("first", "mean", "unit", "request_id", "hold", "promote", "error_rate", "latency", "queue"),
    *([], [0], [0, 1], [0, 2.5], [1, 0], [0, 1, 2], ["5%", 0.5], ["127.0.0.1:1"], {}, {"a": "b"}),
    *({"header": "x"}, {"cookie": "c"}, {"header": "x", "cookie": "c"}, [{"ab": {}}]),
)


def places(values: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(values, dict):
        return [p for k, v in values.items() for p in [(*path, k), *places(v, (*path, k))]]
    if isinstance(values, list):
        return [p for i, v in enumerate(values) for p in [(*path, i), *places(v, (*path, i))]]
    return []


def test_whatever_parse_accepts_conforms_to_the_schema():
    accepted = 0
    for file in POLICIES:
        values = yaml.safe_load(file.read_text("utf-8"))
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
    assert accepted > 500


def test_parse_raises_nothing_but_policy_errors_whatever_stands_in_a_field():
    smallest = document()
    for path, value in itertools.product(places(smallest), VALUES):
        changed = copy.deepcopy(smallest)
        parent: Any = changed
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = value
        outcome(json.dumps(changed))
