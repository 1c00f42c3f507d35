"""What was just appended is given to its first reader, and only what is in the store."""

import sqlite3
from contextlib import closing

from controller.stream import open_stream
from controller.stream.packing import BLOCK_LINES
from controller.stream.recent import Recent


def test_a_block_is_given_once():
    recent = Recent()
    recent.keep("m", 7, [b"a", b"b"])
    assert recent.take("m", 8) is None
    assert recent.take("n", 7) is None
    assert recent.take("m", 7) == (b"a", b"b")
    assert recent.take("m", 7) is None


def test_the_oldest_leave_when_there_is_no_room():
    recent = Recent(room=1_000)
    for start in range(0, 100, 10):
        recent.keep("m", start, [b"0123456789"] * 10)
    kept = [start for start in range(0, 100, 10) if recent.take("m", start) is not None]
    assert kept == [90]
    recent.keep("m", 0, [bytes(2_000)])
    assert recent.take("m", 0) is None
    assert recent._taken == 0


def test_a_reader_finds_what_was_appended_without_the_store(tmp_path):
    """The body in the file is destroyed: only what was remembered can answer, and only once."""
    path = tmp_path / "events.db"
    with closing(open_stream(f"sqlite:///{path}")) as stream:
        lines = [b"%d" % i for i in range(BLOCK_LINES + 5)]
        stream.append({"m": lines})
        with closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE block SET body = x'00'")
            other.commit()
        found = list(stream.read("m", 0))
        assert [block.start for block in found] == [0, BLOCK_LINES]
        assert [line for block in found for line in block.lines] == lines
