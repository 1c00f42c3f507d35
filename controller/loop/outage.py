"""After an outage time stands still for a while, so that what waited for its end is not too late.

While the controller or the event log is away, routers go on and `ship` keeps their exposures on
disk; clients keep their rewards. A tick with the time of the wall would, at the end of the outage,
close every window that ended meanwhile and refuse as `late` whatever comes after it: all that was
kept so carefully. But what comes before that tick is in time, however old it is. So when there was
no tick for more than GAP_S, the ticks that follow repeat the time of the last one

    for WAIT_S at least          as long as a sender may pause between two attempts
    while old exposures come     for QUIET_S after the last one that was older than BEHIND_S
    for LONGEST_S at most        one router that stays behind must not hold the model for ever

Commands, versions and rewards are taken in meanwhile as ever. A window that is open when the outage
begins closes later by as much: rewards of that time were on their way, too.

Rejected: a longer `grace` for everybody (each outcome would come later, every day); that each
sender says how far behind it is (those that have not reached us yet are the ones that matter).
"""

from __future__ import annotations

import math

GAP_S = 15.0
"""More than any pause between two ticks of a controller that works, idle or not."""

WAIT_S = 10.0
QUIET_S = 5.0
BEHIND_S = 10.0
LONGEST_S = 600.0


class Outage:
    """Decides which time a model's ticks carry; all times in epoch seconds."""

    __slots__ = ("_heard", "_since")

    def __init__(self) -> None:
        self._since: float | None = None
        self._heard = -math.inf

    def time(self, last: float, now: float) -> float:
        """The time of the next tick, when `last` was that of the one before (-inf: none)."""
        if math.isinf(last) or now - last <= GAP_S:
            self._since = None
            return now
        if self._since is None or now < self._since:
            self._since = now
        waited_s = now - self._since
        is_quiet = now - self._heard >= QUIET_S
        if waited_s >= LONGEST_S or (waited_s >= WAIT_S and is_quiet):
            self._since = None
            return now
        return last

    def heard(self, oldest: float, now: float) -> None:
        """Exposures came, the oldest of them made at `oldest`."""
        if oldest < now - BEHIND_S:
            self._heard = now
