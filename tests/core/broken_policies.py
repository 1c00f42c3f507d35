"""Policies that break one rule each: what replaces a part of the smallest spec, and what is said.

What is said is part of what the API server says; see `tests/cluster/test_crd.py`.
"""

from __future__ import annotations

from typing import Any

_GUARD = {"metric": "reward", "event": "r", "max_increase": 1}
_TARGET = {"service": "digits", "port": 8080}
_KSERVE = {"service": "digits"}


def _kafka(**fields: Any) -> dict[str, Any]:
    return {"sources": [{"kafka": {"topic": "clicks", "map": fields}}]}


def _redis() -> dict[str, Any]:
    return {"sources": [{"redis": {"stream": "clicks"}}]}


RULES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"route": {"prefix": "/", "unit": {}}}, "exactly one of header and cookie"),
    (
        {"stages": [{"ab": {}, "canary": {"steps": [0.1]}}]},
        "exactly one of shadow, canary, ab and thompson, with its settings or {}",
    ),
    (
        {"guardrails": [{"metric": "latency", "max_increase": 0.1}]},
        "a quantile with metric latency, and with no other",
    ),
    (
        {"guardrails": [{"metric": "reward", "max_increase": 0.1}]},
        "an event with metric reward, and with no other",
    ),
    (
        {"guardrails": [{"metric": "error_rate", "max_increase": 0.1, "window": "1s"}]},
        "window, default, range and aggregate with metric reward only",
    ),
    (
        {"guardrails": [_GUARD, dict(_GUARD)]},
        "one guardrail for each metric, and for each reward event",
    ),
    ({"reward": {"event": "e", "range": [1, 2]}}, "a number inside the range"),
    (
        {"reward": {"event": "e", "range": [-1, 1], "kind": "binary"}},
        "a range that begins at 0, such as [0, 1], with kind binary",
    ),
    (
        {"candidates": {"on_new": "join"}},
        "queue or replace, or an ab or thompson stage that can be joined",
    ),
    ({"sources": [{}]}, "exactly one of kafka and redis"),
    (_redis(), "a map, or the field that has an event as JSON"),
    (_kafka(name="$.n", value=1), "a request_id or a unit with type reward"),
    (_kafka(type="exposure", arm="$.a"), "a request_id with type exposure"),
    (_kafka(request_id="$.r"), "a name and a value with type reward, and with no other"),
    (_kafka(type="exposure", request_id="$.r"), "an arm with type exposure, and with no other"),
    (
        _kafka(type="exposure", request_id="$.r", arm="$.a", id="$.i"),
        "an id with type reward only",
    ),
    (
        _kafka(unit="$.u", name="click", value=1, epoch="$.e"),
        "status, latency_ms, epoch, propensity and segment with type exposure only",
    ),
    (_kafka(unit="$.u", name="click", value=1, time_unit="ms"), "a time beside time_unit"),
    ({"deploy": {}}, "exactly one of kubernetes and kserve"),
    (
        {"deploy": {"kserve": _KSERVE, "webhook": "https://x"}},
        "kserve alone, or gateway and webhook beside kubernetes",
    ),
    ({"deploy": {"webhook": "https://x"}}, "kubernetes beside gateway and webhook"),
)
"""One for each rule between fields that the API server knows, with the words that `parse` has."""

VALUES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"stages": [{}]}, "exactly one of shadow, canary, ab"),
    ({"route": {"prefix": "digits"}}, "a path that begins with /"),
    ({"route": {"prefix": "/", "timeout": "0s"}}, "a duration longer than 0 with its unit"),
    ({"reward": {"event": "e", "window": "30"}}, "a duration longer than 0 with its unit"),
    ({"reward": {"event": "e", "range": [1, 0]}}, "two numbers [low, high] with low < high"),
    ({"gates": {"offline": {"metric": "m"}}}, "spec.gates.offline.min: Required value"),
    ({"deploy": {"kubernetes": _TARGET, "kserve": _KSERVE}}, "exactly one of kubernetes"),
    ({"champion": {"version": "v 1"}}, "a version of at most 63 letters"),
    ({"champion": {"version": "v1", "endpoints": ["x"]}}, "an address with its port"),
    ({"stages": [{"canary": {"steps": ["150%"]}}]}, "spec.stages[0].canary.steps[0]"),
    ({"rewards": {}}, 'unknown field "spec.rewards"'),
    ({"stages": [{"canary": {"steps": [0.1], "margins": 0.1}}]}, "stages[0].canary.margins"),
    ({"stages": [{"shadow": {}}] * 21}, "must have at most 20 items"),
    ({"reward": {"event": "x" * 201}}, "spec.reward.event"),
    (_kafka(unit="u", name="click", value=1), "a path such as $.ctx.rid"),
    (_kafka(unit="$.u", name="$.a b", value=1), "a path such as $.event, or a text"),
    (_kafka(unit="$.u", name="click", value="amount"), "spec.sources[0].kafka.map.value"),
    ({"sources": [{"kafka": {"topic": "a b"}}]}, "a topic of at most 249"),
)
"""Values that the API server refuses by their type, pattern or bound."""
