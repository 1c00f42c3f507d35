"""A log that forgets: nothing that is decided changes, and nothing that is needed goes."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from controller.bootstrap.folder import log_lines, verify
from controller.core.policy import parse
from controller.core.record import canonical, decision_document
from controller.errors import Permanent
from controller.ledger import Limits
from controller.ledger.codec import encode
from controller.loop import wheel as turning
from controller.loop.fold import derive
from controller.loop.origin import first_kept, oldest, state_of
from controller.loop.wheel import Wheel
from controller.settings import StoreUrls
from tests.core.logs import Log, Traffic, drive
from tests.loop.home import DOCUMENT, Home

RETAIN_S = 20.0


def urls(folder: Path) -> StoreUrls:
    return StoreUrls(f"sqlite:///{folder}/events.db", f"sqlite:///{folder}/ledger.db")


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """Two minutes with a candidate, interrupted by operators, and rewards that wait in vain."""
    log = Log()
    log.tick(0)
    log.version(1, endpoints=["127.0.0.1:9002"])
    traffic = Traffic({"v1": 0.3, "v2": 0.3}, rate=15)
    drive(parse(DOCUMENT, "m.yaml"), log, traffic, seconds=120, seed=2)
    made, time = [], 0.0
    commands = [(60, "pause"), (70, "resume"), (90, "pause"), (100, "resume")]
    for i, line in enumerate(log.lines):
        made.append(line)
        time = max(time, json.loads(line)["time"])
        while commands and time > commands[0][0]:
            made.append(
                b'{"type":"command","time":%d,"model":"m","command":"%s","by":"a","reason":""}'
                % (commands[0][0], commands[0][1].encode())
            )
            del commands[0]
        if i % 40 == 7:
            made.append(
                b'{"type":"reward","time":%f,"model":"m","request_id":"none-%d","id":"o%d",'
                b'"name":"click","value":1}' % (time, i, i)
            )
    return made


@pytest.fixture
def make(tmp_path):
    homes: list[Home] = []

    def make(name: str, retain_s: float | None = RETAIN_S) -> Home:
        homes.append(Home(tmp_path / name, DOCUMENT, Limits(retain_s)))
        return homes[-1]

    yield make
    for each in homes:
        each.close()


def trim(home: Home) -> int:
    """What the wheel does now and then; gives where the log begins."""
    home.stream.append({}, trim=home.ledger.log_needs())
    return first_kept(home.stream, "m")


def letters(home: Home) -> list[tuple[int, str, str]]:
    return [(e.offset, e.reason, e.event) for e in home.ledger.dead_letters("m")]


def run(home: Home, lines: list[bytes], rng: Random, *, trims: bool) -> None:
    """Appends of any size; every fifth one, the controller is gone after it and another begins."""
    fold = home.fold()
    at = 0
    while at < len(lines):
        end = at + rng.randint(1, 100)
        home.append(lines[at:end])
        at = end
        fold.turn()
        if trims and rng.random() < 0.3:
            trim(home)
        if rng.random() < 0.2:
            fold = home.fold()
    fold.turn()
    fold.snapshot()


@pytest.mark.parametrize("seed", range(2))
def test_a_trimmed_log_leads_to_what_the_whole_one_leads_to_through_any_crash(make, lines, seed):
    whole, cut = make("whole", None), make("cut")
    run(whole, lines, Random(seed), trims=False)
    run(cut, lines, Random(seed), trims=True)
    begins = trim(cut)
    assert len(lines) / 2 < begins < len(lines)
    assert cut.written == whole.written
    assert len(cut.written) > 3
    assert letters(cut) == letters(whole)
    assert len(letters(whole)) > 50
    assert cut.fold().turn().report == whole.fold().turn().report


def test_a_fold_that_begins_at_the_base_still_has_the_text_of_rewards_that_waited_then(make, lines):
    whole, cut = make("whole", None), make("cut")
    run(whole, lines, Random(0), trims=False)
    fold, waited = cut.fold(), 0
    for start in range(0, len(lines), 7):
        cut.append(lines[start : start + 7])
        fold.turn()
        needs = trim(cut)
        base = cut.ledger.beginning("m").base
        if start % 28 == 0 and needs < base - 3:
            cut.sql("update snapshots set state = x'5553' where offset > :base", base=base)
            fold = cut.fold()
            waited += 1
    fold.turn()
    assert waited > 5
    assert cut.written == whole.written
    assert letters(cut) == letters(whole)


def test_the_log_reaches_back_for_as_long_as_it_was_asked_to_and_little_longer(make, lines):
    home = make("m")
    fold = home.fold()
    for start in range(0, len(lines), 30):
        home.append(lines[start : start + 30])
        clock = fold.turn().state.clock
        kept = [json.loads(line)["time"] for _, line in numbered(home, trim(home))]
        reach = clock - min(kept)
        assert reach >= min(RETAIN_S, clock)
        # A quarter for the rungs, and what a snapshot and a block are apart.
        assert reach <= RETAIN_S * 1.25 + 30


def numbered(home: Home, start: int) -> list[tuple[int, bytes]]:
    blocks = home.stream.read("m", start)
    return [(b.start + i, line) for b in blocks for i, line in enumerate(b.lines)]


def test_verify_tells_what_it_derived_and_what_lies_before_the_log(make, lines, tmp_path):
    home = make("m")
    run(home, lines, Random(1), trims=True)
    trim(home)
    base = oldest(home.ledger, "m")
    assert base is not None
    found = verify(urls(tmp_path / "m"), "m")
    assert found.faults == ()
    assert found.before == base.decisions > 0
    assert found.derived + found.before == len(home.written)
    again = [canonical(decision_document(d)) for d in derive(home.ledger, home.stream, "m")]
    assert again == home.written[base.decisions :]
    printed = [line for block in log_lines(urls(tmp_path / "m"), "m") for line in block]
    assert printed == [line for _, line in numbered(home, first_kept(home.stream, "m"))]


def test_verify_still_finds_what_was_changed_on_either_side_of_the_beginning(make, lines, tmp_path):
    home = make("m")
    run(home, lines, Random(1), trims=True)
    last = len(home.written)
    home.sql("update decisions set reason = 'as I say' where number = 1")
    assert verify(urls(tmp_path / "m"), "m").faults == (
        "m: the chain of hashes is broken at decision 1",
    )
    home.sql("update decisions set reason = 'as I say' where number = :n", n=last)
    faults = verify(urls(tmp_path / "m"), "m").faults
    assert (f"m: decision {last} is not what the log leads to" in faults) is (
        last > verify(urls(tmp_path / "m"), "m").before
    )


def test_a_log_is_kept_whole_for_ever_where_that_was_asked_for(make, lines):
    home = make("m", None)
    run(home, lines, Random(1), trims=True)
    assert home.ledger.log_needs() == {}
    assert first_kept(home.stream, "m") == 0
    assert len(home.snapshots) == 2


def test_a_longer_retention_is_kept_from_then_on_and_a_base_stays_under_for_ever(
    make, lines, tmp_path
):
    half = len(lines) // 2
    home = make("m")
    run(home, lines[:half], Random(1), trims=True)
    base = oldest(home.ledger, "m").offset
    home.close()
    for retain_s in (None, 1_000.0):
        with closing(Home(tmp_path / "m", DOCUMENT, Limits(retain_s))) as later:
            at = later.fold().turn().state.offset
            run(later, lines[at : at + 500], Random(2), trims=True)
            assert later.snapshots[0] == base
            assert verify(urls(tmp_path / "m"), "m").faults == ()


def test_a_model_that_no_snapshot_is_left_of_is_held_with_the_reason_and_loses_nothing(make, lines):
    home = make("m")
    run(home, lines, Random(1), trims=True)
    kept = home.snapshots
    home.sql("update snapshots set state = x'5553'")
    for _ in range(2):
        with pytest.raises(
            Permanent, match=r"log was trimmed up to .* run the version of Understudy"
        ):
            home.fold().turn()
    assert home.snapshots == kept


def test_a_snapshot_from_before_a_field_was_added_is_read_with_its_default(make, lines):
    home = make("m")
    run(home, lines, Random(1), trims=False)
    _, blob = home.ledger.snapshot("m")
    state, _ = state_of(home.ledger, "m", blob)
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    older = {n: v for n, v in fields.items() if n not in {"previous", "intent", "waiting"}}
    older["joins"] = tuple(table.to_arrays() for table in state.joins)
    older["covariates"] = state.covariates.to_arrays()
    found, _ = state_of(home.ledger, "m", encode(older))
    assert (found.previous, found.intent, found.offset) == ("", None, state.offset)


def test_routers_can_be_told_of_arms_that_only_the_snapshot_knows(make, lines):
    home = make("m")
    run(home, lines, Random(1), trims=True)
    assert trim(home) > 2  # the version of v2 is gone from the log
    known = home.fold().last_known()
    assert known is not None
    assert known.endpoints["v2"] == ("127.0.0.1:9002",)
    home.sql("update snapshots set state = x'5553'")
    assert home.fold().last_known().split == known.split


# --- logs and ledgers that do not belong together -----------------------------------------------


def test_a_log_that_ends_before_the_ledger_is_held_and_never_decided_on_again(
    make, lines, tmp_path
):
    home = make("m")
    run(home, lines, Random(1), trims=False)
    before = home.written
    home.close()
    (tmp_path / "m" / "events.db").unlink()
    with closing(Home(tmp_path / "m", DOCUMENT)) as restored:
        restored.append(lines[: len(lines) // 2])
        for _ in range(2):
            with pytest.raises(Permanent, match=r"is older than the ledger.* from one backup"):
                restored.fold().turn()
        assert restored.written == before


def test_a_log_that_grew_again_after_it_was_restored_is_known_by_its_events(make, lines, tmp_path):
    home = make("m")
    run(home, lines, Random(1), trims=False)
    before = home.written
    home.close()
    (tmp_path / "m" / "events.db").unlink()
    with closing(Home(tmp_path / "m", DOCUMENT)) as restored:
        restored.append(lines[: len(lines) // 2])
        restored.append([b'{"type":"tick","time":%d}' % (500 + i) for i in range(len(lines))])
        with pytest.raises(Permanent, match="is not the one that the ledger has decided on"):
            restored.fold().turn()
        assert restored.written == before


def test_a_ledger_that_is_older_than_the_log_goes_on_and_decides_the_same(make, lines, tmp_path):
    home, whole = make("m"), make("whole")
    half = len(lines) // 2
    run(home, lines[:half], Random(1), trims=False)
    home.sql("vacuum into :f", f=str(tmp_path / "backup.db"))
    home.append(lines[half:])
    home.fold().turn()
    run(whole, lines, Random(2), trims=False)
    home.close()
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (tmp_path / "m" / name).unlink(missing_ok=True)
    (tmp_path / "backup.db").rename(tmp_path / "m" / "ledger.db")
    with closing(Home(tmp_path / "m", DOCUMENT)) as restored:
        assert len(restored.written) < len(whole.written)
        restored.fold().turn()
        assert restored.written == whole.written


def test_a_ledger_that_is_older_than_what_is_left_of_the_log_is_held(make, lines, tmp_path):
    home = make("m")
    run(home, lines[:300], Random(1), trims=False)
    home.sql("vacuum into :f", f=str(tmp_path / "backup.db"))
    run(home, lines[300:], Random(1), trims=True)
    begins = trim(home)
    home.close()
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (tmp_path / "m" / name).unlink(missing_ok=True)
    (tmp_path / "backup.db").rename(tmp_path / "m" / "ledger.db")
    with (
        closing(Home(tmp_path / "m", DOCUMENT)) as restored,
        pytest.raises(Permanent, match=f"the log begins at event {begins}: the ledger is older"),
    ):
        restored.fold().turn()


# --- when -----------------------------------------------------------------------------------------


def test_the_wheel_trims_once_a_minute_and_again_after_the_log_was_out_of_reach(make, lines):
    home = make("m")
    run(home, lines, Random(1), trims=False)
    now = [1_000.0]
    asked: list[float] = []
    append = home.stream.append

    def recorded(given, *, mark=None, trim=None):
        if trim:
            asked.append(now[0])
            if len(asked) == 2:
                raise OSError("the disk is gone")
        return append(given, mark=mark, trim=trim)

    home.stream.append = recorded
    wheel = Wheel(
        [home.fold()],
        stream=home.stream,
        ledger=home.ledger,
        router=Routers(),
        sources=[],
        clock=lambda: now[0],
        told=lambda _model, _turned: None,
        worried=lambda: None,
    )

    async def turns() -> None:
        for _ in range(150):
            await wheel._try_turn()
            if len(asked) == 2 and asked[-1] == now[0]:
                assert "the disk is gone" in wheel.troubles[turning.RETENTION]
            now[0] += 1
        assert wheel.troubles == {}

    asyncio.run(turns())
    # The first turn; a minute later, in vain, and so in the turn after it; a minute later.
    assert asked == [1_000, 1_060, 1_061, 1_121]
    assert first_kept(home.stream, "m") > 0


class Routers:
    """Routers that accept nothing."""

    async def publish(self, models):
        pass

    async def confirmed(self, _timeout_s):
        return {}

    def status(self):
        return {"connected": 0}
