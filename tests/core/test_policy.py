"""Policies: every fault of a text at once, each with its place and its words."""

from __future__ import annotations

import pytest

from controller.core.policy import (
    parse,
    warnings,
)
from controller.errors import PolicyError, Problem
from tests.core.policy_texts import (
    POLICIES,
    SMALLEST,
    document,
    fault_at,
    faults,
    replaced,
    written,
)

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
  reward: {event: e, direction: minimise, join: unti, kind: binary, range: [1, 2], min_units: 0}
  guardrails: [{metric: latency, max_increase: 150%}, {metric: latnecy, max_increase: -1}]
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
        (10, "spec.reward"),
        (10, "spec.reward.default"),
        (10, "spec.reward.direction"),
        (10, "spec.reward.join"),
        (10, "spec.reward.min_units"),
        (11, "spec.guardrails[0]"),
        (11, "spec.guardrails[0].max_increase"),
        (11, "spec.guardrails[1].metric"),
        (11, "spec.guardrails[1].max_increase"),
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
