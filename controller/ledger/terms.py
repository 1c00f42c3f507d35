"""Terms: who may write to a ledger that several controllers can reach.

A controller takes a term before it leads, and names it in every transaction that it writes:

    terms.number counts 1, 2, 3, … without a gap; the newest is the one that may write
    a transaction of term t commits  =>  no term above t had been taken when it committed

The second line is what makes it a fence. A controller that was stopped for an hour, or cut off from
the cluster, believes that it leads; its clock and its lease cannot tell it otherwise in time, but
its next transaction can. To hold it, taking a term and writing under one meet at one row, number 0,
which nobody holds: a term is taken with that row locked alone, a transaction writes with it locked
together with others. Whoever comes second waits, and then reads what the first left. SQLite locks
the whole file at BEGIN IMMEDIATE, to the same end.

A process that stops in the middle of a transaction keeps its lock. PostgreSQL ends such a session
after `database.IDLE_S`, so nobody waits for it for longer; what it had written is gone with it.

Rejected: comparing a term in the WHERE of each statement (twelve places to forget it), an advisory
lock held for as long as one leads (a stopped process keeps its session, and with it the lock).
"""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from controller.errors import Deposed, InvariantError
from controller.ledger.tables import terms
from controller.ledger.values import Term

NOBODYS = 0
"""The row that every writer locks; it is there from the migration on."""


def begin(connection: Connection, holder: str, now: float) -> int:
    """Take the next term; every older one ends with the caller's commit."""
    _lock(connection, alone=True)
    number = newest(connection).number + 1
    connection.execute(insert(terms).values(number=number, holder=holder, began=now))
    return number


def require(connection: Connection, number: int) -> None:
    """Make sure that the term is the newest until the caller's transaction ends.

    Raises:
        Deposed: a newer one was taken.
    """
    _lock(connection, alone=False)
    compare(newest(connection), number)


def compare(found: Term, number: int) -> None:
    """Raise `Deposed` unless the newest term is this one."""
    if found.number != number:
        raise Deposed(
            f"{found.holder} leads since term {found.number} began; this controller had term "
            f"{number} and may not write any more"
        )


def newest(connection: Connection) -> Term:
    """The newest term; number 0, of nobody, when none was taken yet."""
    row = connection.execute(select(terms).order_by(terms.c.number.desc()).limit(1)).one_or_none()
    if row is None:
        raise InvariantError("the ledger's table of terms has lost its row 0")
    return Term(row.number, row.holder, row.began)


def _lock(connection: Connection, *, alone: bool) -> None:
    row = select(terms.c.number).where(terms.c.number == NOBODYS)
    connection.execute(row.with_for_update(read=not alone)).all()
