"""Copies of the raw access logs, taken while they are written.

`ship` deletes a file once all of it was taken, and beyond a limit before; what is compared at the
end must not depend on that. A file is held open from when it is first seen, so its last lines can
be read after it was deleted. Nothing here knows what a line is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

EVERY_S = 0.1
_LINGER_S = 3.0


@dataclass
class _Kept:
    source: BinaryIO
    copy: BinaryIO
    gone_at: float | None = None

    def catch_up(self) -> int:
        count = 0
        while chunk := self.source.read(1 << 20):
            self.copy.write(chunk)
            count += len(chunk)
        self.copy.flush()
        return count


class Keeper:
    """Keeps all files of one router's log: `access.log`, `access.log.1`, …"""

    def __init__(self, log: Path, copies: Path) -> None:
        self._log, self._copies = log, copies
        copies.mkdir(parents=True)
        self._open: dict[int, _Kept] = {}
        self._count = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, before the router does."""
        self._thread.start()

    def stop(self) -> None:
        """End with all that there is, after the router has ended."""
        self._ending.set()
        self._thread.join()
        self._look()
        for kept in self._open.values():
            kept.catch_up()
            kept.source.close()
            kept.copy.close()

    @property
    def size(self) -> int:
        """Bytes kept."""
        return sum(each.stat().st_size for each in self._copies.iterdir())

    def files(self) -> Iterator[bytes]:
        """The contents of each file, oldest first."""
        for each in sorted(self._copies.iterdir()):
            yield each.read_bytes()

    def _run(self) -> None:
        while not self._ending.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        for each in self._log.parent.glob(f"{self._log.name}*"):
            with suppress(FileNotFoundError):
                if each.stat().st_ino not in self._open:
                    self._hold(each)
        for inode, kept in list(self._open.items()):
            grown = kept.catch_up()
            if Path(f"/proc/self/fd/{kept.source.fileno()}").stat().st_nlink:
                continue
            now = time.monotonic()
            if kept.gone_at is None or grown:
                kept.gone_at = now
            elif now - kept.gone_at > _LINGER_S:
                kept.source.close()
                kept.copy.close()
                del self._open[inode]

    def _hold(self, file: Path) -> None:
        source = file.open("rb")
        self._count += 1
        copy = (self._copies / f"{self._count:05d}").open("wb")
        inode = Path(f"/proc/self/fd/{source.fileno()}").stat().st_ino
        if inode in self._open:  # renamed between two looks
            source.close()
            copy.close()
            return
        self._open[inode] = _Kept(source, copy)
