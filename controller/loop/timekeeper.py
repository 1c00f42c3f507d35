"""The time that ticks carry: the wall clock, which is not followed where it steps ahead.

Windows close when ticks say so, and the log's clock never goes back. So a wall clock that is set an
hour ahead by mistake would close every open window at once, without its rewards; and set right
again, it would leave the log an hour ahead, in which every exposure comes too late. Whether a step
was the mistake or its correction cannot be seen. Invariant, whichever it was:

    time = min(wall clock, what it would be had it gone on steadily)

    a step ahead   time goes on steadily. Exposures from before the step close when they should;
                   those that carry the new time wait for it. When all from before it are closed
                   (`longest_s`, and at least `SETTLE_S`), the wall clock is believed: nothing is
                   open any more that the jump could close too early
    a step back    time stands still until the wall clock has caught up, because the log's clock
                   cannot go back; what comes meanwhile with an earlier time is `late`

So a step that is corrected while it is not yet believed changes nothing of what is counted for
requests before and after it. The steady clock counts while the machine sleeps (CLOCK_BOOTTIME), so
that waking up is no step. A step while no controller runs is not seen, and believed.

Rejected: following the events' own times (routers on this machine step with it, and anybody who
posts events could move the clock); slewing (an hour would take half a day, with every window
shorter than it says meanwhile).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

STEP_S: Final = 2.0
"""A smaller difference between two looks is drift, or NTP at work, and is followed."""

SETTLE_S: Final = 600.0
"""How long a step ahead must last, at least, before it is believed."""

Seconds = Callable[[], float]

log = structlog.get_logger()


class Timekeeper:
    """Gives the time for ticks; to be called about once a second, by one thread at a time.

    wall       epoch seconds
    steady     seconds of a clock that nobody sets
    longest_s  how long an exposure may be open
    step_s     how far the wall clock is from where it would be, while that is not believed; else 0
    """

    def __init__(self, wall: Seconds, steady: Seconds, *, longest_s: Seconds = lambda: 0.0) -> None:
        self._wall = wall
        self._steady = steady
        self._longest_s = longest_s
        self._base = wall(), steady()
        self._since: float | None = None
        self.step_s = 0.0

    def __call__(self) -> float:
        """The time now."""
        wall, steady = self._wall(), self._steady()
        expected = self._base[0] + steady - self._base[1]
        apart = wall - expected
        if abs(apart) <= STEP_S:
            self._believe(wall, steady)
            return wall
        is_new = self._since is None or abs(apart - self.step_s) > STEP_S
        if is_new or self._since is None:
            self._since = steady
        self.step_s = apart
        if is_new:
            log.warning("the clock stepped", seconds=round(apart, 1), what=self.trouble)
        if steady - self._since >= max(SETTLE_S, self._longest_s()):
            self._believe(wall, steady)
            return wall
        return min(wall, expected)

    def latest(self) -> float:
        """The latest time that it may be: what is dated later than that is dated wrongly.

        While the clock is an hour behind by mistake, what others send is not from the future.
        """
        return max(self._wall(), self._base[0] + self._steady() - self._base[1])

    def _believe(self, wall: float, steady: float) -> None:
        if self.step_s:
            log.info("time goes on by the wall clock", after_step_s=round(self.step_s, 1))
        self._base = wall, steady
        self._since = None
        self.step_s = 0.0

    @property
    def trouble(self) -> str | None:
        """What people should know of the clock."""
        if self.step_s == 0.0:
            return None
        if self.step_s > 0:
            return (
                f"the clock of this machine stepped {self.step_s:.0f} s ahead; windows close by "
                "the time before the step until those that were open are closed"
            )
        return (
            f"the clock of this machine stepped {-self.step_s:.0f} s back; time stands still until "
            "it has caught up, and requests meanwhile are late"
        )
