"""A world's events: exposures and rewards as columns, with all that befalls them on the way.

A request comes, is dealt to an arm by the split's ranges, and its user answers after a delay or
not at all. On its way to the log an event may be lost, doubled or late: it is in the batch of the
tick by which it *arrives*, whatever its own time says.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import numpy as np

from controller.core.batch import select
from controller.core.model import BASIS, EventBatch, Exposures, Float, Int, Key, Rewards, Split
from controller.core.split import ranges
from controller.sim.scenario import Units
from controller.sim.truth import DelayLaw, Rng, Truth, concerns

Columns = TypeVar("Columns", Exposures, Rewards)

_SCRAMBLE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that a multiple of it (modulo 2^64) is a different key for each number, never 0."""

_FAILED, _ANSWERED = 500, 200


def no_exposures() -> Exposures:
    """No row."""
    i, f, k = np.empty(0, np.int64), np.empty(0), np.empty(0, np.uint64)
    return Exposures(i, f, k, k, i, i, f, i, f, i)


def no_rewards() -> Rewards:
    """No row."""
    i, f, k = np.empty(0, np.int64), np.empty(0), np.empty(0, np.uint64)
    return Rewards(i, f, k, k, k, i, f)


@dataclass(frozen=True, slots=True)
class _Requests:
    """What came in one tick; all arrays (n,)."""

    time: Float
    request: Key
    unit: Key
    arm: Int
    failed: np.ndarray
    leaning: Float


class EventSource:
    """Draws the events of a world, tick by tick."""

    def __init__(self, truth: Truth, rng: Rng) -> None:
        self._truth, self._rng = truth, rng
        self._delay = DelayLaw(truth)
        self._names = (*truth.versions, truth.setting.event, *_others(truth))
        self._made = 0
        self._doubled = 0
        self._exposures = _Road(no_exposures())
        self._rewards = _Road(no_rewards())
        units = truth.scenario.units
        self._people = _People(units, truth, rng) if units else None
        self._lateness_s = truth.scenario.disorder.of(truth.setting.grace_s)

    def draw(  # noqa: PLR0913 - a tick is two times, a split and a place in the log
        self, split: Split, start: int, since: float, until: float, requests: float, *, idle: bool
    ) -> tuple[EventBatch, np.ndarray]:
        """What reaches the log in (since, until], and the requests per version.

        `idle`: nobody comes; what is still on its way arrives.
        """
        counts = np.zeros(len(self._truth.versions), dtype=np.int64)
        shadows = no_exposures()
        if not idle:
            came = self._requests(split, since, until)
            counts = np.bincount(came.arm, minlength=len(counts))
            self._expose(came, split.epoch)
            self._reward(came, since, requests)
            shadows = self._mirrored(came, split)
        exposures = self._exposures.due(until, start)
        rewards = self._rewards.due(until, start + len(exposures.time))
        end = start + len(exposures.time) + len(rewards.time)
        shadows = _numbered(shadows, end)
        count = end + len(shadows.time) - start
        return EventBatch(start, count, self._names, exposures, rewards, shadows, ()), counts

    def _requests(self, split: Split, since: float, until: float) -> _Requests:
        rng, truth = self._rng, self._truth
        most = truth.most_traffic
        time = np.sort(rng.uniform(since, until, rng.poisson(most * (until - since))))
        time = time[rng.random(len(time)) * most < truth.traffic(time)]
        n = len(time)
        request = np.arange(self._made + 1, self._made + n + 1).astype(np.uint64) * _SCRAMBLE
        self._made += n
        unit = request if truth.setting.has_units else np.zeros(n, np.uint64)
        place, leaning = rng.integers(BASIS, size=n), np.ones(n)
        if self._people is not None:
            who = rng.integers(self._people.count, size=n)
            leaning = self._people.leaning[who]
            if truth.setting.has_units:
                unit, place = self._people.key[who], self._people.places(split.salt)[who]
        arm = _dealt(split, truth.versions)[place]
        errors = np.array([truth.errors(a) for a in range(len(truth.versions))])
        return _Requests(time, request, unit, arm, rng.random(n) < errors[arm], leaning)

    def _expose(self, came: _Requests, epoch: int) -> None:
        n = len(came.time)
        exposures = Exposures(
            offset=np.zeros(n, np.int64),
            time=came.time,
            request=came.request,
            unit=came.unit,
            arm=came.arm,
            epoch=np.full(n, epoch),
            propensity=np.full(n, np.nan),
            status=np.where(came.failed, _FAILED, _ANSWERED),
            latency_ms=self._latency_ms(came),
            segment=np.full(n, -1),
        )
        lost = self._lost("exposures", came.arm)
        self._send(self._exposures, select(exposures, ~lost), came.arm[~lost])

    def _latency_ms(self, came: _Requests) -> Float:
        n = len(came.time)
        if not self._truth.setting.has_latency:
            return np.full(n, np.nan)
        law, versions = self._truth.scenario.latency, range(len(self._truth.versions))
        factor = np.array([self._truth.latency_factor(arm) for arm in versions])
        slow = np.exp(law.sigma * self._rng.standard_normal(n))
        latency: Float = 1_000.0 * law.median * factor[came.arm] * slow
        return latency

    def _reward(self, came: _Requests, since: float, requests: float) -> None:
        """Let the users answer: the policy's reward, and the others that guardrails watch."""
        truth, versions = self._truth, range(len(self._truth.versions))
        chance, value = self._law(came, since, requests)
        happy = self._rng.random(len(came.time)) < chance
        self._answer(came, happy, value, truth.setting.event)
        for name in _others(truth):
            rate = np.array([truth.other(name, arm) for arm in versions])
            chosen = (self._rng.random(len(came.time)) < rate[came.arm]) & ~came.failed
            self._answer(came, chosen, np.ones(len(came.time)), name)

    def _law(self, came: _Requests, since: float, requests: float) -> tuple[Float, Float]:
        """(n,) the chance of each request's reward, and its value if it comes."""
        truth, rng = self._truth, self._rng
        arms = range(len(truth.versions))
        factor = np.array([truth.factor(arm, since, requests) for arm in arms])[came.arm]
        forged = np.array([truth.forged(arm) for arm in arms])[came.arm].reshape(-1, 2)
        on_value = truth.scenario.reward.effect_on == "value"
        chance = truth.base(came.time) * came.leaning * (1.0 if on_value else factor)
        silent = came.failed & truth.setting.is_event_good
        chance = np.where(silent, 0.0, np.clip(chance, 0.0, 1.0))
        chance = (1.0 - forged[:, 0]) * chance + forged[:, 0] * forged[:, 1]
        value = np.full(len(came.time), truth.mean_value)
        if truth.scenario.reward.kind == "lognormal":
            sigma = truth.scenario.reward.sigma
            value *= np.exp(sigma * rng.standard_normal(len(value)) - 0.5 * sigma * sigma)
            value *= factor if on_value else 1.0
            value = np.minimum(value, truth.setting.high)
        return chance, value

    def _answer(self, came: _Requests, chosen: np.ndarray, value: Float, name: str) -> None:
        """Rewards of the chosen requests, on their way; those of a broken pipe never leave."""
        truth = self._truth
        at = np.flatnonzero(chosen)
        made = came.time[at] + self._delay.quantile(self._rng.random(len(at)))
        at, made = at[made < truth.rewards_end_s], made[made < truth.rewards_end_s]
        by_unit = truth.setting.joins_by_unit and truth.setting.has_units
        index = self._names.index(name)
        rewards = Rewards(
            offset=np.zeros(len(at), np.int64),
            time=made,
            id=came.request[at] ^ np.uint64(index),
            request=np.zeros(len(at), np.uint64) if by_unit else came.request[at],
            unit=came.unit[at] if by_unit else np.zeros(len(at), np.uint64),
            name=np.full(len(at), index),
            value=value[at],
        )
        lost = self._lost("rewards", came.arm[at])
        self._send(self._rewards, select(rewards, ~lost), came.arm[at][~lost])

    def _lost(self, what: str, arm: Int) -> np.ndarray:
        loss = self._truth.scenario.loss
        if loss is None or loss.events != what:
            return np.zeros(len(arm), dtype=np.bool_)
        lost: np.ndarray = (self._rng.random(len(arm)) < loss.share) & self._concerned(loss.arm)[
            arm
        ]
        return lost

    def _concerned(self, side: str) -> np.ndarray:
        return np.array([concerns(side, arm) for arm in range(len(self._truth.versions))])

    def _send(self, road: _Road[Columns], columns: Columns, arm: Int) -> None:
        """Put events on their way to the log: some of them twice, all of them a little late."""
        twice = self._truth.scenario.duplicates
        if twice is not None:
            again = self._rng.random(len(arm)) < twice.share
            again &= self._concerned(twice.arm)[arm]
            columns = select(columns, np.append(np.arange(len(arm)), np.flatnonzero(again)))
        arrival = columns.time
        if self._lateness_s:
            arrival = arrival + self._rng.uniform(0.0, self._lateness_s, len(arrival))
        road.send(columns, arrival)

    def _mirrored(self, came: _Requests, split: Split) -> Exposures:
        """The candidate's answers to copies of the requests."""
        versions = self._truth.versions
        rows, arms = [], []
        for name, weight in split.mirror.items():
            copied = np.flatnonzero(self._rng.random(len(came.time)) * BASIS < weight)
            rows.append(copied)
            arms.append(np.full(len(copied), versions.index(name)))
        if not rows:
            return no_exposures()
        row, arm = np.concatenate(rows), np.concatenate(arms)
        errors = np.array([self._truth.errors(a) for a in range(len(versions))])
        failed = self._rng.random(len(row)) < errors[arm]
        n = len(row)
        return Exposures(
            offset=np.zeros(n, np.int64),
            time=came.time[row],
            request=came.request[row],
            unit=came.unit[row],
            arm=arm,
            epoch=np.full(n, split.epoch),
            propensity=np.full(n, np.nan),
            status=np.where(failed, _FAILED, _ANSWERED),
            latency_ms=np.full(n, np.nan),
            segment=np.full(n, -1),
        )


def _others(truth: Truth) -> tuple[str, ...]:
    """The second reward events: those that guardrails watch, and those that the scenario names."""
    return tuple(dict.fromkeys((*truth.setting.others, *truth.scenario.others)))


def _dealt(split: Split, versions: tuple[str, ...]) -> Int:
    """(BASIS,) the version that each place of the circle belongs to, as the routers deal."""
    owner = np.empty(BASIS, dtype=np.int64)
    for part in ranges(split):
        owner[part.start : part.end] = versions.index(part.arm)
    return owner


def _numbered(columns: Columns, start: int) -> Columns:
    values = {f.name: getattr(columns, f.name) for f in fields(columns)}
    return type(columns)(**values | {"offset": np.arange(start, start + len(columns.time))})


class _Road(Generic[Columns]):
    """Events on their way to the log."""

    def __init__(self, columns: Columns) -> None:
        self._columns: Columns = columns
        self._arrival = np.empty(0)

    def send(self, columns: Columns, arrival: Float) -> None:
        """These arrive at these times."""
        if len(self._arrival):
            arrival = np.concatenate([self._arrival, arrival])
            columns = type(columns)(
                *(
                    np.concatenate([getattr(self._columns, f.name), getattr(columns, f.name)])
                    for f in fields(columns)
                )
            )
        self._columns, self._arrival = columns, arrival

    def due(self, until: float, start: int) -> Columns:
        """What has arrived by now, in order of arrival, with offsets from `start`."""
        if not len(self._arrival):
            return self._columns
        is_due = self._arrival <= until
        rows = np.flatnonzero(is_due)
        rows = rows[np.argsort(self._arrival[rows], kind="stable")]
        arrived = select(self._columns, rows)
        self._columns, self._arrival = select(self._columns, ~is_due), self._arrival[~is_due]
        return _numbered(arrived, start)


class _People:
    """Users who come back, each with a leaning of his own.

    Leanings are Beta with mean 1 (in units of the base rate), so wide that `icc` is the share of
    the variance of a reward that lies between users.
    """

    def __init__(self, units: Units, truth: Truth, rng: Rng) -> None:
        expected = truth.scenario.rate * truth.horizon_s
        self.count = max(2, round(expected / units.requests_per_unit))
        self.key = np.arange(1, self.count + 1).astype(np.uint64) * _SCRAMBLE
        mean = float(truth.base(np.array(0.0)))
        self.leaning = np.ones(self.count)
        if units.icc > 0 and 0 < mean < 1:
            strength = 1.0 / units.icc - 1.0
            self.leaning = rng.beta(mean * strength, (1 - mean) * strength, self.count) / mean
        self._rng = rng
        self._salt: str | None = None
        self._places = np.empty(0, np.int64)

    def places(self, salt: str) -> Int:
        """(count,) where each user sits on the circle; anew for each rollout."""
        if salt != self._salt:
            self._salt, self._places = salt, self._rng.integers(BASIS, size=self.count)
        return self._places
