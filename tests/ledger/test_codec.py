"""States as bytes and back."""

import dataclasses
import math
import os
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from controller.core.model import Decision, Exposures, Json
from controller.errors import InvariantError, Permanent
from controller.ledger.codec import decode, encode


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Leaf:
    colour: Colour
    counts: NDArray[np.int64]
    seen: NDArray[np.bool_] | None
    where: tuple[float, int] | None


@dataclass(frozen=True, slots=True)
class Tree:
    name: str
    value: float
    leaves: dict[str, Leaf]
    path: tuple[str, ...]
    keys: NDArray[np.uint64]
    table: NDArray[np.float64]
    by_number: dict[int, tuple[Leaf, ...]] = field(default_factory=dict)
    note: Json = None


def same(a, b):  # noqa: PLR0911 - one line per kind of value
    """Equality to the bit: types, array dtypes and shapes, NaN, signs of zero, dict order."""
    if type(a) is not type(b):
        return False
    if dataclasses.is_dataclass(a):
        fields = dataclasses.fields(a)
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return a == b


INT64 = st.integers(-(2**63), 2**63 - 1)


def arrays(dtype, dimensions=2):
    shapes = hnp.array_shapes(min_dims=0, max_dims=dimensions, min_side=0, max_side=4)
    return hnp.arrays(dtype, shapes)


JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
LEAVES = st.builds(
    Leaf,
    colour=st.sampled_from(Colour),
    counts=arrays(np.int64),
    seen=st.none() | arrays(np.bool_),
    where=st.none() | st.tuples(st.floats(), INT64),
)
TREES = st.builds(
    Tree,
    name=st.text(),
    value=st.floats(),
    leaves=st.dictionaries(st.text(), LEAVES, max_size=3),
    path=st.lists(st.text(), max_size=3).map(tuple),
    keys=arrays(np.uint64),
    table=arrays(np.float64, 3),
    by_number=st.dictionaries(INT64, st.tuples(LEAVES), max_size=2),
    note=JSON,
)


def tree(**changes):
    leaf = Leaf(Colour.BLUE, np.arange(6).reshape(2, 3), None, (math.nan, 1))
    fields = {
        "name": "oak",
        "value": math.inf,
        "leaves": {"b": leaf, "a": leaf},
        "path": ("x",),
        "keys": np.array([0, 2**64 - 1], np.uint64),
        "table": np.full((2, 2), np.nan),
    }
    return Tree(**(fields | changes))


@given(TREES, st.booleans())
def test_a_state_comes_back_to_the_bit(value, copy):
    assert same(decode(Tree, encode(value), copy=copy), value)


@given(TREES)
def test_a_state_that_came_back_has_the_same_bytes(value):
    blob = encode(value)
    assert encode(decode(Tree, blob)) == blob
    assert encode(decode(Tree, blob, copy=True)) == blob


def test_the_bytes_do_not_depend_on_the_process():
    code = (
        "import numpy as np; from controller.core.model import Phase;"
        "from controller.ledger.codec import encode;"
        "print(encode({'b': Phase.IDLE, 'a': (1.5, None, np.arange(3.0))}).hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_the_layout_of_an_array_in_memory_does_not_matter():
    rows = np.arange(12.0).reshape(3, 4)
    for other in (np.asfortranarray(rows), np.repeat(rows, 2, axis=1)[:, ::2]):
        assert encode(tree(table=other)) == encode(tree(table=rows))


def test_arrays_are_read_without_a_copy_unless_asked():
    blob = encode(tree())
    view, own = decode(Tree, blob).table, decode(Tree, blob, copy=True).table
    assert np.shares_memory(view, np.frombuffer(blob, np.uint8))
    assert not view.flags.writeable
    assert not np.shares_memory(own, np.frombuffer(blob, np.uint8))
    own[:] = 0.0


def test_large_states_are_compressed_when_asked_and_small_ones_never():
    large = tree(table=np.zeros(100_000))
    packed = encode(large, compress=True)
    assert len(packed) < 20_000 < len(encode(large))
    assert same(decode(Tree, packed), large)
    assert encode(tree(), compress=True) == encode(tree())


def test_columns_and_decisions_of_the_core_can_be_kept(decide):
    column = np.arange(3)
    exposures = Exposures(
        *(column,) * 2,
        *(column.astype(np.uint64),) * 2,
        *(column,) * 2,
        column.astype(float),
        column,
        column.astype(float),
        column,
    )
    exposures = dataclasses.replace(exposures, time=column.astype(float))
    assert same(decode(Exposures, encode(exposures)), exposures)
    assert decode(Decision, encode(decide(1))) == decide(1)


@dataclass(frozen=True, slots=True)
class WithSet:
    inner: tuple[dict[str, frozenset[str]], ...] = ()


@pytest.mark.parametrize(
    "value",
    [
        WithSet(),
        {1, 2},
        object(),
        {"a": np.array([object()])},
        {"a": np.array(["text"])},
        {"a": 2**70},
    ],
)
def test_what_cannot_come_back_is_refused(value):
    with pytest.raises(InvariantError):
        encode(value)


@pytest.mark.parametrize("compress", [True, False])
def test_every_flipped_or_missing_byte_is_noticed(compress):
    blob = encode(tree(table=np.zeros(20_000)), compress=compress)
    rng = np.random.default_rng(7)
    places = {*range(40), *map(int, rng.integers(0, len(blob), 200))}
    for place in places:
        broken = bytearray(blob)
        broken[place] ^= 0x41
        with pytest.raises(Permanent):
            decode(Tree, bytes(broken))
        with pytest.raises(Permanent):
            decode(Tree, blob[:place])


@dataclass(frozen=True, slots=True)
class Pair:
    a: NDArray[np.float64]
    b: int


def test_a_state_of_another_shape_is_refused():
    for other in (
        {"a": np.arange(2.0)},
        {"a": np.arange(2), "b": 1},
        {"a": [1.0, 2.0], "b": 1},
        {"a": np.arange(2.0), "b": "1"},
        [1, 2],
    ):
        with pytest.raises(Permanent, match="no Pair"):
            decode(Pair, encode(other))


def test_a_snapshot_of_a_newer_format_says_so():
    blob = bytearray(encode(tree()))
    blob[2] = 3
    with pytest.raises(Permanent, match="format 3"):
        decode(Tree, bytes(blob))
