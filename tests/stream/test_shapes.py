"""Lines read by their shape give what the strict decoder gives, or are left to it."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.core.model import EventBatch
from controller.stream import shapes
from controller.stream.codec import decode, tick_line
from controller.stream.hashes import LONGEST, keys
from controller.stream.shapes import Shapes
from controller.stream.text import ROOM, Text
from controller.stream.wire import WIRE

EXAMPLES = settings(
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
ROUTER = (
    '{"type":"exposure","time":%s,"model":"m","request_id":"%s","unit":"%s","arm":"%s",'
    '"epoch":%s,"status":%s,"latency_ms":%s}'
)
MIRROR = '{"type":"shadow","time":%s,"model":"m","request_id":"%s","arm":"%s","segment":"%s"}'
CHOSEN = '{"type": "exposure", "time": %s, "model": "m", "request_id": "%s", "arm": "%s", '
CHOSEN += '"propensity": %s}'
APP = '{"type":"reward","time":%s,"model":"m","id":"%s","request_id":"%s","name":"%s","value":%s}'

TEXT = st.text("abc-:/ 0{},[]", min_size=1, max_size=70) | st.sampled_from(["v1", "v2", "user-7"])
ODD_TEXTS = ("", "ü", "\x7f", "\\n", '\\"', '","arm":"v9', '"', "\x00", "x" * 64, "x" * 300)
DIGITS = st.integers(0, 10**11).map(str)
DECIMAL = st.floats(0, 1e12, allow_nan=False).map(repr) | st.builds("{}.{}".format, DIGITS, DIGITS)
NUMBER = st.sampled_from(["0", "1", "200", "0.5", "1795423601.123456"]) | DIGITS | DECIMAL
ODD_NUMBERS = (
    *('"1"', "", "-1", "-0", "01", "00", "1.", ".5", "1e3", "1E400", "NaN", "null", "[]", "1 "),
    *("1.0", "0.0", "1.5", "1000", "99999999999", "100000000000", "9" * 16, "9" * 30),
    *("1" * 15 + ".5", "0." + "3" * 30, "9007199254740993", "9007199254.740993"),
    "1795423601.1234567",
)
ODD_TEXT, ODD_NUMBER = st.sampled_from(ODD_TEXTS), st.sampled_from(ODD_NUMBERS)


def fields(*kinds: str, odd: bool) -> st.SearchStrategy[tuple[str, ...]]:
    """Values of a line; odd ones break it, or are not simple."""
    texts, numbers = (TEXT | ODD_TEXT, NUMBER | ODD_NUMBER) if odd else (TEXT, NUMBER)
    return st.tuples(*(texts if kind == "text" else numbers for kind in kinds))


def written(*, odd: bool) -> st.SearchStrategy[bytes]:
    """Lines of four writers."""
    number, text = "number", "text"
    return st.one_of(
        fields(number, text, text, text, number, number, number, odd=odd).map(ROUTER.__mod__),
        fields(number, text, text, text, odd=odd).map(MIRROR.__mod__),
        fields(number, text, text, number, odd=odd).map(CHOSEN.__mod__),
        fields(number, text, text, text, number, odd=odd).map(APP.__mod__),
    ).map(str.encode)


def spoilt(line: bytes, at: int, byte: int, how: str) -> bytes:
    """The line with one byte changed, put in or left out, or with an end or a field too many."""
    at %= len(line) + 1
    return {
        "change": line[:at] + bytes([byte]) + line[at + 1 :],
        "insert": line[:at] + bytes([byte]) + line[at:],
        "cut": line[:at],
        "twice": line + line,
        "duplicate": line[:-1] + b',"time":1}',
        "more": line[:-1] + b',"country":"de"}',
        "nested": line[:-1] + b',"x":{"time":1}}',
    }[how]


HOW = st.sampled_from(["change", "insert", "cut", "twice", "duplicate", "more", "nested"])
SPOILT = st.builds(
    spoilt, written(odd=False), st.integers(0, 400), st.integers(0, 255) | st.just(34), HOW
)
OTHERS = st.sampled_from(
    [
        tick_line(5.0),
        b"",
        b"{}",
        b'{"type":"covariate","time":1,"model":"m","unit":"u","value":1}',
        b'{"type":"reward","time":1,"model":"m","request_id":"r","name":"n","value":1}',
        b'{"type":"exposure","time":1,"model":"other","request_id":"r","arm":"a"}',
        b'{"type":"exposure","time":"2026-11-23T12:00:00Z","model":"m","request_id":"r","arm":"a"}',
    ]
)


@EXAMPLES
@given(st.lists(written(odd=False) | written(odd=True) | SPOILT | OTHERS, max_size=12))
def test_any_mixture_is_read_as_by_the_strict_decoder(lines: list[bytes]) -> None:
    assert told(read(lines, fewest=1)) == told(read(lines, fewest=len(lines) + 1))


@EXAMPLES
@given(st.data())
def test_neighbours_of_a_good_line_are_read_as_by_the_strict_decoder(data: st.DataObject) -> None:
    good = (ROUTER % ("1795423601.25", "r-1", "u-1", "v1", "2", "200", "8.25")).encode()
    near = st.builds(spoilt, st.just(good), st.integers(0, 200), st.integers(0, 255), HOW)
    lines = [good, *data.draw(st.lists(near, max_size=8)), good]
    assert told(read(lines, fewest=1)) == told(read(lines, fewest=len(lines) + 1))


def test_every_single_byte_of_a_line_counts() -> None:
    line = (APP % ("1795423601.25", "e-1", "r-1", "n", "0.5")).encode()
    for byte in b'\x00\x1f "\\,.0a}\x7f\xc3':
        lines = [line]
        for at in range(len(line)):
            lines += [spoilt(line, at, byte, how) for how in ("change", "insert")]
        assert told(read(lines, fewest=1)) == told(read(lines, fewest=len(lines) + 1))


def test_every_odd_value_of_every_field_counts() -> None:
    for form, good in (
        (ROUTER, ("1.5", "r", "u", "v1", "2", "200", "8.25")),
        (MIRROR, ("1.5", "r", "v1", "de")),
        (CHOSEN, ("1.5", "r", "v1", "0.5")),
        (APP, ("1.5", "e", "r", "click", "1")),
    ):
        lines = [form % good] * 3
        for at in range(len(good)):
            for odd in (*ODD_TEXTS, *ODD_NUMBERS):
                lines.append(form % (*good[:at], odd, *good[at + 1 :]))
        blocks = [line.encode() for line in lines]
        assert told(read(blocks, fewest=2)) == told(read(blocks, fewest=len(lines) + 1))


def test_what_writers_write_is_read_by_shape() -> None:
    lines = [
        (form % values).encode()
        for i in range(40)
        for form, values in (
            (ROUTER, (f"1795423601.{i}", f"r-{i}", f"u-{i}", f"v{i % 3}", "12", "200", f"{i}.5")),
            (MIRROR, (f"{i}", f"r-{i}", "v1", f"s{i % 2}")),
            (CHOSEN, ("1795423601.1234567", f"r-{i}", "v1", "0.3333333333333333")),
            (APP, (f"1.{i}", f"e-{i}", f"r-{i}", "click", f"{i}")),
        )
    ]
    lines.insert(50, tick_line(5.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "FEWEST", 10)
        alike, rest = Shapes("m", {}).read(lines)
    assert sum(len(each.at) for each in alike) == 160
    assert rest.tolist() == [50]
    assert told(read(lines, fewest=10)) == told(read(lines, fewest=10**6))


def test_few_lines_and_lines_of_other_models_are_left_over() -> None:
    line = (MIRROR % ("1", "r", "v1", "de")).encode()
    lines = [line] * (shapes.FEWEST - 1)
    assert Shapes("m", {}).read(lines)[1].tolist() == list(range(len(lines)))
    index: dict[str, int] = {}
    lines = [line] * shapes.FEWEST
    assert Shapes("other", index).read(lines)[1].tolist() == list(range(len(lines)))
    assert index == {}
    assert Shapes("m", index).read(lines)[1].tolist() == []
    assert index == {"v1": 0, "de": 1}


def test_many_names_are_told_apart() -> None:
    names = [f"{'a-long-name-' * (i % 4)}v{i}" for i in range(100)]
    lines = [(MIRROR % (i, f"r{i}", name, "de")).encode() for i, name in enumerate(names)]
    batch = read(lines, fewest=1)
    assert [batch.names[i] for i in batch.shadows.arm] == names
    assert len(set(batch.names)) == len(batch.names) == 101


def test_keys_are_xxh64_at_every_length() -> None:
    rng = np.random.default_rng(3)
    windows = rng.integers(0, 2**63, (400, 8)).astype(np.uint64)
    length = np.arange(400) % LONGEST + 1
    expected = [
        xxhash.xxh64_intdigest(struct.pack("<8Q", *row.tolist())[:size])
        for row, size in zip(windows, length.tolist(), strict=True)
    ]
    assert keys(windows, length.astype(np.uint8)).tolist() == expected
    for size in (1, 15, 31, 32, 36, 63):
        same = np.full(400, size, np.uint8)
        packed = [struct.pack("<8Q", *row.tolist())[:size] for row in windows]
        assert keys(windows, same).tolist() == [xxhash.xxh64_intdigest(text) for text in packed]


@EXAMPLES
@given(st.lists(NUMBER | ODD_NUMBER, min_size=1, max_size=20))
@example(["9007199254740993", "9007199254.740993", "0.1", "1795423601.1234567", "5e-324"])
def test_a_decimal_has_the_bits_that_the_strict_decoder_gives(numbers: list[str]) -> None:
    text = Text([f"{number},".encode() for number in numbers])
    found = text.decimals(text.start)
    for i, number in enumerate(numbers):
        if not found.is_valid[i] or found.length[i] != len(number):
            continue
        line = b'{"type":"covariate","time":1,"model":"m","unit":"u","value":%b}' % number.encode()
        assert found.value[i] == WIRE.decode(line).value  # type: ignore[union-attr]
        assert number[0].isdigit()
        assert number[-1].isdigit()


def test_decimals_of_every_size_are_read() -> None:
    rng = np.random.default_rng(11)
    numbers = [
        f"{int(rng.integers(10 ** (whole - 1) * (whole > 1), 10**whole))}" + part
        for whole in range(1, 16)
        for part in ("", *(f".{int(rng.integers(10**n)):0{n}}" for n in range(1, 17)))
        for _ in range(20)
    ]
    text = Text([f"{number}}}".encode() for number in numbers])
    found = text.decimals(text.start)
    assert found.is_valid.all()
    assert found.length.tolist() == [len(number) for number in numbers]
    assert found.value.tolist() == [float(number) for number in numbers]


def test_no_shape_reaches_beyond_the_text() -> None:
    longest = max(len(form) for form in (ROUTER, MIRROR, CHOSEN, APP)) + 12 * 8 * 8 + 128
    assert longest < ROOM // 2
    line = (ROUTER % ("1.5", "r", "u", "v1", "2", "200", "8.25")).encode()
    repeated = line[:-1] + b',"epoch":3' * 1_000 + b"}"
    lines = [repeated, repeated, line]
    assert told(read(lines, fewest=1)) == told(read(lines, fewest=4))


def read(lines: Sequence[bytes], *, fewest: int) -> EventBatch:
    """The batch, where as many lines are worth a shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "FEWEST", fewest)
        return decode("m", 7, lines)


def told(batch: EventBatch) -> list[Any]:
    """All of a batch, in order, with names in place of indices and bits in place of floats."""
    found: list[Any] = [batch.start, batch.count, batch.control, batch.rejected]
    found.append(sorted(batch.names))
    for columns in (batch.exposures, batch.shadows, batch.rewards, batch.covariates):
        if columns is None:
            found.append(None)
            continue
        for name in columns.__dataclass_fields__:
            column = getattr(columns, name)
            if name in {"arm", "segment", "name"}:
                found.append([None if i < 0 else batch.names[i] for i in column])
            else:
                found += [column.dtype, column.tobytes()]
    return found
