"""How many refused events are kept: so many a second, and a burst; the others are only counted.

A sender that is broken repeats itself: after the first thousands the rest says nothing new, and
would fill the ledger's disk.
"""

from __future__ import annotations

from typing import Final

PER_S: Final = 1_000
BURST: Final = 20_000


class Allowance:
    """A bucket that fills with `PER_S` up to `BURST`, by whatever clock it is told of.

    withheld  how many were asked for and not allowed
    """

    def __init__(self, *, per_s: float = PER_S, burst: float = BURST) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = float("-inf")
        self.withheld = 0

    def take(self, wanted: int, *, at: float) -> int:
        """How many of `wanted` are allowed at the time `at`, in seconds."""
        if at > self._at:
            self._left = min(self._burst, self._left + (at - self._at) * self._per_s)
            self._at = at
        allowed = min(wanted, int(self._left))
        self._left -= allowed
        self.withheld += wanted - allowed
        return allowed
