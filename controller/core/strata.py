"""Strata: who could have got which arm, row by row, as columns.

A *stratum* is everything that was routed with the same chances: one split (an epoch), one segment
of it, and, for units that came back after a share had grown, what was known of the unit. Arms are
compared inside strata and never across: within one the arms saw the same mix of times and users,
whatever the baseline did meanwhile.

Rows live as long as their rollout and are only ever added, so an exposure can carry the number of
its stratum until its window closes, weeks later. Columns stand for the arms of the rollout, the
champion first; a candidate that joins adds one.

A unit that was the champion's while the candidate had the share a, and meets a split in which it
has b > a, is on one of the places that nobody else has been told of: the candidate has it with the
probability (b - a) / (1 - a). Such rows carry the `level` a and the chances [1 - b, b - a].

Rejected: a Python object per epoch (a bandit makes 10 000 of them a week, and every tick would walk
over all); strata by propensity alone (epochs of one propensity, weeks apart, are not alike).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from controller.core.model import BASIS, Bool, Float, Int


@dataclass(frozen=True, slots=True)
class Strata:
    """All strata of one rollout.

    epoch    (n,) int64, NO_EPOCH for exposures that stated their own propensity
    segment  (n,) int64, index into the state's segments, -1: none of them
    level    (n,) int64, basis points: see the module's head; 0 for units that are new
    shares   (n, 1 + C) float64, chances of champion and candidates; they need not sum to 1
    """

    epoch: Int
    segment: Int
    level: Int
    shares: Float

    def __len__(self) -> int:
        return len(self.epoch)


def none(n_arms: int) -> Strata:
    """No strata of a rollout with so many arms, the champion among them."""
    empty = np.zeros(0, np.int64)
    return Strata(empty, empty, empty, np.zeros((0, n_arms)))


def with_arm(strata: Strata) -> Strata:
    """The strata with a column for one more candidate, which had no chance so far."""
    more = np.zeros((len(strata), 1))
    return replace(strata, shares=np.concatenate([strata.shares, more], axis=1))


def placed(
    strata: Strata, *, epoch: int, segment: int, level: int, shares: Sequence[float]
) -> tuple[Strata, int]:
    """The strata with a row of these values, and the number of that row."""
    shares = list(shares)
    if len(strata) and _is(strata, -1, epoch, segment, level, shares):  # mostly it is the newest
        return strata, len(strata) - 1
    same = (strata.epoch == epoch) & (strata.segment == segment) & (strata.level == level)
    for row in np.flatnonzero(same).tolist():
        if strata.shares[row].tolist() == shares:  # as `array_equal` does: no NaN is equal
            return strata, row
    return added(strata, epoch=epoch, segment=segment, level=level, shares=shares)


def added(
    strata: Strata, *, epoch: int, segment: int, level: int, shares: Sequence[float]
) -> tuple[Strata, int]:
    """The strata with one more row, which they must not have yet, and its number."""
    return (
        Strata(
            epoch=np.append(strata.epoch, epoch),
            segment=np.append(strata.segment, segment),
            level=np.append(strata.level, level),
            shares=np.concatenate([strata.shares, np.array([shares])]),
        ),
        len(strata),
    )


def _is(  # noqa: PLR0913, PLR0917 - columns
    strata: Strata, row: int, epoch: int, segment: int, level: int, shares: list[float]
) -> bool:
    return bool(
        strata.epoch[row] == epoch
        and strata.segment[row] == segment
        and strata.level[row] == level
        and strata.shares[row].tolist() == shares  # as `array_equal` does: no NaN is equal
    )


def conditional(shares: Float, level: int) -> Float:
    """The chances of a unit that the champion had when the candidate's share was `level`, (2,)."""
    a = level / BASIS
    return np.array([1.0 - shares[1], max(shares[1] - a, 0.0)])


def pis(strata: Strata, rows: Int) -> Float:
    """(n, C) probability of each candidate given that it was the champion or that candidate.

    NaN where the stratum does not compare them: one of the two had no chance.
    """
    if len(rows) == 1:  # as nearly always where little came
        return _pis_of(tuple(strata.shares[rows[0]].tolist())).copy()
    return _pis(strata.shares[rows])


@lru_cache(maxsize=4096)
def _pis_of(shares: tuple[float, ...]) -> Float:
    return _pis(np.array([shares]))


def _pis(shares: Float) -> Float:
    champion, candidates = shares[:, :1], shares[:, 1:]
    both = (champion > 0.0) & (candidates > 0.0)
    found = np.empty(both.shape)
    found.fill(np.nan)
    np.divide(candidates, champion + candidates, out=found, where=both)
    return found


def comparing(strata: Strata, rows: Int, arms: Int) -> Bool:
    """Whether each exposure says something: its stratum could have given it another arm.

    rows  (n,) strata, -1 unknown;  arms  (n,) 0 for the champion, 1 + c; -1 for any other arm.
    """
    good = (rows >= 0) & (arms >= 0)
    if np.count_nonzero(good) == len(good):
        return _compared(strata, rows, arms)
    found = np.zeros(len(rows), np.bool_)
    found[good] = _compared(strata, rows[good], arms[good])
    return found


def _compared(strata: Strata, rows: Int, arms: Int) -> Bool:
    compared: Bool
    if len(rows) and np.count_nonzero(rows == rows[0]) == len(rows):
        compared = _comparable(tuple(strata.shares[rows[0]].tolist()))[arms]
        return compared
    had = strata.shares[rows] > 0.0
    compared = had[np.arange(len(arms)), arms] & had[:, 0] & had[:, 1:].any(axis=1)
    return compared


@lru_cache(maxsize=4096)
def _comparable(shares: tuple[float, ...]) -> Bool:
    """Of one stratum: which of its arms there was a choice for, between it and one to compare."""
    champion, *candidates = (share > 0.0 for share in shares)
    found = np.array([any(candidates), *candidates]) & champion
    found.flags.writeable = False
    return found
