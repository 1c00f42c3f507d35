"""Large arrays of a snapshot: written once, found again, dropped when nobody names them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from controller.errors import InvariantError, Permanent
from controller.ledger import Parts
from controller.ledger.codec import decode, encode
from controller.ledger.parts import Cut, Gaps, named_in


@dataclass(frozen=True)
class State:
    columns: dict[str, np.ndarray]
    name: str = "m"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(Cut, "size", 64)


def cut(state, known=frozenset()):
    knife = Cut(known)
    return encode(state, cut=knife, compress=True), knife.parts()


def read(blob, kept):
    gaps = Gaps()
    state = decode(State, blob, copy=True, gaps=gaps)
    gaps.fill((digest, kept[digest]) for digest in gaps.digests if digest in kept)
    return state


def columns(rows=100):
    rng = np.random.default_rng(3)
    return {
        "key": rng.integers(0, 2**63, rows).astype(np.uint64),
        "time": np.sort(rng.random(rows)),
        "flags": np.zeros(rows, np.uint8),
        "few": np.arange(3),
    }


def same(first, second):
    assert first.columns.keys() == second.columns.keys()
    for name, array in first.columns.items():
        assert array.dtype == second.columns[name].dtype
        np.testing.assert_array_equal(array, second.columns[name])
        assert second.columns[name].flags.writeable


def test_a_state_in_parts_comes_back(small):
    blob, parts = cut(State(columns()))
    assert len(parts.named) == len(parts.new) == 13 + 13 + 2
    assert named_in(parts.manifest) == parts.named
    same(State(columns()), read(blob, parts.new))


def test_only_the_parts_that_changed_are_new(small):
    state = State(columns())
    _, first = cut(state)
    state.columns["key"][50] += np.uint64(1)
    state.columns["flags"][0] = 1
    blob, second = cut(state, first.named)
    assert len(second.new) == 2
    assert len(second.named) == 28
    same(state, read(blob, dict(first.new) | dict(second.new)))


def test_equal_content_is_one_part(small):
    blob, parts = cut(State({"a": np.zeros(800), "b": np.zeros(800)}))
    assert len(parts.new) == 1
    same(State({"a": np.zeros(800), "b": np.zeros(800)}), read(blob, parts.new))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    arrays.arrays(
        st.sampled_from([np.float64, np.int32, np.uint8, np.int16, np.bool_]),
        arrays.array_shapes(max_dims=3, max_side=40, min_side=0),
    ),
    st.integers(1, 300),
)
def test_any_array_comes_back_from_parts_of_any_size(array, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cut, "size", size)
        blob, parts = cut(State({"a": array}))
    same(State({"a": array}), read(blob, parts.new))


def test_arrays_that_nobody_looks_at_need_no_parts(small):
    state = State({"a": np.arange(100.0), "b": np.arange(50.0)})
    blob, parts = cut(state)
    gaps = Gaps()
    found = decode(State, blob, copy=True, gaps=gaps)
    gaps.leave([found.columns["a"]])
    assert len(gaps.digests) == 7  # the first six are parts of both
    gaps.fill((digest, parts.new[digest]) for digest in gaps.digests)
    np.testing.assert_array_equal(found.columns["b"], state.columns["b"])


def test_a_missing_part_is_an_error(small):
    blob, parts = cut(State(columns()))
    kept = dict(parts.new)
    kept.popitem()
    with pytest.raises(Permanent, match="1 parts of the snapshot are missing"):
        read(blob, kept)


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_damaged_part_is_an_error(small, place):
    blob, parts = cut(State(columns()))
    for digest, body in parts.new.items():
        damaged = bytearray(body)
        damaged[place] ^= 1
        with pytest.raises(Permanent, match="is damaged"):
            read(blob, dict(parts.new) | {digest: bytes(damaged)})


def test_a_snapshot_in_parts_is_no_snapshot_without_them(small):
    blob, _ = cut(State(columns()))
    with pytest.raises(Permanent, match="kept in parts"):
        decode(State, blob)


# --- in the ledger ----------------------------------------------------------------------------


def made(*digests, new=None):
    named = frozenset(bytes([d]) * 16 for d in digests)
    return Parts(named, {d: b"body" + d for d in named if new is None or d[0] in new})


def kept(sql, model="digits"):
    rows = sql("SELECT digest FROM snapshot_parts WHERE model = :m", m=model)
    return sorted(bytes(row[0])[0] for row in rows)


def test_parts_stay_as_long_as_a_kept_snapshot_names_them(ledger, sql):
    ledger.commit("digits", snapshot=(1, b"a"), parts=made(1, 2, 3))
    ledger.commit("digits", snapshot=(2, b"b"), parts=made(2, 3, 4, new=[4]))
    assert kept(sql) == [1, 2, 3, 4]
    ledger.commit("digits", snapshot=(3, b"c"), parts=made(3, 4, 5, new=[5]))
    assert kept(sql) == [2, 3, 4, 5]
    ledger.commit("digits", snapshot=(3, b"d"), parts=made(4, new=[]))
    assert kept(sql) == [2, 3, 4]
    found = dict(ledger.parts("digits", made(4, 9).named))
    assert found == {bytes([4]) * 16: b"body" + bytes([4]) * 16}


def test_a_snapshot_without_parts_lets_go_of_the_others(ledger, sql):
    ledger.commit("digits", snapshot=(1, b"a"), parts=made(1))
    for offset in (2, 3):
        ledger.commit("digits", snapshot=(offset, b"b"))
    assert kept(sql) == []


def test_the_parts_of_another_model_are_its_own(ledger, sql):
    for model in ("digits", "faces"):
        ledger.commit(model, snapshot=(1, b"a"), parts=made(1))
    for offset in (2, 3):
        ledger.commit("digits", snapshot=(offset, b"b"))
    assert kept(sql, "digits") == []
    assert kept(sql, "faces") == [1]
    assert not list(ledger.parts("digits", made(1).named))


def test_dropped_snapshots_take_their_parts_with_them(ledger, sql):
    ledger.commit("digits", snapshot=(1, b"a"), parts=made(1, 2))
    ledger.commit("digits", snapshot=(2, b"b"), parts=made(2, 3, new=[3]))
    ledger.drop_snapshots("digits", since=2)
    assert kept(sql) == [1, 2]
    ledger.drop_snapshots("digits", since=0)
    assert kept(sql) == []


def test_a_snapshot_that_names_what_nobody_has_is_refused_with_its_whole_commit(
    ledger, sql, decide
):
    ledger.commit("digits", snapshot=(1, b"a"), parts=made(1))
    with pytest.raises(InvariantError, match="1 parts of a snapshot are not kept"):
        ledger.commit(
            "digits",
            decisions=[(decide(1), ())],
            snapshot=(2, b"b"),
            parts=made(1, 2, 3, new=[3]),
        )
    assert ledger.snapshot("digits") == (1, b"a")
    assert ledger.last_decision("digits") is None
    assert kept(sql) == [1]


def test_many_parts_are_read_a_few_at_a_time(ledger):
    many = {i.to_bytes(16, "big"): i.to_bytes(3, "big") for i in range(700)}
    ledger.commit("digits", snapshot=(1, b"a"), parts=Parts(frozenset(many), many))
    assert dict(ledger.parts("digits", many.keys())) == many
