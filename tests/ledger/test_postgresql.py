"""What only a server does: it goes away, has defaults of its own, and keeps locks of the dead."""

import os
import signal
import time
from contextlib import closing

import pytest

from controller.errors import Deposed, Retryable
from controller.ledger import database, open_ledger
from controller.ledger.database import reading, writing
from tests.stores.postgres import Postgres


@pytest.fixture
def address(postgres, postgres_template):
    return postgres.database(postgres_template)


def test_a_leader_that_is_suspended_in_a_transaction_holds_nobody_up_for_long(address, decide):
    """Its clock, asked in the middle of the commit, suspends it."""

    def commit():
        times = iter((1.0,))

        def clock():
            if (now := next(times, None)) is None:
                os.kill(os.getpid(), signal.SIGSTOP)
                return 2.0
            return now

        with closing(open_ledger(address, clock=clock)) as old:
            old.begin_term("old")
            first, second = _fault(old, decide(1)), _fault(old, decide(1))
            os._exit(0 if (first, second) == (Retryable, Deposed) else 1)

    child = os.fork()
    if child == 0:
        try:
            commit()
        finally:
            os._exit(2)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    with closing(open_ledger(address, clock=lambda: 9.0)) as new:
        begin = time.monotonic()
        assert new.begin_term("new") == 2
        assert time.monotonic() - begin < database.IDLE_S + 1
        assert new.decisions("digits") == ()
        os.kill(child, signal.SIGCONT)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert new.decisions("digits") == ()


def _fault(ledger, decision):
    try:
        ledger.commit("digits", decisions=[(decision, ())])
    except (Retryable, Deposed) as exc:
        return type(exc)
    return None


def test_isolation_is_what_the_terms_need_whatever_the_database_prefers(postgres, address):
    name = address.rpartition("/")[2]
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_isolation TO 'serializable'")
    engine = database.open_engine(address)
    with writing(engine) as connection:
        found = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
    with reading(engine) as connection:
        read = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
    engine.dispose()
    assert (found, read) == ("read committed", "repeatable read")


def test_a_server_that_went_away_is_worth_another_try_and_found_again(decide):
    with Postgres() as server, closing(open_ledger(server.database(), clock=lambda: 1.0)) as ledger:
        ledger.begin_term("a")
        ledger.commit("digits", decisions=[(decide(1), ())])
        server.stop()
        for work in (ledger.is_current, lambda: ledger.commit("digits"), ledger.stamps):
            with pytest.raises(Retryable):
                work()
        server.start()
        ledger.commit("digits", decisions=[(decide(2), ())])
        assert ledger.is_current()
        assert ledger.verify_chain("digits") is None


def test_a_database_that_is_not_there_is_worth_another_try_and_named(postgres, address):
    with pytest.raises(Retryable, match='database "nosuch" does not exist'):
        open_ledger(address.rpartition("/")[0] + "/nosuch", clock=lambda: 1.0)
