"""What SQLite can do to us, and what we say then."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from controller.errors import Permanent, Retryable
from controller.stream import Mark, open_stream
from controller.stream import sqlite as module
from controller.stream.sqlite import SqliteStream


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def stream(path: Path) -> Iterator[SqliteStream]:
    stream = SqliteStream(path, busy_timeout_s=0.05)
    yield stream
    stream.close()


def events(stream: SqliteStream, model: str = "m") -> list[bytes]:
    first = stream.first(model)
    return [line for block in stream.read(model, first) for line in block.lines]


def test_a_relative_address_is_a_file_beside_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_stream("sqlite:///state/log.db").close()
    assert (tmp_path / "state" / "log.db").is_file()


def test_every_commit_is_synced(stream: SqliteStream) -> None:
    assert stream._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert stream._writer.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_full_disk_is_retryable_and_leaves_the_log_whole(stream: SqliteStream) -> None:
    stream.append({"m": [b"1"]}, mark=Mark("tail", "1"))
    pages = stream._writer.execute("PRAGMA page_count").fetchone()[0]
    stream._writer.execute(f"PRAGMA max_page_count = {pages}")
    incompressible = Random(3).randbytes(200_000).replace(b"\n", b"-")
    with pytest.raises(Retryable, match="make room on the disk") as caught:
        stream.append({"m": [b"2"], "n": [incompressible]}, mark=Mark("tail", "2"))
    assert caught.value.after_s > 0
    assert (events(stream), stream.mark("tail")) == ([b"1"], "1")
    stream._writer.execute("PRAGMA max_page_count = 100000")
    assert stream.append({"m": [b"2"], "n": [incompressible]}) == {"m": 1, "n": 0}


def test_a_lock_held_by_another_process_is_retryable(stream: SqliteStream, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Retryable, match="another process is writing"):
        stream.append({"m": [b"1"]})
    assert events(stream) == []
    other.execute("ROLLBACK")
    other.close()
    assert stream.append({"m": [b"1"]}) == {"m": 0}


def test_a_file_that_is_no_database_is_permanent_and_left_alone(path: Path) -> None:
    path.write_bytes(b"these are my holiday notes\n" * 100)
    with pytest.raises(Permanent, match="restore it from a backup"):
        SqliteStream(path)
    assert path.read_bytes().startswith(b"these are my holiday notes")


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipe (name TEXT)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(Permanent, match="another program's database"):
        SqliteStream(path)
    assert path.read_bytes() == before


def test_a_log_of_a_newer_understudy_is_refused(path: Path) -> None:
    SqliteStream(path).close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 3")
    newer.close()
    with pytest.raises(Permanent, match=r"found schema version 3, expected .* version 2"):
        SqliteStream(path)


def test_a_folder_in_place_of_the_file_is_permanent(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="see that the folder exists"):
        SqliteStream(tmp_path)


def test_a_file_in_place_of_the_folder_is_permanent(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(Permanent, match="name a folder that can be written"):
        SqliteStream(tmp_path / "state" / "events.db")


def test_overwritten_pages_are_permanent_and_never_a_plausible_event(path: Path) -> None:
    stream = SqliteStream(path)
    for i in range(200):
        stream.append({"m": [b"%d" % (i * k) for k in range(100)]})
    stream.close()
    damaged = bytearray(path.read_bytes())
    damaged[8_192:] = b"\xa5" * (len(damaged) - 8_192)
    path.write_bytes(damaged)
    with pytest.raises(Permanent, match="restore it from a backup"):
        events(SqliteStream(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE block SET body = x'00' WHERE start = 1", "block 1 of m: it can not be unpacked"),
        ("UPDATE block SET count = 3 WHERE start = 1", "found 2 of 3 events"),
        ("DELETE FROM block WHERE start = 1", "offset 1 of m is missing"),
    ],
)
def test_a_block_that_does_not_fit_is_permanent(
    stream: SqliteStream, path: Path, change: str, message: str
) -> None:
    for lines in ([b"1"], [b"2", b"3"], [b"4"]):
        stream.append({"m": lines})
    with sqlite3.connect(path) as other:
        other.execute(change)
    other.close()
    with closing(SqliteStream(path)) as again, pytest.raises(Permanent, match=message):
        events(again)


def test_a_copy_made_between_appends_is_a_whole_log(stream: SqliteStream, path: Path) -> None:
    stream.append({"m": [b"1", b"2"]})
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{path}.copy{suffix}")
    copy = SqliteStream(f"{path}.copy")
    assert events(copy) == [b"1", b"2"]
    copy.close()


# --- trimming ---------------------------------------------------------------------------------


def test_the_file_stays_bounded_under_appends_and_trims(path: Path, stream: SqliteStream) -> None:
    rng = Random(7)
    sizes = []
    for i in range(400):
        line = rng.randbytes(20_000).replace(b"\n", b"-")
        stream.append({"m": [line, b"%d" % i]}, trim={"m": 2 * (i - 20)} if i % 10 == 9 else None)
        sizes.append(path.stat().st_size + path.with_name(f"{path.name}-wal").stat().st_size)
    assert len(events(stream)) <= 60
    # 400 appends of 20 kB are 8 MB; 30 of them were ever kept, and the WAL turns over at 4 MB.
    assert max(sizes) < 6_000_000
    assert max(sizes[200:]) <= max(sizes[:200])


def test_a_log_from_before_trimming_is_taken_over(path: Path) -> None:
    stream = SqliteStream(path)
    stream.append({"m": [b"1", b"2"]})
    stream.close()
    with sqlite3.connect(path) as older:
        older.execute("DROP TABLE trimmed")
        older.execute("PRAGMA user_version = 1")
    older.close()
    stream = SqliteStream(path)
    assert stream.append({"m": [b"3"]}, trim={"m": 2}) == {"m": 2}
    assert [(b.start, b.lines) for b in stream.read("m", 2)] == [(2, (b"3",))]
    stream.close()


def test_a_trim_of_very_much_goes_in_steps(
    stream: SqliteStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRIM_BLOCKS", 3)
    for i in range(10):
        stream.append({"m": [b"%d" % i]})
    firsts = []
    for _ in range(4):
        stream.append({}, trim={"m": 8})
        firsts.append(stream.first("m"))
    assert firsts == [3, 6, 8, 8]
