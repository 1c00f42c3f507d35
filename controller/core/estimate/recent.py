"""What the last week alone says: whether a lift that was found is still there.

A new thing is liked for being new. A test that runs for a month can be won in its first week and
lost in its last, and the sum over all of it does not show that. So the last seven days are kept
apart, day by day, and their own lift with its interval is looked at before a winner is promoted.

This is a doubt, never a proof: it can only hold. So the interval is the ordinary one (normal, 95 %,
not valid for all looks at once), and below 150 units per arm there is none.

Rejected: an e-process restarted each day, of which the newest seven would have to be kept apart (a
mixture over starts, which the harm test is, does not say *which* days speak against the lift).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from controller.core.model import Cells, Float, Int, Lift, Sample

DAY_S: Final = 86_400.0
DAYS: Final = 7
_LEAST: Final = 150.0
_Z: Final = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Recent:
    """Sums by day and candidate.

    day     (D,) int64, days since 1970 in event time, rising; at most DAYS of them
    counts  (D, C, 6) float64: n, sum and sum of squares of the champion, then of the candidate
    """

    day: Int
    counts: Float


def start(candidates: int) -> Recent:
    """No days."""
    return Recent(day=np.zeros(0, np.int64), counts=np.zeros((0, candidates, 6)))


def with_candidate(recent: Recent) -> Recent:
    """One more candidate, of whom nothing was seen."""
    more = np.zeros((len(recent.day), 1, 6))
    return replace(recent, counts=np.concatenate([recent.counts, more], axis=1))


def observe(recent: Recent, seen: Cells | Sample, time: float) -> Recent:
    """Add the outcomes of one micro-batch; `time` is that of the latest exposure among them."""
    candidates = recent.counts.shape[1]
    sums = _of_cells(seen, candidates) if isinstance(seen, Cells) else _of_sample(seen, candidates)
    today = int(time // DAY_S)
    if not len(recent.day) or today > recent.day[-1]:
        days = np.append(recent.day, today)
        counts = np.concatenate([recent.counts, sums[np.newaxis]])
        kept = days > today - DAYS
        return Recent(day=days[kept], counts=counts[kept])
    counts = recent.counts.copy()
    counts[-1] += sums
    return replace(recent, counts=counts)


def _of_cells(cells: Cells, candidates: int) -> Float:
    # Of what is yes or no the square is the value.
    columns = (cells.n0, cells.s0, cells.s0, cells.n1, cells.s1, cells.s1)
    return np.stack([np.bincount(cells.candidate, c, candidates) for c in columns], axis=1)


def _of_sample(sample: Sample, candidates: int) -> Float:
    sums = np.zeros((candidates, 6))
    for c in range(candidates):
        rows = np.isfinite(sample.pi[:, c])
        for offset, arm in ((0, 0), (3, 1 + c)):
            value = sample.value[rows & (sample.arm == arm)]
            sums[c, offset : offset + 3] = len(value), value.sum(), (value**2).sum()
    return sums


def lifts(recent: Recent) -> tuple[Lift | None, ...]:
    """The relative lift of each candidate over the days that are kept; None: too few units."""
    return tuple(_lift(recent.counts[:, c]) for c in range(recent.counts.shape[1]))


def _lift(counts: Float) -> Lift | None:
    """Days compared one by one, weighted as the difference of their means is known."""
    n0, s0, q0, n1, s1, q1 = counts.T
    if n0.sum() < _LEAST or n1.sum() < _LEAST:
        return None
    both = (n0 > 1) & (n1 > 1)
    n0, s0, q0, n1, s1, q1 = (column[both] for column in (n0, s0, q0, n1, s1, q1))
    weight = n0 * n1 / (n0 + n1)
    if not weight.sum() > 0.0:
        return None
    weight = weight / weight.sum()
    mean0, mean1 = s0 / n0, s1 / n1
    base = float((weight * mean0).sum())
    if not abs(base) > 0.0:
        return None
    variance = np.maximum(q0 / n0 - mean0**2, 0.0) / n0 + np.maximum(q1 / n1 - mean1**2, 0.0) / n1
    estimate = float((weight * (mean1 - mean0)).sum()) / abs(base)
    half = _Z * float(np.sqrt((weight**2 * variance).sum())) / abs(base)
    return Lift(estimate=estimate, lower=estimate - half, upper=estimate + half)
