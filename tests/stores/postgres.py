"""A PostgreSQL of our own: an instance in a folder, on a free port, that ends with the tests."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import psycopg

from tests.processes import Child, free_port, until

INSTALLED = Path("/usr/lib/postgresql")
NOT_INSTALLED = "PostgreSQL is not installed: run `make services`"


class Postgres:
    """One instance; `database` makes a database in it. Use as a context.

    It does not sync to the disk: what these tests kill is its clients, and once itself, but never
    the machine. PostgreSQL refuses to run as root, so root runs it as the package's own user.
    `standby` gives an instance that follows this one; `settings` are PostgreSQL's.
    """

    def __init__(self, **settings: object) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-postgres-"))
        self._prefix: tuple[str, ...] = ()
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self._folder, account.pw_uid, account.pw_gid)
            self._prefix = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        self.port = free_port()
        self._names = itertools.count(1)
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 60,
            "shared_buffers": "32MB",
        } | settings
        given = (f"--{name}={value}" for name, value in options.items())
        self._server = Child(
            "postgres",
            (program("postgres"), "-D", self._folder / "data", *given),
            self._folder / "log",
            self._prefix,
        )

    def start(self) -> Self:
        """Ready for connections; made at the first start."""
        if not (self._folder / "data").exists():
            options = ("-U", "understudy", "-E", "UTF8", "--locale=C", "-A", "trust", "-N")
            self._do("initdb", "-D", self._folder / "data", *options)
        until("PostgreSQL answers", self._has_started, every_s=0.02)
        return self

    def start_again(self) -> None:
        """Start it if it was killed."""
        if not self._server.is_running:
            self.start()

    def standby(self, name: str) -> Postgres:
        """An instance that follows this one, made but not started; see `application_name`."""
        other = Postgres()
        where = f"host=127.0.0.1 port={self.port} user=understudy application_name={name}"
        data = other._folder / "data"
        other._do(
            "pg_basebackup", "-D", data, "-d", where, "-R", "-c", "fast", "-N", "-X", "stream"
        )
        return other

    def promote(self) -> None:
        """A standby takes over."""
        with self._connection() as connection:
            connection.execute("SELECT pg_promote()")

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children see that it is gone."""
        self._server.stop()

    def stop(self) -> None:
        """End at once, as in a crash."""
        if self._server.is_running:
            self._server.signal(signal.SIGQUIT)
            until("PostgreSQL has ended", lambda: not self._server.is_running)

    @property
    def pid(self) -> int:
        """The server's own process; those of its connections are its children."""
        return self._server.pid

    def database(self, template: str = "template1") -> str:
        """The address of a new database, a copy of another one."""
        name = f"d{next(self._names)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"postgresql+psycopg://understudy:not-asked-for@127.0.0.1:{self.port}/{name}"

    def run(self, statement: str) -> None:
        """Run a statement as the administrator, outside of a transaction."""
        with self._connection() as connection:
            connection.execute(statement.encode())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _connection(self) -> psycopg.Connection[tuple[object, ...]]:
        where = f"host=127.0.0.1 port={self.port} user=understudy dbname=postgres"
        return psycopg.connect(where, autocommit=True)

    def _do(self, name: str, *arguments: object) -> None:
        command = [*self._prefix, str(program(name)), *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder)

    def _has_started(self) -> bool:
        if not self._server.is_running:  # after a kill, until the last of its children has gone
            self._server.start()
        try:
            self._connection().close()
        except psycopg.OperationalError:
            return False
        return True


def program(name: str) -> Path:
    """One of PostgreSQL's programs, of the newest version that is installed."""
    found = sorted(INSTALLED.glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    assert found, NOT_INSTALLED
    return found[-1]
