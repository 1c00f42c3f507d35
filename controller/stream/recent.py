"""Blocks that this process has just appended, for whoever reads them next.

The wheel appends what came and folds it a moment later. Without this it would unpack again what it
has just packed: a third of a microsecond an event. Blocks never change, so what is found here is
what the store would give; a block leaves with its first reader, and the oldest leave when there is
no more room (a standby appends and never reads).
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Final

ROOM: Final = 32 * 2**20
"""Bytes of lines, with what Python needs for each, that are kept at most."""

_OVERHEAD: Final = 41
"""Of a `bytes` object and of the reference to it."""


class Recent:
    """Blocks by model and offset of their first event. Safe to call from any thread."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._lock = Lock()
        self._blocks: dict[tuple[str, int], tuple[tuple[bytes, ...], int]] = {}
        self._taken = 0

    def keep(self, model: str, start: int, lines: Sequence[bytes]) -> None:
        """Remember a block that is in the store by now."""
        size = sum(map(len, lines)) + _OVERHEAD * len(lines)
        if size > self._room:
            return
        with self._lock:
            self._drop((model, start))
            self._blocks[model, start] = tuple(lines), size
            self._taken += size
            while self._taken > self._room:
                self._drop(next(iter(self._blocks)))

    def take(self, model: str, start: int) -> tuple[bytes, ...] | None:
        """The lines of the block that begins at `start`, which is forgotten here; else None."""
        with self._lock:
            return self._drop((model, start))

    def _drop(self, key: tuple[str, int]) -> tuple[bytes, ...] | None:
        lines, size = self._blocks.pop(key, (None, 0))
        self._taken -= size
        return lines
