"""What `understudy doctor` looks at in the ledger's database. Nothing in it is changed.

The schema is not brought up to date, as opening a ledger would do; what must be allowed is tried
with a table that is removed again.
"""

from __future__ import annotations

import sqlite3
import time  # noqa: TID251 - how long a write takes is measured, nothing is decided by it
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy import Connection, Engine, inspect, text

from controller.core.model.checks import Finding, failed, fine, of_error, skew, speed, warning
from controller.errors import BackendError, InvariantError, UnderstudyError
from controller.ledger.database import bare_engine, mapped_errors, reading, schema_of, writing
from controller.ledger.tables import decisions, terms

_OLDEST_POSTGRESQL: Final = 13
_OLDEST_SQLITE: Final = (3, 35)
_UNREACHABLE: Final = "see that it runs, and that address, user, password and database are right"
_WRITES: Final = 5

_SYNCED: Final = frozenset({"on", "remote_write", "remote_apply", "local"})


def check_ledger(url: str, clock: Callable[[], float]) -> Iterator[Finding]:
    """Everything that can be seen of the ledger at `url`; `clock` gives epoch seconds."""
    try:
        engine = bare_engine(url)
    except BackendError as exc:
        yield of_error("ledger", exc, "give sqlite:///PATH or postgresql+psycopg://…")
        return
    try:
        if engine.dialect.name == "sqlite":
            yield from _sqlite(engine)
        else:
            yield from _postgresql(engine, clock)
    except (BackendError, InvariantError) as exc:
        yield of_error("ledger", exc, _UNREACHABLE)
    finally:
        engine.dispose()


def _sqlite(engine: Engine) -> Iterator[Finding]:
    file = Path(str(engine.url.database))
    found = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        yield failed("ledger: version", found, "use a Python whose SQLite is 3.35 or newer")
    else:
        yield fine("ledger: version", found)
    if file.exists():
        with mapped_errors(), reading(engine) as connection:
            yield fine("ledger", f"{file}")
            yield from _schema(connection)
    else:
        yield fine("ledger", f"{file} is not there yet; serve makes it")
    yield _beside(file)


def _beside(file: Path) -> Finding:
    """Write to a database beside the real one, so that nobody waits for its lock."""
    nearest = next(each for each in file.absolute().parents if each.is_dir())
    other = nearest / f".doctor-{uuid4().hex}.db"
    engine = bare_engine(f"sqlite:///{other}")
    try:
        return _written(engine)
    finally:
        engine.dispose()
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                other.with_name(other.name + suffix).unlink()


def _postgresql(engine: Engine, clock: Callable[[], float]) -> Iterator[Finding]:
    with mapped_errors(), reading(engine) as connection:
        yield fine("ledger", engine.url.set(query={}).render_as_string(hide_password=True))
        yield from _server(connection)
        before = clock()
        theirs = connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())"))
        ours = (before + clock()) / 2
        yield skew("ledger: clock", theirs=float(theirs or 0), ours=ours, whose="PostgreSQL")
        yield from _schema(connection)
        yield from _rights(connection)
    yield _written(engine)


def _server(connection: Connection) -> Iterator[Finding]:
    version = str(connection.scalar(text("SHOW server_version")))
    if int(version.partition(".")[0].partition(" ")[0]) < _OLDEST_POSTGRESQL:
        yield failed("ledger: version", f"PostgreSQL {version}", "use PostgreSQL 13 or newer")
    else:
        yield fine("ledger: version", f"PostgreSQL {version}")
    if connection.scalar(text("SELECT pg_is_in_recovery()")):
        remedy = "give the address of the primary"
        yield failed("ledger: role", "it is a standby, which takes no writes", remedy)
    names = ("fsync", "synchronous_commit", "full_page_writes")
    found = {name: str(connection.scalar(text(f"SHOW {name}"))) for name in names}
    shown = ", ".join(f"{name} {value}" for name, value in found.items())
    check = "ledger: durability"
    if found["fsync"] != "on" or found["full_page_writes"] != "on":
        remedy = "set fsync and full_page_writes to on: a power cut would damage it"
        yield failed(check, shown, remedy)
    elif found["synchronous_commit"] not in _SYNCED:
        remedy = "set synchronous_commit to on: a power cut would take decisions that were acted on"
        yield failed(check, shown, remedy)
    else:
        yield fine(check, shown)


def _schema(connection: Connection) -> Iterator[Finding]:
    schema, check = schema_of(connection), "ledger: schema"
    if not schema.found:
        yield fine(check, "there are no tables yet; serve makes them")
    elif schema.found == {schema.head}:
        yield fine(check, f"revision {schema.head}, the newest")
        yield _leader(connection)
    elif unknown := sorted(schema.found - schema.known):
        found = f"revision {', '.join(unknown)}, of a newer Understudy; this knows {schema.head}"
        yield failed(check, found, "run that version, or restore a ledger from before the upgrade")
    else:
        found = f"revision {', '.join(sorted(schema.found))}; this version has {schema.head}"
        yield warning(check, found, "make a backup: serve brings it up to date when it starts")


def _leader(connection: Connection) -> Finding:
    row = connection.execute(terms.select().order_by(terms.c.number.desc()).limit(1)).one_or_none()
    if row is None or row.number == 0:
        return fine("ledger: term", "no controller has led yet")
    return fine("ledger: term", f"{row.holder} leads, or led last, in term {row.number}")


def _rights(connection: Connection) -> Iterator[Finding]:
    """What may be done with tables that are there, which others may have made."""
    if not inspect(connection).has_table(decisions.name):
        return
    query = text("SELECT has_table_privilege(:table, :right)")
    missing = [
        f"{right} on {table}"
        for table in sorted(decisions.metadata.tables)
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
        if inspect(connection).has_table(table)
        and not connection.scalar(query, {"table": table, "right": right})
    ]
    if missing:
        found = f"it lacks {', '.join(missing)}"
        yield failed("ledger: rights", found, "grant them, or make the user the tables' owner")


def _written(engine: Engine) -> Finding:
    """Make a table, write to it, and remove it."""
    name, check = f"understudy_doctor_{uuid4().hex}", "ledger: write"
    try:
        with mapped_errors(), writing(engine) as connection:
            connection.execute(text(f"CREATE TABLE {name} (n INTEGER)"))
        began = time.perf_counter()
        for number in range(_WRITES):
            with mapped_errors(), writing(engine) as connection:
                connection.execute(text(f"INSERT INTO {name} VALUES (:n)"), {"n": number})  # noqa: S608 - our own name
        took = (time.perf_counter() - began) / _WRITES
        with mapped_errors(), writing(engine) as connection:
            connection.execute(text(f"DROP TABLE {name}"))
    except UnderstudyError as exc:
        remedy = "grant CREATE on the schema; see to its disk"
        return failed(check, str(exc).partition("\n")[0], remedy)
    return speed(check, took, of="a transaction")
