"""Candidates against each other: whether the one that leads is proven to be better than each rival.

With several candidates it is not enough that the leader beats the champion: a rival may be better
still, and a promotion ends its rollout. So each ordered pair (i, j) of candidates has an e-process
of its own against "i is not better than j", the same game that is played against the champion
(`game`), j standing where the champion stands. Within a stratum the shares are known, so given that
a unit went to i or j it went to i with the probability

    pi_ij = o_i / (o_i + o_j),        o_c = pi_c / (1 - pi_c), the odds of c against the champion

The plug-in is one for all pairs, the mean of whoever stands for the champion: which mean is bet on
moves the growth a little and the validity not at all.

Pairs are numbered so that a candidate that joins adds its pairs at the end: (1, 0), (0, 1), (2, 0),
(0, 2), (2, 1), (1, 2), ... Rewards that are amounts are compared with the champion only.

Rejected: P(best) alone (it names a winner among equals in most runs if one looks often enough),
comparing two e-values against the champion (it is no comparison of the two).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from controller.core.estimate import game, moments
from controller.core.estimate.book import Book, bind, superiority
from controller.core.estimate.game import Game
from controller.core.estimate.spec import EstimatorSpec, History
from controller.core.model import Cells, Float, Int


@dataclass(frozen=True, slots=True)
class Rivals:
    """The games of all pairs, in the order of `pairs`; None while there is one candidate."""

    candidates: int
    games: Game | None


@lru_cache(maxsize=256)
def book(spec: EstimatorSpec) -> Book:
    """The one null of each pair."""
    sign = -1 if spec.is_minimised else 1
    family = superiority(spec.min_effect, spec.contamination, sign)
    return bind((family,), restarts=False)


@lru_cache(maxsize=256)
def pairs(candidates: int) -> tuple[Int, Int]:
    """(P,) each: who should be better, and than whom."""
    rows = [(i, j) for c in range(candidates) for k in range(c) for i, j in ((c, k), (k, c))]
    table = np.array(rows, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def start(spec: EstimatorSpec, history: History, candidates: int) -> Rivals:
    """Nobody is better than anybody yet."""
    n_pairs = len(pairs(candidates)[0])
    if not n_pairs or not spec.reward.is_binary:
        return Rivals(candidates, None)
    n, total, _ = history.outcomes
    past = (n, (total - n * spec.reward.low) / (spec.reward.high - spec.reward.low))
    plug = moments.plug_in(past, prior_n=1.0, prior_s=0.5)
    return Rivals(candidates, game.start(book(spec), plug, n_pairs))


def with_candidate(spec: EstimatorSpec, rivals: Rivals) -> Rivals:
    """One more candidate, with a game against each of the others."""
    if rivals.games is None:
        return start(spec, History(), rivals.candidates + 1)
    games = game.with_candidate(book(spec), rivals.games, 2 * rivals.candidates)
    return Rivals(rivals.candidates + 1, games)


def new_epoch(rivals: Rivals) -> Rivals:
    """The split changes."""
    if rivals.games is None:
        return rivals
    return replace(rivals, games=game.new_epoch(rivals.games))


def observed(spec: EstimatorSpec, rivals: Rivals, cells: Cells) -> Rivals:
    """The rivals after these cells of each candidate beside the champion."""
    if rivals.games is None or not len(cells.pi):
        return rivals
    paired = _paired(cells, rivals.candidates)
    if not len(paired.pi):
        return rivals
    return replace(rivals, games=game.observed(book(spec), rivals.games, paired)[0])


def _paired(cells: Cells, candidates: int) -> Cells:
    """Cells of each pair; `candidate` is the pair's number."""
    place, row = np.unique(np.stack([cells.stratum, cells.bin]), axis=1, return_inverse=True)
    row, size = row.ravel(), place.shape[1]
    odds = np.full((size, candidates), np.nan)
    n, s = np.zeros((size, candidates)), np.zeros((size, candidates))
    odds[row, cells.candidate] = cells.pi / (1.0 - cells.pi)
    n[row, cells.candidate], s[row, cells.candidate] = cells.n1, cells.s1
    better, worse = pairs(candidates)
    pi = odds[:, better] / (odds[:, better] + odds[:, worse])
    some = np.isfinite(pi) & (n[:, better] + n[:, worse] > 0.0)
    at, pair = np.nonzero(some)
    return Cells(
        candidate=pair,
        stratum=place[0, at],
        bin=np.zeros(len(at), np.int64),
        pi=pi[at, pair],
        n0=n[at, worse[pair]],
        s0=s[at, worse[pair]],
        n1=n[at, better[pair]],
        s1=s[at, better[pair]],
    )


def log_better(rivals: Rivals) -> Float:
    """(C, C) log e-values that the row's candidate is better than the column's, 0 with itself."""
    found = np.zeros((rivals.candidates, rivals.candidates))
    if rivals.games is not None:
        found[pairs(rivals.candidates)] = rivals.games.log_e[:, 0]
    return found
