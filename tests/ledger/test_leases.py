"""Leases: workers share partitions evenly, and a dead one's are taken by the others."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from controller.ledger import open_ledger
from controller.ledger.database import writing
from controller.ledger.leases import LEASE_S, parts


@pytest.fixture
def ledger(made):
    opened = open_ledger(made, clock=lambda: 0.0)
    yield opened
    opened.close()


def logs(model, count):
    return {number: f"{model}/{number}" for number in range(count)}


def names(held):
    return [each.log for each in held]


def age(ledger, worker, seconds):
    """As if the worker had said nothing for so long."""
    with writing(ledger._engine) as connection:
        row = text("UPDATE leases SET until = until - :s WHERE holder = :w")
        connection.execute(row, {"s": seconds, "w": worker})


def test_events_go_to_the_partitions_that_were_laid_out(ledger):
    assert ledger.leases.layouts() == {}
    ledger.lay_out("m", logs("m", 3), 3)
    ledger.lay_out("other", logs("other", 2), 2)
    assert ledger.leases.layouts() == {"m": 3, "other": 2}
    ledger.lay_out("m", logs("m", 3), 2)  # the third is still folded
    assert ledger.leases.layouts() == {"m": 2, "other": 2}
    assert sorted(ledger.leases.holders()) == ["m/0", "m/1", "m/2", "other/0", "other/1"]
    ledger.lay_out("m", {}, 1)
    assert ledger.leases.layouts() == {"other": 2}
    assert sorted(ledger.leases.holders()) == ["other/0", "other/1"]


def test_one_worker_holds_all_and_gives_half_to_a_second(ledger):
    leases = ledger.leases
    ledger.lay_out("m", logs("m", 4), 4)
    assert names(leases.turn("a", slots=9).logs) == ["m/0", "m/1", "m/2", "m/3"]
    assert leases.turn("b", slots=9).logs == ()
    held = leases.turn("a", slots=9)
    assert names(held.excess) == ["m/2", "m/3"]
    leases.give_back("a", names(held.excess))
    assert names(leases.turn("b", slots=9).logs) == ["m/2", "m/3"]
    assert leases.turn("a", slots=9).excess == ()
    assert leases.holders() == {"m/0": "a", "m/1": "a", "m/2": "b", "m/3": "b"}


def test_what_a_dead_worker_held_is_free_once_its_lease_has_ended(ledger):
    leases = ledger.leases
    ledger.lay_out("m", logs("m", 2), 2)
    leases.turn("dead", slots=9)
    age(ledger, "dead", LEASE_S - 1.0)
    assert leases.turn("b", slots=9).logs == ()
    age(ledger, "dead", 1.5)
    assert leases.holders() == {"m/0": "", "m/1": ""}
    assert names(leases.turn("b", slots=9).logs) == ["m/0", "m/1"]
    assert names(leases.turn("dead", slots=9).logs) == []  # it was stopped, and goes on


def test_a_clock_that_was_set_back_keeps_no_partition_from_the_living(ledger):
    leases = ledger.leases
    ledger.lay_out("m", logs("m", 1), 1 + 1)
    leases.turn("dead", slots=9)
    age(ledger, "dead", -3_600.0)
    assert names(leases.turn("b", slots=9).logs) == ["m/0"]


def test_a_worker_that_leaves_gives_back_at_once(ledger):
    leases = ledger.leases
    ledger.lay_out("m", logs("m", 2), 2)
    leases.turn("a", slots=9)
    leases.leave("a")
    assert names(leases.turn("b", slots=9).logs) == ["m/0", "m/1"]


def test_slots_bound_what_a_worker_takes(ledger):
    leases = ledger.leases
    ledger.lay_out("m", logs("m", 5), 5)
    assert names(leases.turn("small", slots=1).logs) == ["m/0"]
    assert len(leases.turn("large", slots=9).logs) == 4
    assert leases.turn("small", slots=1).excess == ()


@pytest.mark.parametrize(
    ("slots", "total", "expected"),
    [
        ({}, 3, {}),
        ({"a": 9, "b": 9}, 5, {"a": 3, "b": 2}),
        ({"b": 9, "a": 1, "c": 9}, 6, {"a": 1, "b": 3, "c": 2}),
        ({"a": 1, "b": 1}, 6, {"a": 1, "b": 1}),
    ],
)
def test_parts_are_as_even_as_slots_allow(slots, total, expected):
    assert parts(slots, total) == expected


def test_no_log_is_held_by_two_however_many_ask_at_once(ledger):
    ledger.lay_out("m", logs("m", 12), 12)
    for name in "abcd":
        ledger.leases.turn(name, slots=0)
    found: dict[str, list[str]] = {}

    def ask(name):
        found[name] = names(ledger.leases.turn(name, slots=9).logs)

    for _ in range(3):
        threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    held = [log for each in found.values() for log in each]
    assert len(held) == len(set(held))
    for name in "abcd":
        ledger.leases.give_back(name, names(ledger.leases.turn(name, slots=9).excess))
    for _ in range(2):
        for name in "abcd":
            ask(name)
    assert sorted(log for each in found.values() for log in each) == sorted(logs("m", 12).values())
