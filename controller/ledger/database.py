"""The database under the ledger: opening it, bringing it up to date, naming what goes wrong.

SQLite runs with a write-ahead log, `synchronous=FULL` (a commit that returned survives a power cut)
and enforced foreign keys. Its driver's own idea of when a transaction begins is switched off: we
say BEGIN IMMEDIATE where we mean to write, so that two writers queue at the door instead of failing
in the middle.

PostgreSQL (tested with 15) writes at READ COMMITTED, whatever its own default is: after waiting for
a lock, the next statement must see what the other left (see `terms`). It reads at REPEATABLE READ.
A session that sits in the middle of a transaction is ended by the server in seconds: behind it may
be a controller that was suspended, and another one waits. Its address may name several hosts, of
which the one that can be written to is used: a primary and the standbys that may take over.

All above this module is the same for both.

A database is migrated when it is opened, in one transaction: a crash in the middle leaves the old
schema, and of two controllers that start at once the second waits. One that is newer than this
code is refused, since writing to it could damage it.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Table, create_engine, event, exc, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection

from controller.errors import BackendError, InvariantError, Permanent, Retryable

IDLE_S = 3
"""How long a transaction may do nothing, on PostgreSQL, before the server ends it."""

_BUSY_S = 5.0
_READONLY = "readonly"
_MIGRATION_LOCK = 0x756E_6465_7273_7479
"""What controllers that start at once queue for: `understy`, read as a number."""

_POSTGRESQL: dict[str, int] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
}
"""A server that vanished without a word is noticed in seconds."""

_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
_EXPECTED = "sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE"


_TRANSIENT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""SQLite's primary result codes that time, or an operator with a bigger disk, can mend."""


def open_engine(url: str) -> Engine:
    """An engine whose database has the newest schema.

    Raises:
        Retryable: the database is out of reach.
        Permanent: it is damaged, newer than this code, or the URL names nothing durable.
    """
    parsed = _parse(url)
    engine = bare_engine(url)
    try:
        with mapped_errors(), writing(engine) as connection:
            _upgrade(connection, _known_as(parsed))
    except BackendError:
        engine.dispose()
        raise
    return engine


def bare_engine(url: str) -> Engine:
    """An engine whose database is as it is: not looked at, and not brought up to date.

    Raises:
        Permanent: the URL names nothing durable, or there is no driver for it.
    """
    engine = _engine(_parse(url))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", _prepare_postgresql)
    return engine


@dataclass(frozen=True, slots=True)
class Schema:
    """The revisions of a database: those that it has, the newest, and all that are known."""

    found: frozenset[str]
    head: str | None
    known: frozenset[str]


def schema_of(connection: Connection) -> Schema:
    """Which revision the database is of; it has none before its tables are made."""
    script = ScriptDirectory.from_config(alembic_config(connection))
    return Schema(
        found=frozenset(MigrationContext.configure(connection).get_current_heads()),
        head=script.get_current_head(),
        known=frozenset(revision.revision for revision in script.walk_revisions()),
    )


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write: committed at the end, rolled back by any exception."""
    with engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: a consistent view, which blocks no writer."""
    options: dict[str, object] = {_READONLY: True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect() as plain:
        connection = plain.execution_options(**options)
        with connection.begin():
            yield connection


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Turns the database's exceptions, and those of preparing a connection, into ours."""
    try:
        yield
    except (exc.SQLAlchemyError, sqlite3.Error) as error:
        raise translated(error) from error


def translated(error: exc.SQLAlchemyError | sqlite3.Error) -> BackendError | InvariantError:
    """Our exception for one of the database's: is it worth trying again, is it our own fault."""
    origin = error.orig if isinstance(error, exc.DBAPIError) else error
    message = f"ledger: {origin}"
    if isinstance(error, exc.TimeoutError) or _is_disconnected(error):
        return Retryable(message)
    if isinstance(error, exc.IntegrityError):
        return InvariantError(message)
    if isinstance(origin, sqlite3.Error):
        code = getattr(origin, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        return Retryable(message) if code in _TRANSIENT else Permanent(message)
    if isinstance(error, (exc.OperationalError, exc.InterfaceError)):
        return Retryable(message)
    return Permanent(message)


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for an open connection; there is no alembic.ini."""
    config = Config()
    location = str(files("controller.ledger") / "migrations")
    config.set_main_option("script_location", location.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _parse(url: str) -> URL:
    try:
        parsed = make_url(_with_hosts_apart(url))
    except (exc.ArgumentError, ValueError) as error:
        # The address stays out of the message: it may hold a password.
        raise Permanent(f"ledger: found no database URL, expected {_EXPECTED}") from error
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in _DRIVERS:
        raise Permanent(
            f"ledger: found an address with the scheme {parsed.drivername!r}, expected {_EXPECTED}"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise Permanent(f"the ledger must be durable; {url!r} names a database in memory")
    return parsed


def _with_hosts_apart(url: str) -> str:
    """The same address, in SQLAlchemy's words where it has several hosts, as libpq may write it.

    Of several, one that can be written to is wanted: a standby takes over, or has. Raises
    `ValueError` where a host is none.
    """
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts or not parts.scheme.startswith("postgresql"):
        return url
    if not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        raise ValueError(hosts)
    query = [*(("host", host) for host in hosts.split(",")), *parse_qsl(parts.query)]
    if not any(name == "target_session_attrs" for name, _ in query):
        query.append(("target_session_attrs", "read-write"))
    return f"{parts.scheme}://{login}{at}{parts.path}?{urlencode(query, safe=':[]')}"


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            return create_engine(url, connect_args={"timeout": _BUSY_S})
        given = {name: value for name, value in _POSTGRESQL.items() if name not in url.query}
        return create_engine(
            url, connect_args=given, isolation_level="READ COMMITTED", pool_pre_ping=True
        )
    except ImportError as error:
        raise Permanent(
            f"ledger: no driver for {url.drivername} ({error}): install understudy[cluster]"
        ) from error


def _known_as(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _upgrade(connection: Connection, name: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    schema = schema_of(connection)
    if schema.found == {schema.head}:
        return
    if unknown := schema.found - schema.known:
        raise Permanent(
            f"the ledger {name} was written by a newer Understudy: its schema is "
            f"{', '.join(sorted(unknown))}, this version knows up to {schema.head}. "
            "Run that version, or restore a ledger from before the upgrade."
        )
    command.upgrade(alembic_config(connection), "head")


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _prepare_postgresql(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = {round(_BUSY_S * 1000)}")
    cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_S * 1000}")
    cursor.close()
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    mode = "DEFERRED" if connection.get_execution_options().get(_READONLY) else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")


def _is_disconnected(error: Exception) -> bool:
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows that are not there yet: the one statement that the dialects spell apart."""
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
