"""Draining: what sources and topics have goes into the log, before the clock moves.

Access-log lines and their position go into the log in one transaction; so, too, the records of a
topic, with the place up to which it was read. What is of no model that is turned is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Sequence

from controller.ledger import Ledger
from controller.loop.feeds import Feed
from controller.loop.layout import Layout, model_of
from controller.loop.sources import Drained, Source
from controller.stream import Stream

DRAINS = 64
"""Reads from a source in one turn: a busy source must not keep the wheel from turning."""

FED = 16
"""Batches of a topic in one turn, of some thousand records each; as above."""


class Drains:
    """Brings what there is into the logs of `models`.

    stir   is told the models of which something came
    hurry  is called where there is more than a turn takes
    """

    def __init__(  # noqa: PLR0913 - sources, topics, logs and the ledger meet here
        self,
        sources: Sequence[Source],
        *,
        stream: Stream,
        ledger: Ledger,
        layout: Layout,
        models: Container[str],
        stir: Callable[[Iterable[str]], None],
        hurry: Callable[[], None],
    ) -> None:
        self._sources = sources
        self._stream = stream
        self._ledger = ledger
        self._layout = layout
        self._models = models
        self._stir = stir
        self._hurry = hurry
        self.is_behind = False
        """Whether a source had more than the last turn took."""

    async def drain(self) -> None:
        """Bring what the sources have into the log."""
        self.is_behind = False
        await asyncio.to_thread(self._layout.keep_up)
        for source in self._sources:
            for _ in range(DRAINS):
                drained = await asyncio.to_thread(source.drain)
                if drained is None:
                    break
                await self._keep(source, drained)
            else:
                self.is_behind = True
                self._hurry()

    async def feed(self, feed: Feed, now: float) -> None:
        """Bring what a topic has into the log, with the place up to which it was read."""
        for _ in range(FED):
            batch = await asyncio.to_thread(feed.next, now)
            if batch is None:
                return
            if batch.refused:
                await asyncio.to_thread(self._ledger.reject_each, batch.refused)
                feed.refused()
            known = [event for event in batch.events if event.model in self._models]
            lines = await asyncio.to_thread(self._layout.lines, known)
            await asyncio.to_thread(self._stream.append, lines, mark=feed.mark(batch))
            feed.stored()
            self._stir(map(model_of, lines))
        self._hurry()

    async def _keep(self, source: Source, drained: Drained) -> None:
        """Refused lines first: a crash in between keeps them twice, the other order not at all."""
        if drained.refused:
            await asyncio.to_thread(self._ledger.reject, drained.mark.source, drained.refused)
        known = {m: lines for m, lines in drained.lines.items() if m in self._models}
        logs = self._layout.routed(known, drained.requests)
        await asyncio.to_thread(self._stream.append, logs, mark=drained.mark)
        await source.committed(drained.mark.position)
        self._stir(known)
