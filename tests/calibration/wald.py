"""Wald's sequential probability ratio test: as many runs as it takes to judge a level, no more.

The likelihood ratio of a level `broken` against `alpha` starts at 1. It ever reaches 1 / wrong with
probability `wrong` at most where the level is alpha or less, and ever falls to `missed` with
probability `missed` at most where it is `broken` or more (Wald 1945, section 3.2; it is Ville's
inequality, for the ratio and for its inverse). Where alarms are far rarer than alpha, as they are
to be, this takes less than half the runs that a number fixed in advance would take.
"""

from collections.abc import Iterable
from math import log


def is_kept(
    alarms: Iterable[bool], *, alpha: float, broken: float, wrong: float, missed: float
) -> bool:
    """Whether runs raise alarms at level alpha; takes no more of them than it needs."""
    log_ratio = 0.0
    for is_alarm in alarms:
        log_ratio += log(broken / alpha) if is_alarm else log((1 - broken) / (1 - alpha))
        if log_ratio >= -log(wrong):
            return False
        if log_ratio <= log(missed):
            return True
    raise AssertionError("there were too few runs")
