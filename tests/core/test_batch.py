"""Micro-batches: the same, whichever blocks the log came in."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from controller.core.batch import DTYPES, between, micro_batches
from controller.core.model import Covariates, Exposures, Rewards, Tallies
from controller.stream import codec
from tests.core.logs import MODEL, Log

KINDS = (
    "tick",
    "exposure",
    "segment",
    "reward",
    "covariate",
    "shadow",
    "version",
    "split",
    "command",
    "junk",
)


def log_of(kinds):
    log = Log()
    for time, (kind, arm) in enumerate(kinds):
        match kind:
            case "tick":
                log.tick(time)
            case "exposure":
                log.exposure(time, arm)
            case "segment":
                log.exposure(time, "v1", segment=arm)
            case "covariate":
                log.add("covariate", time, model=MODEL, unit=arm, value=time / 2)
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
        is_name = f.name in {"arm", "name", "segment"}
        values = [names[i] if i >= 0 else None for i in column] if is_name else column.tolist()
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
                tables = (micro.exposures, micro.rewards, micro.shadows, micro.covariates)
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
    micro = micros[1]
    tables = (micro.exposures, micro.rewards, micro.shadows, micro.covariates, micro.tallies)
    assert [type(part) for part in tables] == [Exposures, Rewards, Exposures, Covariates, Tallies]
    for part in tables:
        for f in fields(part):
            column = getattr(part, f.name)
            assert column.size == 0
            assert column.dtype == DTYPES[type(part)][f.name]


def tallies_of(names, rows):
    """Tallies of (offset, arm, segment, exposures); the counts that are not given are 0."""
    columns = {f.name: np.zeros(len(rows), DTYPES[Tallies][f.name]) for f in fields(Tallies)}
    for i, (offset, arm, segment, exposures) in enumerate(rows):
        columns["offset"][i], columns["exposures"][i] = offset, exposures
        columns["arm"][i] = names.index(arm)
        columns["segment"][i] = names.index(segment) if segment else -1
    return Tallies(**columns)


ROWS = st.tuples(
    st.sampled_from([0, 1, 2, 3, 6, 7, 8, 9, 10]),
    st.sampled_from(["v1", "v2"]),
    st.sampled_from(["de", "fr", ""]),
    st.integers(1, 9),
)


@given(rows=st.lists(ROWS, max_size=12), data=st.data())
def test_tallies_are_in_the_micro_batch_of_their_offset_whatever_their_order(rows, data):
    """Twelve events, a tick at 4, 5 and 11; other names, in another order, on either side."""
    kinds = ["exposure"] * 4 + ["tick"] * 2 + ["reward"] * 5 + ["tick"]
    lines = log_of([(kind, "v1") for kind in kinds])
    cut_at = data.draw(st.integers(0, 12))
    found, waiting = [], ()
    for start, end in ((0, cut_at), (cut_at, 12)):
        batch = codec.decode(MODEL, start, lines[start:end])
        names = [*batch.names, *data.draw(st.permutations(["v2", "fr", "de"]))]
        names += [name for name in ("v1",) if name not in names]
        own = [row for row in rows if start <= row[0] < end]
        tallies = tallies_of(names, own) if own else None
        whole = replace(batch, names=tuple(names), tallies=tallies)
        for micro, left in micro_batches(waiting, whole):
            waiting = left
            if micro is not None:
                told = columns(micro.tallies, micro.names)
                found.append(sorted((row[0], row[4], row[3] or "", int(row[5])) for row in told))
    expected = [
        sorted(row for row in rows if first <= row[0] <= last)
        for first, last in ((0, 4), (5, 5), (6, 11))
    ]
    assert found == expected


def test_the_events_between_two_offsets_have_their_covariates():
    lines = log_of([(kind, "v1") for kind in ("covariate", "exposure", "covariate", "reward")])
    batch = codec.decode(MODEL, 10, lines)
    assert between(batch, 10, 12).covariates.offset.tolist() == [10]
    assert between(batch, 12, 14).covariates.value.tolist() == [1.0]
    assert between(batch, 13, 14).covariates.offset.size == 0
    assert between(codec.decode(MODEL, 0, lines[1:2]), 0, 0).covariates is None
