"""A start on what an earlier run left: snapshots that cannot be read cost time, nothing else."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import create_engine, text

from controller.core.model import SetSplit
from controller.core.policy import parse
from controller.core.record import canonical, decision_document
from controller.core.state import image
from controller.errors import InvariantError
from controller.ledger import open_ledger
from controller.ledger.codec import _HEADER, encode
from controller.loop.fold import Fold, PolicySource, derive
from controller.stream import open_stream
from tests.core.logs import Log, Traffic, drive


class Home:
    """A state folder with a log and a ledger, opened anew by each `fold`."""

    def __init__(self, folder: Path, document: str) -> None:
        self.database = f"sqlite:///{folder}/ledger.db"
        self.stream = open_stream(f"sqlite:///{folder}/events.db")
        self.ledger = open_ledger(self.database, clock=lambda: 0.0)
        self.source = PolicySource(parse(document, "m.yaml"), document)

    def close(self) -> None:
        self.stream.close()
        self.ledger.close()

    def fold(self) -> Fold:
        return Fold(self.source, self.stream, self.ledger)

    def append(self, lines: list[bytes]) -> None:
        self.stream.append({"m": lines})

    def sql(self, statement: str, **values: object) -> list[tuple[object, ...]]:
        engine = create_engine(self.database)
        with engine.begin() as connection:
            found = connection.execute(text(statement), values)
            rows = [tuple(row) for row in found] if found.returns_rows else []
        engine.dispose()
        return rows

    @property
    def snapshots(self) -> list[int]:
        return [int(row[0]) for row in self.sql("select offset from snapshots order by offset")]

    @property
    def written(self) -> list[str]:
        return [canonical(decision_document(d)) for d in self.ledger.decisions("m")]


@pytest.fixture
def home(tmp_path):
    with closing(Home(tmp_path, DOCUMENT)) as made:
        yield made


DOCUMENT = """
apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: m}
spec:
  route: {prefix: /m/}
  champion: {version: v1}
  reward: {event: click, window: 10s, grace: 5s}
  guardrails: [{metric: error_rate, max_increase: 1%}]
  gates: {cooldown: 0s}
  stages:
    - canary: {steps: [10%, 50%], min_duration: 10s, min_outcomes: 20, margin: 5%, budget: 100%}
"""


def traffic(seconds: float) -> list[bytes]:
    log = Log()
    log.tick(0)
    log.version(1)
    means = {"v1": 0.3, "v2": 0.3}
    drive(parse(DOCUMENT, "m.yaml"), log, Traffic(means, rate=15), seconds=seconds, seed=2)
    return log.lines


def begun(home: Home) -> tuple[list[bytes], int]:
    """A run that ended with two snapshots in the middle of a log; how much it has folded."""
    lines = traffic(120)
    cut = len(lines) * 2 // 3
    fold = home.fold()
    for start in range(0, cut, 200):
        home.append(lines[start : min(start + 200, cut)])
        fold.turn()
    fold.snapshot()
    assert len(home.snapshots) == 2
    return lines, cut


def same_as_without_a_restart(home: Home, lines: list[bytes], cut: int) -> None:
    home.append(lines[cut:])
    told = home.fold().turn()
    whole = list(derive(home.ledger, home.stream, "m"))
    assert home.written == [canonical(decision_document(d)) for d in whole]
    assert len(whole) > 3
    assert told.state.offset == len(lines)


def of_an_older_version(state: object) -> bytes:
    """The image that 0.1.0 wrote: one joiner, and neither several rewards nor covariates."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    joins = fields.pop("joins")
    for name in ("covariates", "sums", "steering", "join_rate", "rewards"):
        del fields[name]
    return encode(fields | {"join": joins[0]})


def test_the_log_is_folded_where_every_snapshot_is_of_an_older_version(home):
    lines, cut = begun(home)
    blob = of_an_older_version(image(home.fold().turn().state))
    home.sql("update snapshots set state = :blob", blob=blob)
    before = home.written
    same_as_without_a_restart(home, lines, cut)
    assert home.written[: len(before)] == before
    assert home.snapshots


def test_the_snapshot_before_is_read_where_the_newest_is_damaged(home):
    lines, cut = begun(home)
    first, last = home.snapshots
    home.sql("update snapshots set state = x'5553' where offset = :last", last=last)
    fold = home.fold()
    assert fold._last_snapshot().offset == first
    assert home.snapshots == [first]
    same_as_without_a_restart(home, lines, cut)


def test_a_snapshot_whose_tables_are_of_another_shape_is_passed_over(home):
    """The joiners' tables are plain arrays by name, so only reading them shows what is missing."""
    lines, cut = begun(home)
    for offset in home.snapshots:
        blob = home.sql("select state from snapshots where offset = :o", o=offset)[0][0]
        assert isinstance(blob, bytes)
        body = msgspec.msgpack.decode(blob[_HEADER.size :])
        for table in body["joins"]:
            del table["clock"]
        home.sql("update snapshots set state = :b where offset = :o", b=encode(body), o=offset)
    assert home.fold()._last_snapshot() is None
    assert home.snapshots == []
    same_as_without_a_restart(home, lines, cut)


def test_snapshots_that_can_be_read_stay(home):
    lines, cut = begun(home)
    kept = home.snapshots
    assert home.fold()._last_snapshot().offset == kept[-1]
    assert home.snapshots == kept
    same_as_without_a_restart(home, lines, cut)


def test_a_log_that_leads_elsewhere_in_this_version_holds_and_says_by_whom_it_was_decided(home):
    """No snapshot, and a decision that this code does not derive: nothing is written over."""
    begun(home)
    home.sql("delete from snapshots")
    home.sql("update decisions set reason = 'as it was', code_version = '0.1.0' where number = 2")
    before = home.written
    with pytest.raises(InvariantError, match=r"decision 2 stands as .* made by version 0\.1\.0"):
        home.fold().turn()
    assert home.written == before
    pending = home.ledger.pending_effects("m")
    assert all(isinstance(each.effect, SetSplit) for each in pending)
