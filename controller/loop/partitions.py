"""One partition's state, in step with its log. Synchronous: a worker turns several of them.

A turn reads the partition's log, folds it, and writes what each tick brought into the model's own
log; then it keeps what could not be used, and now and then a snapshot. In this order, so that the
ledger never knows of a stretch that the model's log lacks. A crash in between repeats a stretch,
and the leader takes each stretch once. What many ticks brought is written by one append: where an
append is acknowledged by several brokers, one for each tick could take longer than the next tick is
away, and a partition that was once behind would stay so.

How far the partition was told is a mark in the stream, written with the lines: after a crash what
is folded again is not told again. A fold that meets anything that another worker may have left (an
older snapshot, a log that begins later) drops its state and starts from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from controller.core.model import EventBatch, Rejected, TalliesEvent, Tick
from controller.core.partition import (
    IMAGE,
    Partition,
    fold,
    image,
    oldest_needed,
    revived,
)
from controller.core.policy import Policy, parse
from controller.ledger import Ledger
from controller.ledger.codec import encode as encode_image
from controller.ledger.leases import PartitionLog
from controller.ledger.parts import Cut
from controller.loop.fold import SNAPSHOT_S, with_lines
from controller.loop.origin import blocks, newest, opened, place_in
from controller.stream import Mark, Stream, codec

SNAPSHOT_EVENTS: Final = 500_000
"""A snapshot at least every so many events: what a recovery folds again in seconds."""

TOGETHER: Final = 20_000
"""Events of which is told at once; of fewer, where the log has no more."""


class PartitionFold:
    """The fold over one partition's log.

    holds  asked before anything is written: whether the partition is still this worker's
    """

    def __init__(
        self, place: PartitionLog, stream: Stream, ledger: Ledger, holds: Callable[[], bool]
    ) -> None:
        self.place = place
        self._stream = stream
        self._ledger = ledger
        self._holds = holds
        self._policies: dict[str, Policy] = {}
        self._partition: Partition | None = None
        self._told = 0
        self._refused = 0
        self._snapshot_at = (0, float("-inf"))
        self._parts: AbstractSet[bytes] = frozenset()

    def turn(self) -> int:
        """Fold what the log has now: how many events. After an error the next turn recovers."""
        partition, self._partition = self._partition, None
        if partition is None:
            partition = self._recovered()
        start = since = partition.offset
        events, letters = list[TalliesEvent](), list[tuple[Rejected, bytes]]()
        for block in blocks(self._stream, self.place.log, start, None):
            batch = codec.decode(self.place.model, block.start, block.lines, others="reject")
            self._learn(batch)
            partition, told = fold(self._policies, partition, batch)
            if not self._holds():
                return partition.offset - start
            events += told.events
            if partition.offset > self._refused:
                letters += with_lines(self._stream, self.place.log, told.rejected, block)
            if partition.offset - since >= TOGETHER:
                self._settle(partition, events, letters)
                since, events, letters = partition.offset, [], []
        if partition.offset > since:
            self._settle(partition, events, letters)
        self._partition = partition
        return partition.offset - start

    def snapshot(self) -> None:
        """Write a snapshot now, so that whoever folds this next has nothing to fold again."""
        if self._partition is not None and self._partition.told > self._snapshot_at[0]:
            self._write(self._partition)

    @property
    def _source(self) -> str:
        return f"tallies/{self.place.log}"

    def _recovered(self) -> Partition:
        self._told = int(self._stream.mark(self._source) or 0)
        # What was refused up to there is kept. Many blocks are settled at once, others than before.
        self._refused = self._ledger.beginning(self.place.log).letters_folded
        partition, self._parts = newest(self._ledger, self.place.log, _partition_of)
        if partition is None:
            self._snapshot_at = (0, float("-inf"))
            return Partition(self.place.model, self.place.number)
        self._snapshot_at = (partition.told, partition.clock)
        # A snapshot is written when what it holds was told.
        self._told = max(self._told, partition.told)
        return partition

    def _learn(self, batch: EventBatch) -> None:
        """Read the policies that the batch's ticks name and that are not known yet."""
        named = {tick.policy for tick in batch.control if isinstance(tick, Tick) and tick.policy}
        if not named - self._policies.keys():
            return
        for each in self._ledger.policies(self.place.model):
            if each.digest in named and each.digest not in self._policies:
                self._policies[each.digest] = parse(each.document, "the ledger")

    def _settle(
        self,
        partition: Partition,
        events: Sequence[TalliesEvent],
        letters: Sequence[tuple[Rejected, bytes]],
    ) -> None:
        self._tell(events)
        self._keep(partition, letters)

    def _tell(self, events: Sequence[TalliesEvent]) -> None:
        """Write what was not told yet into the model's log, with how far that is."""
        news = [event for event in events if event.start >= self._told]
        if not news:
            return
        lines = [codec.tallies_line(self.place.model, event) for event in news]
        mark = Mark(self._source, str(news[-1].end))
        self._stream.append({self.place.model: lines}, mark=mark)
        self._told = news[-1].end

    def _keep(self, partition: Partition, letters: Sequence[tuple[Rejected, bytes]]) -> None:
        is_due = (
            partition.told - self._snapshot_at[0] >= SNAPSHOT_EVENTS
            or partition.clock - self._snapshot_at[1] >= SNAPSHOT_S
        )
        if is_due:
            self._write(partition, letters)
        elif letters:
            self._ledger.commit(self.place.log, dead_letters=letters, folded=partition.offset)

    def _write(self, partition: Partition, letters: Sequence[tuple[Rejected, bytes]] = ()) -> None:
        """Commit with a snapshot; what lies before all that is needed, the leader trims."""
        cut = Cut(self._parts)
        blob = encode_image(image(partition), compress=True, cut=cut)
        parts, known = cut.parts(), (partition.told, partition.clock, oldest_needed(partition))
        self._ledger.commit(
            self.place.log,
            dead_letters=letters,
            folded=partition.offset,
            snapshot=(partition.told, blob),
            place=place_in(self._stream, self.place.log, known),
            parts=parts,
        )
        self._parts = parts.named
        self._snapshot_at = (partition.told, partition.clock)


def _partition_of(
    ledger: Ledger, log_name: str, blob: bytes
) -> tuple[Partition, AbstractSet[bytes]]:
    return opened(ledger, log_name, blob, IMAGE, revived)
