"""Ticks: in which models something may happen now, and what time it is there.

The time is that of the wall, or, of a model that reads topics, that up to which they were read;
after an outage it stands for a while, see `outage`. A clock that stands is said again, because
operators are obeyed at ticks.

A topic that is away or behind holds the clocks of the models that read it, and no others: they
still obey operators and see exposures, but no attribution window closes while rewards that belong
into it may be on their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import isinf
from zlib import crc32

from controller.core.decide.phases import ACTIVE
from controller.core.model import Phase
from controller.core.policy import Policy
from controller.core.state import State
from controller.loop.feeds import Feeds
from controller.loop.layout import Layout
from controller.loop.outage import Outage
from controller.stream import Stream, codec

IDLE_TICK_S = 10.0
"""Between ticks of a model in which nothing happens."""


class Ticks:
    """When the models were ticked, and which of them have to be again."""

    def __init__(
        self, models: Iterable[str], *, stream: Stream, layout: Layout, feeds: Feeds
    ) -> None:
        self._stream = stream
        self._layout = layout
        self._feeds = feeds
        self._restless = set(models)
        self._last: dict[str, float] = {}
        self._stirred: dict[str, float] = {}
        self._outages: dict[str, Outage] = {}

    def stir(self, models: Iterable[str]) -> None:
        """Something of these models has come into a log."""
        self._restless.update(models)

    def forget(self, model: str) -> None:
        """There is no such model any more."""
        self._restless.discard(model)
        self._last.pop(model, None)
        self._outages.pop(model, None)

    def begun(self, model: str) -> bool:
        """Whether it is known when the model was ticked last."""
        return model in self._last

    def begin(self, model: str, clock: float) -> None:
        """The model was ticked last at `clock`, -inf: never."""
        self._last[model] = clock

    def heard(self, model: str, oldest: float, now: float) -> None:
        """Exposures were folded, the oldest of them made at `oldest`."""
        self._outages[model].heard(oldest, now)

    def is_due(self, model: str, policy: Policy | None, state: State | None, now: float) -> bool:
        """Whether something may happen in the model; both None: it was never folded."""
        if policy is None or state is None or model in self._restless:
            return True
        is_waiting = any(t.pending.any() for t in state.joins) or state.phase in ACTIVE
        # What went to partitions is known only when they have told a tick that came after it.
        is_waiting |= bool(state.partitions.pending.any())
        is_waiting |= not self._layout.is_settled(policy, state)
        is_waiting |= state.partitions.clock < self._stirred.get(model, float("-inf"))
        is_moving = state.phase in {Phase.PROMOTING, Phase.ROLLING_BACK}
        is_scaling = bool(state.waits or state.leaving) or state.intent is not None
        unsettled = state.in_force_epoch < state.split.epoch
        if is_waiting or is_moving or is_scaling or unsettled:
            return True
        return _beat(model, now) > _beat(model, self._last[model])

    async def append(
        self,
        models: Collection[str],
        policies: Mapping[str, Policy],
        states: Mapping[str, State],
        now: float,
    ) -> dict[str, int]:
        """A tick for each of these models, and for its partitions; where each log ends after it."""
        times = {model: self._time(model, now) for model in sorted(models)}
        if not times:
            return {}
        lines: dict[str, Sequence[bytes]] = {}
        for model, at in times.items():
            state = states.get(model)
            if state is None:  # what its partitions are is not known yet
                lines[model] = [codec.tick_line(at)]
            else:
                policy = policies[model]
                lines |= await asyncio.to_thread(self._layout.ticks, policy, state, at)
        starts = await asyncio.to_thread(self._stream.append, lines)
        self._last |= times
        self._stirred |= dict.fromkeys(times.keys() & self._restless, now)
        self._restless -= times.keys()
        return {log: start + len(lines[log]) for log, start in starts.items()}

    def _time(self, model: str, now: float) -> float:
        last, horizon = self._last[model], self._feeds.horizon(model)
        is_new = isinf(last)  # nothing was answered yet that a reward could be of
        until = now if is_new or horizon >= now else max(last, horizon)
        return self._outages.setdefault(model, Outage()).time(last, until)


def _beat(model: str, now: float) -> int:
    """Which idle tick of the model it is time for; those of many models are spread evenly."""
    return int(now / IDLE_TICK_S + crc32(model.encode()) / 2**32)
