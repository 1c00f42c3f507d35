"""A histogram in which every value stands in a bin 3 % wide: quantiles from constant memory.

It serves limits that must be known before the values that they are compared with: the champion's
latencies, the cap of a reward. A quantile is the upper end of its bin, so at most 3 % too high,
which moves no e-value from its level: limits are fixed before they are used, that is all.

Rejected: t-digest and GK sketches (their state depends on the order of arrival).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.core.model import Float, Int

WIDTH = 1.03
"""Upper end of a bin over its lower end."""

BINS = 702
_LOG_WIDTH = float(np.log(WIDTH))
ENDS: Float = np.power(WIDTH, np.arange(BINS) - (BINS - 1.0))
"""(H,) upper ends of the bins, the last one 1: values are shares of the greatest one."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """counts  (H,) float64, of values in (0, 1]; what is less than the first end is in bin 0."""

    counts: Float


def empty() -> Histogram:
    """No values."""
    return Histogram(counts=np.zeros(BINS))


def bins(values: Float) -> Int:
    """The bin of each value; what lies beyond 1 is in the last one."""
    logs = np.log(np.clip(values, ENDS[0], 1.0))
    rows: Int = np.ceil(logs / _LOG_WIDTH - 1e-9).astype(np.int64) + BINS - 1
    return rows


def added(histogram: Histogram, values: Float) -> Histogram:
    """The histogram with these values too."""
    return with_counts(histogram, np.bincount(bins(values), minlength=BINS))


def with_counts(histogram: Histogram, counts: Float | Int) -> Histogram:
    """The histogram with so many more values in each bin."""
    return replace(histogram, counts=histogram.counts + counts)


def faded(histogram: Histogram, left: float) -> Histogram:
    """The histogram when each value counts `left` of what it did."""
    return replace(histogram, counts=histogram.counts * left)


def total(histogram: Histogram) -> float:
    """How many values there are, or what is left of them."""
    return float(histogram.counts.sum())


def quantiles(histogram: Histogram, at: Float) -> Float:
    """The upper end of the bin in which each quantile lies; values must have been added."""
    ends: Float = ENDS[quantile_bins(histogram, at)]
    return ends


def quantile_bins(histogram: Histogram, at: Float) -> Int:
    """The bin in which each quantile lies; values must have been added."""
    ranks = np.cumsum(histogram.counts)
    rows: Int = np.minimum(np.searchsorted(ranks, at * ranks[-1]), BINS - 1)
    return rows
