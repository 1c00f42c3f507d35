"""A controller that is killed at any moment leaves all of a step or nothing of it."""

import os
import random
import select
import signal
import sqlite3
from contextlib import closing

import pytest

from controller.core.model import Reason, Rejected
from controller.errors import BackendError, InvariantError
from controller.ledger import open_ledger
from tests.ledger.conftest import behind

KILLS = 20


def commit_for_ever(url, ready, decide, split):
    """A controller in small: goes on after the last decision, two decisions in each step."""
    ledger = open_ledger(url, clock=lambda: 0.0)
    last = ledger.last_decision("digits")
    number = last.number if last else 0
    while True:
        steps = [(decide(n), [split(n), split(-n)]) for n in (number + 1, number + 2)]
        number += 2
        letters = [(Rejected(number, Reason.LATE), b"x" * 3_000)]
        state = b"%d" % number + b"." * 50_000
        ledger.commit("digits", decisions=steps, dead_letters=letters, snapshot=(number, state))
        ledger.effect_done("digits", number, 0)
        os.write(ready, b"!")


def start(*arguments):
    """Fork a controller; gives its id and the end of a pipe that tells of each of its commits."""
    reader, ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            commit_for_ever(arguments[0], ready, *arguments[1:])
        finally:
            os._exit(1)
    os.close(ready)
    return child, reader


def kill_after(child, reader, delay_s):
    assert select.select([reader], [], [], 20)[0], "the controller never committed"
    select.select([], [], [], delay_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    assert os.WTERMSIG(status) == signal.SIGKILL


def columns(url, query):
    with behind(url) as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def test_a_kill_at_any_moment_leaves_decisions_effects_letters_and_snapshot_in_step(
    url, backend, decide, split
):
    moments = random.Random(20_261_123)
    clock, before = (lambda: 0.0), 0
    for _ in range(KILLS):
        kill_after(*start(url, decide, split), moments.uniform(0.0, 0.04))
        ledger = open_ledger(url, clock=clock)
        assert ledger.verify_chain("digits") is None
        last = ledger.last_decision("digits").number
        offset, state = ledger.snapshot("digits")
        ledger.close()
        assert (offset, int(state.split(b".")[0])) == (last, last)
        assert last % 2 == 0
        assert last > before
        before = last
    numbers = [(n,) for n in range(1, before + 1)]
    assert columns(url, "SELECT number FROM decisions ORDER BY number") == numbers
    effects = columns(url, "SELECT number, ordinal FROM effects ORDER BY 1, 2")
    assert effects == [(n, k) for (n,) in numbers for k in (0, 1)]
    assert columns(url, 'SELECT "offset" FROM dead_letters ORDER BY 1') == numbers[1::2]
    if backend == "sqlite":
        assert columns(url, "PRAGMA integrity_check") == [("ok",)]


def test_what_was_acknowledged_before_the_kill_is_there_after_it(url, decide, split):
    child, reader = start(url, decide, split)
    acknowledged = 0
    while acknowledged < 5:
        told = os.read(reader, 64)
        assert told, "the controller ended by itself"
        acknowledged += len(told)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    acknowledged += len(os.read(reader, 4_096))
    os.close(reader)
    ledger = open_ledger(url, clock=lambda: 0.0)
    last = ledger.last_decision("digits").number
    assert 2 * acknowledged <= last <= 2 * acknowledged + 2
    pending = {(p.number, p.ordinal) for p in ledger.pending_effects("digits")}
    assert not pending & {(2 * n, 0) for n in range(1, acknowledged + 1)}
    ledger.close()


@pytest.mark.parametrize("table", ["decisions", "effects", "dead_letters", "snapshots"])
def test_a_commit_cut_short_at_any_table_leaves_no_trace(ledger, path, decide, split, table):
    ledger.commit("digits", decisions=[(decide(1), [])], snapshot=(1, b"1"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            f"CREATE TRIGGER cut BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'cut'); END"
        )
    step = {
        "decisions": [(decide(2), [split(2)])],
        "dead_letters": [(Rejected(2, Reason.LATE), b"")],
        "snapshot": (2, b"2"),
    }
    with pytest.raises((BackendError, InvariantError), match="cut"):
        ledger.commit("digits", **step)
    assert ledger.last_decision("digits").number == 1
    assert ledger.snapshot("digits") == (1, b"1")
    assert ledger.pending_effects("digits") == ()
    assert ledger.count_dead_letters("digits") == {}
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER cut")
    ledger.commit("digits", **step)
    assert ledger.verify_chain("digits") is None
    assert ledger.snapshot("digits") == (2, b"2")
