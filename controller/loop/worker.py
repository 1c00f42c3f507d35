"""A worker: takes partitions by lease, folds them, and gives them back.

One turn, several times a second: renew the leases when it is time, give back what others should
have, fold each partition that is held. A partition that cannot be folded does not hold the others;
it is tried again from its last snapshot. What a worker dies with is nothing that is not in the
stores: whoever takes its partitions goes on from there.

A worker that was stopped for longer than a lease asks for its leases again before it writes; what
it had under way when it lost them is folded by another, and told once (see `core.merge`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Final

import structlog

from controller.errors import InvariantError, UnderstudyError
from controller.ledger import Ledger
from controller.ledger.leases import LEASE_S
from controller.loop.partitions import PartitionFold
from controller.stream import Stream

RENEW_S: Final = LEASE_S / 4.0
"""Between renewals: two may fail before a lease ends."""

PACE_S: Final = 0.2
"""Between turns."""

log = structlog.get_logger()


class Worker:
    """Folds the partitions that it can get.

    name   of this worker: of this process alone, in all the cluster
    slots  partitions that it holds at most
    clock  seconds that only count up
    """

    def __init__(
        self,
        name: str,
        *,
        stream: Stream,
        ledger: Ledger,
        slots: int,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._stream = stream
        self._ledger = ledger
        self._slots = slots
        self._clock = clock
        self._folds: dict[str, PartitionFold] = {}
        self._renewed = float("-inf")
        self._troubles: dict[str, str] = {}

    @property
    def held(self) -> tuple[str, ...]:
        """The logs that this worker folds."""
        return tuple(self._folds)

    def run(self, stopping: Event) -> None:
        """Turn until `stopping`; then give everything back."""
        while not stopping.is_set():
            self.turn()
            stopping.wait(PACE_S)
        for fold in self._folds.values():
            self._guarded(fold.place.log, fold.snapshot)
        self._guarded("leases", lambda: self._ledger.leases.leave(self.name))

    def turn(self) -> None:
        """Fold what there is now."""
        if self._clock() - self._renewed >= RENEW_S:
            self._guarded("leases", self._renew)
        for fold in list(self._folds.values()):
            if self._is_mine(fold.place.log):
                self._guarded(fold.place.log, fold.turn)

    def _renew(self) -> None:
        asked = self._clock()
        held = self._ledger.leases.turn(self.name, slots=self._slots)
        mine = {each.log: each for each in held.logs}
        for gone in self._folds.keys() - mine.keys():
            del self._folds[gone]
            log.info("partition lost", log=gone, worker=self.name)
        for name in mine.keys() - self._folds.keys():
            holds = partial(self._is_mine, name)
            self._folds[name] = PartitionFold(mine[name], self._stream, self._ledger, holds)
            log.info("partition taken", log=name, worker=self.name)
        self._renewed = asked
        for each in held.excess:
            fold = self._folds.pop(each.log)
            self._guarded(each.log, fold.snapshot)
            log.info("partition given back", log=each.log, worker=self.name)
        if held.excess:
            self._ledger.leases.give_back(self.name, [each.log for each in held.excess])

    def _is_mine(self, name: str) -> bool:
        """Whether the lease still holds; renews it where a turn takes long."""
        if name in self._folds and self._clock() - self._renewed >= RENEW_S:
            self._guarded("leases", self._renew)
        return name in self._folds and self._clock() - self._renewed < LEASE_S

    def _guarded(self, who: str, work: Callable[[], object]) -> None:
        """Do the work; when it fails, say so and go on."""
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - one partition must not hold the others
            self._trouble(who, exc)
        else:
            self._troubles.pop(who, None)

    def _trouble(self, who: str, exc: Exception) -> None:
        sentence = f"{type(exc).__name__}: {exc}"
        if self._troubles.get(who) != sentence:
            is_bug = isinstance(exc, InvariantError) or not isinstance(exc, UnderstudyError)
            log.error("holding", log=who, reason=sentence, exc_info=exc if is_bug else None)
        self._troubles[who] = sentence
