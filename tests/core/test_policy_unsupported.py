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
    SMALLEST,
    document,
    faults,
    objects,
    written,
)

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
