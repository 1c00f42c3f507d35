"""The actor: carries out what was decided, other than splits, and notes that it is so.

An effect stands in the ledger before it is begun and is marked when it was read back from the
world, so after a crash the ledger says what is left to do. Effects of a model are carried out in
their order, and each may be carried out again.

    Retryable    tried again, ever more rarely
    Conflict     another writer owns the field: reported, tried again now and then, never forced
    Permanent    reported, tried again now and then: somebody may mend it
    any other    a bug: the same, with its trace in the log

A failing effect does not keep the ones behind it waiting: of those on one arm, a later one of the
same kind takes the place of an earlier one (to scale to 0 and then to 5 after an outage would kill
pods that are wanted), and those on different arms do not depend on each other.

An arm that users may still come to is not scaled down yet (see `reach`): that is no failure, and is
looked at again as one is.

Nothing here waits for the wheel, and the wheel never waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from controller.core.model import Effect, PointService, Scale, SetRole, Version
from controller.core.policy import Policy
from controller.deploy.target import Order, Target
from controller.errors import Conflict, Permanent, Retryable, UnderstudyError
from controller.ledger import Ledger, PendingEffect
from controller.loop.reach import Kept

FIRST_S, LONGEST_S = 1.0, 30.0
"""Between attempts."""

AT_ONCE = 8
"""Models whose effects are carried out at the same time."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the actor must know of a model to act for it."""

    policy: Policy
    versions: Mapping[str, Version]
    champion: str


@dataclass(slots=True)
class _Work:
    """One model's open effects."""

    standing: Standing
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Actor:
    """Carries out the effects of all models; `wake` it when there may be some.

    worried     called when what is wrong came or went
    conflicted  called with an arm and a sentence when another writer owns what would be changed for
                it, and with None when nothing is owned by others any more; in a thread
    keeps       says why an arm that is to be scaled down must go on running; in a thread
    """

    def __init__(
        self,
        ledger: Ledger,
        target_of: Callable[[Policy], Target | None],
        *,
        worried: Callable[[], None],
        conflicted: Callable[[Policy, str, str | None], None],
        keeps: Callable[[Policy, str], Kept | None],
    ) -> None:
        self._ledger = ledger
        self._target_of = target_of
        self._worried = worried
        self._conflicted = conflicted
        self._keeps = keeps
        self._works: dict[str, _Work] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.troubles: dict[str, str] = {}
        self.kept: dict[str, Kept] = {}

    def wake(self, model: str, standing: Standing) -> None:
        """There may be effects to carry out for this model."""
        work = self._works.setdefault(model, _Work(standing))
        work.standing = standing
        work.awake.set()
        if work.task is None or work.task.done():
            work.task = asyncio.create_task(self._work(model, work))

    async def stop(self) -> None:
        """End at once; what is not done stays in the ledger."""
        tasks = [work.task for work in self._works.values() if work.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, model: str, work: _Work) -> None:
        """Carry out what is open until nothing is."""
        pause_s = FIRST_S
        while work.awake.is_set():
            work.awake.clear()
            async with self._slots:
                trouble, kept = await asyncio.to_thread(self._round, model, work.standing)
            self._say(model, trouble, kept)
            if trouble is None and kept is None:
                pause_s = FIRST_S
                continue
            try:
                async with asyncio.timeout(pause_s):
                    await work.awake.wait()
            except TimeoutError:
                pause_s = min(2 * pause_s, LONGEST_S)
            work.awake.set()

    def _round(self, model: str, standing: Standing) -> tuple[str | None, Kept | None]:
        """Carry out each open effect once; what went wrong, and what is not to be done yet."""
        trouble, conflict, kept = None, None, None
        try:
            for pending in self._open(model):
                try:
                    if (why := self._kept(standing, pending.effect)) is not None:
                        kept = why
                        continue
                    self._carry_out(model, standing, pending)
                except Exception as exc:  # noqa: BLE001 - a bug must not end all effects in silence
                    trouble = self._failed(model, pending, exc)
                    conflict = (pending, trouble) if isinstance(exc, Conflict) else conflict
        except UnderstudyError as exc:
            return f"{type(exc).__name__}: {exc}", kept
        if conflict is not None:
            self._conflicted(standing.policy, _arm(conflict[0].effect), conflict[1])
        else:
            self._conflicted(standing.policy, standing.champion, None)
        return trouble, kept

    def _kept(self, standing: Standing, effect: Effect) -> Kept | None:
        """Why an arm must not be scaled down yet."""
        if isinstance(effect, Scale) and effect.replicas == 0:
            return self._keeps(standing.policy, effect.arm)
        return None

    def _open(self, model: str) -> Sequence[PendingEffect]:
        """What is left to do, in order; what was overtaken is closed."""
        newest: dict[tuple[str, str], PendingEffect] = {}
        for effect in self._ledger.pending_effects(model):
            key = _subject(effect.effect)
            if key is None:
                continue
            overtaken = newest.pop(key, None)
            if overtaken is not None:
                self._ledger.effect_done(model, overtaken.number, overtaken.ordinal)
            newest[key] = effect
        return list(newest.values())

    def _carry_out(self, model: str, standing: Standing, pending: PendingEffect) -> None:
        effect, target = pending.effect, self._target_of(standing.policy)
        assert isinstance(effect, Scale | SetRole | PointService)
        if target is None:
            raise Permanent("the policy has no `deploy` any more that could say where it runs")
        self._ledger.require_current()
        decision = self._ledger.decision(model, pending.number)
        order = Order(
            model=model,
            policy=standing.policy,
            effect=effect,
            versions=standing.versions,
            champion=standing.champion,
            reason=decision.reason if decision else "",
        )
        target.carry_out(order)
        self._ledger.effect_done(model, pending.number, pending.ordinal)
        log.info("effect", model=model, done=_named(effect), decision=pending.number)

    def _failed(self, model: str, pending: PendingEffect, exc: Exception) -> str:
        """Note that it was not carried out; why, for people."""
        bug = None if isinstance(exc, UnderstudyError) else exc
        why = str(exc) if bug is None else f"{type(bug).__name__}: {bug}"
        sentence = f"{_named(pending.effect)}: {why}"
        self._ledger.effect_failed(model, pending.number, pending.ordinal, sentence)
        if not isinstance(exc, Retryable) and sentence != self.troubles.get(model):
            log.warning("effect not carried out", model=model, reason=sentence, exc_info=bug)
        return sentence

    def _say(self, model: str, trouble: str | None, kept: Kept | None) -> None:
        before = self.troubles.pop(model, None), self.kept.pop(model, None)
        if trouble is not None:
            self.troubles[model] = trouble
        if kept is not None:
            self.kept[model] = kept
        if (trouble, kept) == before:
            return
        if kept is not None and kept != before[1]:
            log.warning("not scaled down yet", model=model, reason=kept.sentence)
        self._worried()


def _subject(effect: Effect) -> tuple[str, str] | None:
    """What the effect is about: a later one about the same takes its place. None: not ours."""
    match effect:
        case Scale() | SetRole():
            return type(effect).__name__, effect.arm
        case PointService():
            return type(effect).__name__, ""
        case _:
            return None


def _arm(effect: Effect) -> str:
    return effect.arm if isinstance(effect, Scale | SetRole | PointService) else ""


def _named(effect: Effect) -> str:
    """The effect for people."""
    match effect:
        case Scale(replicas=None):
            return f"give back the scale of {effect.arm}"
        case Scale():
            return f"scale {effect.arm} to {effect.replicas}"
        case SetRole():
            return f"label {effect.arm} {effect.role}"
        case PointService():
            return f"point the service to {effect.arm}"
        case _:
            return type(effect).__name__
