"""What the ledger keeps, and what it refuses."""

import math

import pytest

from controller.core.model import KeepRejected, Reason, Rejected, Verdict
from controller.errors import InvariantError
from controller.ledger import AdoptedPolicy, DeadLetter, open_ledger


def dump(sql, table):
    return sql(f"SELECT * FROM {table}")


# --- decisions --------------------------------------------------------------------------------


def test_an_empty_ledger_has_nothing_and_is_intact(ledger):
    assert ledger.decisions("digits") == ()
    assert ledger.last_decision("digits") is None
    assert ledger.decision("digits", 1) is None
    assert ledger.snapshot("digits") is None
    assert ledger.pending_effects("digits") == ()
    assert ledger.policies("digits") == ()
    assert ledger.verify_chain("digits") is None


def test_decisions_come_back_as_they_were_written(ledger, decide):
    written = [decide(1), decide(2, reason="größer\n", evidence={"a": [1, 2.0, None, True]})]
    ledger.commit("digits", decisions=[(decision, ()) for decision in written])
    assert list(ledger.decisions("digits")) == written
    assert ledger.decision("digits", 2) == written[1]
    assert ledger.last_decision("digits") == written[1]


def test_decisions_survive_reopening(url, clock, decide):
    first = open_ledger(url, clock=clock)
    first.commit("digits", decisions=[(decide(1), ())])
    first.close()
    second = open_ledger(url, clock=clock)
    assert second.decisions("digits") == (decide(1),)
    second.close()


def test_decisions_are_listed_from_a_number_on_and_capped(ledger, decide):
    ledger.commit("digits", decisions=[(decide(n), ()) for n in range(1, 8)])
    assert [d.number for d in ledger.decisions("digits", after=2, limit=3)] == [3, 4, 5]


def test_models_do_not_see_each_other(ledger, decide):
    ledger.commit("digits", decisions=[(decide(1), ())], snapshot=(1, b"d"))
    ledger.commit("faces", decisions=[(decide(1, model="faces"), ())], snapshot=(2, b"f"))
    assert [d.model for d in ledger.decisions("faces")] == ["faces"]
    assert ledger.snapshot("digits") == (1, b"d")
    assert ledger.verify_chain("digits") is None
    assert ledger.verify_chain("faces") is None


def test_not_a_number_in_the_evidence_is_kept_as_unknown(ledger, decide):
    derived = decide(1, evidence={"lift": math.nan, "upper": math.inf})
    ledger.commit("digits", decisions=[(derived, ())])
    ledger.commit("digits", decisions=[(derived, ())])
    assert ledger.decision("digits", 1).evidence == {"lift": None, "upper": None}
    assert ledger.verify_chain("digits") is None


def test_text_that_no_database_takes_is_kept_all_the_same(ledger, decide):
    ledger.commit("digits", decisions=[(decide(1, reason="a\0b\ud800"), ())])
    assert ledger.decision("digits", 1).reason == "a\N{REPLACEMENT CHARACTER}b?"
    assert ledger.verify_chain("digits") is None


def test_committing_a_decision_again_changes_nothing(ledger, sql, decide, split):
    step = [(decide(1), [split(1)]), (decide(2), [])]
    ledger.commit("digits", decisions=step)
    before = dump(sql, "decisions"), dump(sql, "effects"), dump(sql, "chains")
    ledger.commit("digits", decisions=step)
    ledger.commit("digits", decisions=step[1:])
    assert (dump(sql, "decisions"), dump(sql, "effects"), dump(sql, "chains")) == before


def test_known_and_new_decisions_may_come_in_one_commit(ledger, decide):
    ledger.commit("digits", decisions=[(decide(1), ()), (decide(2), ())])
    ledger.commit("digits", decisions=[(decide(2), ()), (decide(3), ())])
    assert [d.number for d in ledger.decisions("digits")] == [1, 2, 3]
    assert ledger.verify_chain("digits") is None


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": Verdict.ROLL_BACK},
        {"reason": "another sentence"},
        {"weights": {"v1": 10_000, "v2": 0}},
        {"evidence": {"n": 2}},
        {"seed": 7},
        {"time": 0.5},
    ],
)
def test_another_decision_under_the_same_number_names_both(ledger, decide, change):
    ledger.commit("digits", decisions=[(decide(1), ())])
    with pytest.raises(InvariantError) as caught:
        ledger.commit("digits", decisions=[(decide(1, **change), ())], snapshot=(99, b"x"))
    (field, value), *_ = change.items()
    assert field in str(caught.value)
    assert decide(1).reason in str(caught.value)
    assert field in {"weights", "evidence"} or str(value) in str(caught.value)
    assert ledger.decisions("digits") == (decide(1),)
    assert ledger.snapshot("digits") is None


def test_the_same_decision_with_other_effects_is_refused(ledger, decide, split):
    ledger.commit("digits", decisions=[(decide(1), [split(1)])])
    for effects in ([], [split(2)], [split(1), split(1)]):
        with pytest.raises(InvariantError, match="effects"):
            ledger.commit("digits", decisions=[(decide(1), effects)])


def test_a_gap_in_the_numbers_is_refused_and_nothing_of_the_commit_stays(ledger, decide, split):
    with pytest.raises(InvariantError, match="gap"):
        ledger.commit("digits", decisions=[(decide(1), [split(1)]), (decide(3), [])])
    assert ledger.decisions("digits") == ()
    assert ledger.pending_effects("digits") == ()


def test_a_decision_on_another_model_is_refused(ledger, decide):
    with pytest.raises(InvariantError, match="faces"):
        ledger.commit("digits", decisions=[(decide(1, model="faces"), ())])


# --- effects ----------------------------------------------------------------------------------


def test_an_effect_is_pending_until_it_is_read_back(ledger, decide, split):
    ledger.commit("digits", decisions=[(decide(1), [split(1), split(2)]), (decide(2), [split(3)])])
    pending = ledger.pending_effects("digits")
    assert [(p.number, p.ordinal) for p in pending] == [(1, 0), (1, 1), (2, 0)]
    assert [p.effect for p in pending] == [split(1), split(2), split(3)]
    assert list(pending[0].effect.split.weights) == ["v2", "v1"]
    ledger.effect_done("digits", 1, 1)
    ledger.effect_done("digits", 1, 1)
    assert [(p.number, p.ordinal) for p in ledger.pending_effects("digits")] == [(1, 0), (2, 0)]


def test_a_failed_attempt_is_counted_and_the_effect_stays_pending(ledger, sql, decide, split):
    ledger.commit("digits", decisions=[(decide(1), [split(1)])])
    ledger.effect_failed("digits", 1, 0, "no router")
    ledger.effect_failed("digits", 1, 0, "NACK\0")
    (pending,) = ledger.pending_effects("digits")
    assert (pending.attempts, pending.last_error) == (2, "NACK\N{REPLACEMENT CHARACTER}")
    ledger.effect_done("digits", 1, 0)
    ledger.effect_failed("digits", 1, 0, "too late")
    ((*_, done_at, attempts, last_error),) = dump(sql, "effects")
    assert done_at == 2.0  # the clock was read by the commit, then by `effect_done`
    assert (attempts, last_error) == (3, "NACK\N{REPLACEMENT CHARACTER}")


def test_an_effect_that_was_done_is_not_wanted_again_by_recovery(ledger, decide, split):
    step = [(decide(1), [split(1)])]
    ledger.commit("digits", decisions=step)
    ledger.effect_done("digits", 1, 0)
    ledger.commit("digits", decisions=step)
    assert ledger.pending_effects("digits") == ()


def test_an_unknown_effect_is_a_bug(ledger):
    with pytest.raises(InvariantError, match="no effect 0"):
        ledger.effect_done("digits", 1, 0)
    with pytest.raises(InvariantError, match="no effect 0"):
        ledger.effect_failed("digits", 1, 0, "why")


def test_rejected_events_are_no_effect(ledger, decide):
    with pytest.raises(InvariantError, match="dead letters"):
        ledger.commit("digits", decisions=[(decide(1), [KeepRejected(())])])


# --- snapshots --------------------------------------------------------------------------------


def test_the_newest_two_snapshots_are_kept(ledger, sql):
    for offset in (10, 20, 30):
        ledger.commit("digits", snapshot=(offset, b"%d" % offset))
    assert ledger.snapshot("digits") == (30, b"30")
    assert ledger.snapshot("digits", before=30) == (20, b"20")
    assert ledger.snapshot("digits", before=20) is None
    assert len(dump(sql, "snapshots")) == 2


def test_a_snapshot_at_the_same_offset_replaces_the_one_before(ledger):
    ledger.commit("digits", snapshot=(10, b"old"))
    ledger.commit("digits", snapshot=(10, b"new"))
    assert ledger.snapshot("digits") == (10, b"new")
    assert ledger.snapshot("digits", before=10) is None


def test_a_snapshot_that_goes_back_is_refused_with_its_whole_commit(ledger, decide):
    ledger.commit("digits", snapshot=(10, b"new"))
    with pytest.raises(InvariantError, match="second controller"):
        ledger.commit("digits", decisions=[(decide(1), ())], snapshot=(9, b"old"))
    assert ledger.snapshot("digits") == (10, b"new")
    assert ledger.decisions("digits") == ()


# --- policies ---------------------------------------------------------------------------------


def adopted(ledger):
    return [(p.from_offset, p.digest) for p in ledger.policies("digits")]


def test_each_policy_is_noted_once_with_the_offset_from_which_it_applies(ledger):
    ledger.adopt_policy("digits", 0, "a", "spec: a")
    ledger.adopt_policy("digits", 5, "a", "spec: a")
    ledger.adopt_policy("digits", 10, "b", "spec: b")
    ledger.adopt_policy("digits", 20, "a", "spec: a")
    assert adopted(ledger) == [(0, "a"), (10, "b"), (20, "a")]
    assert ledger.policies("digits")[0] == AdoptedPolicy(0, "a", "spec: a", 1.0)


def test_a_policy_that_never_applied_may_be_replaced(ledger):
    ledger.adopt_policy("digits", 0, "a", "spec: a")
    ledger.commit("digits", snapshot=(10, b""))
    ledger.adopt_policy("digits", 10, "b", "spec: b")
    ledger.adopt_policy("digits", 10, "c", "spec: c")
    assert adopted(ledger) == [(0, "a"), (10, "c")]


def test_a_policy_cannot_rewrite_history(ledger, decide):
    ledger.adopt_policy("digits", 0, "a", "spec: a")
    ledger.commit("digits", decisions=[(decide(1, offset=10), ())], snapshot=(12, b""))
    for offset in (0, 10, 11):
        with pytest.raises(InvariantError, match="history"):
            ledger.adopt_policy("digits", offset, "b", "spec: b")
    ledger.adopt_policy("digits", 12, "b", "spec: b")
    with pytest.raises(InvariantError, match="history"):
        ledger.adopt_policy("faces", -1, "b", "spec: b")


# --- refused events ---------------------------------------------------------------------------


def test_dead_letters_are_kept_once_and_counted_by_reason(ledger):
    late, orphan = Rejected(3, Reason.LATE, "40 s late"), Rejected(4, Reason.ORPHAN)
    ledger.commit("digits", dead_letters=[(late, b'{"id":1}'), (orphan, b"{}")])
    ledger.commit("digits", dead_letters=[(late, b"again"), (Rejected(5, Reason.LATE), b"")])
    assert ledger.count_dead_letters("digits") == {"late": 2, "orphan": 1}
    assert ledger.count_dead_letters("faces") == {}
    assert [d.offset for d in ledger.dead_letters("digits")] == [5, 4, 3]
    assert [d.offset for d in ledger.dead_letters("digits", limit=1)] == [5]
    assert ledger.dead_letters("digits", reason="late")[-1] == DeadLetter(
        3, "late", "40 s late", '{"id":1}', 1.0
    )


@pytest.mark.parametrize(
    "text", [b"x" * 10_000, b"\xff" * 10_000, "ü".encode() * 10_000, b"\0" * 10_000, b"a\xff\0"]
)
def test_the_text_of_a_refused_event_is_bounded_and_valid(ledger, text):
    ledger.commit("digits", dead_letters=[(Rejected(1, Reason.MALFORMED, "d" * 9_999), text)])
    ledger.reject("http", [("malformed", "d" * 9_999, text)])
    for kept in (*ledger.dead_letters("digits"), *ledger.rejections()):
        assert min(len(text), 4_000) <= len(kept.event.encode()) <= 4_096
        assert "\0" not in kept.event
        assert len(kept.detail) == 4_096


def test_events_refused_at_the_door_are_listed_newest_first(ledger):
    ledger.reject("http", [("malformed", "no model", b"{"), ("unknown_name", "", b"{}")])
    ledger.reject("access_log", [("malformed", "cut", b"a b")])
    ledger.reject("http", [])
    assert [(r.source, r.reason, r.event) for r in ledger.rejections()] == [
        ("access_log", "malformed", "a b"),
        ("http", "unknown_name", "{}"),
        ("http", "malformed", "{"),
    ]
    assert [r.detail for r in ledger.rejections(reason="malformed", limit=1)] == ["cut"]
