"""The lines of a block as one text, and what stands at many places of it at once.

Places are offsets into the text, one per line. Nothing here knows where a line ends: whoever asks
compares with `end` when he has come to it. The text has room behind it, so no window leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from controller.core.model import Bool, Int
from controller.stream.octets import (
    EIGHT,
    KEPT,
    Lengths,
    Words,
    before_no_digit,
    before_quote,
    number,
)

Column: TypeAlias = NDArray[Any]

ROOM: Final = 4_096
"""Zeros behind the last line."""

_COMPARED: Final = 64
"""Bytes that are compared at once."""

_EXACT: Final = np.uint64(2**53)
_SHORT: Final = 16
"""Digits of a number that is made of words."""

_WHOLE_WORDS, _PART_WORDS = 2, 3
_TEN: Final = 10 ** np.arange(_SHORT + 1, dtype=np.uint64)
_TEN_FLOAT: Final = _TEN.astype(np.float64)


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at each place: whether it is one, how many bytes it takes, and its value."""

    is_valid: Bool
    length: Lengths
    value: Column


class Text:
    """Lines end to end; the line i is what stands from `start[i]` to `end[i]`."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._bytes = b"".join((*lines, bytes(ROOM)))
        self._octets = np.frombuffer(self._bytes, np.uint8)
        self.end: Int = np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines)))
        self.start: Int = np.append(0, self.end[:-1])

    def plain(self) -> Int:
        """The lines without backslash and any byte below 0x20 or above 0x7e."""
        octets = self._octets[:-ROOM]
        every = np.arange(len(self.end))
        if (
            octets.min(initial=0xFF) >= 0x20
            and octets.max(initial=0) <= 0x7E
            and b"\\" not in self._bytes
        ):
            return every
        odd = np.flatnonzero((octets < 0x20) | (octets > 0x7E) | (octets == ord("\\")))
        return np.delete(every, np.searchsorted(self.end, odd, side="right"))

    def has(self, literal: bytes, at: Int) -> Bool:
        """Where these bytes stand."""
        is_there = np.ones(len(at), np.bool_)
        for i in range(0, len(literal), _COMPARED):
            is_there &= self._has(literal[i : i + _COMPARED], at + i)
        return is_there

    def texts(self, at: Int, count: int) -> Found:
        """The text up to the first `"`, not empty; its value is `count` words from its begin on."""
        words = self._windows(at, count)
        length = before_quote(words)
        return Found((length > 0) & (length < EIGHT * count), length, words)

    def wholes(self, at: Int) -> Found:
        """The whole number without sign, of at most seven digits: int64."""
        words = self._windows(at, 1)
        length = before_no_digit(words)
        is_valid = (length > 0) & (length < EIGHT) & ~self._is_padded(at, length)
        value = number(words[:, 0], length).astype(np.int64)
        return Found(is_valid, length, value)

    def decimals(self, at: Int) -> Found:
        """The number `digits` or `digits.digits`, rounded correctly: float64."""
        head = self._windows(at, _WHOLE_WORDS)
        whole = before_no_digit(head)
        dot = at + whole
        has_dot = self._octets.take(dot) == ord(".")
        tail = self._windows(dot + 1, _PART_WORDS)
        places = before_no_digit(tail) * has_dot
        length = whole + has_dot + places
        is_valid = (whole > 0) & (whole < EIGHT * _WHOLE_WORDS) & ~self._is_padded(at, whole)
        is_valid &= ((places > 0) == has_dot) & (places < EIGHT * _PART_WORDS)
        short = np.minimum(places, EIGHT)
        digits = _spelt(head, whole) * _TEN.take(short) + number(tail[:, 0], short)
        value = digits.astype(np.int64) / _TEN_FLOAT.take(short)
        is_long = (places > EIGHT) | (whole + places > _SHORT) | (digits > _EXACT)
        for i in np.flatnonzero(is_long & is_valid).tolist():
            value[i] = float(self._bytes[at[i] : at[i] + length[i]])
        return Found(is_valid, length, value)

    def _is_padded(self, at: Int, digits: Lengths) -> Bool:
        """Where a number of more than one digit begins with a zero, which JSON forbids."""
        is_padded: Bool = (self._octets.take(at) == ord("0")) & (digits > 1)
        return is_padded

    def _windows(self, at: Int, count: int) -> Words:
        """As many words from each place on: (n, count)."""
        size = len(self._bytes) - EIGHT * count + 1
        every = np.ndarray((size,), f"V{EIGHT * count}", self._bytes, strides=(1,))
        words: Words = every[at].view("<u8").reshape(len(at), count)
        return words

    def _has(self, literal: bytes, at: Int) -> Bool:
        wanted = np.frombuffer(literal.ljust(-len(literal) % EIGHT + len(literal), b"\0"), "<u8")
        words = self._windows(at, len(wanted))
        last = len(wanted) - 1
        ends = words[:, last] & KEPT[len(literal) - EIGHT * last]
        is_there: Bool = ends == wanted[last]
        for i in range(last):
            is_there &= words[:, i] == wanted[i]
        return is_there


def _spelt(words: Words, length: Lengths) -> Words:
    """The number that the first digits of two words spell, 16 at most."""
    first = number(words[:, 0], np.minimum(length, EIGHT))
    if length.max(initial=0) <= EIGHT:
        return first
    more = np.minimum(np.maximum(length, EIGHT) - EIGHT, EIGHT)
    both: Words = first * _TEN.take(more) + number(words[:, 1], more)
    return both
