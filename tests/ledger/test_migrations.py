"""The schema: the same by migration as by metadata, and back again."""

import multiprocessing
import sqlite3
from contextlib import closing

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from controller.errors import Permanent
from controller.ledger import open_ledger
from controller.ledger.database import alembic_config, open_engine, reading, writing
from controller.ledger.tables import metadata


@pytest.fixture
def engine(url):
    opened = open_engine(url)
    yield opened
    opened.dispose()


def tables(engine):
    return set(inspect(engine).get_table_names())


def test_migrations_and_metadata_describe_the_same_tables(engine):
    with reading(engine) as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_primary_keys_and_names_of_constraints_agree_too(engine, path, tmp_path):
    """Autogenerate does not look at these on SQLite."""
    assert path.exists()
    direct = create_engine(f"sqlite:///{tmp_path}/direct.db")
    metadata.create_all(direct)
    migrated, described = inspect(engine), inspect(direct)
    for table in metadata.tables:
        for aspect in ("get_pk_constraint", "get_foreign_keys", "get_indexes"):
            assert getattr(migrated, aspect)(table) == getattr(described, aspect)(table), table
    direct.dispose()


def test_every_revision_goes_down_and_up_again(engine):
    with writing(engine) as connection:
        config = alembic_config(connection)
        revisions = list(ScriptDirectory.from_config(config).walk_revisions())
        for revision in revisions:
            command.downgrade(config, str(revision.down_revision or "base"))
    assert tables(engine) == {"alembic_version"}
    with writing(engine) as connection:
        command.upgrade(alembic_config(connection), "head")
    assert tables(engine) == {"alembic_version", *metadata.tables}


def test_opening_again_leaves_the_database_as_it_is(url, clock, path, decide):
    first = open_ledger(url, clock=clock)
    first.commit("digits", decisions=[(decide(1), ())])
    first.close()
    before = path.read_bytes()
    open_ledger(url, clock=clock).close()
    assert path.read_bytes() == before


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(url, clock, path):
    open_ledger(url, clock=clock).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Permanent, match=r"newer Understudy: its schema is 9999.*knows up to 0005"):
        open_ledger(url, clock=clock)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM alembic_version").fetchall() == [("9999",)]


def test_a_migration_that_fails_half_way_leaves_nothing(url, path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE intake_rejections (x)")  # in the way of the last table
    with pytest.raises(Permanent, match="already exists"):
        open_engine(url)
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert found == [("intake_rejections",)]


def _open(url, opened):
    open_ledger(url, clock=lambda: 0.0).close()
    opened.put(True)


def test_processes_that_open_a_new_ledger_at_once_all_succeed(url, tmp_path):
    fork = multiprocessing.get_context("fork")
    opened = fork.Queue()
    children = [fork.Process(target=_open, args=(url, opened)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]


def test_sqlite_is_durable_and_keeps_its_references(engine, path):
    assert path.exists()
    settings = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    with reading(engine) as connection:
        for name, value in settings.items():
            assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value
