"""Which records an append becomes, and what it answers: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from controller.stream import Mark
from controller.stream.kafka.records import Draft
from controller.stream.packing import Packed


@dataclass(slots=True)
class Request:
    """One call of `append`, by topic; `starts` is its answer.

    trim  topic -> offset of the oldest event that is still needed
    """

    blocks: dict[str, list[Packed]]
    mark: Mark | None
    trim: dict[str, int]
    starts: dict[str, int] = field(default_factory=dict)
    is_done: bool = False
    error: BaseException | None = None

    @property
    def is_written(self) -> bool:
        """Whether it puts anything into the log."""
        return self.mark is not None or any(self.blocks.values())


def topics_of(group: Sequence[Request], marks: str) -> list[str]:
    """Every topic that must be known to write and to answer these."""
    found = {topic for request in group for topic in (*request.blocks, *request.trim)}
    if any(request.mark for request in group):
        found.add(marks)
    return sorted(found)


def ends_of(group: Sequence[Request]) -> set[str]:
    """Those of them whose end must be known as it is now: nothing is written there."""
    written = {topic for request in group for topic, own in request.blocks.items() if own}
    asked = {topic for request in group for topic, own in request.blocks.items() if not own}
    return asked | {topic for request in group for topic in request.trim} - written


def planned(
    group: Sequence[Request],
    known: Mapping[str, tuple[int, int]],
    marks: str,
    anchored: Collection[str],
) -> list[Draft]:
    """The records of all requests, in their order, and those that keep the ends of empty logs.

    known     topic -> a place in Kafka, and how many events are before it
    anchored  topics whose last record is an empty block already
    """
    drafts = []
    for request in group:
        for topic, blocks in request.blocks.items():
            drafts += [Draft(topic, *known[topic], count, body) for count, body in blocks]
        if (mark := request.mark) is not None:
            position = mark.position.encode()
            drafts.append(Draft(marks, 0, 0, 0, position, mark.source.encode()))
    settled = {draft.topic for draft in drafts} | set(anchored)
    return drafts + [
        Draft(topic, *known[topic], 0, b"")
        for topic in sorted({t for request in group for t in request.trim} - settled)
        if 0 < known[topic][1] <= max(request.trim.get(topic, 0) for request in group)
    ]


def answer(
    group: Sequence[Request], ends: Mapping[str, int], starts: Mapping[str, Sequence[int]]
) -> None:
    """Fill in the answers.

    ends    topic -> our offset of its end before
    starts  topic -> our offset of each of the records of `planned`, in their order
    """
    left = {topic: iter(own) for topic, own in starts.items()}
    for request in group:
        for topic, blocks in request.blocks.items():
            own = list(islice(left[topic], len(blocks)))
            request.starts[topic] = own[0] if own else ends[topic]
