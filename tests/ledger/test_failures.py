"""What the database does wrong, in our words; and many threads at once."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import event, exc

from controller.core.model import Reason, Rejected
from controller.errors import InvariantError, Permanent, Retryable
from controller.ledger import database, open_ledger


def test_a_locked_ledger_is_worth_another_try_and_can_still_be_read(ledger, path, decide):
    ledger.commit("digits", decisions=[(decide(1), ())])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Retryable, match="locked"):
            ledger.reject("http", [("malformed", "", b"")])
        assert ledger.decisions("digits") == (decide(1),)
        other.execute("ROLLBACK")
    ledger.reject("http", [("malformed", "", b"")])
    assert len(ledger.rejections()) == 1


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Wait for a lock for a shorter time than in earnest."""
    monkeypatch.setattr(database, "_BUSY_S", 0.3)


def test_a_full_disk_is_worth_another_try_and_nothing_is_half_written(ledger, path, decide):
    ledger.commit("digits", decisions=[(decide(1), ())], snapshot=(1, b"1"))
    assert path.exists()

    def fill(connection, _record, _proxy):
        connection.execute("PRAGMA max_page_count=1")  # SQLite then answers SQLITE_FULL

    event.listen(ledger._engine, "checkout", fill)
    with pytest.raises(Retryable, match="full"):
        ledger.commit("digits", decisions=[(decide(2), ())], snapshot=(2, b"2" * 1_000_000))
    event.remove(ledger._engine, "checkout", fill)
    with ledger._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    assert ledger.last_decision("digits").number == 1
    ledger.commit("digits", decisions=[(decide(2), ())], snapshot=(2, b"2" * 1_000_000))
    assert ledger.verify_chain("digits") is None


def test_a_folder_that_is_not_there_is_worth_another_try(tmp_path, clock):
    with pytest.raises(Retryable, match="unable to open"):
        open_ledger(f"sqlite:///{tmp_path}/missing/ledger.db", clock=clock)


def test_a_file_that_is_no_database_is_not(path, url, clock):
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(Permanent, match="not a database"):
        open_ledger(url, clock=clock)


def test_a_damaged_database_is_not(ledger, url, path, clock, decide):
    for n in range(1, 200):
        ledger.commit("digits", decisions=[(decide(n), ())])
    ledger.close()
    raw = bytearray(path.read_bytes())
    raw[8_192:] = b"\xa5" * (len(raw) - 8_192)
    path.write_bytes(raw)
    with pytest.raises(Permanent, match="malformed"):
        open_ledger(url, clock=clock).verify_chain("digits")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_url_that_names_nothing_durable_is_refused(url, clock):
    with pytest.raises(Permanent, match="in memory"):
        open_ledger(url, clock=clock)


@pytest.mark.parametrize(
    "url", ["nonsense", "", "nosuch:///x", "mysql+mysqldb://u:secret@127.0.0.1/l", "redis://x"]
)
def test_peer_10_another_url_is_an_error_that_lists_what_is_known(url, clock):
    with pytest.raises(Permanent, match=r"expected sqlite:///PATH or postgresql") as caught:
        open_ledger(url, clock=clock)
    assert "secret" not in str(caught.value)


def test_a_postgresql_address_without_a_driver_gets_ours(clock):
    with pytest.raises(Retryable, match="refused"):
        open_ledger("postgresql://127.0.0.1:1/ledger", clock=clock)


def test_every_exception_of_sqlalchemy_has_a_word_of_ours():
    class DriverError(Exception):
        """Any driver's."""

    def kinds(base):
        yield base
        for kind in base.__subclasses__():
            yield from kinds(kind)

    for kind in kinds(exc.DBAPIError):
        ours = database.translated(kind("SELECT 1", {}, DriverError("broken")))
        expected = Permanent
        if issubclass(kind, exc.IntegrityError):
            expected = InvariantError
        elif issubclass(kind, (exc.OperationalError, exc.InterfaceError)):
            expected = Retryable
        assert type(ours) is expected, kind
    lost = exc.DBAPIError("SELECT 1", {}, DriverError("gone"), connection_invalidated=True)
    assert type(database.translated(lost)) is Retryable
    assert type(database.translated(exc.TimeoutError())) is Retryable
    assert type(database.translated(exc.ArgumentError("bug"))) is Permanent


def test_threads_write_different_models_at_the_same_time(url, clock, decide, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_S", 20.0)
    ledger = open_ledger(url, clock=clock)
    models = [f"m{k}" for k in range(4)]

    def work(model):
        for n in range(1, 26):
            ledger.commit(
                model,
                decisions=[(decide(n, model=model), ())],
                dead_letters=[(Rejected(n, Reason.LATE), b"")],
                snapshot=(n, model.encode()),
            )
            assert ledger.verify_chain(model) is None

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, models))
    for model in models:
        assert [d.number for d in ledger.decisions(model)] == list(range(1, 26))
        assert ledger.snapshot(model) == (25, model.encode())
        assert ledger.count_dead_letters(model) == {"late": 25}
    ledger.close()


def test_two_controllers_with_the_same_log_agree(url, clock, decide, split, monkeypatch):
    """Both derive the same decisions; each is written once, whoever comes first."""
    monkeypatch.setattr(database, "_BUSY_S", 20.0)
    ledgers = [open_ledger(url, clock=clock) for _ in range(2)]

    def work(ledger):
        for n in range(1, 31):
            ledger.commit("digits", decisions=[(decide(n), [split(n)])])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ledgers))
    assert [d.number for d in ledgers[0].decisions("digits")] == list(range(1, 31))
    assert len(ledgers[0].pending_effects("digits")) == 30
    assert ledgers[0].verify_chain("digits") is None
    for ledger in ledgers:
        ledger.close()
