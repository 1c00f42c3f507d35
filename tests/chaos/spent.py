"""How much processor time each program of the scene takes.

Looked up in /proc every few seconds: what a program took between the last look and its death is
missing, which is little.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class Spent:
    """Seconds of processor time by program, their children included."""

    def __init__(self) -> None:
        self.by_name: defaultdict[str, float] = defaultdict(float)
        self._seen: dict[int, float] = {}

    def look(self, programs: Mapping[str, int]) -> None:
        """Add what was taken since the last look.

        programs  name -> process, of those that run
        """
        names = {pid: name for name, pid in programs.items()}
        found = {pid: (parent, took) for pid, parent, took in _processes()}
        for pid, (_, took_s) in found.items():
            above: int | None = pid
            while above is not None and above not in names:
                above = found[above][0] if above in found else None
            if above is not None:
                self.by_name[names[above]] += took_s - self._seen.get(pid, 0.0)
        self._seen = {pid: took_s for pid, (_, took_s) in found.items()}


def _processes() -> Iterator[tuple[int, int, float]]:
    """Number, parent and seconds of each process."""
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = each.read_text().rpartition(")")[2].split()
            yield int(each.parent.name), int(fields[1]), sum(map(int, fields[11:13])) / _TICKS
