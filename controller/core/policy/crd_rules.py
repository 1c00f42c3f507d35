"""The rules between fields of a policy that an API server can check, in CEL.

Word for word what `parse` says of them: a test breaks each rule and compares. Rules that need a
share, which CEL cannot see, or the settings of something else, are `parse`'s alone.
"""

from __future__ import annotations

from typing import Final


def _one_of(*names: str) -> str:
    """A rule: exactly one of these fields is there."""
    return f"[{', '.join(f'has(self.{n})' for n in names)}].filter(x, x).size() == 1"


_OF_REWARD: Final = "(!has(self.type) || self.type == 'reward')"

RULES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "Unit": ((_one_of("header", "cookie"), "exactly one of header and cookie"),),
    "Stage": (
        (
            _one_of("shadow", "canary", "ab", "thompson"),
            "exactly one of shadow, canary, ab and thompson, with its settings or {}",
        ),
    ),
    "Guardrail": (
        (
            "(self.metric == 'latency') == has(self.quantile)",
            "a quantile with metric latency, and with no other",
        ),
        (
            "(self.metric == 'reward') == has(self.event)",
            "an event with metric reward, and with no other",
        ),
        (
            (
                "self.metric == 'reward' || !(has(self.window) || has(self.default)"
                " || has(self.range) || has(self.aggregate))"
            ),
            "window, default, range and aggregate with metric reward only",
        ),
    ),
    "Reward": (
        (
            (
                "!has(self.default) && !has(self.range) || (has(self.range) ? self.range[0] : 0.0)"
                " <= (has(self.default) ? self.default : 0.0) && (has(self.default) ? self.default"
                " : 0.0) <= (has(self.range) ? self.range[1] : 1.0)"
            ),
            "a number inside the range",
        ),
        (
            "!(has(self.kind) && self.kind == 'binary' && has(self.range) && self.range[0] != 0.0)",
            "a range that begins at 0, such as [0, 1], with kind binary",
        ),
    ),
    "Map": (
        (
            f"{_OF_REWARD} ? has(self.request_id) || has(self.unit) : true",
            "a request_id or a unit with type reward",
        ),
        (
            f"{_OF_REWARD} ? true : has(self.request_id)",
            "a request_id with type exposure",
        ),
        (
            f"{_OF_REWARD} == has(self.name)",
            "a name and a value with type reward, and with no other",
        ),
        (f"{_OF_REWARD} != has(self.arm)", "an arm with type exposure, and with no other"),
        (f"{_OF_REWARD} || !has(self.id)", "an id with type reward only"),
        (
            (
                f"!{_OF_REWARD} || !(has(self.status) || has(self.latency_ms) || has(self.epoch)"
                " || has(self.propensity) || has(self.segment))"
            ),
            "status, latency_ms, epoch, propensity and segment with type exposure only",
        ),
        (
            "has(self.time) || !has(self.time_unit) || self.time_unit == 's'",
            "a time beside time_unit",
        ),
    ),
    "RedisSource": (
        ("has(self.map) || has(self.field)", "a map, or the field that has an event as JSON"),
    ),
    "Source": ((_one_of("kafka", "redis"), "exactly one of kafka and redis"),),
    "Deploy": (
        (_one_of("kubernetes", "kserve"), "exactly one of kubernetes and kserve"),
        (
            "!has(self.kserve) || !(has(self.gateway) || has(self.webhook))",
            "kserve alone, or gateway and webhook beside kubernetes",
        ),
        (
            "has(self.kubernetes) || has(self.kserve) || !(has(self.gateway) || has(self.webhook))",
            "kubernetes beside gateway and webhook",
        ),
    ),
    "Spec": (
        (
            (
                "!has(self.guardrails) || self.guardrails.all(g, self.guardrails.exists_one(h,"
                " h.metric == g.metric && (has(h.event) ? h.event : '')"
                " == (has(g.event) ? g.event : '')))"
            ),
            "one guardrail for each metric, and for each reward event",
        ),
        (
            (
                "!(has(self.candidates) && has(self.candidates.on_new)"
                " && self.candidates.on_new == 'join')"
                " || self.stages.exists(s, has(s.ab) || has(s.thompson))"
            ),
            "queue or replace, or an ab or thompson stage that can be joined",
        ),
    ),
}
"""By the name of the object: CEL, and what is expected where it is not so. CEL does not see `value`
of a map, which may be a number."""

RISING_PAIR: Final = (
    "size(self) != 2 || self[0] < self[1]",
    "two numbers [low, high] with low < high, such as [0, 1]",
)

ANY_OF: Final[dict[str, tuple[str, ...]]] = {"OfflineGate": ("min", "max_drop")}
"""At least one of these: among them is a share, which CEL does not see."""
