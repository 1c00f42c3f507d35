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

from dataclasses import dataclass, replace

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
    strata: Strata, *, epoch: int, segment: int, level: int, shares: Float
) -> tuple[Strata, int]:
    """The strata with a row of these values, and the number of that row."""
    same = (strata.epoch == epoch) & (strata.segment == segment) & (strata.level == level)
    for row in np.flatnonzero(same).tolist():
        if np.array_equal(strata.shares[row], shares):
            return strata, row
    return (
        Strata(
            epoch=np.append(strata.epoch, epoch),
            segment=np.append(strata.segment, segment),
            level=np.append(strata.level, level),
            shares=np.concatenate([strata.shares, shares[np.newaxis]]),
        ),
        len(strata),
    )


def conditional(shares: Float, level: int) -> Float:
    """The chances of a unit that the champion had when the candidate's share was `level`, (2,)."""
    a = level / BASIS
    return np.array([1.0 - shares[1], max(shares[1] - a, 0.0)])


def pis(strata: Strata, rows: Int) -> Float:
    """(n, C) probability of each candidate given that it was the champion or that candidate.

    NaN where the stratum does not compare them: one of the two had no chance.
    """
    champion = strata.shares[rows, :1]
    candidates = strata.shares[rows, 1:]
    both = (champion > 0.0) & (candidates > 0.0)
    total = np.where(both, champion + candidates, 1.0)
    return np.where(both, candidates / total, np.nan)


def comparing(strata: Strata, rows: Int, arms: Int) -> Bool:
    """Whether each exposure says something: its stratum could have given it another arm.

    rows  (n,) strata, -1 unknown;  arms  (n,) 0 for the champion, 1 + c; -1 for any other arm.
    """
    good = (rows >= 0) & (arms >= 0)
    shares = strata.shares[rows[good]]
    arm = arms[good]
    own = shares[np.arange(len(arm)), arm] > 0.0
    other = np.where(arm == 0, (shares[:, 1:] > 0.0).any(axis=1), shares[:, 0] > 0.0)
    found = np.zeros(len(rows), np.bool_)
    found[good] = own & other
    return found
