"""A start on what an earlier run left: snapshots that cannot be read cost time, nothing else."""

from __future__ import annotations

import zlib
from contextlib import closing
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from controller.core.model import SetSplit
from controller.core.policy import parse
from controller.core.record import canonical, decision_document
from controller.core.report import report
from controller.core.state import image
from controller.errors import InvariantError
from controller.ledger.codec import _HEADER, encode
from controller.ledger.parts import Cut, named_in
from controller.loop import fold as folding
from controller.loop.fold import derive
from controller.loop.origin import shown_of
from controller.stream import codec
from tests.core import compact
from tests.core.logs import Log, Traffic, drive
from tests.loop.home import DOCUMENT, Home


@pytest.fixture
def home(tmp_path):
    with closing(Home(tmp_path, DOCUMENT)) as made:
        yield made


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
    assert len(home.snapshots) == 3  # the two newest, and the first rung of a ladder of a day
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
    *_, first, last = home.snapshots
    home.sql("update snapshots set state = x'5553' where offset = :last", last=last)
    fold = home.fold()
    assert fold._last_snapshot().offset == first
    assert home.snapshots[-1] == first
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


def of_0_2_0(state: object) -> bytes:
    """The image that 0.2.0 wrote: format 1, tables with live rows only, nothing in parts."""
    written = image(state)
    joins = tuple(compact.to_arrays(table) for table in state.joins)
    covariates = {"unit": np.empty(0, np.uint64), "value": np.empty(0)}
    written = replace(written, joins=joins, covariates=covariates)
    body = msgspec.msgpack.Encoder(enc_hook=_array).encode(written)
    body = zlib.compress(body, 1)
    return _HEADER.pack(b"US", 1, 1, zlib.crc32(body)) + body


def _array(array: object) -> object:
    if not isinstance(array, np.ndarray):
        return array.item()
    name = array.dtype.str.encode()
    shape = b"".join(size.to_bytes(8, "big") for size in array.shape)
    head = bytes([len(name)]) + name + bytes([array.ndim]) + shape
    return msgspec.msgpack.Ext(1, head + array.tobytes())


def test_a_snapshot_of_0_2_0_is_read(home):
    """It must be: the log before it may have been trimmed."""
    lines, cut = begun(home)
    last = home.snapshots[-1]
    blob = of_0_2_0(home.fold()._last_snapshot())
    home.sql("delete from snapshots where offset < :last", last=last)
    home.sql("update snapshots set state = :blob, parts = null", blob=blob)
    assert home.fold()._last_snapshot().offset == last
    same_as_without_a_restart(home, lines, cut)


@pytest.fixture
def in_parts(monkeypatch):
    """Parts so small that also the tables of a test are kept in them."""
    monkeypatch.setattr(Cut, "size", 128)


def test_a_state_in_parts_goes_on_as_if_nothing_had_been(home, in_parts):
    lines, cut = begun(home)
    assert home.sql("select count(*) from snapshot_parts")[0][0] > 100
    same_as_without_a_restart(home, lines, cut)


def test_the_snapshot_before_is_read_where_a_part_is_missing(home, in_parts):
    lines, cut = begun(home)
    *before, first, last = home.snapshots
    named = dict(home.sql("select offset, parts from snapshots"))
    mine = named_in(named[last]) - named_in(named[first])
    home.sql("delete from snapshot_parts where digest = :d", d=mine.pop())
    assert home.fold()._last_snapshot().offset == first
    assert home.snapshots == [*before, first]
    rest = {row[0] for row in home.sql("select digest from snapshot_parts")}
    assert rest == set().union(*(named_in(named[offset]) for offset in [*before, first]))
    same_as_without_a_restart(home, lines, cut)


def test_a_second_snapshot_writes_little(home, in_parts):
    """Between the two only time has passed: all columns of the tables are as they were."""
    begun(home)
    fold = home.fold()
    fold.turn()
    before = {row[0] for row in home.sql("select digest from snapshot_parts")}
    fold.snapshot()
    after = {row[0] for row in home.sql("select digest from snapshot_parts")}
    assert after <= before


def test_what_a_standby_shows_is_what_the_leader_would_report(home, in_parts):
    begun(home)
    whole = home.fold()._last_snapshot()
    kept = home.ledger.snapshot("m")
    read = set()

    class Watched:
        def parts(self, model, digests):
            read.update(digests)
            return home.ledger.parts(model, digests)

    shown = shown_of(Watched(), "m", kept[1])
    assert report(home.source.policy, shown) == report(home.source.policy, whole)
    assert whole.joins[0].pending.any()
    named = home.sql("select parts from snapshots order by offset desc")[0][0]
    assert len(read) < len(named_in(named)) / 2


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


def test_events_that_wait_for_a_tick_do_not_lead_to_one_snapshot_after_another(home, monkeypatch):
    """A turn that is slow meets more of them, and each block would make it slower."""
    monkeypatch.setattr(folding, "SNAPSHOT_EVENTS", 100)
    lines = traffic(20)
    home.append(lines)
    fold = home.fold()
    fold.turn()
    written = []
    commit = home.ledger.commit

    def counted(model, **given):
        written.append(given.get("snapshot"))
        commit(model, **given)

    monkeypatch.setattr(home.ledger, "commit", counted)
    log = Log()
    for i in range(600):
        log.exposure(20.0, "v1", request_id=f"w{i}")
    for start in range(0, 600, 50):
        home.append(log.lines[start : start + 50])
    fold.turn()
    assert [each for each in written if each is not None] == []
    home.append([codec.tick_line(21.0)])
    fold.turn()
    assert len(written) == 1
