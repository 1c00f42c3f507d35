"""Leases: which worker folds which partition, and over how many logs a model's events are split.

One table holds both, a row for each log of a partition. The leader makes the rows before any event
goes to a log, and whoever takes events in reads there where they go. Workers take the rows: each
has a row of its own, too, by which the others know that it lives.

    a row is held while   now <= until <= now + 2 LEASE_S       by the database's clock

The second bound is for a clock that is set back: without it, a worker that died before would keep
its partition for as long as the step was.

Partitions are spread evenly: whoever has more than its part gives some back, whoever has less takes
what is free. Nothing depends on a lease but work: what a worker says is a function of the log, and
the leader takes each stretch once, whoever tells it (see `core.merge`). So a worker that goes on
after its lease has ended does harm to nobody.

Rejected: an advisory lock per partition (a stopped process keeps it), the group protocol of Kafka
(the other stores have none), a coordinator (one more thing that can die).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Engine,
    and_,
    delete,
    insert,
    literal_column,
    not_,
    select,
    update,
)

from controller.ledger.database import mapped_errors, reading, writing
from controller.ledger.tables import leases

LEASE_S = 6.0
"""How long a worker that died without a word keeps its partitions."""

_NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())",
}


@dataclass(frozen=True, slots=True)
class PartitionLog:
    """The log of a partition: its name, its model, and its number."""

    log: str
    model: str
    number: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a worker holds, and of that what others should have."""

    logs: tuple[PartitionLog, ...]
    excess: tuple[PartitionLog, ...]


class Leases:
    """The table of leases. Safe to call from any thread.

    Every method raises `Retryable` when the database is locked or out of reach.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def layouts(self) -> dict[str, int]:
        """Model -> over how many logs its events are split, of those that are."""
        found: dict[str, int] = {}
        query = select(leases.c.model).where(leases.c.is_routed == 1)
        with mapped_errors(), reading(self._engine) as connection:
            for model in connection.scalars(query):
                found[model] = found.get(model, 0) + 1
        return found

    def holders(self) -> dict[str, str]:
        """Log -> the worker that holds it, "" for nobody."""
        with mapped_errors(), reading(self._engine) as connection:
            is_held = _is_held(connection)
            rows = connection.execute(
                select(leases.c.log, leases.c.holder, is_held).where(leases.c.model != "")
            )
            return {log: holder if held else "" for log, holder, held in rows}

    def turn(self, worker: str, *, slots: int) -> Held:
        """Renew what the worker holds, take its part of what is free; what it holds then."""
        with mapped_errors(), writing(self._engine) as connection:
            until = _now(connection) + LEASE_S
            _register(connection, worker, slots, until)
            mine = and_(leases.c.model != "", leases.c.holder == worker)
            connection.execute(update(leases).where(mine).values(until=until))
            part = _part(connection, worker)
            held = len(connection.scalars(select(leases.c.log).where(mine)).all())
            for log in _free(connection, part - held, slots - held):
                row = update(leases).where(leases.c.log == log)
                connection.execute(row.values(holder=worker, until=until))
            found = _logs(connection, mine)
        return Held(found, found[part:] if len(found) > part else ())

    def give_back(self, worker: str, logs: Collection[str]) -> None:
        """Others may take these now."""
        with mapped_errors(), writing(self._engine) as connection:
            mine = and_(leases.c.holder == worker, leases.c.log.in_(list(logs)))
            free = update(leases).where(mine)
            connection.execute(free.values(holder="", until=_now(connection)))

    def leave(self, worker: str) -> None:
        """The worker ends: all that it holds is free at once."""
        with mapped_errors(), writing(self._engine) as connection:
            mine = leases.c.holder == worker
            connection.execute(delete(leases).where(mine, leases.c.model == ""))
            free = update(leases).where(mine)
            connection.execute(free.values(holder="", until=_now(connection)))


def lay_out(connection: Connection, model: str, logs: Mapping[int, str], count: int) -> None:
    """From now on these are the model's partitions, and events go to the first `count`."""
    mine = leases.c.model == model
    known = set(connection.scalars(select(leases.c.log).where(mine)))
    gone = known - set(logs.values())
    connection.execute(delete(leases).where(mine, leases.c.log.in_(gone)))
    for number, log in logs.items():
        is_routed = int(count > 1 and number < count)
        if log in known:
            routed = update(leases).where(leases.c.log == log).values(is_routed=is_routed)
            connection.execute(routed)
            continue
        new = insert(leases).values(
            log=log,
            model=model,
            number=number,
            is_routed=is_routed,
            slots=0,
            holder="",
            until=0.0,
        )
        connection.execute(new)


def _now(connection: Connection) -> ColumnElement[float]:
    """Epoch seconds by the database's clock."""
    return literal_column(f"({_NOW[connection.dialect.name]})", Double)


def _is_held(connection: Connection) -> ColumnElement[bool]:
    now = _now(connection)
    return and_(leases.c.holder != "", leases.c.until >= now, leases.c.until <= now + 2.0 * LEASE_S)


def _register(connection: Connection, worker: str, slots: int, until: ColumnElement[float]) -> None:
    """Note that the worker lives, and forget those that do not."""
    workers = leases.c.model == ""
    own = and_(workers, leases.c.log == worker)
    known = connection.execute(update(leases).where(own).values(until=until, slots=slots))
    if known.rowcount == 0:
        connection.execute(
            insert(leases).values(
                log=worker,
                model="",
                number=0,
                is_routed=0,
                slots=slots,
                holder=worker,
                until=until,
            )
        )
    dead = and_(workers, not_(_is_held(connection)))
    gone = select(leases.c.log).where(dead).with_for_update(skip_locked=True)
    names = [name for name in connection.scalars(gone) if name != worker]
    connection.execute(delete(leases).where(workers, leases.c.log.in_(names)))


def _part(connection: Connection, worker: str) -> int:
    """How many partitions the worker should have."""
    query = select(leases.c.log, leases.c.slots).where(leases.c.model == "", _is_held(connection))
    slots = {row.log: row.slots for row in connection.execute(query)}
    total = len(connection.scalars(select(leases.c.log).where(leases.c.model != "")).all())
    return parts(slots, total).get(worker, 0)


def parts(slots: Mapping[str, int], total: int) -> dict[str, int]:
    """Worker -> how many of the partitions it should have: as even as their slots allow."""
    found = dict.fromkeys(sorted(slots), 0)
    for _ in range(total):
        roomy = [name for name, n in found.items() if n < slots[name]]
        if not roomy:
            break
        least = min(roomy, key=lambda name: (found[name], name))
        found[least] += 1
    return found


def _free(connection: Connection, wanted: int, most: int) -> Sequence[str]:
    """Logs that nobody holds and that no other worker takes at this moment."""
    count = min(wanted, most)
    if count <= 0:
        return ()
    rows = select(leases.c.log).where(leases.c.model != "", not_(_is_held(connection)))
    rows = rows.order_by(leases.c.log).limit(count).with_for_update(skip_locked=True)
    return connection.scalars(rows).all()


def _logs(connection: Connection, which: ColumnElement[bool]) -> tuple[PartitionLog, ...]:
    query = select(leases.c.log, leases.c.model, leases.c.number).where(which)
    rows = connection.execute(query.order_by(leases.c.model, leases.c.number))
    return tuple(PartitionLog(*row) for row in rows)
