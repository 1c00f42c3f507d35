"""Our side of the scoreboard: the whole engine in the simulator's worlds, tick by tick.

Every function is one task of the pool: it takes plain values, so that a process of its own can run
it, and gives plain values. Run k of a seed is the same run wherever it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from controller.core import engine, estimate
from controller.core.decide.conditions import SHARES
from controller.core.model import CandidateEvidence, EventBatch
from controller.core.policy import Policy
from controller.core.state import State, initial
from controller.sim.scenario import Candidate, Later, Scenario
from controller.sim.simulate import Plan, generator, is_over, planned, rollout, world_of
from controller.sim.world import World
from tests.bench import scenes
from tests.bench.scenes import Scene


@dataclass(frozen=True, slots=True)
class End:
    """How one rollout went."""

    verdict: str
    cause: str
    hours: float
    requests: int
    on_candidate: int


def ends(
    name: str, kind: str, numbers: range, *, seed: int, per_day: int = scenes.PER_DAY
) -> list[End]:
    """Rollouts of a scene; `kind` is `equal` or `harmful`."""
    scene = scenes.scene(name, per_day=per_day)
    scenario = scene.equal() if kind == "equal" else scene.harmful()
    plan = planned(scene.policy, scenario)
    found = []
    for number in numbers:
        run = rollout(plan, seed, number)
        hours = run.duration_s / 3600
        found.append(End(run.verdict, run.cause, hours, run.requests, run.on_candidate))
    return found


def steps(plan: Plan, seed: int, number: int) -> Iterator[tuple[State, World, EventBatch]]:
    """One run, tick by tick, until every candidate is judged or time is up."""
    world = world_of(plan, generator(seed, number))
    state, batch = initial(plan.policy), world.first()
    while True:
        state, _, _ = engine.step(plan.policy, state, batch)
        yield state, world, batch
        if (is_over(state) and not world.has_more) or world.now >= plan.horizon_s:
            return
        batch = world.tick(state.split, state.offset)


def evidence(state: State) -> CandidateEvidence | None:
    """What is known of the candidate, while there is a rollout."""
    if state.rollout is None or state.spec is None or state.estimators is None:
        return None
    rollout = state.rollout
    told = estimate.evidence(state.spec, state.estimators, rollout.champion, rollout.candidates)
    return told[0]


# --- 3: coverage --------------------------------------------------------------------------------


def covered(name: str, effect: float, numbers: range, *, seed: int) -> list[bool]:
    """Whether the lift's interval held the truth at every tick of a day without a verdict."""
    scene = scenes.scene(name)
    quiet = scenes.policy(stage=scenes.UNDECIDED)
    plan = planned(quiet, _with(scene.scenario, effect))
    return [_holds(plan, effect, seed, number) for number in numbers]


def _holds(plan: Plan, effect: float, seed: int, number: int) -> bool:
    for state, _, _ in steps(plan, seed, number):
        seen = evidence(state)
        if seen is not None and not seen.lift.lower <= effect <= seen.lift.upper:
            return False
    return True


def _with(scenario: Scenario, effect: float) -> Scenario:
    return scenario.model_copy(update={"candidates": (Candidate(effect=effect),)})


# --- 4: late labels -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trace:
    """One ramp, tick by tick; all arrays (ticks,).

    minutes  since the rollout began
    naive    rewards over exposures so far, candidate over champion, minus 1
    fast     log e-value of harm as rewards come in
    closed   log e-value of harm on outcomes that are final
    weight   the candidate's share
    """

    minutes: np.ndarray
    naive: np.ndarray
    fast: np.ndarray
    closed: np.ndarray
    weight: np.ndarray

    def caught(self, way: str, *, by: float = np.inf) -> bool:
        """Whether this way (`fast` or `closed`) would have rolled back by that minute."""
        cause = {"fast": "reward_fast", "closed": "reward_harm"}[way]
        reached = getattr(self, way) >= threshold(cause)
        return bool((reached & (self.minutes <= by)).any())


def threshold(cause: str) -> float:
    """What the log e-value of this way to roll back must reach in the scenes' policy."""
    used = ("errors", "reward_fast", "reward_harm")
    share = SHARES[cause] / sum(SHARES[name] for name in used)
    return float(-np.log(scenes.ALPHA * share))


def ramps(effect: float, numbers: range, *, seed: int) -> list[Trace]:
    """Ramps with 45 minutes from request to reward, in the mean."""
    scene = scenes.late_ramp()
    plan = planned(scene.policy, _with(scene.scenario, effect))
    return [_trace(plan, seed, number) for number in numbers]


def _trace(plan: Plan, seed: int, number: int) -> Trace:
    rows, counts = [], np.zeros((2, 2))
    for state, world, batch in steps(plan, seed, number):
        counts += _naive(batch, plan.policy)
        seen = evidence(state)
        rate = counts[1] / np.maximum(counts[0], 1)
        naive = rate[1] / rate[0] - 1 if rate[0] > 0 and counts[0, 1] > 0 else np.nan
        fast, closed = (seen.log_harm_fast, seen.log_harm) if seen else (0.0, 0.0)
        share = 1 - state.split.weights.get(plan.policy.spec.champion.version, 0) / 10_000
        rows.append((world.now / 60, naive, fast, closed, share))
    return Trace(*np.array(rows).T)


def _naive(batch: EventBatch, policy: Policy) -> np.ndarray:
    """(requests, rewards) x (champion, candidate) that came in this batch, as a counter sees it."""
    tallies = batch.tallies
    found = np.zeros((2, 2))
    if tallies is None:
        return found
    champion = batch.names.index(policy.spec.champion.version)
    for column, values in enumerate((tallies.exposures, tallies.events)):
        is_champion = tallies.arm == champion
        found[column] = values[is_champion].sum(), values[~is_champion].sum()
    return found


# --- 5: regret ----------------------------------------------------------------------------------


def regrets(effect: float, delay: int, numbers: range, *, seed: int) -> np.ndarray:
    """(runs, 101): lost rewards of a bandit after each hundredth of the requests.

    effect  of the candidate on a champion of 5 %, or the other way round (see `scenes.bandit`)
    delay   mean requests between a request and its reward; 0: at once
    """
    scene = scenes.bandit(effect, delay)
    plan = planned(scene.policy, scene.scenario)
    places = np.linspace(0, scene.scenario.requests, 101)
    rows = []
    for number in numbers:
        path = [
            (w.account.requests, w.account.lost_reward) for _, w, _ in steps(plan, seed, number)
        ]
        requests, lost = np.array(path, dtype=float).T
        rows.append(np.interp(places, requests, lost))
    return np.array(rows)


# --- 6: late regression -------------------------------------------------------------------------


def late(numbers: range, *, seed: int) -> list[End]:
    """A candidate that is good for 200 000 requests, and then a fifth worse."""
    later = Later(effect=-0.2, after_requests=scenes.GOOD)
    scene = scenes.scene("late_regression")
    scenario = scene.scenario.model_copy(update={"candidates": (Candidate(later=later),)})
    plan = planned(scenes.policy(stage=scenes.UNPROMOTED), scenario)
    found = []
    for number in numbers:
        run = rollout(plan, seed, number)
        hours = run.duration_s / 3600
        found.append(End(run.verdict, run.cause, hours, run.requests, run.on_candidate))
    return found


Task = Callable[..., object]
__all__ = ["End", "Scene", "Task", "Trace", "covered", "ends", "late", "ramps", "regrets", "steps"]
