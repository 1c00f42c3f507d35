"""The wheel: what turns all models, at a steady pace and whenever somebody asks for it.

One turn, in this order:

    0. adopt               policies that came, changed or went since the last turn
    1. drain the sources   access-log lines and the records of topics, into the log, see `drains`;
                           what the cluster has of each arm, where that changed
    2. tick                the time, into the log of each model in which something may happen, see
                           `ticks`
    3. fold                each of these models: read, step, write down
    4. act                 publish the splits that are wanted; wake whoever carries out the rest
    5. read back           a split that every connected router accepted is an event of the log
    6. trim                now and then: events that no fold can ask for any more leave the log

Sources are drained before the tick, so no exposure that was made before the clock moved is behind
it. A part of a turn that fails is logged, shown in `status`, and tried again; a model that cannot
be folded does not hold the others, and the splits at the routers stay. Beside it only `worker` and
`actor` catch every exception, for the same reason.

Rejected: a thread per model. Turns are short, and one order for all makes a crash easy to think
about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress

import structlog

from controller.core.model import Json, Split
from controller.core.policy import Policy
from controller.core.state import State
from controller.errors import Deposed, InvariantError, Retryable, Standby, UnderstudyError
from controller.ledger import Ledger
from controller.loop.actor import Actor, Standing
from controller.loop.cluster import Cluster
from controller.loop.commit import GroupCommit
from controller.loop.drains import Drains
from controller.loop.feeds import STANDS, Feeds
from controller.loop.fold import Fold, PolicySource, Turned
from controller.loop.layout import Layout, model_of
from controller.loop.reach import Kept
from controller.loop.routes import Router, Routes
from controller.loop.sources import Source
from controller.loop.ticks import Ticks
from controller.router.snapshot import RoutedModel
from controller.stream import Stream, codec
from controller.stream.wire import Canonical

PACE_S = 1.0
"""Between turns while something happens: the micro-batch."""

CONFIRM_S = 1.0
"""How long a turn waits for the routers to accept a new split before it goes on without."""

TRIM_S = 60.0
"""Between trims of the logs."""

LOG, ROUTER, RETENTION = "the log", "the router", "the retention of the log"
"""Who has a trouble that is not of one model."""

Clock = Callable[[], float]

log = structlog.get_logger()


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
        feeds: Feeds | None = None,
        cluster: Cluster | None = None,
        actor: Actor | None = None,
    ) -> None:
        self._folds = {fold.model: fold for fold in folds}
        self._stream = stream
        self._ledger = ledger
        self._router = router
        self._clock = clock
        self._told = told
        self._worried = worried
        self._feeds = feeds or Feeds({}, stream=stream)
        self._cluster = cluster
        self._actor = actor
        self._intake = GroupCommit(stream.append, appended=self._reached)
        self._ends: dict[str, int] = {}
        self._began_s: float | None = None
        self._adopted: dict[str, PolicySource | None] = {}
        self._turn_lock = asyncio.Lock()
        self._asked = asyncio.Event()
        self._stopping = False
        self._due: set[str] = set()
        self._deposed: str | None = None
        self._trimmed_at: float | None = None
        self._policies: dict[str, Policy] = {}
        self._gone: set[str] = set()
        self.layout = Layout(ledger)
        self._ticks = Ticks(self._folds, stream=stream, layout=self.layout, feeds=self._feeds)
        self._drains = Drains(
            sources,
            stream=stream,
            ledger=ledger,
            layout=self.layout,
            models=self._folds,
            stir=self._ticks.stir,
            hurry=self.hurry,
        )
        self._states: dict[str, State] = {}
        self._moved: set[str] = set()
        self._routes = Routes(cluster)
        self._published: list[RoutedModel] = []
        self.troubles: dict[str, str] = {}
        self.feed_troubles: dict[str, str] = {}
        """By topic: they hold the models that read it, not the controller."""
        self._feeds.follow({fold.model: fold.policy for fold in folds})

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
        own = next((self.troubles[w] for w in (model, LOG, ROUTER) if w in self.troubles), None)
        away = [
            f"{feed.name} cannot be read ({self.feed_troubles[feed.name]}): {STANDS}"
            for feed in self._feeds.of(model)
            if feed.name in self.feed_troubles
        ]
        return own or next(iter(away), None) or self._feeds.delay(model)

    def sources(self, model: str) -> dict[str, Json]:
        """What came of the topics that `model` reads."""
        return self._feeds.report(model)

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
        self._routes.renew(model)
        self.hurry()

    def depose(self, why: str) -> None:
        """Another controller leads: end, and change nothing more."""
        self._deposed = why
        self._asked.set()

    def deploy_trouble(self, model: str) -> str | None:
        """Why something that was decided for `model` is not carried out."""
        return self._actor.troubles.get(model) if self._actor is not None else None

    def kept(self, model: str) -> Kept | None:
        """What is not scaled down yet, though it was decided."""
        return self._actor.kept.get(model) if self._actor is not None else None

    def adopt(self, model: str, source: PolicySource | None) -> None:
        """From the next turn on this policy applies to `model`; None: the model is gone."""
        self._adopted[model] = source
        self.hurry()

    async def append(self, lines: Mapping[str, Sequence[bytes]]) -> None:
        """Write events of our own into the log, durably; they are seen at the next turn."""
        await asyncio.to_thread(self._stream.append, dict(lines))
        self._ticks.stir(map(model_of, lines))

    async def take_in(self, events: Sequence[Canonical]) -> None:
        """Write events of others into the logs to which they go; there may be too many of them.

        Raises `Busy` where too much waits already.
        """
        lines = await asyncio.to_thread(self.layout.lines, events)
        await self._intake.append(lines)
        self._ticks.stir(map(model_of, lines))

    @property
    def turn_s(self) -> float:
        """How long the present turn has taken; 0 between turns."""
        began_s = self._began_s
        return 0.0 if began_s is None else asyncio.get_running_loop().time() - began_s

    def lag(self, model: str) -> int:
        """How many events are in the model's log, as far as is known, that were not folded yet."""
        state = self._states.get(model)
        return max(0, self._ends.get(model, 0) - (state.offset if state is not None else 0))

    def withheld(self, model: str) -> int:
        """How many events of the log could not be used and were only counted, since the start."""
        fold = self._folds.get(model)
        return 0 if fold is None else fold.dead_letters.withheld

    def _reached(self, ends: Mapping[str, int]) -> None:
        for model, end in ends.items():
            self._ends[model] = max(end, self._ends.get(model, 0))

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
            self._began_s = asyncio.get_running_loop().time()
            await self._turn()
            self._began_s = None

    async def _turn(self) -> None:
        await self._guarded(LOG, self._notice())
        if self._deposed is not None:
            return
        self._take_up()
        if await self._guarded(LOG, self._fill()) and await self._guarded(LOG, self._tick()):
            for model in sorted(self._due):
                await self._guarded(model, self._fold(model))
        if self._deposed is None:
            await self._guarded(ROUTER, self._act())
            await self._guarded(RETENTION, self._trim())

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

    async def _guarded(
        self,
        who: str,
        work: Coroutine[None, None, None],
        troubles: dict[str, str] | None = None,
    ) -> bool:
        """Do the work; when it fails, hold and say so."""
        troubles = self.troubles if troubles is None else troubles
        try:
            await work
        except Exception as exc:  # noqa: BLE001 - the loop must survive and hold
            if isinstance(exc, Deposed):
                self._deposed = str(exc)
            self._trouble(who, exc, troubles)
            return False
        if troubles.pop(who, None) is not None:
            self._worried()
        return True

    def _take_up(self) -> None:
        """Adopt the policies that came, changed or went."""
        adopted, self._adopted = self._adopted, {}
        for model, source in adopted.items():
            if source is None:
                self._folds.pop(model, None)
                self._states.pop(model, None)
                self._routes.forget(model)
                self._ticks.forget(model)
                self.troubles.pop(model, None)
                self._gone.add(model)
            elif model in self._folds:
                self._folds[model].adopt(source)
            else:
                self._folds[model] = Fold(source, self._stream, self._ledger)
            self._ticks.stir({model} & set(self._folds))
        if adopted:
            self._feeds.follow({model: fold.policy for model, fold in self._folds.items()})
            names = {feed.name for feed in self._feeds.each}
            self.feed_troubles = {n: t for n, t in self.feed_troubles.items() if n in names}

    async def _fill(self) -> None:
        """Bring into the log whatever there is to know now.

        The cluster is asked about models that it says have changed, and about those that were
        folded: an idle one too, every few seconds.
        """
        await self._drains.drain()
        for feed in self._feeds.each:
            fed = self._drains.feed(feed, self._clock())
            await self._guarded(feed.name, fed, self.feed_troubles)
        for model in self._gone - self._folds.keys():
            await asyncio.to_thread(self.layout.forget, model)
        self._gone.clear()
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

    async def _tick(self) -> None:
        """A tick for every model in which something may happen, and for its partitions.

        None while a source is behind: the clock would pass exposures that are not in the log yet.
        None for a model of which it cannot be known when its last tick was.
        """
        now = self._clock()
        self._due.clear()
        for model in sorted(self._folds):
            if self._drains.is_behind or not self._is_due(model, now):
                continue
            if self._ticks.begun(model) or await self._guarded(model, self._recover(model)):
                self._due.add(model)
        self._reached(await self._ticks.append(self._due, self._policies, self._states, now))

    def _is_due(self, model: str, now: float) -> bool:
        policy, state = self._policies.get(model), self._states.get(model)
        return model in self.troubles or self._ticks.is_due(model, policy, state, now)

    async def _recover(self, model: str) -> None:
        self._ticks.begin(model, await asyncio.to_thread(self._folds[model].recover))

    async def _fold(self, model: str) -> None:
        turned = await asyncio.to_thread(self._folds[model].turn)
        is_first = model not in self._states
        self._states[model] = turned.state
        self._ticks.heard(model, turned.oldest, self._clock())
        self._policies[model] = turned.policy
        self._moved.add(model)
        self._routes.renew(model)
        self._say(model, turned)
        self._told(model, turned)
        if self._actor is not None and (turned.decisions or is_first):
            standing = Standing(turned.policy, turned.state.versions, turned.state.champion)
            self._actor.wake(model, standing)

    async def _trim(self) -> None:
        """Let the log forget what the ledger says is needed no more; see `ledger.limits`.

        What it says is committed, and never falls: so it does not matter when this is done, how
        often, or by whom. A clock that was set back must not put it off.
        """
        now = self._clock()
        if self._trimmed_at is not None and 0 <= now - self._trimmed_at < TRIM_S:
            return
        needs = await asyncio.to_thread(self._ledger.log_needs)
        if needs:
            await asyncio.to_thread(self._stream.append, {}, trim=needs)
        self._trimmed_at = now

    async def _act(self) -> None:
        """Publish what is wanted and note in the log what the routers have accepted."""
        if self._cluster is not None and not self._cluster.is_known:
            return  # the routers know better where the arms answer
        routed = await self._routes.wanted(self._folds, self._states)
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

    def _unconfirmed(self) -> list[str]:
        return [m for m, s in self._states.items() if s.in_force_epoch < s.split.epoch]

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

    def _trouble(self, model: str, exc: Exception, troubles: dict[str, str]) -> None:
        """Hold, and say why. A bug is logged with its trace."""
        sentence = f"{type(exc).__name__}: {exc}"
        if troubles.get(model) == sentence:
            return
        is_bug = isinstance(exc, InvariantError) or not isinstance(exc, UnderstudyError)
        log.error("holding", model=model, reason=sentence, exc_info=exc if is_bug else None)
        troubles[model] = sentence
        self._worried()


def _split_line(model: str, now: float, split: Split) -> bytes:
    """What the log says of a split that is in force from now on."""
    return codec.split_line(
        model, time=now, epoch=split.epoch, weights=split.weights, segments=split.segments
    )
