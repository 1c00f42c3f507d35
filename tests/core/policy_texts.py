"""Policies, as texts and as values, that the tests of policies take and change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.core.policy import (
    parse,
    schema,
)
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

EVERY_FIELD = """\
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
    event: basket
    window: 30s
    default: 0
    range: [-20, 500]
    aggregate: sum
    join: request_id
    direction: maximize
    grace: 1m
    kind: continuous
    min_units: 100
    contamination: 0.1%
  guardrails:
    - {metric: error_rate, max_increase: 1%}
    - {metric: latency, quantile: 0.99, max_increase: 20%}
    - {metric: reward, event: refund, max_increase: 0.5%, window: 10m, default: 0, range: [0, 1],
       aggregate: max}
    - {metric: reward, event: returned, max_increase: 1.5}
  stages:
    - shadow: {duration: 5m, percent: 10%}
    - canary:
        steps: [1%, 5%, 25%, 50%]
        min_duration: 5m
        min_outcomes: 200
        margin: 1.25
        false_rollback: 1%
        false_promotion: 1%
        budget: 0.5%
        max_duration: 1d
        on_expiry: hold
    - ab: {share: 50%, alpha: 5%, min_effect: 1%, min_duration: 7d, max_duration: 28d}
    - thompson:
        {floor: 1%, update_every: 30s, half_life: 1d, promote_probability: 99%, max_loss: 0.1%,
         min_outcomes: 500, segments: {header: x-country, max: 20}}
  candidates: {on_new: join}
  gates:
    offline: {metric: accuracy, min: 0.80, max_drop: 1%}
    approval: none
    freeze: [{cron: "0 17 * * FRI", duration: 60h}]
    cooldown: 10m
  health: {stale_after: 10m, join_rate: 50%}
  sources:
    - kafka:
        topic: clicks
        start: latest
        when: {$.event: [basket, refund], "$['is bot']": false}
        map: {type: reward, request_id: $.ctx.rid, unit: $.user, time: $.ts, time_unit: ms,
              id: $.id, name: $.event, value: "$.items[0].price"}
    - redis:
        stream: answers
        field: json
        start: earliest
        when: {$.model: digits}
        map: {type: exposure, request_id: $.rid, unit: $.u, time: $.ts, time_unit: s, arm: $.arm,
              status: $.status, latency_ms: $.ms, epoch: $.epoch, propensity: $.p,
              segment: $.country}
  partitions: 1
  deploy:
    kubernetes:
      {namespace: models, service: digits, port: 8080, warmup: 10s, progress_deadline: 10m,
       retain: 1h, drain: 5m, scaling: managed}
    webhook: https://example.org/changes
  notify: [{webhook: "https://example.org/x", on: [promoted, rolled_back, holding]}]
"""
"""A policy that shows every field of the format that does not exclude another: `cookie` excludes
`header`, `kserve` excludes `kubernetes`, and `gateway` excludes segments."""


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


def objects() -> list[tuple[str, ...]]:
    """The fields of each object of the schema."""
    found = schema()
    definitions = [found, *found["$defs"].values()]
    return [tuple(d["properties"]) for d in definitions]


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
