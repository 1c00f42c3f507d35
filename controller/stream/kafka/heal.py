"""Ends what others left open, or what Kafka forgot to end.

Readers get a topic up to the first record whose transaction has not ended. A process that died, or
was stopped, in one hides what all others append there. So whoever has waited for two seconds
(`PATIENCE_S`) takes the name of the one that is waited for, which the record says: then Kafka ends
what that one has under way, and refuses the rest of it. If it lives, its append begins anew;
nothing of it was acknowledged, as `append` waits until its own records are visible.

Kafka commits a transaction in two steps: it writes down that it is committed, and then tells each
topic, by a mark behind the records. A broker that is killed in between is to write the missing
marks when it is back; a single one (seen with 4.4.0) sometimes takes them for written. Then the
records hang, and the next transaction of the same name decides their fate with its own. Here that
is done on purpose: if all records of a transaction are there, hanging or visible, it is committed
everywhere, otherwise taken back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from threading import Event
from typing import Final
from uuid import uuid4

from controller.stream.kafka.reader import Reader
from controller.stream.kafka.records import Draft, Record
from controller.stream.kafka.topics import Span, Topics
from controller.stream.kafka.writer import Writer

PATIENCE_S: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.5, 1.0)
"""Between looks whether a transaction has ended: it takes milliseconds, on a good day."""

_TOLD_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
_LAST: Final = 64
"""Among so many of Kafka's offsets at the end of a topic a transaction is looked for."""


class Healer:
    """Ends the transactions of a log that readers wait for.

    writers    makes the writer of a name
    every      makes a reader of all records
    committed  reads those of committed transactions
    prefix     with which the names of the topics begin
    """

    def __init__(
        self,
        topics: Topics,
        writers: Callable[[str], Writer],
        every: Callable[[], Reader],
        committed: Reader,
        prefix: str,
    ) -> None:
        self._topics, self._writers, self._prefix = topics, writers, prefix
        self._every, self._committed = every, committed

    def heal(self) -> None:
        """End those that each topic waits for."""
        every = self._every()
        try:
            spans = self._topics.spans(self._topics.all(self._prefix))
            found = _hanging(every, spans).values()
            for name in sorted({records[0].writer for records in found}):
                self._end(name, spans, every)
        finally:
            every.close()

    def _end(self, name: str, before: Mapping[str, Span], every: Reader) -> None:
        """End what the writer of this name has under way in these topics."""
        writer = self._writers(name)
        writer.begin()
        for pause_s in _TOLD_S:
            spans = self._topics.spans(before)
            hanging = {
                topic: own
                for topic, records in _hanging(every, spans).items()
                if (own := [each for each in records if each.writer == name])
            }
            if not hanging:
                return
            Event().wait(pause_s)
        # Empty blocks: what matters is the mark that Kafka writes behind them.
        drafts = [Draft(topic, 0, 0, 0, b"") for topic in hanging]
        token = f"{name}.{uuid4().hex}".encode()
        if self._is_whole(hanging, spans):
            writer.commit(drafts, token)
        else:
            writer.abort(drafts, token)

    def _is_whole(self, hanging: Mapping[str, list[Record]], spans: Mapping[str, Span]) -> bool:
        """Whether of each transaction that hangs all records are there."""
        found = Counter(record.token for records in hanging.values() for record in records)
        of = {record.token: record.of for records in hanging.values() for record in records}
        if found == of:
            return True
        for topic, span in spans.items():
            at = max(span.low, span.stable - _LAST)
            for record in self._committed.records(topic, at, span.stable):
                if record.token in of:
                    found[record.token] += 1
        self._committed.rest()
        return found == of


def _hanging(every: Reader, spans: Mapping[str, Span]) -> dict[str, list[Record]]:
    """The records from the first one on whose transaction has not ended, by topic."""
    found = {
        topic: list(every.records(topic, span.stable, span.high))
        for topic, span in spans.items()
        if span.stable < span.high
    }
    return {topic: records for topic, records in found.items() if records}
