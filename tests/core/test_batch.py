"""Micro-batches: the same, whichever blocks the log came in."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from controller.core.batch import DTYPES, micro_batches
from controller.stream import codec
from tests.core.logs import MODEL, Log

KINDS = ("tick", "exposure", "reward", "shadow", "version", "split", "command", "junk")


def log_of(kinds):
    log = Log()
    for time, (kind, arm) in enumerate(kinds):
        match kind:
            case "tick":
                log.tick(time)
            case "exposure":
                log.exposure(time, arm)
            case "reward":
                log.reward(time, f"r{time}", name=arm)
            case "shadow":
                log.add("shadow", time, model=MODEL, request_id=f"s{time}", arm=arm)
            case "version":
                log.version(time, arm)
            case "split":
                log.split(time, time, v1=10_000)
            case "command":
                log.command(time, "pause")
            case _:
                log.lines.append(b"junk")
    return log.lines


def columns(part, names):
    """Rows as tuples, with names instead of indices; NaN as None."""
    cells = []
    for f in fields(part):
        column = getattr(part, f.name)
        if len(column):
            assert column.dtype == DTYPES[type(part)][f.name]
        is_name = f.name in {"arm", "name"}
        values = [names[i] for i in column] if is_name else column.tolist()
        cells.append([None if v != v else v for v in values])  # noqa: PLR0124 - NaN
    return list(zip(*cells, strict=True))


def cut(lines, cuts):
    """The micro-batches, as plain values, and the offsets that wait for their tick."""
    edges, waiting, start, found = [0, *sorted(cuts), len(lines)], (), 0, []
    for begin, end in zip(edges[:-1], edges[1:], strict=True):  # noqa: RUF007
        batch = codec.decode(MODEL, start, lines[begin:end])
        start += batch.count
        for micro, left in micro_batches(waiting, batch):
            waiting = left
            if micro is not None:
                tables = (micro.exposures, micro.rewards, micro.shadows)
                rows = [columns(part, micro.names) for part in tables]
                found.append((micro.tick, rows, micro.control, micro.rejected))
    return found, sum(piece.count for piece in waiting)


@given(data=st.data())
def test_any_cutting_gives_the_same_micro_batches(data):
    one = st.tuples(st.sampled_from(KINDS), st.sampled_from(["v1", "v2", "click"]))
    lines = log_of(data.draw(st.lists(one, max_size=25)))
    cuts = data.draw(st.lists(st.integers(0, len(lines)), max_size=6))
    assert cut(lines, cuts) == cut(lines, [])


@given(kinds=st.lists(st.tuples(st.sampled_from(KINDS), st.just("v1")), max_size=25))
def test_every_event_is_in_one_micro_batch_or_waits(kinds):
    lines = log_of(kinds)
    found, waiting = cut(lines, [])
    events = sum(
        1 + sum(len(rows) for rows in tables) + len(control) + len(rejected)
        for _, tables, control, rejected in found
    )
    assert events + waiting == len(lines)
    last = max((i for i, (kind, _) in enumerate(kinds) if kind == "tick"), default=-1)
    assert waiting == len(lines) - 1 - last


def test_a_micro_batch_holds_what_lies_between_two_ticks():
    kinds = ["exposure", "tick", "exposure", "reward", "tick", "exposure"]
    found, waiting = cut(log_of([(kind, "v1") for kind in kinds]), [2])
    assert [tick.offset for tick, *_ in found] == [1, 4]
    offsets = [[row[0] for table in tables for row in table] for _, tables, *_ in found]
    assert offsets == [[0], [2, 3]]
    assert waiting == 1


def test_two_ticks_in_a_row_give_an_empty_micro_batch_with_typed_columns():
    lines = log_of([("tick", ""), ("tick", "")])
    micros = [m for m, _ in micro_batches((), codec.decode(MODEL, 0, lines)) if m]
    assert len(micros) == 2
    for part in (micros[1].exposures, micros[1].rewards, micros[1].shadows):
        for f in fields(part):
            column = getattr(part, f.name)
            assert column.size == 0
            assert np.issubdtype(column.dtype, np.number)
