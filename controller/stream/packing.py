"""Lines <-> blocks: joined by line ends and compressed by zlib level 1, which pays for itself."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final, TypeAlias

from controller.errors import InvariantError

BLOCK_LINES: Final = 20_000
"""An append of more events than this is cut into several blocks, so that a read can stop early."""

Packed: TypeAlias = tuple[int, bytes]
"""How many lines, and they themselves, joined and compressed."""


def packed(lines: Sequence[bytes]) -> list[Packed]:
    """The blocks that keep these lines.

    Raises:
        InvariantError: a line holds a line end.
    """
    chunks = (lines[i : i + BLOCK_LINES] for i in range(0, len(lines), BLOCK_LINES))
    return [_packed_block(chunk) for chunk in chunks]


def unpacked(count: int, body: bytes) -> tuple[bytes, ...]:
    """The lines of a block; raises `ValueError` when it does not hold `count` of them."""
    try:
        lines = zlib.decompress(body).split(b"\n")
    except zlib.error as exc:
        raise ValueError("it can not be unpacked") from exc
    if len(lines) != count:
        raise ValueError(f"found {len(lines)} of {count} events")
    return tuple(lines)


def _packed_block(lines: Sequence[bytes]) -> Packed:
    joined = b"\n".join(lines)
    if joined.count(b"\n") != len(lines) - 1:
        raise InvariantError("append: an event holds a line end; lines come without")
    return len(lines), zlib.compress(joined, level=1)
