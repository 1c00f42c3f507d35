"""Which events a record holds, whoever wrote it, and whatever its writer knew."""

from __future__ import annotations

from random import Random

import pytest

from controller.stream.kafka.records import Record, Ruler, start_at


def topic(rng: Random, length: int) -> list[Record]:
    """Records with gaps between them; each writer knows of a place up to some records ago."""
    found = list[Record]()
    at = events = 0
    known = [(0, 0)]
    for _ in range(length):
        at += rng.choice((0, 0, 1, 3))  # marks, and what was taken back
        base, before = rng.choice(known[-4:])
        count = rng.choice((0, 1, 1, 7))
        found.append(Record(at, base, before, count, b"w.1", 1, b"", b""))
        events += count
        at += 1
        known.append((at, events))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_any_place_is_known_from_the_records_after_it(seed: int) -> None:
    rng = Random(seed)
    records = topic(rng, 60)
    for at in range(records[-1].at - 20):  # with a few of those that know of no later place
        before = sum(record.count for record in records if record.at < at)
        after = [record for record in records if record.at >= at]
        assert start_at(at, after) == before
        ruler = Ruler(at, before)
        for record in after:
            assert ruler.placed(record).start == before
            before += record.count


def test_where_no_record_tells_nothing_is_known() -> None:
    assert start_at(5, [Record(6, 4, 9, 1, b"w.1", 1, b"", b"")]) is None
    assert start_at(5, []) is None


@pytest.mark.parametrize("known", [1, 3])
def test_a_record_that_knows_of_more_or_of_fewer_events_is_an_error(known: int) -> None:
    ruler = Ruler(0, 0)
    for at in (0, 2):
        ruler.placed(Record(at, at, at // 2, 1, b"w.1", 1, b"", b""))
    with pytest.raises(ValueError, match=f"says that {known} events stand before .* where 2 do"):
        ruler.placed(Record(4, 4, known, 1, b"w.2", 1, b"", b""))
