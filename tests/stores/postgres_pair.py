"""A PostgreSQL of our own that may fail over: a primary, and a standby that has every commit."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

import psycopg

from tests.processes import until
from tests.stores.postgres import Postgres

_NAME = "understudy"


class Pair:
    """Synchronous replication: a commit that returned is on both."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.primary = Postgres(synchronous_standby_names=_NAME)

    def start(self) -> Self:
        """Ready for connections, and to fail over."""
        self._stack.enter_context(self.primary)
        self._commit("local")  # until there is a standby
        self.standby = self._stack.enter_context(self.primary.standby(_NAME))
        self._commit("on")
        until("the standby is synchronous", self._is_synchronous)
        return self

    def database(self) -> str:
        """The address of a new database on both."""
        both = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return self.primary.database().replace(f"127.0.0.1:{self.primary.port}", both)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _commit(self, where: str) -> None:
        self.primary.run(f"ALTER SYSTEM SET synchronous_commit = '{where}'")
        self.primary.run("SELECT pg_reload_conf()")

    def _is_synchronous(self) -> bool:
        where = f"host=127.0.0.1 port={self.primary.port} user=understudy dbname=postgres"
        with psycopg.connect(where) as connection:
            rows = connection.execute("SELECT sync_state FROM pg_stat_replication").fetchall()
        return rows == [("sync",)]
