"""Values that break their type or a rule, and what a guardrail takes from the reward."""

from __future__ import annotations

import pytest

from controller.core.policy import parse
from tests.core.policy_texts import document, faults, written


def test_guardrail_compares_as_the_reward_does_but_for_what_it_says_itself():
    spec = {
        "reward": {"event": "e", "window": "7d", "range": [0, 9], "join": "unit", "grace": "5s"},
        "guardrails": [
            {"metric": "reward", "event": "refund", "max_increase": 2.5},
            {
                "metric": "reward",
                "event": "hidden",
                "max_increase": "1%",
                "window": "2d",
                "range": [-1, 1],
                "default": -1,
                "aggregate": "last",
            },
        ],
    }
    policy = parse(written(document(**spec)), "file.yaml")
    inherits, differs = (g.as_reward(policy.spec.reward) for g in policy.spec.guardrails)
    assert (inherits.event, inherits.window, inherits.range) == ("refund", 604_800.0, (0.0, 9.0))
    assert (inherits.join, inherits.grace, inherits.direction) == ("unit", 5.0, "minimize")
    assert policy.spec.guardrails[0].max_increase == 2.5
    assert (differs.event, differs.window, differs.range) == ("hidden", 172_800.0, (-1.0, 1.0))
    assert (differs.default, differs.aggregate, differs.grace) == (-1.0, "last", 5.0)


@pytest.mark.parametrize(
    ("reward", "is_binary"),
    [
        ({}, True),
        ({"range": [0, 1], "kind": "continuous"}, False),
        ({"range": [0, 5]}, False),
        ({"range": [0, 5], "kind": "binary"}, True),
        ({"range": [-1, 1], "default": 0}, False),
    ],
)
def test_reward_is_a_yes_or_no_where_its_range_or_its_kind_says_so(reward, is_binary):
    policy = parse(written(document(reward={"event": "e", **reward})), "file.yaml")
    assert policy.spec.reward.is_binary is is_binary


@pytest.mark.parametrize(
    ("spec", "path", "expected"),
    [
        ({"stages": []}, "spec.stages", "a list of at least one stage, and at most 20"),
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
            {"reward": {"event": "e", "range": [0, 1e101]}},
            "spec.reward.range",
            "two numbers from -1e+100 to 1e+100",
        ),
        (
            {"reward": {"event": "e", "range": [-1e101, 0]}},
            "spec.reward.range",
            "two numbers from -1e+100 to 1e+100",
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
        (
            {"reward": {"event": "e", "kind": "binary", "range": [-1, 1]}},
            "spec.reward",
            "a range that begins at 0, such as [0, 1], with kind binary",
        ),
        (
            {"reward": {"event": "e", "kind": "count"}},
            "spec.reward.kind",
            "one of auto, binary, continuous",
        ),
        (
            {"reward": {"event": "e", "min_units": 0}},
            "spec.reward.min_units",
            "a whole number of at least 1",
        ),
        (
            {"reward": {"event": "e", "contamination": "101%"}},
            "spec.reward.contamination",
            "a share from 0% to 100%, such as 5% or 0.05",
        ),
        (
            {"guardrails": [{"metric": "reward", "event": "r", "max_increase": 1, "window": "0s"}]},
            "spec.guardrails[0].window",
            "a duration longer than 0 with its unit, such as 30s, 10m, 36h or 7d",
        ),
        (
            {"guardrails": [{"metric": "reward", "event": "r", "max_increase": 1, "range": [1]}]},
            "spec.guardrails[0].range[1]",
            "two numbers [low, high] with low < high, such as [0, 1]",
        ),
        (
            {
                "guardrails": [
                    {"metric": "reward", "event": "r", "max_increase": 1, "range": [2, 1]}
                ]
            },
            "spec.guardrails[0].range",
            "two numbers [low, high] with low < high, such as [0, 1]",
        ),
        (
            {
                "guardrails": [
                    {"metric": "reward", "event": "r", "max_increase": 1, "aggregate": "all"}
                ]
            },
            "spec.guardrails[0].aggregate",
            "one of first, last, sum, max, mean",
        ),
        (
            {"guardrails": [{"metric": "reward", "event": "r", "max_increase": 1, "default": "x"}]},
            "spec.guardrails[0].default",
            "a number",
        ),
        *(
            (
                {
                    "guardrails": [
                        {"metric": "reward", "event": "r", "max_increase": "1%", **inherited}
                    ]
                },
                "spec.guardrails[0]",
                "a default inside the range, each its own or the reward's",
            )
            for inherited in ({"default": 2}, {"range": [1, 2]}, {"range": [0, 1], "default": 5})
        ),
        *(
            (
                {"guardrails": [{"metric": "error_rate", "max_increase": "1%", field: value}]},
                "spec.guardrails[0]",
                "window, default, range and aggregate with metric reward only",
            )
            for field, value in (
                ("window", "1m"),
                ("default", 0),
                ("range", [0, 1]),
                ("aggregate", "sum"),
            )
        ),
        (
            {"guardrails": [{"metric": "reward", "event": "r", "max_increase": -1}]},
            "spec.guardrails[0].max_increase",
            "a share such as 5% or 0.05, or an amount of the reward such as 2.5",
        ),
        *(
            (
                {"guardrails": [{"metric": "error_rate", "max_increase": increase}]},
                "spec.guardrails[0].max_increase",
                "a share from 0% to 100%, such as 5% or 0.05, with this metric",
            )
            for increase in ("101%", 1.01)
        ),
        *(
            (
                {"guardrails": [each, {"metric": "error_rate", "max_increase": 1}, {**each}]},
                "spec.guardrails[2]",
                "one guardrail for each metric, and for each reward event",
            )
            for each in (
                {"metric": "latency", "quantile": 0.5, "max_increase": "5%"},
                {"metric": "reward", "event": "refund", "max_increase": "5%"},
            )
        ),
        (
            {"stages": [{"canary": {"steps": ["5%"], "margin": 0}}]},
            "spec.stages[0].canary.margin",
            "a share above 0% such as 5% or 0.05, or an amount of the reward such as 2.5",
        ),
        (
            {"stages": [{"canary": {"steps": ["5%"], "budget": 5}}]},
            "spec.stages[0].canary.budget",
            "a share such as 5% or 0.05, from 0% to 100%",
        ),
        (
            {"stages": [{"thompson": {"segments": {"max": 5}}}]},
            "spec.stages[0].thompson.segments.header",
            "the field header: the name of a header, such as x-user-id",
        ),
        (
            {"stages": [{"thompson": {"segments": {"header": "x country"}}}]},
            "spec.stages[0].thompson.segments.header",
            "the name of a header, such as x-user-id",
        ),
        (
            {"stages": [{"thompson": {"segments": {"header": "x-country", "max": 0}}}]},
            "spec.stages[0].thompson.segments.max",
            "a whole number of at least 1",
        ),
        (
            {
                "stages": [{"shadow": {}}, {"canary": {"steps": [1]}}],
                "candidates": {"on_new": "join"},
            },
            "spec.candidates.on_new",
            "queue or replace, or an ab or thompson stage that can be joined",
        ),
        (
            {"health": {"stale_after": "0s"}},
            "spec.health.stale_after",
            "a duration longer than 0 with its unit, such as 30s, 10m, 36h or 7d",
        ),
        (
            {"health": {"join_rate": 50}},
            "spec.health.join_rate",
            "a share such as 5% or 0.05, from 0% to 100%",
        ),
        ({"route": 5}, "spec.route", "a mapping with the fields prefix, unit, timeout"),
    ],
)
def test_value_that_breaks_its_type_or_a_rule_is_refused(spec, path, expected):
    assert [(p.path, p.expected) for p in faults(written(document(**spec)))] == [(path, expected)]
