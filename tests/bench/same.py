"""The same log, its events doubled and out of order inside the grace: the same decisions?

A rollout is recorded as it was decided live. Then every exposure and every reward gets a lateness
of its own within the grace, so that it reaches the log ticks later and in another order, and a
third come twice. The engine folds both logs; the decisions and their evidence must be equal to the
last figure. Failed answers are counted as they arrive, so that an outage is seen at once; they are
left out of the comparison.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.random import Generator

from controller.core import engine
from controller.core.model import Decision, EventBatch, Exposures, Rewards
from controller.core.policy import Policy
from controller.core.state import initial
from controller.sim.simulate import planned
from tests.bench import ours, scenes

Columns = TypeVar("Columns", Exposures, Rewards)

PER_DAY, HOURS, TICK_S = 600_000, 5.0, 30.0
TWICE = 1 / 3


def agree(kind: str, numbers: range, *, seed: int) -> list[bool]:
    """For each log, whether its disturbed copy leads to the same decisions."""
    return [_agrees(kind, seed, number) for number in numbers]


def _agrees(kind: str, seed: int, number: int) -> bool:
    policy, batches = recorded(kind, seed, number)
    rng = np.random.default_rng([seed, number])
    return told(policy, batches) == told(policy, disturbed(policy, batches, rng))


def recorded(kind: str, seed: int, number: int) -> tuple[Policy, list[EventBatch]]:
    """A policy and the batches of one live rollout, each ending with its tick."""
    scene = scenes.scene("flat", per_day=PER_DAY)
    quick = scenes.policy(stage=scenes.QUICK)
    scenario = (scene.equal() if kind == "equal" else scene.harmful()).model_copy(
        update={"tick": TICK_S, "max_time": HOURS * 3600}
    )
    plan = planned(quick, scenario, level="events")
    return quick, [batch for _, _, batch in ours.steps(plan, seed, number)]


def told(policy: Policy, batches: list[EventBatch]) -> list[tuple[Any, ...]]:
    """What the engine decides, when, and on which evidence of rewards."""
    state, made = initial(policy), []
    for batch in batches:
        state, decisions, _ = engine.step(policy, state, replace_start(batch, state.offset))
        made += [_essence(decision) for decision in decisions]
    return made


def _essence(decision: Decision) -> tuple[Any, ...]:
    """All but counts of what has *arrived* (answers, duplicates): these do not wait for order."""
    kept = ("lift", "risk", "log_e", "p_best")
    evidence = {name: decision.evidence.get(name) for name in kept}
    sums = [
        {name: arm.get(name) for name in ("n", "mean", "interval")}
        for arm in (decision.evidence.get(role) or {} for role in ("champion", "candidate"))
        if isinstance(arm, dict)
    ]
    place = (decision.time, decision.stage, decision.step, decision.phase)
    return (*place, decision.verdict, decision.cause, decision.weights, evidence, sums)


def disturbed(policy: Policy, batches: list[EventBatch], rng: Generator) -> list[EventBatch]:
    """The same events: late by up to the grace, a third of them twice, in random order."""
    grace = policy.spec.reward.grace
    ends = np.array([batch.control[-1].time for batch in batches])
    exposures = _dealt([batch.exposures for batch in batches], ends, grace, rng)
    rewards = _dealt([batch.rewards for batch in batches], ends, grace, rng)
    return [
        replace(batch, exposures=exposed, rewards=rewarded)
        for batch, exposed, rewarded in zip(batches, exposures, rewards, strict=True)
    ]


def _dealt(parts: list[Columns], ends: np.ndarray, grace: float, rng: Generator) -> list[Columns]:
    """The rows, each in the batch of the tick by which it arrives."""
    every = _joined(parts)
    home = np.repeat(np.arange(len(parts)), [len(part.time) for part in parts])
    n = len(every.time)
    rows = np.concatenate([np.arange(n), np.flatnonzero(rng.random(n) < TWICE)])
    arrives = every.time[rows] + rng.random(len(rows)) * grace
    place = np.maximum(np.searchsorted(ends, arrives), home[rows])
    place = np.minimum(place, len(parts) - 1)
    shuffled = rng.permutation(len(rows))
    rows, place = rows[shuffled], place[shuffled]
    return [_taken(every, rows[place == i]) for i in range(len(parts))]


def _joined(parts: list[Columns]) -> Columns:
    columns = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(parts[0])
    }
    return replace(parts[0], **columns)


def _taken(columns: Columns, rows: np.ndarray) -> Columns:
    return replace(columns, **{f.name: getattr(columns, f.name)[rows] for f in fields(columns)})


def replace_start(batch: EventBatch, start: int) -> EventBatch:
    """The batch, its events numbered from `start`: controls, the rest, then its tick."""
    place, control = start, []
    for event in batch.control[:-1]:
        control.append(replace(event, offset=place))
        place += 1
    numbered = {}
    for name in ("exposures", "rewards"):
        columns = getattr(batch, name)
        count = len(columns.time)
        numbered[name] = replace(columns, offset=np.arange(place, place + count))
        place += count
    control.append(replace(batch.control[-1], offset=place))
    return replace(batch, start=start, count=place + 1 - start, control=tuple(control), **numbered)
