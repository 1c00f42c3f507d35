"""Eight bytes of text at a time: what one uint64 says of the characters in it, for whole columns.

A word holds eight ASCII characters, the first in its lowest byte. All functions take words of many
lines at once, (n, m) for windows of m words, and never look at a line by itself. What they are for,
`shapes` says. Bytes of 0x80 and above are the caller's to keep out: a sum could carry beyond them.

Formulas: Mycroft's test for a zero byte, and digits in pairs, in fours, in eights: Lemire, Quickly
parsing eight digits, 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
Lengths: TypeAlias = NDArray[np.uint8]

EIGHT: Final = 8

_ONE: Final = np.uint64(1)
_THREE: Final = np.uint8(3)
_ONES: Final = np.uint64(0x0101010101010101)
_HIGH: Final = np.uint64(0x8080808080808080)
_QUOTES: Final = np.uint64(0x2222222222222222)
_ZEROS: Final = np.uint64(0x3030303030303030)
_ABOVE_NINE: Final = np.uint64(0x7676767676767676)
_NIBBLES: Final = np.uint64(0x0F0F0F0F0F0F0F0F)
_PAIRS: Final = np.uint64(0x00FF00FF00FF00FF)
_FOURS: Final = np.uint64(0x0000FFFF0000FFFF)
KEPT: Final = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)
"""The mask that keeps the first n bytes of a word."""


def before_quote(words: Words) -> Lengths:
    """How many bytes of each window stand before its first `"`; all of them where it has none."""
    return _before(words, _quotes)


def before_no_digit(words: Words) -> Lengths:
    """How many digits each window begins with."""
    return _before(words, _no_digits)


def number(words: Words, length: Lengths) -> Words:
    """The number that the first `length` (0 to 8) characters of each word spell, all digits."""
    unused = ((EIGHT - length) << _THREE).astype(np.uint64)
    w = (words & _NIBBLES) << unused
    w = (w * np.uint64(10) + (w >> np.uint64(8))) & _PAIRS
    w = (w * np.uint64(100) + (w >> np.uint64(16))) & _FOURS
    return (w * np.uint64(10_000) + (w >> np.uint64(32))) & np.uint64(0xFFFFFFFF)


def cut(words: Words, length: Lengths) -> list[Words]:
    """The first `length` bytes of each window, zeros behind: its words, as far as any has some."""
    count = 1 + (int(length.max(initial=1)) - 1) // EIGHT
    left = [np.minimum(np.maximum(length, EIGHT * i) - EIGHT * i, EIGHT) for i in range(count)]
    return [words[:, i] & KEPT.take(kept) for i, kept in enumerate(left)]


def _before(words: Words, marked: Callable[[Words], Words]) -> Lengths:
    """How many bytes of each window stand before the first that is marked, by its high bit."""
    before = np.zeros(len(words), np.uint8)
    for i in range(words.shape[1]):
        marks = marked(words[:, i])
        count = np.bitwise_count((marks - _ONE) & ~marks) >> _THREE
        before += count * (before == EIGHT * i)
        if before.max(initial=0) < EIGHT * (i + 1):
            break
    return before


def _quotes(words: Words) -> Words:
    other = words ^ _QUOTES
    marks: Words = (other - _ONES) & ~other & _HIGH
    return marks


def _no_digits(words: Words) -> Words:
    digits = words ^ _ZEROS
    marks: Words = ((digits + _ABOVE_NINE) | digits) & _HIGH
    return marks
