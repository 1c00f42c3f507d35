"""What a policy means: its quantities, its digest, and whether it can work."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.policy import (
    Policy,
    digest,
    parse,
    position,
    warnings,
)
from tests.core.policy_texts import (
    SMALLEST,
    document,
    fault_at,
    replaced,
    written,
)

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


@given(st.integers(1, 10**8))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_amount_is_a_share_or_a_number_of_the_reward_and_both_are_exact(millionths):
    def margin(written: str) -> float:
        text = replaced("25%]}", f"25%], margin: {written}}}")
        canary = parse(text, "file.yaml").spec.stages[0].canary
        assert canary is not None
        return canary.margin

    exact = float(Fraction(millionths, 10**6))
    number = f"{millionths // 10**6}.{millionths % 10**6:06d}"
    percent = f"{millionths // 10**4}.{millionths % 10**4:04d}%"
    assert margin(number) == margin(percent) == exact


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
        ("25%]}", "25%], budget: 1%}"),
        ("correct}", "correct, kind: continuous}"),
        ("correct}", "correct, min_units: 2}"),
        ("correct}", "correct, contamination: 1%}"),
        ("correct}", "correct, direction: minimize}"),
        ("25%]}\n", "25%]}\n  health: {stale_after: 1m}\n"),
        ("25%]}\n", "25%]}\n  health: {join_rate: 40%}\n"),
        ("25%]}\n", "25%]}\n  candidates: {on_new: replace}\n"),
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
        (
            {"reward": {"event": "e", "window": "11h", "grace": "61m"}},
            "spec.stages[0].canary.max_duration",
        ),
        ({"reward": {"event": "e", "aggregate": "sum"}}, "spec.reward.aggregate"),
        ({"reward": {"event": "e", "min_units": 100}}, "spec.reward.min_units"),
        ({"reward": {"event": "e", "range": [-5, 0], "default": -1}}, "spec.reward.range"),
        ({"reward": {"event": "e", "range": [0, 5], "default": 5}}, "spec.reward.default"),
        ({"reward": {"event": "e", "direction": "minimize", "default": 1}}, "spec.reward.default"),
        ({"reward": {"event": "e", "contamination": "1%"}}, "spec.stages[0].canary.margin"),
        (
            {
                "reward": {"event": "e", "contamination": "0.5%", "range": [-2, 2]},
                "stages": [{"canary": {"steps": [0.1], "margin": 0.02}}],
            },
            "spec.stages[0].canary.margin",
        ),
        (
            {"reward": {"event": "e", "contamination": "1%"}, "stages": [{"ab": {}}]},
            "spec.stages[0].ab.min_effect",
        ),
        (
            {"stages": [{"canary": {"steps": [0.1, 0.2], "budget": 0}}]},
            "spec.stages[0].canary.budget",
        ),
        ({"stages": [{"ab": {"share": 1}}]}, "spec.stages[0].ab.share"),
        (
            {"stages": [{"thompson": {"floor": "34%"}}], "candidates": {"on_new": "join"}},
            "spec.stages[0].thompson.floor",
        ),
        ({"stages": [{"thompson": {"max_loss": 0}}]}, "spec.stages[0].thompson.max_loss"),
        (
            {
                "route": {"prefix": "/", "unit": {"header": "X-User"}},
                "stages": [{"thompson": {"segments": {"header": "x-user"}}}],
            },
            "spec.stages[0].thompson.segments.header",
        ),
        (
            {"guardrails": [{"metric": "error_rate", "max_increase": 0}]},
            "spec.guardrails[0].max_increase",
        ),
        (
            {"guardrails": [{"metric": "reward", "event": "correct", "max_increase": 0.1}]},
            "spec.guardrails[0].event",
        ),
        (
            {"guardrails": [{"metric": "reward", "event": "refund", "max_increase": 1}]},
            "spec.guardrails[0].max_increase",
        ),
        (
            {
                "guardrails": [
                    {"metric": "reward", "event": "refund", "max_increase": 0.1, "window": "2d"}
                ],
                "stages": [{"canary": {"steps": [0.1]}}, {"canary": {"steps": [0.2]}}],
            },
            "spec.guardrails[0].window",
        ),
    ],
)
def test_policy_that_cannot_work_gets_advice(spec, path):
    (advice,) = warnings(parse(written(document(**spec)), "file.yaml"))
    assert advice.path == path
    assert advice.sentence


@pytest.mark.parametrize(
    "spec",
    [
        {"reward": {"event": "e", "window": "11h", "grace": "1h"}},
        {"stages": [{"canary": {"steps": [0.1, 0.2], "min_duration": "12h"}}]},
        {"stages": [{"shadow": {}}, {"ab": {"min_duration": "28d"}}]},
        {"stages": [{"thompson": {"floor": "49%"}}]},
        {"stages": [{"thompson": {"floor": "33%"}}], "candidates": {"on_new": "join"}},
        {"stages": [{"thompson": {"segments": {"header": "x-country"}}}]},
        {"reward": {"event": "e", "aggregate": "sum", "range": [0, 500]}},
        {"reward": {"event": "e", "aggregate": "max"}},
        {"reward": {"event": "e", "range": [-5, 1]}},
        {
            "reward": {"event": "e", "min_units": 100},
            "route": {"prefix": "/", "unit": {"cookie": "session"}},
        },
        {"reward": {"event": "e", "range": [0, 5], "default": 5, "direction": "minimize"}},
        {"reward": {"event": "e", "direction": "minimize"}},
        {"reward": {"event": "e", "contamination": "0.9%"}},
        {"reward": {"event": "e", "contamination": "0.9%"}, "stages": [{"ab": {}}]},
        {"stages": [{"canary": {"steps": [0.1], "budget": 0}}]},
        {"stages": [{"canary": {"steps": [0.1, 0.2], "budget": "0.01%"}}]},
        {"stages": [{"thompson": {}}], "candidates": {"on_new": "join"}},
        {"guardrails": [{"metric": "reward", "event": "refund", "max_increase": "99%"}]},
        {
            "guardrails": [
                {"metric": "reward", "event": "refund", "max_increase": 0.1, "window": "47h"}
            ],
            "stages": [{"canary": {"steps": [0.1]}}, {"canary": {"steps": [0.2]}}],
        },
        {
            "guardrails": [
                {"metric": "reward", "event": "refund", "max_increase": 0.1, "window": "90d"}
            ],
            "stages": [{"thompson": {}}],
        },
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
