"""A real ledger in a real file, and decisions to write into it."""

import itertools
import shutil

import pytest

from controller.core.model import Decision, Phase, SetSplit, Split, Verdict
from controller.ledger import open_ledger


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/ledger.db"


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
def ledger(url, path, template, clock):
    shutil.copy(template, path)
    opened = open_ledger(url, clock=clock)
    yield opened
    opened.close()


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
