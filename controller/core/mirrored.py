"""Mirrored requests, whose answers no user sees: copies beside the champion's answers.

Called by `observe` and, for what partitions counted, by `tallies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from controller.core import estimate
from controller.core.batch import MicroBatch
from controller.core.counting import failed
from controller.core.model import Cells, Exposures, Int
from controller.core.state import State, evolve


def count_mirrored(state: State, micro: MicroBatch, exposures: Exposures) -> State:
    """Count the answers to mirrored requests beside the champion's answers to the same traffic.

    Compared are the answers that came, not those that the mirror's share promised: copies that the
    log lost, or that nobody made, say nothing about the candidate. So pi is the candidate's part of
    this micro-batch's answers, and a micro-batch without any is passed over.
    """
    if state.rollout is None or not len(micro.shadows.arm):
        return state
    arms, n, bad = copies_of(micro.shadows)
    copies = {
        micro.names[i]: (float(count), float(wrong))
        for i, count, wrong in zip(arms.tolist(), n.tolist(), bad.tolist(), strict=True)
    }
    champion = exposures.arm == state.arms.index(state.rollout.champion)
    answers = failed(exposures.status[champion])
    return count_copies(state, copies, (float(len(answers)), float(np.count_nonzero(answers))))


def copies_of(shadows: Exposures) -> tuple[Int, Int, Int]:
    """Arms, and by arm how many copies were answered, and failed; each request counts once."""
    both = np.stack([shadows.arm.astype(np.uint64), shadows.request])
    rows = np.unique(both, axis=1, return_index=True)[1]
    arms, place = np.unique(shadows.arm[rows], return_inverse=True)
    is_failed = failed(shadows.status[rows])
    return arms, np.bincount(place), np.bincount(place, is_failed).astype(np.int64)


def count_copies(
    state: State, copies: Mapping[str, tuple[float, float]], answers: tuple[float, float]
) -> State:
    """The same of sums: (answers, failed ones) of copies by arm, and of the champion."""
    rollout = state.rollout
    if rollout is None or state.estimators is None or state.spec is None:
        return state
    mirrored = [name for name in rollout.live if state.split.mirror.get(name)]
    if not mirrored or mirrored[0] not in copies:
        return state
    candidate = mirrored[0]
    n1, s1 = copies[candidate]
    n0, s0 = answers
    seen = replace(rollout, shadow_answers=rollout.shadow_answers + round(n1))
    if not n0:
        return evolve(state, rollout=seen)
    zero = np.zeros(1, np.int64)
    cells = Cells(
        candidate=np.array([rollout.candidates.index(candidate)]),
        stratum=zero,
        bin=zero,
        pi=np.array([n1 / (n0 + n1)]),
        n0=np.array([n0]),
        s0=np.array([s0]),
        n1=np.array([n1]),
        s1=np.array([s1]),
    )
    estimators = estimate.observe_shadow(state.spec, state.estimators, cells)
    return evolve(state, rollout=seen, estimators=estimators)
