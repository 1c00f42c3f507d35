"""Replay: a bounded log, with or without a clock of its own, in blocks of any size."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import engine
from controller.core.batch import DTYPES, micro_batches
from controller.core.model import Tallies, Tick
from controller.core.record import canonical
from controller.core.state import initial
from controller.sim import replay as module
from controller.sim.replay import Clockwork, has_ticks, lines_of, replay
from controller.stream import codec
from tests.core.logs import MODEL, Log, Traffic, drive, policy, run

POLICY = policy()


@cache
def recorded() -> tuple[bytes, ...]:
    log = Log()
    log.tick(0)
    log.version(1)
    drive(POLICY, log, Traffic({"v1": 0.3, "v2": 0.5}, rate=15), seconds=150, seed=2)
    return tuple(log.lines)


def without_ticks() -> tuple[bytes, ...]:
    return tuple(line for line in recorded() if b'"tick"' not in line)


def told(lines, *cuts, interval_s=None):
    edges = [0, *sorted(cuts), len(lines)]
    blocks = [lines[a:b] for a, b in pairwise(edges)]
    return [canonical(line) for line in replay(POLICY, blocks, interval_s=interval_s)]


def ticks_given(lines, *cuts, interval_s=10.0):
    """The events as the engine gets them: each as its text, ticks as their time."""
    edges = [0, *sorted(cuts), len(lines)]
    blocks = [lines[a:b] for a, b in pairwise(edges)]
    batches = list(module._batches(MODEL, blocks, Clockwork(interval_s)))
    ticks = [e for batch in batches for e in batch.control if isinstance(e, Tick)]
    return [(tick.offset, tick.time) for tick in ticks]


def exposures(*times):
    log = Log()
    for time in times:
        log.exposure(time, "v1")
    return log.lines


def test_a_log_with_ticks_gets_none_and_leads_to_the_decisions_of_the_live_run():
    live = run(POLICY, recorded())
    lines = told(recorded())
    assert lines[:-1] == live.documents
    final = json.loads(lines[-1])
    assert final["final"] is True
    assert final["decisions"] == len(live.decisions)


def test_a_log_without_ticks_gets_one_per_interval_of_event_time():
    # The first before everything, one at each full ten seconds, one at the end.
    given_ = ticks_given(exposures(3.0, 8.0, 12.0, 19.0, 20.0, 27.0))
    assert given_ == [(0, 0.0), (3, 10.0), (6, 20.0), (9, 27.0)]


def test_a_tick_follows_each_version_and_each_command():
    log = Log()
    log.exposure(1.0, "v1")
    log.version(2.0)
    log.exposure(3.0, "v1")
    log.command(4.0, "pause")
    log.exposure(5.0, "v1")
    assert ticks_given(log.lines) == [(0, 0.0), (3, 2.0), (6, 4.0), (8, 5.0)]


def test_covariates_and_tallies_stay_beside_the_events_that_they_came_with():
    log = Log()
    for time in range(40):
        if time % 3 == 1:
            log.add("covariate", time, model=MODEL, unit=f"u{time}", value=time)
        elif time == 20:
            log.version(time)
        else:
            log.exposure(time, "v1")
    batch = codec.decode(MODEL, 100, log.lines)
    names, counted = ("v1",), (30, 0, 11, 22, 21)  # in any order
    zeros = {f.name: np.zeros(5, DTYPES[Tallies][f.name]) for f in fields(Tallies)}
    rows = {"offset": np.array(counted) + 100, "time": np.array(counted) + 0.5}
    tallies = Tallies(**zeros | rows | {"segment": np.full(5, -1)})
    ticked = Clockwork(10.0).with_ticks(replace(batch, names=names, tallies=tallies))
    # A tick before the events of 0, 11 (that of 10 has no time), 20, 30, one behind the version.
    before = [bisect_right([0, 11, 20, 21, 30], index) for index in range(40)]
    at = [100 + index + before[index] for index in range(40)]
    assert ticked.covariates.offset.tolist() == [at[i] for i in range(1, 40, 3)]
    assert ticked.covariates.value.tolist() == list(range(1, 40, 3))
    assert ticked.tallies.offset.tolist() == [at[i] for i in counted]
    assert ticked.count == 45
    ticks = [event.offset for event in ticked.control if isinstance(event, Tick)]
    taken = {*ticked.exposures.offset.tolist(), *ticked.covariates.offset.tolist(), *ticks, at[20]}
    assert sorted(taken) == list(range(100, 145))
    micros = [m for m, _ in micro_batches((), ticked) if m is not None]
    assert [len(m.tallies.offset) for m in micros] == [0, 1, 1, 0, 2]


def test_tallies_move_the_clock_and_covariates_do_not():
    log = Log()
    for time in (1.0, 12.0, 99.0):
        log.add("covariate", time, model=MODEL, unit="u", value=1)
    batch = codec.decode(MODEL, 0, log.lines)
    assert Clockwork(10.0).with_ticks(batch).control == ()
    clockwork = Clockwork(10.0)
    zeros = {f.name: np.zeros(2, DTYPES[Tallies][f.name]) for f in fields(Tallies)}
    rows = {"offset": np.array([2, 1]), "time": np.array([25.0, 12.0])}
    ticked = clockwork.with_ticks(replace(batch, tallies=Tallies(**zeros | rows)))
    assert [(t.offset, t.time) for t in ticked.control] == [(1, 10.0), (3, 20.0)]
    assert clockwork.is_behind
    assert clockwork.last(5).control == (Tick(5, 25.0),)


def test_a_covariate_behind_the_last_tick_gets_one():
    log = Log()
    log.exposure(3.0, "v1")
    log.version(5.0)
    log.add("covariate", 6.0, model=MODEL, unit="u", value=1)
    assert ticks_given(log.lines) == [(0, 0.0), (3, 5.0), (5, 5.0)]


def test_a_tick_never_stands_before_an_event_that_is_older():
    given_ = ticks_given(exposures(5.0, 31.0, 29.0, 12.0, 41.0))
    assert given_ == [(0, 0.0), (2, 30.0), (6, 40.0), (8, 41.0)]
    assert [time for _, time in given_] == sorted(time for _, time in given_)


def test_events_at_the_time_of_the_last_tick_are_not_left_behind():
    # The tick at 10.0 stands before the exposure at 10.0: another one must follow.
    final = json.loads(told(exposures(1.0, 10.0), interval_s=10.0)[-1])
    assert final["time"] == 10.0
    assert ticks_given(exposures(1.0, 10.0)) == [(0, 0.0), (2, 10.0), (4, 10.0)]


def test_events_before_a_long_silence_are_not_late():
    # The first is seen by the tick after the silence, whose watermark has long passed it.
    state = initial(POLICY)
    for batch in module._batches(MODEL, [exposures(1.0, 100.0, 5_000.0)], Clockwork(10.0)):
        state, _, _ = engine.step(POLICY, state, batch)
    assert state.rejected == {}
    assert state.totals.exposures.tolist() == [3]


def test_an_interval_longer_than_the_grace_makes_no_event_late():
    log = Log()
    log.version(0.0)
    for half in range(200):
        log.exposure(half / 2, "v1")
    final = json.loads(told(log.lines, interval_s=60.0)[-1])
    assert "late" not in final["evidence"]["rejected"]


def test_malformed_lines_at_the_end_are_counted_too():
    lines = [*exposures(1.0, 12.0), b"{not json", b'{"type":"exposure"}']
    state = initial(POLICY)
    for batch in module._batches(MODEL, [lines], Clockwork(10.0)):
        state, _, _ = engine.step(POLICY, state, batch)
    assert state.rejected == {"malformed": 2}


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_ticks_do_not_depend_on_how_the_file_was_cut(data):
    kinds = st.sampled_from(["exposure", "version", "command", "split", "junk", "other"])
    moments = st.floats(0, 60).map(lambda t: round(t, 1))
    log = Log()
    for kind, time in data.draw(st.lists(st.tuples(kinds, moments), max_size=30)):
        match kind:
            case "exposure":
                log.exposure(time, "v1")
            case "version":
                log.version(time)
            case "command":
                log.command(time, "pause")
            case "split":
                log.split(time, 5, v1=10_000)
            case "junk":
                log.lines.append(b"junk")
            case _:
                log.add("exposure", time + 100, model="another", request_id="r", arm="v1")
    lines = log.lines
    cuts = data.draw(st.lists(st.integers(0, len(lines)), max_size=6))
    assert ticks_given(lines, *cuts) == ticks_given(lines)
    assert told(lines, *cuts, interval_s=10.0) == told(lines, interval_s=10.0)


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_decisions_do_not_depend_on_how_the_file_was_cut(data):
    lines = without_ticks()
    cuts = data.draw(st.lists(st.integers(0, len(lines)), max_size=6))
    assert told(lines, *cuts, interval_s=10.0) == told(lines, interval_s=10.0)


def test_a_log_without_ticks_promotes_what_the_live_run_promoted():
    final = json.loads(told(without_ticks(), interval_s=5.0)[-1])
    assert final["champion"] == "v2"
    assert final["phase"] in {"promoting", "promoted"}


def test_blocks_of_a_file_lead_to_the_same_as_the_whole(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(recorded()) + b"\n\n")
    whole = list(replay(POLICY, lines_of(path)))
    monkeypatch.setattr(module, "BLOCK_LINES", 7)
    blocks = list(lines_of(path))
    assert max(len(block) for block in blocks) == 7
    assert [line for block in blocks for line in block] == list(recorded())
    assert list(replay(POLICY, blocks)) == whole


def test_other_models_events_are_passed_over():
    mixed = []
    for line in recorded():
        event = json.loads(line)
        if event["type"] != "tick":
            mixed.append(json.dumps(event | {"model": "another", "time": 1.0}).encode())
        mixed.append(line)
    documents = [json.loads(line) for line in told(mixed)]
    alone = [json.loads(line) for line in told(recorded())]
    moved = {"offset", "seed"}
    assert [{k: v for k, v in d.items() if k not in moved} for d in documents] == [
        {k: v for k, v in d.items() if k not in moved} for d in alone
    ]


def test_malformed_lines_are_counted_and_stop_nothing():
    lines = list(recorded())
    for place in (10, 500, 900):
        lines.insert(place, b'{"type":"exposure","time":')
    state = initial(POLICY)
    state, decisions, _ = engine.step(POLICY, state, codec.decode(MODEL, 0, lines, others="skip"))
    assert state.rejected["malformed"] == 3
    assert [d.verdict for d in decisions] == [d.verdict for d in run(POLICY, recorded()).decisions]


def test_the_clock_never_passes_the_last_event_so_open_windows_stay_open():
    log = Log()
    log.version(0.0)
    log.exposure(1.0, "v1")
    final = json.loads(told(log.lines, interval_s=10.0)[-1])
    assert final["time"] == 1.0
    assert final["evidence"]["champion"]["n"] == 0


@pytest.mark.parametrize("blocks", [[], [[]], [[], []]])
@pytest.mark.parametrize("interval_s", [None, 10.0])
def test_an_empty_log_has_one_line_the_final_one(blocks, interval_s):
    (final,) = replay(POLICY, blocks, interval_s=interval_s)
    assert final["final"] is True
    assert final["time"] is None
    assert final["weights"] == {"v1": 10_000}
    assert final["decisions"] == 0


def test_a_log_of_nothing_but_junk_ends_like_an_empty_one():
    (final,) = (json.loads(line) for line in told([b"junk", b"{}"], interval_s=10.0))
    assert final["time"] is None


def test_whether_a_log_has_ticks_is_read_from_its_events_not_its_words(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log()
    log.exposure(1.0, "v1", unit="tick")
    log.version(2.0, "tick")
    path.write_bytes(b"\n".join(log.lines))
    assert not has_ticks(path)
    log.tick(3.0)
    path.write_bytes(b"\n".join(log.lines))
    assert has_ticks(path)
