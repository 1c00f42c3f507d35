"""The fold: the same log gives the same decisions, however it is cut, stored or shuffled."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import engine
from controller.core.state import IMAGE, image, initial, revived
from controller.errors import InvariantError
from controller.ledger import codec as ledger_codec
from controller.stream import codec
from tests.core.logs import CANARY, MODEL, Log, Told, Traffic, drive, fold, policy, run

POLICY = policy({"shadow": {"duration": "10s", "percent": "20%"}}, CANARY)
UNITS = policy(CANARY, route={"prefix": "/m/", "unit": {"header": "x-user"}})


@cache
def story() -> tuple[tuple[bytes, ...], Told]:
    """Two rollouts, a bad one and a good one, with mirrored answers and late rewards."""
    log = Log()
    log.tick(0)
    log.version(1, "v2")
    log.version(2, "v3")
    traffic = Traffic({"v1": 0.4, "v2": 0.05, "v3": 0.6}, rate=12, fails={"v2": 0.02})
    drive(POLICY, log, traffic, seconds=10, seed=5)
    for second in (11.0, 12.0, 13.0):
        log.add("shadow", second, model=MODEL, request_id=f"s{second}", arm="v2")
    drive(POLICY, log, traffic, seconds=120, seed=6, start=10)
    for second in (130.0, 131.0):
        log.add("shadow", second, model=MODEL, request_id=f"s{second}", arm="v3")
    drive(POLICY, log, traffic, seconds=120, seed=7, start=130)
    log.lines.append(b'{"type": "exposure", "time": "yesterday"}')
    log.tick(251)
    return tuple(log.lines), run(POLICY, log.lines)


def test_the_story_has_a_rollback_and_a_promotion():
    verdicts = [(d.verdict, d.candidate) for d in story()[1].decisions]
    assert ("roll_back", "v2") in verdicts
    assert ("promote", "v3") in verdicts


def test_the_same_log_twice_gives_the_same_decisions():
    lines, told = story()
    again = run(POLICY, lines)
    assert again.documents == told.documents
    assert again.effects == told.effects


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_decisions_do_not_depend_on_how_the_log_was_cut(data):
    lines, told = story()
    cuts = data.draw(st.lists(st.integers(0, len(lines)), max_size=12))
    again = run(POLICY, lines, cuts)
    assert again.documents == told.documents
    assert again.effects == told.effects
    assert again.state.rejected == told.state.rejected


def test_a_log_given_line_by_line_leads_to_the_same():
    lines, told = story()
    few = lines[: len(lines) // 3]
    assert run(POLICY, few, range(1, len(few))).documents == run(POLICY, few).documents
    assert run(POLICY, few).documents == told.documents[: len(run(POLICY, few).documents)]


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_snapshot_at_any_offset_goes_on_as_if_nothing_had_been(data):
    lines, told = story()
    at = data.draw(st.integers(0, len(lines)))
    first = run(POLICY, lines[:at])
    blob = ledger_codec.encode(image(first.state), compress=True)
    state = revived(ledger_codec.decode(IMAGE, blob, copy=True))
    assert state.offset <= at
    rest = fold(POLICY, Told(state), lines[state.offset :])
    assert first.documents + rest.documents == told.documents
    assert first.effects + rest.effects == told.effects


@pytest.mark.parametrize("used", [POLICY, UNITS], ids=["requests", "units"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_events_between_two_ticks_makes_no_difference(used, seed):
    lines, _ = story()
    rng = np.random.default_rng(seed)
    shuffled, waiting = [], []
    for line in lines:
        if b'"tick"' not in line:
            waiting.append(line)
            continue
        movable = [x for x in waiting if b'"exposure"' in x or b'"reward"' in x]
        fixed = [x for x in waiting if x not in movable]
        shuffled += [*fixed, *(movable[i] for i in rng.permutation(len(movable))), line]
        waiting = []
    assert run(used, shuffled).meaning == run(used, lines).meaning
    assert run(used, shuffled).decisions[-1].evidence == run(used, lines).decisions[-1].evidence


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), late_ticks=st.integers(0, 1))
def test_events_that_are_sent_twice_count_once(seed, late_ticks):
    # Sent again before the tick, or one tick later, which still lies inside window and grace.
    lines, told = story()
    rng = np.random.default_rng(seed)
    doubled: list[bytes] = []
    pending: list[list[bytes]] = [[] for _ in range(late_ticks + 1)]
    for line in lines:
        if b'"tick"' in line:
            doubled += pending.pop(0)
            pending.append([])
        elif b'"request_id"' in line and b'"shadow"' not in line and rng.random() < 0.3:
            pending[-1].append(line)
        doubled.append(line)
    again = run(POLICY, doubled)
    assert again.meaning == told.meaning
    assert again.state.totals.exposures.tolist() == told.state.totals.exposures.tolist()
    assert again.state.sums[0].value.tolist() == told.state.sums[0].value.tolist()
    assert again.state.rejected["duplicate"] > 50


def test_the_clock_never_goes_back():
    log = Log()
    for time in (0.0, 100.0, 50.0):
        log.tick(time)
    log.version(51)
    log.tick(60.0)
    told = run(POLICY, log.lines)
    assert told.state.clock == 100.0
    assert [d.time for d in told.decisions] == sorted(d.time for d in told.decisions)


def test_a_gap_in_the_log_is_refused():
    log = Log()
    log.tick(0)
    later = codec.decode(MODEL, 8, log.lines)
    with pytest.raises(InvariantError, match="expected event 0 of m, got 8"):
        engine.step(POLICY, initial(POLICY), later)


def test_every_decision_carries_a_seed_that_its_place_in_the_log_gives():
    lines, told = story()
    seeds = [d.seed for d in told.decisions]
    assert len(set(seeds)) == len({d.offset for d in told.decisions})
    assert all(0 <= seed < 2**63 for seed in seeds)
    moved = run(POLICY, [json.dumps({"type": "tick", "time": 0.0}).encode(), *lines])
    assert {d.seed for d in moved.decisions}.isdisjoint(seeds[3:])
