"""The state of this room for one rollout, and the books that follow from its spec."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from controller.core.estimate import reward
from controller.core.estimate.bandit import Blocks
from controller.core.estimate.book import ERRORS, Book, guard_book
from controller.core.estimate.game import Game
from controller.core.estimate.health import SampleRatio
from controller.core.estimate.latency import Latency
from controller.core.estimate.recent import Recent
from controller.core.estimate.reward import Judge, Reward
from controller.core.estimate.risk import Risk
from controller.core.estimate.rivals import Rivals
from controller.core.estimate.spec import EstimatorSpec


@dataclass(frozen=True, eq=False)
class Estimators:
    """All state for one rollout: of the champion and each candidate that ever was in it.

    Equal to itself only: so what is said of it can be remembered as long as it lives.

    reward      that is to be made better
    errors      of answers, known at once; bets are made only where errors are guarded
    shadow      of answers to mirrored requests
    latency     None where it is not guarded
    rewards     second rewards, in the order of the spec
    risk        first rewards as they come, of units at risk
    blocks      what the bandit remembers; None where there is none
    units, outcomes, dropped   arms of assigned units, of closed outcomes, of dropped events
    rivals      candidates against each other
    recent      the last week alone
    candidates  how many there are
    clock       epoch seconds of the latest that was observed
    """

    reward: Reward
    errors: Game
    shadow: Game
    latency: Latency | None
    rewards: tuple[Reward, ...]
    risk: Risk
    blocks: Blocks | None
    units: SampleRatio
    outcomes: SampleRatio
    dropped: SampleRatio
    rivals: Rivals
    recent: Recent
    candidates: int
    clock: float


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """What each metric is judged by."""

    reward: Judge
    errors: Book
    rewards: tuple[Judge, ...]


@lru_cache(maxsize=1024)
def judges(spec: EstimatorSpec) -> Judges:
    """The books of a spec: they hold no data."""
    return Judges(
        reward=reward.judge(spec),
        errors=guard_book(ERRORS, spec.error_increase or 0.0),
        rewards=tuple(reward.guard(r, spec.interval_alpha, spec.bins) for r in spec.rewards),
    )
