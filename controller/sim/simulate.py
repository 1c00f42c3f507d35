"""Rehearsals: a policy in a scenario, many times over, by the engine that decides live.

Each run has a generator of its own, spawned from the seed by the run's number, so the runs are the
same for any number of processes, and run 17 of 20 is run 17 of 1 000.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from controller.core import engine
from controller.core.conduct import stage_kind
from controller.core.decide.phases import RESTING
from controller.core.model import Decision, Phase, Verdict
from controller.core.policy import Gates, Policy
from controller.core.state import State, initial
from controller.errors import UnderstudyError
from controller.sim.scenario import Scenario
from controller.sim.truth import Rng, Truth, setting
from controller.sim.world import Level, World, events_needed

MOST_TICKS, LEAST_TICKS = 200, 100
"""Looks in a run where neither scenario nor caller says how often to look."""


MOST_OPEN_TICKS = 1_000
"""Ticks for which an outcome may stay open where tallies are drawn: their ring is its square."""

VERDICTS: Final[dict[Phase, Literal["promoted", "rolled_back"]]] = {
    Phase.PROMOTING: "promoted",
    Phase.PROMOTED: "promoted",
    Phase.ROLLING_BACK: "rolled_back",
    Phase.ROLLED_BACK: "rolled_back",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How runs are made: everything but chance.

    level   of what the world gives: events, or tallies of them
    why     why it must be events; empty where tallies will do
    """

    policy: Policy
    scenario: Scenario
    horizon_s: float
    tick_s: float
    level: Literal["events", "tallies"]
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One rollout, from the first candidate's arrival to the last one's end.

    verdict        what became of the last candidate that was judged
    champion       the version that serves at the end
    cause, reason  of the last ruling
    stages         (stage, step, seconds) of each stage and step that was entered, in order
    harmed         requests on a candidate while it was worse than the first champion
    lost_reward    expected, against the best version of the time
    """

    number: int
    verdict: Literal["promoted", "rolled_back", "undecided"]
    phase: str
    champion: str
    cause: str
    reason: str
    duration_s: float
    requests: float
    on_candidate: float
    harmed: float
    lost_reward: float
    decisions: int
    stages: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True, slots=True)
class Simulation:
    """All runs of a plan, in order of their numbers."""

    plan: Plan
    seed: int
    runs: tuple[Run, ...]


def planned(policy: Policy, scenario: Scenario, *, level: Level = "auto") -> Plan:
    """The plan for runs of this policy in this scenario.

    Raises:
        UnderstudyError: the scenario does not fit the policy, or needs events and got "tallies".
    """
    horizon_s = _horizon_s(policy, scenario)
    why = events_needed(scenario, setting(policy))
    if level == "tallies" and why:
        raise UnderstudyError(f"tallies cannot stand for this world: {', '.join(why)}")
    chosen: Literal["events", "tallies"] = "events" if why or level == "events" else "tallies"
    policy = without_gates(policy)
    tick_s = _tick_s(policy, scenario, horizon_s)
    least_s = _settle_s(policy) / MOST_OPEN_TICKS
    if chosen == "tallies" and tick_s < least_s:
        raise UnderstudyError(
            f"found a tick of {tick_s:g} s, expected at least {least_s:.3g} s: an outcome stays "
            f"open for {_settle_s(policy):g} s, window and grace"
        )
    plan = Plan(policy, scenario, horizon_s, tick_s, chosen, why)
    Truth(scenario, setting(policy), horizon_s)
    return plan


def _settle_s(policy: Policy) -> float:
    """How long an exposure stays open."""
    return policy.spec.reward.window + policy.spec.reward.grace


def without_gates(policy: Policy) -> Policy:
    """The policy without what people and calendars must do: in a rehearsal there are none."""
    gates = Gates().model_copy(update={"cooldown": policy.spec.gates.cooldown})
    return policy.model_copy(update={"spec": policy.spec.model_copy(update={"gates": gates})})


def _horizon_s(policy: Policy, scenario: Scenario) -> float:
    """When an undecided run ends: the requests are made, or time is up for every stage."""
    by_requests = scenario.requests / scenario.rate
    longest = sum(_longest_s(policy, index) for index in range(len(policy.spec.stages)))
    by_stages = longest + len(policy.spec.stages) * _settle_s(policy)
    last = max(c.at.of(by_requests) for c in scenario.candidates)
    by_stages = last + by_stages * len(scenario.candidates)
    return min(by_requests, by_stages, scenario.max_time or math.inf)


def _longest_s(policy: Policy, index: int) -> float:
    stage = policy.spec.stages[index]
    if stage.shadow is not None:
        return stage.shadow.duration
    if stage.canary is not None:
        return stage.canary.max_duration
    return stage.ab.max_duration if stage.ab is not None else math.inf


def _tick_s(policy: Policy, scenario: Scenario, horizon_s: float) -> float:
    """Half of the shortest dwell, within `LEAST_TICKS` and `MOST_TICKS` looks in a run."""
    if scenario.tick is not None:
        return min(scenario.tick, horizon_s)
    settle_s = _settle_s(policy)
    dwells: list[float] = []
    for stage in policy.spec.stages:
        if stage.shadow is not None:
            dwells.append(stage.shadow.duration)
        if stage.canary is not None:
            dwells.append(max(stage.canary.min_duration, settle_s))
        if stage.ab is not None:
            dwells.append(max(stage.ab.min_duration, settle_s))
        if stage.thompson is not None:
            dwells.append(2.0 * stage.thompson.update_every)
    wanted = min(max(min(dwells) / 2.0, horizon_s / MOST_TICKS), horizon_s / LEAST_TICKS)
    return float(f"{wanted:.2g}")


def simulate(  # noqa: PLR0913 - all of it is the experiment
    policy: Policy,
    scenario: Scenario,
    *,
    runs: int,
    seed: int,
    jobs: int | None = None,
    level: Level = "auto",
    progress: Callable[[int], None] | None = None,
) -> Simulation:
    """`runs` rollouts of the policy in the scenario.

    `jobs` None takes all cores; `progress` is called with the number of finished runs.
    """
    plan = planned(policy, scenario, level=level)
    made: list[Run] = []
    for run in _made(plan, runs, seed, jobs or os.cpu_count() or 1):
        made.append(run)
        if progress is not None:
            progress(len(made))
    return Simulation(plan, seed, tuple(sorted(made, key=lambda run: run.number)))


def _made(plan: Plan, runs: int, seed: int, jobs: int) -> Iterator[Run]:
    jobs = min(jobs, runs)
    if jobs == 1:
        yield from (rollout(plan, seed, number) for number in range(runs))
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(plan, seed))
    try:
        waiting: list[Future[Run]] = [pool.submit(_numbered, number) for number in range(runs)]
        for done in as_completed(waiting):
            yield done.result()
    except BrokenProcessPool as exc:
        raise UnderstudyError(
            "a process of the simulation was killed, perhaps for want of memory: try --jobs 1"
        ) from exc
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    pool.shutdown()


_given: list[tuple[Plan, int]] = []
"""Of a worker process: the plan that it works on, and the seed."""


def _begin(plan: Plan, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    _given[:] = [(plan, seed)]


def _numbered(number: int) -> Run:
    plan, seed = _given[0]
    return rollout(plan, seed, number)


def generator(seed: int, number: int) -> Rng:
    """The source of chance of one run: the number-th child that the seed's sequence spawns."""
    sequence = np.random.SeedSequence(seed, spawn_key=(number,))  # noqa: TID251 - seeded
    return np.random.default_rng(sequence)  # noqa: TID251 - a generator of its own


def world_of(plan: Plan, rng: Rng) -> World:
    """The world in which the plan's runs happen."""
    truth = Truth(plan.scenario, setting(plan.policy), plan.horizon_s)
    return World(truth, rng, tick_s=plan.tick_s, level=plan.level)


def rollout(plan: Plan, seed: int, number: int) -> Run:
    """One run of the plan."""
    world = world_of(plan, generator(seed, number))
    log = Logbook(plan.policy)
    return log.run(number, world, play(plan.policy, world, plan.horizon_s, log))


def play(policy: Policy, world: World, horizon_s: float, log: Logbook) -> State:
    """The engine decides, the world follows, until it is over or time is up."""
    state = initial(policy)
    batch = world.first()
    while True:
        state, decisions, _ = engine.step(policy, state, batch)
        log.note(state, decisions)
        if (is_over(state) and not world.has_more) or world.now >= horizon_s:
            return state
        batch = world.tick(state.split, state.offset)


def is_over(state: State) -> bool:
    """Whether every candidate that was offered is judged."""
    return state.phase in RESTING | set(VERDICTS) and state.rollouts > 0 and not state.queue


class Logbook:
    """What is kept of a run on the way.

    waits    (stage, step) -> cause -> seconds for which this was what the engine said
    entered  (stage, step) -> seconds from the start to its last beginning
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._stages: list[tuple[str, int, float]] = []
        self._last: tuple[str, int, int] | None = None
        self._began = 0.0
        self._decisions = 0
        self._ruling = ("", "")
        self._ended: float | None = None
        self._clock, self._is_on = 0.0, False
        self.waits: dict[tuple[int, int], dict[str, float]] = {}
        self.entered: dict[tuple[int, int], float] = {}

    def note(self, state: State, decisions: tuple[Decision, ...]) -> None:
        """Remember what a step brought."""
        self._decisions += len(decisions)
        elapsed, self._clock = max(0.0, state.clock - self._clock), state.clock
        if state.rollout is None:
            return
        if not self._stages:
            self._began = state.rollout.started
        if self._last is not None and self._is_on:
            waits = self.waits.setdefault(self._last[1:], {})
            waits[self._ruling[0]] = waits.get(self._ruling[0], 0.0) + elapsed
        self._is_on = state.is_judging
        if state.is_judging:
            self._ruling = (state.said.cause, state.said.reason)
        for decision in decisions:
            if decision.verdict in {Verdict.PROMOTE, Verdict.ROLL_BACK}:
                self._ruling, self._ended = (decision.cause, decision.reason), decision.time
        here = (state.rollout.id, state.rollout.stage, state.rollout.step)
        if state.is_judging and here != self._last:
            kind = stage_kind(self._policy, state.rollout)
            self._stages.append((kind, state.rollout.step, state.clock - self._began))
            self.entered[here[1:]] = state.clock - self._began
            self._last = here

    def run(self, number: int, world: World, state: State) -> Run:
        """The whole run."""
        account = world.account
        ended = state.clock if self._ended is None or not is_over(state) else self._ended
        return Run(
            number=number,
            verdict=VERDICTS.get(state.phase, "undecided"),
            phase=state.phase.value,
            champion=state.champion,
            cause=self._ruling[0],
            reason=self._ruling[1],
            duration_s=ended - self._began,
            requests=account.requests,
            on_candidate=account.on_candidate,
            harmed=account.harmed,
            lost_reward=account.lost_reward,
            decisions=self._decisions,
            stages=tuple(self._stages),
        )
