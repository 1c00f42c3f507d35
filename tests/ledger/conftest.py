"""A real ledger in a real database, and decisions to write into it.

Tests run on every database that a ledger can be in, but for those that look into an SQLite file.
"""

import itertools
import shutil
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from controller.core.model import Decision, Phase, SetSplit, Split, Verdict
from controller.ledger import open_ledger
from tests.stores.postgres import Postgres

BACKENDS = ("sqlite", "postgresql")


def pytest_generate_tests(metafunc):
    """Whoever asks for the `path` of the file can only mean SQLite."""
    if "backend" in metafunc.fixturenames and "url" not in _parametrized(metafunc):
        known = BACKENDS[:1] if "path" in metafunc.fixturenames else BACKENDS
        metafunc.parametrize("backend", known)


def _parametrized(metafunc):
    marks = metafunc.definition.iter_markers("parametrize")
    return {name.strip() for mark in marks for name in str(mark.args[0]).split(",")}


@pytest.fixture(scope="session")
def postgres():
    with Postgres() as running:
        yield running


@pytest.fixture(scope="session")
def postgres_template(postgres):
    """The name of a database with an empty ledger: copying it is faster than migrating anew."""
    url = postgres.database()
    open_ledger(url, clock=lambda: 0.0).close()
    return url.rpartition("/")[2]


@pytest.fixture
def url(backend, request, tmp_path):
    """An address without a ledger yet."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return request.getfixturevalue("postgres").database()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def clock():
    """Seconds that count the calls: 1.0, 2.0, …"""
    return itertools.count(1.0).__next__


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """An empty ledger's file: copying it is faster than migrating anew."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    open_ledger(f"sqlite:///{path}", clock=lambda: 0.0).close()
    return path


@pytest.fixture
def made(backend, request, tmp_path):
    """The address of an empty ledger that is there already."""
    if backend == "sqlite":
        path = tmp_path / "ledger.db"
        shutil.copy(request.getfixturevalue("template"), path)
        return f"sqlite:///{path}"
    template = request.getfixturevalue("postgres_template")
    return request.getfixturevalue("postgres").database(template)


@pytest.fixture
def ledger(made, clock):
    opened = open_ledger(made, clock=clock)
    yield opened
    opened.close()


@contextmanager
def behind(url):
    """A connection behind the ledger's back."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def sql(made):
    """Runs SQL behind the back of `ledger`; gives the rows, if it gives any."""

    def run(statement, **values):
        with behind(made) as connection:
            done = connection.execute(text(statement), values)
            return [tuple(row) for row in done] if done.returns_rows else []

    return run


@pytest.fixture(scope="session")
def decide():
    """Makes the decision with a number; fields can be replaced."""

    def make(number, **changes):
        fields = {
            "number": number,
            "time": 1_000.25 + number,
            "offset": 10 * number,
            "model": "digits",
            "rollout": "digits-v2-1",
            "candidate": "v2",
            "stage": "canary",
            "step": 1,
            "phase": Phase.RAMPING,
            "verdict": Verdict.ADVANCE,
            "cause": "evidence",
            "reason": f"{number} of 400 outcomes",
            "epoch": number,
            "weights": {"v1": 9_500, "v2": 500},
            "evidence": {"lift": {"v2": [0.1, -0.25]}, "n": number},
            "evidence_digest": "e" * 64,
            "policy_digest": "p" * 64,
            "seed": 2**64 - number,
        }
        return Decision(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def split():
    """Makes the effect that sets the split of an epoch."""

    def make(epoch):
        weights = {"v2": 500, "v1": 9_500}
        return SetSplit(abs(epoch), Split(epoch, "v1", weights, "salt", ("v2",), {"v3": 100}))

    return make
