"""Splits that are carried by objects of the API server: what such routers have in common.

    publish     write what is wanted of each model, each in its own thread, all at once
    confirmed   those whose object says that it is in force, and whose controller says so, too
    troubles    model -> sentence: what could not be written, is refused, or was changed by others

One model's trouble is not another's. `publish` therefore does not raise for one: it notes what went
wrong, the split that the object has stays, its epoch is not confirmed, and so everything that
depends on it holds. `confirmed` tries again what is due: soon after a fault of the API server,
seldom after a conflict or something that people must mend.

What is in force is told by the watched object, so waiting costs no requests, and what somebody else
changes after it was confirmed is seen as well. It is reported and not undone.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from controller.core.model import Json
from controller.deploy.keeping import Kept
from controller.deploy.target import Standing
from controller.errors import BackendError, Retryable
from controller.router.snapshot import RoutedModel

FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0
AT_ONCE: Final = 8

log = structlog.get_logger()


@dataclass(slots=True)
class _Job:
    model: RoutedModel
    trouble: str | None = None
    again_at: float = 0.0
    pause_s: float = FIRST_S


class ObjectRouter(ABC):
    """A router whose splits are fields of objects; `stop` it in the end.

    clock  monotonic seconds
    """

    def __init__(self, kept: Kept, clock: Callable[[], float]) -> None:
        self._kept = kept
        self._clock = clock
        self._jobs: dict[str, _Job] = {}

    @abstractmethod
    def carry(self, model: RoutedModel) -> None:
        """Write the split and read it back; nothing where it is so already. In a thread."""

    @abstractmethod
    def standing(self, model: RoutedModel) -> Standing:
        """How it stands, from what is kept."""

    async def publish(self, models: Sequence[RoutedModel]) -> None:
        """Make these the wanted splits. A model that is not among them keeps what it has."""
        before, jobs = self._jobs, dict[str, _Job]()
        for model in models:
            old = before.get(model.name)
            is_same = old is not None and _meaning(old.model) == _meaning(model)
            jobs[model.name] = old if old is not None and is_same else _Job(model)
        self._jobs = jobs
        if models:
            self._kept.start()
        await self._carry_due([j for name, j in jobs.items() if j is not before.get(name)])

    async def confirmed(self, timeout_s: float) -> Mapping[str, int]:
        """Model -> epoch that is in force; waits for the wanted ones."""
        now = self._clock()
        due = [j for j in self._jobs.values() if j.trouble is not None and j.again_at <= now]
        await self._carry_due(due)
        jobs = [job for job in self._jobs.values() if job.trouble is None]
        open_ = [job for job in jobs if not self._is_in_force(job)]
        if open_:
            await asyncio.to_thread(
                self._kept.wait, lambda: all(self._is_in_force(j) for j in open_), timeout_s
            )
        return {j.model.name: j.model.split.epoch for j in jobs if self._is_in_force(j)}

    @property
    def troubles(self) -> dict[str, str]:
        """Model -> what keeps its split from being what is wanted. Not: that it takes time."""
        every = {name: self.trouble(name) for name in self._jobs}
        return {name: sentence for name, sentence in every.items() if sentence is not None}

    def trouble(self, model: str) -> str | None:
        """What keeps the split of one model from being what is wanted, if anything does."""
        job = self._jobs.get(model)
        if job is None or job.trouble is not None:
            return job.trouble if job is not None else None
        standing = self.standing(job.model)
        return standing.sentence if standing.state in {"refused", "changed"} else None

    def status(self) -> dict[str, Json]:
        """For people: what is not in force, and why."""
        sentences: dict[str, Json] = {}
        for name, job in self._jobs.items():
            standing = self.standing(job.model)
            if job.trouble is not None or standing.state != "in force":
                sentences[name] = job.trouble or standing.sentence
        is_lost = bool(self._jobs) and self._kept.is_lost
        return {
            "models": len(self._jobs),
            "reachable": not is_lost,
            "trouble": self._kept.trouble if self._jobs else None,
            "not_in_force": sentences,
        }

    def stop(self) -> None:
        """End all threads."""
        self._kept.stop()

    def _is_in_force(self, job: _Job) -> bool:
        return self.standing(job.model).state == "in force"

    async def _carry_due(self, jobs: Sequence[_Job]) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(job: _Job) -> None:
            async with slots:
                await asyncio.to_thread(self.try_to_carry, job)

        await asyncio.gather(*(one(job) for job in jobs))

    def again(self, is_meant: Callable[[RoutedModel], bool]) -> None:
        """Write the splits of some models anew: their object is another one. In any thread.

        A split that was wanted meanwhile is written after the one before it, which may come late.
        """
        for name, job in self._jobs.items():
            if is_meant(job.model):
                self.try_to_carry(job)
                now = self._jobs.get(name, job)
                if now is not job:
                    self.try_to_carry(now)

    def try_to_carry(self, job: _Job) -> None:
        """Write it, or note why it is not written."""
        try:
            self.carry(job.model)
        except BackendError as exc:
            sentence = f"{type(exc).__name__}: {exc}"
            if sentence != job.trouble:
                log.warning("split not carried", model=job.model.name, reason=sentence)
            is_retryable = isinstance(exc, Retryable)
            pause_s = max(job.pause_s, exc.after_s) if isinstance(exc, Retryable) else LONGEST_S
            job.trouble, job.again_at = sentence, self._clock() + pause_s
            job.pause_s = min(2 * job.pause_s, LONGEST_S) if is_retryable else FIRST_S
        else:
            job.trouble, job.pause_s = None, FIRST_S


def _meaning(model: RoutedModel) -> object:
    """What is carried of a model: where its pods answer is the cluster's business."""
    return model.split, model.deploy, model.namespace
