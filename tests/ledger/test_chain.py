"""Whoever changes what was written is found out."""

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from controller.ledger import open_ledger
from controller.ledger.rows import GENESIS
from controller.ledger.tables import decisions as table

N = 4
COLUMNS = [column.name for column in table.columns]


@pytest.fixture(scope="module")
def original(tmp_path_factory, decide, split):
    """The file of a ledger with N decisions, the last one without effects."""
    path = tmp_path_factory.mktemp("original") / "ledger.db"
    ledger = open_ledger(f"sqlite:///{path}", clock=lambda: 0.0)
    steps = [(decide(n), [split(n)] if n < N else []) for n in range(1, N + 1)]
    ledger.commit("digits", decisions=steps)
    ledger.close()
    return path


@pytest.fixture
def written(original, url, path, clock):
    """A copy of it, open and intact."""
    shutil.copy(original, path)
    ledger = open_ledger(url, clock=clock)
    assert ledger.verify_chain("digits") is None
    yield ledger
    ledger.close()


@pytest.fixture
def tamper(path, written):
    """Runs SQL behind the ledger's back, and says how many rows it changed."""

    def run(sql, *values):
        with closing(sqlite3.connect(path)) as connection, connection:
            return connection.execute(sql, values).rowcount

    return run


def other(value):
    """A value of the same type that is not this one."""
    if isinstance(value, (int, float)):
        return value + 1
    return "0" + value[1:] if value[:1] not in {"0", ""} else "1" + value[1:]


def stored(path, column, number):
    with closing(sqlite3.connect(path)) as connection:
        query = f'SELECT "{column}" FROM decisions WHERE number = ?'
        return connection.execute(query, (number,)).fetchone()[0]


@pytest.mark.parametrize("number", range(1, N + 1))
@pytest.mark.parametrize("column", COLUMNS)
def test_a_change_of_any_field_of_any_row_is_found(written, tamper, path, column, number):
    value = other(stored(path, column, number))
    if column == "number":
        value += N  # a number that is free
    assert tamper(f'UPDATE decisions SET "{column}" = ? WHERE number = ?', value, number) == 1
    assert written.verify_chain("digits") == number


@pytest.mark.parametrize(
    ("column", "spelling"),
    [
        ("weights", '{"v2":500,"v1":9500}'),
        ("weights", '{"v1": 9500, "v2": 500}'),
        ("weights", '{"v1":1,"v1":9500,"v2":500}'),
        ("weights", '{"v1":9500.0,"v2":500}'),
        ("evidence", '{"lift":{"v2":[0.10,-0.25]},"n":2}'),
        ("seed", "018446744073709551614"),
        ("weights", "no JSON"),
        ("evidence", "[]"),
        ("evidence", b""),
        ("phase", "dancing"),
        ("reason", b"2 of 400 outcomes"),
        ("seed", "zero"),
        ("time", "soon"),
    ],
)
def test_a_row_is_broken_by_another_spelling_of_the_same_value_and_by_nonsense(
    written, tamper, column, spelling
):
    assert tamper(f"UPDATE decisions SET {column} = ? WHERE number = 2", spelling) == 1
    assert written.verify_chain("digits") == 2


@pytest.mark.parametrize("number", range(1, N + 1))
def test_a_missing_decision_is_found_also_at_the_end(written, tamper, number):
    assert tamper("DELETE FROM decisions WHERE number = ?", number) == 1
    assert written.verify_chain("digits") == number


def test_a_decision_smuggled_in_at_the_end_is_found(written, tamper):
    names = ", ".join(f'"{c}"' for c in COLUMNS)
    values = ", ".join("number + 1" if c == "number" else f'"{c}"' for c in COLUMNS)
    select = f"SELECT {values} FROM decisions WHERE number = {N}"
    assert tamper(f"INSERT INTO decisions ({names}) {select}") == 1
    assert written.verify_chain("digits") == N + 1


def test_two_decisions_that_changed_places_are_found(written, tamper):
    tamper("UPDATE decisions SET number = 99 WHERE number = 2")
    tamper("UPDATE decisions SET number = 2 WHERE number = 3")
    tamper("UPDATE decisions SET number = 3 WHERE number = 99")
    assert written.verify_chain("digits") == 2


def test_the_end_of_the_chain_cannot_be_moved(written, tamper):
    tamper("UPDATE chains SET hash = ?", "0" * 64)
    assert written.verify_chain("digits") == N
    tamper("DELETE FROM chains")
    assert written.verify_chain("digits") == 1


def test_a_decision_with_effects_cannot_be_deleted_while_keys_are_enforced(path, written):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("DELETE FROM decisions WHERE number = 1")


def test_the_hash_is_that_of_the_documented_text(written, path):
    """The format, spelled out by hand: others must be able to check it without our code."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM decisions ORDER BY number").fetchall()
    previous = GENESIS
    for row in rows:
        content = {name: row[name] for name in row.keys() if name != "hash"}  # noqa: SIM118
        for name in ("weights", "evidence", "seed"):
            content[name] = json.loads(content[name])
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert row["previous_hash"] == previous
        assert row["hash"] == hashlib.sha256(text.encode()).hexdigest()
        previous = row["hash"]
