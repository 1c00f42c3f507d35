"""What the ledger drops, what it never drops, and that it counts what is gone."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from random import Random

import pytest

from controller.core.model import Reason, Rejected
from controller.errors import InvariantError
from controller.ledger import Limits, Place, open_ledger
from controller.ledger.limits import RUNGS, Rung, kept_rungs

MODEL = "digits"


@pytest.fixture
def limited(made, clock):
    """Opens the ledger with limits."""
    opened = []

    def limited(**limits):
        opened.append(open_ledger(made, clock=clock, limits=Limits(**limits)))
        return opened[-1]

    yield limited
    for each in opened:
        each.close()


# --- snapshots ----------------------------------------------------------------------------------


def ladder(clocks, retain_s, base=0):
    """What is kept after each of the snapshots that are made at these clocks, and the base."""
    kept, story = [], []
    for i, clock in enumerate(clocks):
        rungs = [*kept, Rung(10 * (i + 1), clock, 10 * (i + 1) - 1)]
        kept, at = kept_rungs(rungs, base, retain_s)
        base = at.offset if at is not None else base
        story.append((list(kept), base))
    return story


@pytest.mark.parametrize("seed", range(20))
def test_the_ladder_reaches_back_far_enough_and_not_much_further(seed):
    rng = Random(seed)
    retain_s = rng.choice([0.0, 1.0, 60.0, 400.0])
    longest = rng.choice([1.0, 10.0, 100.0])
    clocks, clock = [], 0.0
    for _ in range(400):
        clock += rng.uniform(0, longest)
        clocks.append(clock)
    bases = [0]
    for i, (kept, base) in enumerate(ladder(clocks, retain_s)):
        offsets = [rung.offset for rung in kept]
        assert offsets == sorted(offsets)
        assert offsets[-2:] == [10 * j for j in (i, i + 1) if j]
        assert len(kept) <= RUNGS * 1.5 + 4
        if base:
            assert kept[0].offset == base
            reach = clocks[i] - kept[0].clock
            assert retain_s <= reach <= retain_s * (1 + 1 / RUNGS) + 2 * longest
        else:
            assert clocks[i] - clocks[0] < retain_s or i == 0
        bases.append(base)
    assert bases == sorted(bases)
    assert bases[-1] > 0


def test_for_ever_keeps_two_snapshots_and_the_base_that_is_there():
    clocks = [float(i) for i in range(100)]
    assert [r.offset for r in ladder(clocks, None)[-1][0]] == [990, 1000]
    kept, base = kept_rungs([Rung(10, 1.0, 9), Rung(20, 2.0, 19), Rung(30, 3.0, 29)], 10, None)
    assert ([r.offset for r in kept], base.offset) == ([10, 20, 30], 10)


def test_a_snapshot_that_says_nothing_of_its_log_is_never_a_base():
    rungs = [Rung(10, None, None), Rung(20, None, None), Rung(30, 100.0, 29)]
    assert kept_rungs(rungs, 0, 0.0) == (rungs[1:], None)


def commit_snapshots(ledger, clocks):
    for i, clock in enumerate(clocks, start=1):
        place = Place(clock, 10 * i - 3, f"{i:064d}")
        ledger.commit(MODEL, snapshot=(10 * i, b"s%d" % i), place=place)


def test_the_base_moves_with_the_snapshots_and_says_what_the_log_must_keep(limited, sql):
    ledger = limited(retain_s=40.0)
    commit_snapshots(ledger, [10.0 * i for i in range(1, 5)])
    assert ledger.log_needs() == {}
    assert ledger.beginning(MODEL).base == 0
    for i in range(5, 12):
        place = Place(10.0 * i, 10 * i - 3, f"{i:064d}")
        ledger.commit(MODEL, snapshot=(10 * i, b"s"), place=place)
        base = ledger.beginning(MODEL).base
        assert ledger.log_needs() == {MODEL: base - 3}
        assert ledger.snapshot(MODEL, before=base + 1)[0] == base
        assert ledger.snapshot(MODEL, before=base) is None
    assert ledger.snapshot_digest(MODEL) == (110, f"{11:064d}")
    offsets = [row[0] for row in sql('select "offset" from snapshots order by "offset"')]
    assert offsets == [70, 80, 90, 100, 110]


# --- events that could not be used --------------------------------------------------------------


def refused(offset, reason=Reason.LATE):
    return Rejected(offset, reason, "why"), b"%d" % offset


def test_the_newest_dead_letters_are_kept_and_the_others_counted_by_reason(limited):
    ledger = limited(letters=20)
    reasons = [Reason.LATE, Reason.ORPHAN, Reason.LATE]
    for i in range(100):
        ledger.commit(MODEL, dead_letters=[refused(i, reasons[i % 3])], folded=i + 1)
        kept = ledger.dead_letters(MODEL)
        assert min(20, i + 1) <= len(kept) <= 22
        assert [d.offset for d in kept] == list(range(i, i - len(kept), -1))
        total = Counter(ledger.count_dead_letters(MODEL)) + Counter(ledger.count_dropped(MODEL))
        assert total == Counter(reasons[k % 3].value for k in range(i + 1))
    ledger.commit("faces", dead_letters=[refused(0)], folded=1)
    assert [d.offset for d in ledger.dead_letters("faces")] == [0]
    assert ledger.count_dropped("faces") == {}


def test_dead_letters_found_again_after_a_crash_are_counted_once(limited):
    ledger = limited(letters=10)
    rng = Random(3)
    found = {}
    for i in range(80):
        # A reward that waited is refused long after others that came later.
        found[i] = [refused(max(0, 7 * i - rng.choice([0, 0, 40])) + k) for k in range(3)]
        ledger.commit(MODEL, dead_letters=found[i], folded=7 * i + 7)
        if rng.random() < 0.2:
            for again in range(max(0, i - 4), i + 1):
                ledger.commit(MODEL, dead_letters=found[again], folded=7 * again + 7)
    kept = ledger.count_dead_letters(MODEL)["late"]
    distinct = {event.offset for each in found.values() for event, _ in each}
    total = kept + ledger.count_dropped(MODEL)["late"]
    # One that comes twice at an offset that is not kept any more cannot be told from two.
    assert len(distinct) <= total <= sum(map(len, found.values()))
    assert 10 <= kept <= 14


def test_the_newest_refusals_at_the_door_are_kept_and_the_others_counted(limited):
    ledger = limited(letters=20)
    for i in range(60):
        ledger.reject("api", [("malformed" if i % 2 else "unknown", f"{i}", b"x")])
    kept = [int(r.detail) for r in ledger.rejections()]
    assert kept == list(range(59, 59 - len(kept), -1))
    assert 20 <= len(kept) <= 22
    gone = ledger.count_dropped()
    assert sum(gone.values()) == 60 - len(kept)
    assert abs(gone["malformed"] - gone["unknown"]) <= 1


# --- decisions ----------------------------------------------------------------------------------


def test_decisions_are_dropped_by_age_and_the_chain_hangs_on_the_hash_before(
    limited, decide, split, sql
):
    ledger = limited(decisions_s=10.0)
    for n in range(1, 41):
        ledger.commit(MODEL, decisions=[(decide(n), [split(n)])])
        ledger.effect_done(MODEL, n, 0)
        assert ledger.verify_chain(MODEL) is None
    first = ledger.beginning(MODEL).decision
    numbers = [d.number for d in ledger.decisions(MODEL)]
    assert numbers == list(range(first, 41))
    assert first == 30  # made 10 s before the last one, which has a second each
    assert sql("select count(*) from effects") == [(len(numbers),)]
    assert ledger.last_split(MODEL).epoch == split(40).split.epoch
    # What a fold from an old base derives again, but is kept no more, is not compared.
    ledger.commit(MODEL, decisions=[(decide(3, reason="another"), [])])
    with pytest.raises(InvariantError, match="decision 35 stands as"):
        ledger.commit(MODEL, decisions=[(decide(35, reason="another"), [split(35)])])
    assert ledger.verify_chain(MODEL) is None


def test_a_chain_that_was_cut_is_broken_where_it_was_not_cut_by_the_limit(
    limited, decide, split, sql
):
    ledger = limited(decisions_s=10.0)
    for n in range(1, 31):
        ledger.commit(MODEL, decisions=[(decide(n), [])])
    first = ledger.beginning(MODEL).decision
    sql("delete from decisions where number = :n", n=first)
    assert ledger.verify_chain(MODEL) == first
    sql("update beginnings set decision = :n", n=first + 1)
    assert ledger.verify_chain(MODEL) == first + 1


@pytest.mark.parametrize("is_done", [True, False])
def test_a_decision_that_is_still_needed_stays_whatever_its_age(limited, decide, split, is_done):
    ledger = limited(decisions_s=10.0)
    for n in range(1, 6):
        ledger.commit(MODEL, decisions=[(decide(n), [split(n)] if n in {2, 4} else [])])
        if n == 4 or (n == 2 and is_done):
            ledger.effect_done(MODEL, n, 0)
    for n in range(6, 60):
        ledger.commit(MODEL, decisions=[(decide(n), [])])
    # The last split is decision 4's; an effect that is pending may still have to be done.
    assert ledger.beginning(MODEL).decision == (4 if is_done else 2)
    assert ledger.last_split(MODEL) is not None


def test_without_a_limit_every_decision_stays(made, clock, decide):
    with closing(open_ledger(made, clock=clock)) as ledger:
        ledger.commit(MODEL, decisions=[(decide(1, time=0.0), []), (decide(2, time=1e9), [])])
        assert [d.number for d in ledger.decisions(MODEL)] == [1, 2]
        assert ledger.beginning(MODEL).decision == 1


def test_very_many_refused_events_are_dropped_in_lots(limited, monkeypatch):
    monkeypatch.setattr("controller.ledger.limits.LOT", 30)
    many = limited(letters=1_000)
    many.commit(MODEL, dead_letters=[refused(i) for i in range(100)], folded=100)
    many.reject("api", [("malformed", "", b"x")] * 100)
    few = limited(letters=10)
    kept = []
    for i in range(5):
        few.commit(MODEL, dead_letters=[refused(100 + i)], folded=101 + i)
        few.reject("api", [("malformed", "", b"x")])
        letters = few.count_dead_letters(MODEL)["late"]
        assert letters + few.count_dropped(MODEL)["late"] == 101 + i
        assert len(few.rejections()) + few.count_dropped()["malformed"] == 101 + i
        kept.append(letters)
    assert kept == [71, 42, 13, 10, 10]
