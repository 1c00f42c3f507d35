"""The wheel: what turns all models, at a steady pace and whenever somebody asks for it.

One turn, in this order:

    0. adopt               policies that came, changed or went since the last turn
    1. drain the sources   access-log lines and their position, into the log, in one transaction;
                           what the cluster has of each arm, where that changed
    2. tick                the wall clock, into the log of each model in which something may happen
    3. fold                each of these models: read, step, write down
    4. act                 publish the splits that are wanted; wake whoever carries out the rest
    5. read back           a split that every connected router accepted is an event of the log

Sources are drained before the tick, so no exposure that was made before the clock moved is behind
it. A part of a turn that fails is logged, shown in `status`, and tried again; a model that cannot
be folded does not hold the others, and the splits at the routers stay. That is the only place in
Understudy where every exception is caught.

Rejected: a thread per model. Turns are short, and one order for all makes a crash easy to think
about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Protocol
from zlib import crc32

import structlog

from controller.core.decide.phases import ACTIVE
from controller.core.model import Json, Phase, Split
from controller.core.state import State
from controller.errors import Deposed, InvariantError, Retryable, Standby, UnderstudyError
from controller.ledger import Ledger
from controller.loop.actor import Actor, Standing
from controller.loop.cluster import Cluster
from controller.loop.fold import Fold, PolicySource, Turned
from controller.router.snapshot import RoutedModel
from controller.stream import Mark, Stream, codec

PACE_S = 1.0
"""Between turns while something happens: the micro-batch."""

IDLE_TICK_S = 10.0
"""Between ticks of a model in which nothing happens."""

CONFIRM_S = 1.0
"""How long a turn waits for the routers to accept a new split before it goes on without."""

DRAINS = 64
"""Reads from a source in one turn: a busy source must not keep the wheel from turning."""

LOG, ROUTER = "the log", "the router"
"""Who has a trouble that is not of one model."""

Clock = Callable[[], float]

log = structlog.get_logger()


class Router(Protocol):
    """Whatever carries the splits to the traffic."""

    async def publish(self, models: Sequence[RoutedModel]) -> None:
        """Make these the wanted splits."""
        ...

    async def confirmed(self, timeout_s: float) -> Mapping[str, int]:
        """Model -> epoch that every connected router has accepted; waits for the wanted ones."""
        ...

    def status(self) -> dict[str, Json]:
        """For people: connected routers, refusals."""
        ...


class Source(Protocol):
    """Something that events are read from, such as an access log."""

    def drain(self) -> Drained | None:
        """The next events, or None when there are none now."""
        ...

    async def committed(self, position: str) -> None:
        """The events up to this position are durable."""
        ...


class Drained:
    """What a source gave: events by model, lines it could not read, and how far it was read."""

    __slots__ = ("lines", "mark", "refused")

    def __init__(
        self,
        lines: Mapping[str, Sequence[bytes]],
        refused: Sequence[tuple[str, str, bytes]],
        mark: Mark,
    ) -> None:
        self.lines = lines
        self.refused = refused
        self.mark = mark


class Wheel:
    """All models, turned together."""

    def __init__(  # noqa: PLR0913 - the shell is where everything meets
        self,
        folds: Sequence[Fold],
        *,
        stream: Stream,
        ledger: Ledger,
        router: Router,
        sources: Sequence[Source],
        clock: Clock,
        told: Callable[[str, Turned], None],
        worried: Callable[[], None],
        cluster: Cluster | None = None,
        actor: Actor | None = None,
    ) -> None:
        self._folds = {fold.model: fold for fold in folds}
        self._stream = stream
        self._ledger = ledger
        self._router = router
        self._sources = sources
        self._clock = clock
        self._told = told
        self._worried = worried
        self._cluster = cluster
        self._actor = actor
        self._adopted: dict[str, PolicySource | None] = {}
        self._turn_lock = asyncio.Lock()
        self._asked = asyncio.Event()
        self._stopping = False
        self._restless = set(self._folds)
        self._due: set[str] = set()
        self._is_behind = False
        self._deposed: str | None = None
        self._ticked: dict[str, float] = {}
        self._states: dict[str, State] = {}
        self._moved: set[str] = set()
        self._rerouted: set[str] = set()
        self._routes: dict[str, RoutedModel] = {}
        self._published: list[RoutedModel] = []
        self._stand_ins: dict[str, RoutedModel] = {}
        self.troubles: dict[str, str] = {}

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are turned."""
        return tuple(self._folds)

    @property
    def is_settled(self) -> bool:
        """Whether every model has been folded and its split confirmed."""
        return len(self._states) == len(self._folds) and not self._unconfirmed()

    def trouble(self, model: str) -> str | None:
        """What holds `model`, if anything does."""
        return next((self.troubles[w] for w in (model, LOG, ROUTER) if w in self.troubles), None)

    async def run(self) -> None:
        """Turn until `stop`; ends with a snapshot of each model."""
        while not self._stopping:
            await self._try_turn()
            if self._deposed is not None:
                raise Deposed(f"this controller does not lead any more: {self._deposed}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), PACE_S)
            self._asked.clear()
        with suppress(UnderstudyError):
            await self._try_turn()
            for fold in self._folds.values():
                await asyncio.to_thread(fold.snapshot)
        if self._actor is not None:
            await self._actor.stop()

    def stop(self) -> None:
        """End after the present turn."""
        self._stopping = True
        self._asked.set()

    def hurry(self) -> None:
        """Turn now."""
        self._asked.set()

    def stir(self, model: str) -> None:
        """Something of the model's arms has changed in the cluster: look at it now."""
        self._moved.add(model)
        self._rerouted.add(model)
        self.hurry()

    def depose(self, why: str) -> None:
        """Another controller leads: end, and change nothing more."""
        self._deposed = why
        self._asked.set()

    def deploy_trouble(self, model: str) -> str | None:
        """Why something that was decided for `model` is not carried out."""
        return self._actor.troubles.get(model) if self._actor is not None else None

    def adopt(self, model: str, source: PolicySource | None) -> None:
        """From the next turn on this policy applies to `model`; None: the model is gone."""
        self._adopted[model] = source
        self.hurry()

    async def append(self, lines: Mapping[str, Sequence[bytes]]) -> None:
        """Write events into the log, durably; they are seen at the next turn."""
        await asyncio.to_thread(self._stream.append, dict(lines))
        self._restless.update(lines)

    async def append_and_turn(self, model: str, line: bytes) -> None:
        """Write an event and carry out at once what follows from it.

        Raises `Retryable` when the log or this model could not be turned: then it is not done yet;
        `Standby` when this controller leads no more: then whoever does will do it.
        """
        await self.append({model: [line]})
        await self._try_turn()
        if self._deposed is not None:
            raise Standby(f"kept for the next leader: {self._deposed}", "another controller")
        for who in (model, LOG):
            if who in self.troubles:
                raise Retryable(self.troubles[who], after_s=PACE_S)

    async def _try_turn(self) -> None:
        async with self._turn_lock:
            await self._guarded(LOG, self._notice())
            if self._deposed is not None:
                return
            self._take_up()
            if await self._guarded(LOG, self._fill()) and await self._guarded(LOG, self._tick()):
                for model in sorted(self._due):
                    await self._guarded(model, self._fold(model))
            if self._deposed is None:
                await self._guarded(ROUTER, self._act())

    async def _notice(self) -> None:
        """Find out that another controller leads also where nothing is to be written.

        A ledger out of reach does not tell, and is the trouble of the folds of this turn.
        """
        if self._deposed is None:
            with suppress(Retryable):
                await self._lead()

    async def _lead(self) -> None:
        """Make sure that no other controller leads before anything is said to the routers."""
        await asyncio.to_thread(self._ledger.require_current)

    async def _guarded(self, who: str, work: Coroutine[None, None, None]) -> bool:
        """Do the work; when it fails, hold and say so."""
        try:
            await work
        except Exception as exc:  # noqa: BLE001 - the loop must survive and hold
            if isinstance(exc, Deposed):
                self._deposed = str(exc)
            self._trouble(who, exc)
            return False
        if self.troubles.pop(who, None) is not None:
            self._worried()
        return True

    def _take_up(self) -> None:
        """Adopt the policies that came, changed or went."""
        adopted, self._adopted = self._adopted, {}
        for model, source in adopted.items():
            if source is None:
                self._folds.pop(model, None)
                self._states.pop(model, None)
                self._routes.pop(model, None)
                self._stand_ins.pop(model, None)
                self.troubles.pop(model, None)
            elif model in self._folds:
                self._folds[model].adopt(source)
            else:
                self._folds[model] = Fold(source, self._stream, self._ledger)
            self._restless |= {model} & set(self._folds)

    async def _fill(self) -> None:
        """Bring into the log whatever there is to know now.

        The cluster is asked about models that it says have changed, and about those that were
        folded: an idle one too, every few seconds.
        """
        await self._drain()
        if self._cluster is None:
            return
        now = self._clock()
        looked = self._moved & self._states.keys()
        self._moved -= looked
        lines = {
            model: news
            for model in sorted(looked)
            if (news := self._cluster.news(self._folds[model].policy, self._states[model], now))
        }
        if lines:
            self._moved |= lines.keys()  # until their folds say that the log has them
            await self.append(lines)

    async def _drain(self) -> None:
        """Bring what the sources have into the log; notes when one has more than a turn takes."""
        self._is_behind = False
        for source in self._sources:
            for _ in range(DRAINS):
                drained = await asyncio.to_thread(source.drain)
                if drained is None:
                    break
                await self._keep(source, drained)
            else:
                self._is_behind = True
                self.hurry()

    async def _keep(self, source: Source, drained: Drained) -> None:
        """Refused lines first: a crash in between keeps them twice, the other order not at all."""
        if drained.refused:
            await asyncio.to_thread(self._ledger.reject, drained.mark.source, drained.refused)
        known = {m: lines for m, lines in drained.lines.items() if m in self._folds}
        await asyncio.to_thread(self._stream.append, known, mark=drained.mark)
        await source.committed(drained.mark.position)
        self._restless.update(known)

    async def _tick(self) -> None:
        """A tick for every model in which something may happen.

        None while a source is behind: the clock would pass exposures that are not in the log yet.
        """
        now = self._clock()
        self._due = {m for m in self._folds if not self._is_behind and self._is_due(m, now)}
        if not self._due:
            return
        ticks: dict[str, Sequence[bytes]] = {m: [codec.tick_line(now)] for m in sorted(self._due)}
        await asyncio.to_thread(self._stream.append, ticks)
        self._ticked |= dict.fromkeys(self._due, now)
        self._restless -= self._due

    def _is_due(self, model: str, now: float) -> bool:
        state = self._states.get(model)
        if state is None or model in self._restless or model in self.troubles:
            return True
        is_waiting = any(t.pending.any() for t in state.joins) or state.phase in ACTIVE
        is_moving = state.phase in {Phase.PROMOTING, Phase.ROLLING_BACK}
        is_scaling = bool(state.waits or state.leaving) or state.intent is not None
        unsettled = state.in_force_epoch < state.split.epoch
        if is_waiting or is_moving or is_scaling or unsettled:
            return True
        return _beat(model, now) > _beat(model, self._ticked[model])

    async def _fold(self, model: str) -> None:
        turned = await asyncio.to_thread(self._folds[model].turn)
        is_first = model not in self._states
        self._states[model] = turned.state
        self._moved.add(model)
        self._rerouted.add(model)
        self._say(model, turned)
        self._told(model, turned)
        if self._actor is not None and (turned.decisions or is_first):
            standing = Standing(turned.policy, turned.state.versions, turned.state.champion)
            self._actor.wake(model, standing)

    async def _act(self) -> None:
        """Publish what is wanted and note in the log what the routers have accepted."""
        if self._cluster is not None and not self._cluster.is_known:
            return  # the routers know better where the arms answer
        await self._stand_in()
        self._reroute()
        routed = [self._routes[m] for m in sorted(self._states)] + list(self._stand_ins.values())
        if routed != self._published:
            await self._lead()
            await self._router.publish(routed)
            self._published = routed
        wanted = {m: s.split.epoch for m, s in self._states.items()}
        unconfirmed = self._unconfirmed()
        if not unconfirmed:
            return
        accepted = await self._router.confirmed(CONFIRM_S)
        now = self._clock()
        lines = {
            model: [_split_line(model, now, self._states[model].split)]
            for model in unconfirmed
            if accepted.get(model) == wanted[model]
        }
        if lines:
            await self.append(lines)
            self.hurry()

    async def _stand_in(self) -> None:
        """Keep the routes of models that could not be folded since the start.

        What is published takes the place of all that the routers have: a model that is left out
        would answer nobody. So it goes on with the split that it had.
        """
        for model in sorted(set(self._folds) - set(self._states) - set(self._stand_ins)):
            known = None
            with suppress(UnderstudyError):
                known = await asyncio.to_thread(self._folds[model].last_known)
            if known is not None:
                policy = self._folds[model].policy
                found = self._cluster.endpoints(policy, {}) if self._cluster is not None else {}
                self._stand_ins[model] = RoutedModel(
                    name=model,
                    route=policy.spec.route,
                    split=known.split,
                    endpoints=known.endpoints | found,
                    deploy=policy.spec.deploy,
                    namespace=policy.namespace,
                )
        for model in set(self._stand_ins) & set(self._states):
            del self._stand_ins[model]

    def _unconfirmed(self) -> list[str]:
        return [m for m, s in self._states.items() if s.in_force_epoch < s.split.epoch]

    def _reroute(self) -> None:
        """Renew the routes of models that were folded, or whose arms moved."""
        for model in self._rerouted & self._states.keys():
            routed = self._routed(model)
            if self._routes.get(model) != routed:
                self._routes[model] = routed
        self._rerouted.clear()

    def _routed(self, model: str) -> RoutedModel:
        state = self._states[model]
        arms = {state.champion, *state.split.weights, *state.split.mirror}
        if state.rollout is not None:
            arms |= set(state.rollout.arms)
        policy = self._folds[model].policy
        endpoints = {a: state.versions[a].endpoints for a in arms if a in state.versions}
        if self._cluster is not None:
            found = self._cluster.endpoints(policy, state.versions)
            endpoints |= {arm: found[arm] for arm in arms if arm in found}
        return RoutedModel(
            name=model,
            route=policy.spec.route,
            split=state.split,
            endpoints=endpoints,
            deploy=policy.spec.deploy,
            namespace=policy.namespace,
        )

    def _say(self, model: str, turned: Turned) -> None:
        for decision in turned.decisions:
            log.info(
                "decision",
                model=model,
                phase=decision.phase.value,
                split="/".join(str(w) for w in decision.weights.values()),
                verdict=decision.verdict.value,
                reason=decision.reason,
            )
        report = turned.report
        log.debug("tick", model=model, phase=report.phase.value, reason=report.reason)

    def _trouble(self, model: str, exc: Exception) -> None:
        """Hold, and say why. A bug is logged with its trace."""
        sentence = f"{type(exc).__name__}: {exc}"
        if self.troubles.get(model) == sentence:
            return
        is_bug = isinstance(exc, InvariantError) or not isinstance(exc, UnderstudyError)
        log.error("holding", model=model, reason=sentence, exc_info=exc if is_bug else None)
        self.troubles[model] = sentence
        self._worried()


def _beat(model: str, now: float) -> int:
    """Which idle tick of the model it is time for; those of many models are spread evenly."""
    return int(now / IDLE_TICK_S + crc32(model.encode()) / 2**32)


def _split_line(model: str, now: float, split: Split) -> bytes:
    """What the log says of a split that is in force from now on."""
    return codec.split_line(
        model, time=now, epoch=split.epoch, weights=split.weights, segments=split.segments
    )
