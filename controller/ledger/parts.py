"""Large arrays of a snapshot, kept in parts by content: what did not change is not written again.

    part   = Cut.size bytes of an array (the last one is shorter)
    digest = XXH3-128 of them: the part's name, and its checksum
    body   = the bytes, compressed where that pays

A snapshot that is taken seconds after another is the same but for a few stretches of each column
(see `core.join.snapshot`). Every part is hashed, which is 6 GB/s and needs no notes of what was
changed, and those are written whose digest the last snapshot does not name. Two parts of equal
content are one. The ledger drops a part when no kept snapshot names it.

Rejected: noting in every store which rows were changed (each write of the joiner would have to
remember, for the tenth of the time that hashing takes), smaller parts (the work is then in Python
rather than in the hash), compressing columns of 8 bytes (keys are random, and times nearly so: a
third less disk for three times the time).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from controller.errors import Permanent
from controller.stream.packing import compressed, plain

PART: Final = 1 << 16
"""Bytes of an array in one part. Arrays up to this size stand in the snapshot itself."""

DIGEST: Final = 16
"""Bytes of a digest."""

_RAW: Final = b"\x00"
_COMPRESSED: Final = b"\x01"
_COMPRESS_UP_TO: Final = 4
"""Columns of wider elements are kept as they are."""

_SIZE: Final = struct.Struct(">I")

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a snapshot names.

    named  digests of all its parts
    new    digest -> body of those that the snapshot before it did not name
    """

    named: frozenset[bytes] = frozenset()
    new: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def manifest(self) -> bytes:
        """The names, in order, one after the other."""
        return b"".join(sorted(self.named))


class Cut:
    """Cuts arrays into parts while a value is encoded; `known` need not be written again."""

    size: ClassVar[int] = PART
    """Bytes in a part; a snapshot says it of each array."""

    def __init__(self, known: AbstractSet[bytes] = frozenset()) -> None:
        self._known = known
        self._named: set[bytes] = set()
        self._new: dict[bytes, bytes] = {}

    def take(self, array: NDArray[np.generic]) -> bytes:
        """The digests of an array's parts, one after the other, behind the size of a part."""
        flat = flat_bytes(array)
        digests = [
            self._part(flat[start : start + self.size], array.dtype.itemsize)
            for start in range(0, flat.size, self.size)
        ]
        return b"".join((_SIZE.pack(self.size), *digests))

    def parts(self) -> Parts:
        """All that was taken."""
        return Parts(frozenset(self._named), self._new)

    def _part(self, content: Bytes, width: int) -> bytes:
        digest = xxh3_128_digest(content.data)
        if digest not in self._known and digest not in self._named:
            self._new[digest] = _body(content, width)
        self._named.add(digest)
        return digest


class Gaps:
    """Arrays that were made while a value was decoded, and wait for their parts."""

    def __init__(self) -> None:
        self._gaps: dict[bytes, list[tuple[NDArray[np.generic], Bytes]]] = {}

    @property
    def digests(self) -> frozenset[bytes]:
        """The parts that are missing."""
        return frozenset(self._gaps)

    def make(
        self, dtype: np.dtype[np.generic], shape: tuple[int, ...], taken: bytes
    ) -> NDArray[np.generic]:
        """An array that has to be filled; `taken` is what `Cut.take` gave.

        Raises:
            ValueError, struct.error: when it cannot have these parts.
        """
        array = np.empty(shape, dtype)
        flat = flat_bytes(array)
        (size,) = _SIZE.unpack_from(taken)
        names = [taken[i : i + DIGEST] for i in range(_SIZE.size, len(taken), DIGEST)]
        if size == 0 or len(names) != -(-flat.size // size):
            raise ValueError(f"{len(names)} parts of {size} for an array of {flat.size} bytes")
        for number, digest in enumerate(names):
            gap = flat[number * size : (number + 1) * size]
            self._gaps.setdefault(digest, []).append((array, gap))
        return array

    def leave(self, arrays: Iterable[NDArray[np.generic]]) -> None:
        """Nobody will look at these arrays: their parts need not come."""
        left = {id(array) for array in arrays}
        kept = {
            digest: [(array, gap) for array, gap in gaps if id(array) not in left]
            for digest, gaps in self._gaps.items()
        }
        self._gaps = {digest: gaps for digest, gaps in kept.items() if gaps}

    def fill(self, bodies: Iterable[tuple[bytes, bytes]]) -> None:
        """Put in the parts that belong here.

        Raises:
            Permanent: one is damaged, or some are still missing.
        """
        for digest, body in bodies:
            content = _content(digest, body)
            for _, gap in self._gaps.pop(digest, ()):
                if gap.size != content.size:
                    raise Permanent(f"part {digest.hex()} has {content.size} of {gap.size} bytes")
                gap[:] = content
        if self._gaps:
            raise Permanent(f"{len(self._gaps)} parts of the snapshot are missing")


def named_in(manifest: bytes) -> set[bytes]:
    """The names in a manifest."""
    return {manifest[i : i + DIGEST] for i in range(0, len(manifest), DIGEST)}


def flat_bytes(array: NDArray[np.generic]) -> Bytes:
    """The array's bytes in C order, without a copy where it is in that order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _body(content: Bytes, width: int) -> bytes:
    if width > _COMPRESS_UP_TO:
        return _RAW + content.tobytes()
    return _COMPRESSED + compressed(content.tobytes())


def _content(digest: bytes, body: bytes) -> Bytes:
    try:
        content = plain(body[1:]) if body[:1] == _COMPRESSED else memoryview(body)[1:]
    except ValueError as exc:
        raise Permanent(f"part {digest.hex()} is damaged: {exc}") from exc
    if xxh3_128_digest(content) != digest:
        raise Permanent(f"part {digest.hex()} is damaged: its checksum differs")
    return np.frombuffer(content, np.uint8)
