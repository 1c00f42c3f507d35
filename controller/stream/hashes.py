"""XXH64 with seed 0, of many texts at once: the `key` of a column of short texts.

The algorithm: xxHash fast digest algorithm, version 0.1.1, 2018 (github.com/Cyan4973/xxHash,
doc/xxhash_spec.md); its words of state are called as there. A step that not every text is long
enough for is taken for all, and kept for those.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from controller.core.model import Bool, Key
from controller.stream.octets import EIGHT, Lengths, Words

LONGEST: Final = 63
"""Bytes of the longest text: one stripe, and what is left."""

_STRIPE: Final = 32
_FOUR: Final = np.uint64(0xFFFFFFFF)
_BYTE: Final = np.uint64(0xFF)
_MASK: Final = (1 << 64) - 1
_P1: Final = np.uint64(11400714785074694791)
_P2: Final = np.uint64(14029467366897019727)
_P3: Final = np.uint64(1609587929392839161)
_P4: Final = np.uint64(9650029242287828579)
_P5: Final = np.uint64(2870177450012600261)
_SEEDS: Final = tuple(
    np.uint64(seed & _MASK) for seed in (int(_P1) + int(_P2), int(_P2), 0, -int(_P1))
)


def keys(words: Words, length: Lengths) -> Key:
    """`key` of the first `length` bytes of each window.

    What it is of no bytes, or of as many as the window has, means nothing.
    """
    acc = np.full(len(words), _P5)
    is_long = length >= _STRIPE
    if is_long.any():
        acc = np.where(is_long, _striped(words), acc)
    acc = acc + length
    for i in range(_STRIPE // EIGHT - 1):
        has_lane = (length & (_STRIPE - 1)) >= EIGHT * (i + 1)
        if has_lane.any():
            acc = np.where(has_lane, _lane(acc, _lane_of(words, is_long, i)), acc)
    row = np.arange(0, words.size, words.shape[1])
    tail = words.take(row + (length >> 3), mode="clip")
    has_four = (length & 4) > 0
    acc = np.where(has_four, _four(acc, tail & _FOUR), acc)
    tail = np.where(has_four, tail >> np.uint64(32), tail)
    for i in range(3):
        has_byte = (length & 3) > i
        if has_byte.any():
            acc = np.where(has_byte, _byte(acc, (tail >> np.uint64(8 * i)) & _BYTE), acc)
    return np.maximum(_avalanche(acc), np.uint64(1))


def _lane_of(words: Words, is_long: Bool, i: int) -> Words:
    """The i-th word behind the stripe, if there was one."""
    behind = i + _STRIPE // EIGHT
    if behind >= words.shape[1] or not is_long.any():
        return words[:, i]
    return words[:, behind] if is_long.all() else np.where(is_long, words[:, behind], words[:, i])


def _striped(words: Words) -> Words:
    """The state after one stripe of four words."""
    lanes = [_round(seed, words[:, i]) for i, seed in enumerate(_SEEDS)]
    acc = _turned(lanes[0], 1) + _turned(lanes[1], 7) + _turned(lanes[2], 12)
    acc = acc + _turned(lanes[3], 18)
    for lane in lanes:
        acc = (acc ^ _round(np.uint64(0), lane)) * _P1 + _P4
    return acc


def _round(acc: np.uint64, lane: Words) -> Words:
    return _turned(acc + lane * _P2, 31) * _P1


def _lane(acc: Words, lane: Words) -> Words:
    return _turned(acc ^ _round(np.uint64(0), lane), 27) * _P1 + _P4


def _four(acc: Words, four: Words) -> Words:
    return _turned(acc ^ (four * _P1), 23) * _P2 + _P3


def _byte(acc: Words, byte: Words) -> Words:
    return _turned(acc ^ (byte * _P5), 11) * _P1


def _avalanche(acc: Words) -> Words:
    acc = (acc ^ (acc >> np.uint64(33))) * _P2
    acc = (acc ^ (acc >> np.uint64(29))) * _P3
    return acc ^ (acc >> np.uint64(32))


def _turned(words: Words, by: int) -> Words:
    return (words << np.uint64(by)) | (words >> np.uint64(64 - by))
