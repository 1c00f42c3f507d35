"""Canonical JSON and digests, against the standard library's parser and hand-made examples."""

import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model import Decision, Phase, Verdict
from controller.core.record import canonical, decision_document, digest
from controller.errors import InvariantError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def expected(value):
    """What a value means in JSON, spelled independently: no NaN, no infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [expected(item) for item in value]
    if isinstance(value, dict):
        return {key: expected(item) for key, item in value.items()}
    return value


@given(JSON_VALUES)
def test_canonical_json_reads_back_as_the_same_value_with_null_for_what_is_not_finite(value):
    assert json.loads(canonical(value)) == expected(value)


@given(JSON_VALUES)
def test_canonical_json_of_what_was_read_back_is_the_same_text(value):
    text = canonical(value)
    assert canonical(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_insertion_does_not_matter(value):
    assert canonical(dict(reversed(value.items()))) == canonical(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_stays_a_float_bit_for_bit(value):
    read = json.loads(canonical(value))
    assert isinstance(read, float)
    assert np.float64(read).tobytes() == np.float64(value).tobytes()


def test_canonical_json_is_sorted_tight_and_unescaped():
    value = {"b": 1.0, "a": [0.1, 1e22, math.nan, -math.inf], "ü": "ß\n"}
    assert canonical(value) == '{"a":[0.1,1e+22,null,null],"b":1.0,"ü":"ß\\n"}'


def test_a_lone_surrogate_does_not_break_the_digest():
    assert canonical({"\ud800": "a\udfff"}) == '{"?":"a?"}'
    assert len(digest("\ud800")) == 64


@pytest.mark.parametrize(
    "value", [np.int64(1), np.arange(2), {1: 2}, {"a": object()}, {1, 2}, b"bytes"]
)
def test_what_has_no_canonical_json_is_refused(value):
    with pytest.raises(InvariantError):
        canonical(value)


def test_a_digest_is_the_sha256_of_the_canonical_text():
    assert digest({"b": 2, "a": 1}) == hashlib.sha256(b'{"a":1,"b":2}').hexdigest()


def test_a_decision_document_has_every_field_of_the_decision():
    decision = Decision(
        number=3,
        time=1.5,
        offset=7,
        model="digits",
        rollout="r1",
        candidate="v2",
        stage="canary",
        step=2,
        phase=Phase.RAMPING,
        verdict=Verdict.ADVANCE,
        cause="evidence",
        reason="because",
        epoch=4,
        weights={"v1": 9500, "v2": 500},
        evidence={"lift": math.nan, "interval": (0.1, 0.2)},
        evidence_digest="e",
        policy_digest="p",
        seed=2**64 - 1,
    )
    document = decision_document(decision)
    assert set(document) == set(Decision.__dataclass_fields__)
    assert json.loads(canonical(document)) == {
        "number": 3,
        "time": 1.5,
        "offset": 7,
        "model": "digits",
        "rollout": "r1",
        "candidate": "v2",
        "stage": "canary",
        "step": 2,
        "phase": "ramping",
        "verdict": "advance",
        "cause": "evidence",
        "reason": "because",
        "epoch": 4,
        "weights": {"v1": 9500, "v2": 500},
        "evidence": {"lift": None, "interval": [0.1, 0.2]},
        "evidence_digest": "e",
        "policy_digest": "p",
        "seed": 2**64 - 1,
    }
