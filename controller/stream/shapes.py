"""Lines that say the same things in the same order, read together: columns without objects.

Nearly all lines of a log come from a few writers, each of which has one way to write. A *shape* is
all of a line but its values: `{"type":"exposure","time":` … `,"model":"digits","request_id":"` … .
It is learned from a line that the strict decoder accepts, and holds for every line that has the
same bytes around values of the same simple kinds and ends where the shape ends. Such lines are read
by arithmetic on columns, eight bytes at a time. Every other line is left over: `codec` gives it to
the strict decoder, which alone says what an event is.

Invariant: a line that is read here gives, in every column, what the strict decoder makes of it.
That needs of each line

    plain    no byte below 0x20 or above 0x7e and no backslash: its texts stand as they are
    texts    1 to 63 bytes
    numbers  digits or digits.digits, without sign, exponent or leading zero, within bounds that are
             no wider than the contract's
    model    the one that is asked for: it is a part of the shape, as the type is

A decimal m / 10^k is right to the last bit where m <= 2^53 and k <= 22: both are doubles, and one
division rounds once (Clinger, How to read floating point numbers accurately, 1990). Others are read
by Python's `float`, which rounds correctly too.

What is learned is forgotten with the call, so that nothing depends on what was read before. Few
lines are not worth the 700 calls of NumPy, half a millisecond per shape: they are left over.

Rejected: the positions of all quotes of a block (finding them takes 85 ns a line, a third of the
whole); arms and statuses as parts of the shape (as many shapes as combinations).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from controller.core.model import Int
from controller.stream.hashes import LONGEST, keys
from controller.stream.octets import EIGHT, Words, cut
from controller.stream.text import Column, Found, Text
from controller.stream.wire import UNREADABLE, WIRE, Event, Exposure, Reward

FEWEST: Final = 1_500
"""Lines that are worth a shape."""

_EXAMPLES: Final = 8
"""Lines of a block from which a shape is learned, at most."""

_NAMES: Final = 16
"""Different names that are looked for by comparing; more are looked up one by one."""

_Kind: TypeAlias = Literal["key", "name", "decimal", "whole"]

_KINDS: Final[dict[str, _Kind]] = {
    "time": "decimal",
    "request_id": "key",
    "unit": "key",
    "id": "key",
    "arm": "name",
    "name": "name",
    "segment": "name",
    "epoch": "whole",
    "status": "whole",
    "propensity": "decimal",
    "latency_ms": "decimal",
    "value": "decimal",
}
_BOUNDS: Final = {"time": (0.0, 9.9e10), "status": (0.0, 999.0), "propensity": (1e-9, 1.0)}
"""Values beyond are left over, whether they are valid or not."""

_CONSTANT: Final = frozenset({b"type", b"model"})
_PAIR: Final = re.compile(
    rb"""(?P<before>[{,] ?"(?P<name>\w+)": ?"?)(?:(?<=")(?P<text>[^"\\]*)"|\d[\d.]*)"""
)
_MOST_WORDS: Final = LONGEST // EIGHT + 1
"""Of a text and the quote behind it."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Lines of one shape in columns.

    at       which lines they are, in order
    columns  field -> keys, indices into the names, or numbers
    """

    kind: type[Event]
    at: Int
    columns: dict[str, Column]


@dataclass(frozen=True, slots=True)
class _Field:
    """A value, and the bytes between it and the one before; a text is looked for in `words`."""

    before: bytes
    name: str
    words: int

    def found(self, text: Text, at: Int) -> Found:
        """What stands there."""
        kind = _KINDS[self.name]
        if kind == "decimal":
            return self._bounded(text.decimals(at))
        if kind == "whole":
            return self._bounded(text.wholes(at))
        return text.texts(at, self.words)

    def _bounded(self, found: Found) -> Found:
        if self.name not in _BOUNDS:
            return found
        least, most = _BOUNDS[self.name]
        is_within = (found.value >= least) & (found.value <= most)
        return Found(found.is_valid & is_within, found.length, found.value)


@dataclass(frozen=True, slots=True)
class _Shape:
    """All of a line but its values."""

    kind: type[Event]
    fields: tuple[_Field, ...]
    end: bytes

    def read(self, text: Text, lines: Int, index: dict[str, int]) -> Alike:
        """Those of the lines that have this shape. `index`, the dictionary of names, grows."""
        lines = lines[text.has(self.fields[0].before, text.start[lines])]
        at = text.start[lines]
        is_alike = np.ones(len(lines), np.bool_)
        found: dict[str, Found] = {}
        for field in self.fields:
            is_alike &= text.has(field.before, at)
            at = at + len(field.before)
            one = found[field.name] = field.found(text, at)
            is_alike &= one.is_valid
            at = at + one.length
        is_alike &= text.has(self.end, at)
        is_alike &= at + len(self.end) == text.end[lines]
        own = np.flatnonzero(is_alike)
        columns = {name: _column(name, one, own, index).take(own) for name, one in found.items()}
        return Alike(self.kind, lines.take(own), columns)


class Shapes:
    """The shapes of a model's lines, as they are met. `index`, the dictionary of names, grows."""

    def __init__(self, model: str, index: dict[str, int]) -> None:
        self._model = model
        self._index = index
        self._known: list[_Shape] = []

    def read(self, lines: Sequence[bytes]) -> tuple[list[Alike], Int]:
        """The lines that have a shape, and which are left over."""
        every = np.arange(len(lines))
        if len(lines) < FEWEST:
            return [], every
        text = Text(lines)
        found: list[Alike] = []
        left, untried, examples = text.plain(), self._known[:], _EXAMPLES
        while len(left) >= FEWEST and (untried or examples):
            if not untried:
                examples -= 1
                untried = self._learned(lines[left[0]])
                left = left if untried else left[1:]
                continue
            found.append(untried.pop(0).read(text, left, self._index))
            left = _without(left, found[-1].at)
        return found, _without(every, *(alike.at for alike in found))

    def _learned(self, example: bytes) -> list[_Shape]:
        """The shape of a plain line, if it has one that is new."""
        shape = _shape_of(example, self._model)
        if shape is None or shape in self._known:
            return []
        self._known.append(shape)
        return [shape]


def _shape_of(line: bytes, model: str) -> _Shape | None:
    """None for a line that has no simple shape, or is no event of this model."""
    try:
        event = WIRE.decode(line)
    except UNREADABLE:
        return None
    if not isinstance(event, Exposure | Reward) or event.model != model:
        return None
    if isinstance(event, Reward) and not event.id:  # its key is made of all of its content
        return None
    known = _KINDS.keys() & event.__struct_fields__
    fields: list[_Field] = []
    constants: list[bytes] = []
    before, at = b"", 0
    while pair := _PAIR.match(line, at):
        at = pair.end()
        if pair["name"] in _CONSTANT:
            constants.append(pair["name"])
            before += pair[0]
            continue
        name, length = pair["name"].decode(), len(pair["text"] or b"")
        if name not in known or length > LONGEST:
            return None
        known.discard(name)  # once only, so that no shape is longer than the room behind a text
        words = min(length // EIGHT + 2, _MOST_WORDS)  # enough for those a little longer
        fields.append(_Field(before + pair["before"], name, words))
        before = b"" if pair["text"] is None else b'"'
    if line[at:] != b"}" or len(constants) != len(_CONSTANT):
        return None
    return _Shape(type(event), tuple(fields), before + b"}")


def _column(name: str, found: Found, own: Int, index: dict[str, int]) -> Column:
    """What a field is, of all lines; what it is of those that are not `own` means nothing."""
    kind = _KINDS[name]
    if kind == "key":
        return keys(found.value, found.length)
    if kind == "name":
        return _indices(found, own, index)
    return found.value


def _indices(found: Found, own: Int, index: dict[str, int]) -> Int:
    """The index of each name, few of which are different."""
    words = cut(found.value, found.length)
    codes = np.zeros(len(found.length), np.int64)
    codes[own] = -1
    for _ in range(_NAMES):
        if not len(codes) or codes[new := int(np.argmin(codes))] >= 0:
            return codes
        same = words[0] == words[0][new]
        for word in words[1:]:
            same &= word == word[new]
        code = _index(np.array([word[new] for word in words]), index)
        codes = np.where(same & (codes < 0), code, codes)
    names = np.column_stack(words)
    for i in np.flatnonzero(codes < 0).tolist():
        codes[i] = _index(names[i], index)
    return codes


def _index(name: Words, index: dict[str, int]) -> int:
    return index.setdefault(name.tobytes().rstrip(b"\0").decode(), len(index))


def _without(every: Int, *some: Int) -> Int:
    """The lines that are not among some others."""
    is_left = np.ones(int(every[-1]) + 1 if len(every) else 0, np.bool_)
    for lines in some:
        is_left[lines] = False
    return every[is_left[every]]
