"""The reward joiner against a brute-force oracle, on random logs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.join.store import ANALYSED, CLOSED, SCORED, SETTLED
from tests.core.join_cases import (
    EACH_WAY,
    SEEDS,
    Joiner,
    batches_of,
    crowds,
    exposure_events,
    feed,
    logs,
    ramp,
    ramps,
    reward_events,
    rules,
    together,
    up_to,
)
from tests.core.join_oracle import Exp, Oracle, Rew

any_log = st.one_of(ramps(), logs(), ramps(), crowds())


@EACH_WAY
def test_the_joiner_agrees_with_brute_force_and_survives_restarts(few):
    with up_to(few):
        check_against_brute_force()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(any_log, st.integers(0, 30))
def check_against_brute_force(log, rollout_at):
    rule, batches = log
    truth, plain, restarted = Oracle(rule), Joiner(rule), Joiner(rule)
    for number, (clock, batch) in enumerate(batches):
        if number == rollout_at:
            for machine in (truth, plain, restarted):
                machine.new_rollout()
        expected = feed(truth, batch)
        assert feed(plain, batch) == expected
        assert feed(restarted, batch) == expected
        restarted.restart()
        expected = truth.close(clock)
        assert plain.close(clock) == expected
        assert restarted.close(clock) == expected
        restarted.restart()
        check_counts(truth, plain.table)
        check_counts(truth, restarted.table)
        for unit in range(5):
            known = truth.level(unit)
            assert (plain.level(unit), restarted.level(unit)) == (known, known)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(any_log)
def test_a_table_from_a_snapshot_of_0_2_0_goes_on_as_it_would_have(log):
    rule, batches = log
    plain, upgraded = Joiner(rule), Joiner(rule)
    for clock, batch in batches:
        assert feed(upgraded, batch) == feed(plain, batch)
        upgraded.upgrade()
        assert upgraded.close(clock) == plain.close(clock)


def check_counts(truth, table):
    pending = [e.arm for e in truth.known.values() if e.closed_at is None]
    for arm in range(3):
        assert at(table.pending, arm) == pending.count(arm)
        assert at(table.joined, arm) == truth.joined.get(arm, 0)


def at(counts, arm):
    return int(counts[arm]) if arm < counts.size else 0


def distinct(batch):
    """Without what makes equal keys differ: copies are copies, whichever of them comes first."""
    seen = {}
    for e in batch:
        seen.setdefault((type(e), e.request if isinstance(e, Exp) else e.id), e)
    return list(seen.values())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(any_log, st.randoms(use_true_random=False))
def test_the_order_inside_a_micro_batch_makes_no_difference(log, rng):
    rule, batches = log
    one, other = Joiner(rule), Joiner(rule)
    for clock, batch in batches:
        mixed = list(batch)
        rng.shuffle(mixed)
        assert feed(one, batch) == feed(other, mixed)
        assert one.close(clock) == other.close(clock)


@st.composite
def displaced_logs(draw):
    """(rule, events, arrivals, other arrivals): every event comes at most `grace` after its time.

    No reward precedes its exposure: a skewed clock uses up the grace that displacement needs.
    """
    rule = replace(draw(rules), grace_s=10.0)
    crowd = st.integers(1, draw(st.sampled_from([1, 4])))
    own_unit = st.builds(replace, exposure_events, unit=crowd)
    exposures = distinct(draw(st.lists(own_unit, min_size=5, max_size=25)))
    known = st.sampled_from([0, *(e.request for e in exposures)])
    good = st.builds(replace, reward_events, request=known, unit=crowd, value=st.just(0.5))
    rewards = distinct(draw(st.lists(good, max_size=40)))
    born = {e.request: e.time for e in exposures}
    rewards = [r for r in rewards if r.request == 0 or r.time >= born.get(r.request, 0.0)]
    events = [replace(e, offset=i) for i, e in enumerate([*exposures, *rewards])]
    copies = [replace(e) for e in events if draw(st.integers(0, 9)) == 0]
    delay = st.integers(0, 40).map(lambda d: d / 4)
    size = len(events) + len(copies)
    arrivals = [draw(st.lists(delay, min_size=size, max_size=size)) for _ in range(2)]
    return rule, [*events, *copies], arrivals


@st.composite
def displaced_ramps(draw):
    """The same of a ramp, in which units enter again."""
    rng = draw(SEEDS)
    rule, events = ramp(rng)
    exposures = distinct([e for e in events if isinstance(e, Exp)])
    born = {e.request: e.time for e in exposures}
    rewards = distinct([e for e in events if isinstance(e, Rew)])
    rewards = [r for r in rewards if r.time >= born.get(r.request, 0.0)]
    events = [*exposures, *rewards]
    copies = rng.choices(events, k=len(events) // 10)
    arrivals = [[rng.randint(0, 40) / 4 for _ in [*events, *copies]] for _ in range(2)]
    return replace(rule, grace_s=10.0), [*events, *copies], arrivals


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.one_of(displaced_logs(), displaced_ramps()))
def test_events_displaced_within_the_grace_give_the_same_columns(case):
    rule, events, arrivals = case
    results = []
    for delay, period in zip(arrivals, (1.0, 3.0), strict=True):
        joiner, steps = Joiner(rule), []
        for clock in np.arange(0.0, 110.0, period).tolist():
            # A tick that comes late by up to a period must not use up the grace.
            batch = [
                e
                for e, d in zip(events, delay, strict=True)
                if clock - period < min(e.time + d, e.time + 10.0 - period) <= clock
            ]
            steps.append(feed(joiner, batch) | joiner.close(clock))
        whole = together(steps)
        assert whole["dropped"] == []
        results.append({name: sorted(whole[name]) for name in ("matured", "events", "outcomes")})
    assert results[0] == results[1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SEEDS)
def test_what_the_new_arm_does_decides_nothing_about_the_entry(rng):
    """The same ramp, but one exposure is another arm's, and its unit is then otherwise rewarded."""
    rule, events = ramp(rng)
    rule, events = replace(rule, grace_s=10.0), distinct(events)
    at = rng.choice([i for i, e in enumerate(events) if isinstance(e, Exp)])
    chosen = events[at] = replace(events[at], stratum=MARK)
    other = [replaced(rng, e, chosen) for e in events]
    found = [matured(rule, log) for log in (events, other)]
    until = [[row for row in rows if row[0] < chosen.time or row[1] == MARK] for rows in found]
    assert until[0] == until[1]


MARK = 9_999


def replaced(rng, e, chosen):
    if isinstance(e, Rew):
        is_later = e.time > chosen.time and e.unit == chosen.unit
        return replace(e, value=rng.choice([0.0, 1.0])) if is_later else e
    return replace(e, is_candidate=not e.is_candidate) if e is chosen else e


def matured(rule, events):
    """Times, strata, units, bins and bases of all entries."""
    joiner, rows = Joiner(rule), []
    for clock, batch in batches_of([(e, 0.0) for e in events], 5.0, 100.0):
        feed(joiner, batch)
        rows += joiner.close(clock)["matured"]
    return [(time, *rest) for time, _, *rest in rows]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(any_log)
def test_every_matured_exposure_has_one_event_or_lapses(log):
    rule, batches = log
    joiner, matured, scored, lapsed = Joiner(rule), [], [], []
    for clock, batch in batches:
        feed(joiner, batch)
        closed = joiner.close(clock)
        matured += [row[:4] for row in closed["matured"]]
        scored += [row[:4] for row in closed["events"]]
        assert not set(scored) - set(matured)
        analysed = [row for row in closed["outcomes"] if row[5]]
        lapsed += [(*row[:3], row[7]) for row in analysed if not row[10]]
    assert sorted(matured) == sorted([*scored, *lapsed, *at_risk(joiner.table)])


def at_risk(table):
    """What the table holds back: settled and analysed, neither scored nor closed."""
    store, rows = table.exposures, table.live_rows()
    rows = rows[(store.flags[rows] & (ANALYSED | SETTLED | SCORED | CLOSED)) == ANALYSED | SETTLED]
    names = ("time", "arm", "stratum", "unit")
    return list(zip(*(getattr(store, name)[rows].tolist() for name in names), strict=True))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(any_log)
def test_nothing_is_lost_every_event_is_counted_once(log):
    rule, batches = log
    joiner, refused, accepted, closed, joined = Joiner(rule), {}, 0, 0, 0
    for clock, batch in batches:
        absorbed, end = feed(joiner, batch), joiner.close(clock)
        assert not set(absorbed["refused"]) & set(end["refused"])
        accepted, closed = accepted + len(absorbed["accepted"]), closed + len(end["outcomes"])
        joined += sum(end["joined"].values())
        refused |= absorbed["refused"] | end["refused"]
    total = sum(len(batch) for _, batch in batches)
    waiting = joiner.table.waiting.time.size + joiner.table.unit_waiting.time.size
    assert accepted == closed + int(joiner.table.pending.sum())
    assert joined == int(joiner.table.joined.sum())
    assert total == accepted + joined + len(refused) + waiting
