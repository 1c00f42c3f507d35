"""What every event log must do, whatever keeps it: a new backend is one line in `BACKENDS`."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from threading import Event

import msgspec
import pytest

from controller.errors import InvariantError, Permanent, Trimmed
from controller.stream import Block, Mark, Stream, open_stream

BACKENDS: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "sqlite": lambda request: f"sqlite:///{request.getfixturevalue('tmp_path') / 'events.db'}",
    "redis": lambda request: request.getfixturevalue("redis").address(),
    "kafka": lambda request: request.getfixturevalue("kafka").address(),
    "redis+cluster": lambda request: request.getfixturevalue("redis_cluster").address(),
    "redis+sentinel": lambda request: request.getfixturevalue("redis_sentinel").address(),
}
APPENDER = Path(__file__).with_name("appender.py")


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest) -> str:
    return BACKENDS[request.param](request)


def numbered(first: int, count: int) -> list[bytes]:
    return [b'{"n":%d}' % n for n in range(first, first + count)]


def everything(stream: Stream, model: str, start: int = 0) -> list[bytes]:
    return [line for block in stream.read(model, start, limit=10**9) for line in block.lines]


def test_events_come_back_in_order_with_their_offsets(stream: Stream) -> None:
    assert stream.append({"m": numbered(0, 3)}) == {"m": 0}
    assert stream.append({"m": numbered(3, 2)}) == {"m": 3}
    assert list(stream.read("m", 0)) == [
        Block(0, tuple(numbered(0, 3))),
        Block(3, tuple(numbered(3, 2))),
    ]


def test_models_count_apart(stream: Stream) -> None:
    stream.append({"a": numbered(0, 3), "b": numbered(10, 1)})
    assert stream.append({"b": numbered(11, 1), "a": numbered(3, 1)}) == {"b": 1, "a": 3}
    assert everything(stream, "a") == numbered(0, 4)
    assert everything(stream, "b") == numbered(10, 2)


@pytest.mark.parametrize("start", range(7))
def test_the_first_block_is_cut_at_the_offset_asked_for(stream: Stream, start: int) -> None:
    stream.append({"m": numbered(0, 4)})
    stream.append({"m": numbered(4, 2)})
    blocks = list(stream.read("m", start))
    assert [b.start for b in blocks][:1] == ([start] if start < 6 else [])
    assert everything(stream, "m", start) == numbered(start, 6 - start)


def test_there_is_nothing_past_the_end_and_nothing_of_an_unknown_model(stream: Stream) -> None:
    stream.append({"m": numbered(0, 2)})
    assert list(stream.read("m", 2)) == []
    assert list(stream.read("m", 99)) == []
    assert list(stream.read("other", 0)) == []


def test_an_offset_below_zero_is_an_error(stream: Stream) -> None:
    with pytest.raises(InvariantError, match="offsets count from 0"):
        stream.read("m", -1)


def test_a_read_stops_soon_after_its_limit(stream: Stream) -> None:
    for i in range(100):
        stream.append({"m": numbered(10 * i, 10)})
    blocks = list(stream.read("m", 15, limit=20))
    assert [line for b in blocks for line in b.lines] == numbered(15, 25)


def test_a_read_ends_where_the_log_ended_when_it_began(stream: Stream) -> None:
    stream.append({"m": numbered(0, 2)})
    blocks = stream.read("m", 0)
    stream.append({"m": numbered(2, 2)})
    assert [line for b in blocks for line in b.lines] == numbered(0, 2)


def test_an_append_of_nothing_gives_the_end_and_keeps_its_mark(stream: Stream) -> None:
    stream.append({"m": numbered(0, 2)})
    assert stream.append({"m": [], "new": []}, mark=Mark("tail", "7")) == {"m": 2, "new": 0}
    assert stream.append({}, mark=Mark("tail", "8")) == {}
    assert stream.mark("tail") == "8"
    assert everything(stream, "m") == numbered(0, 2)


def test_any_bytes_but_a_line_end_come_back_as_they_were(stream: Stream) -> None:
    lines = [b"", bytes(range(10)) + bytes(range(11, 256)), b"\r", "ü€😀".encode(), b"", b" "]
    stream.append({"m": lines})
    stream.append({"m": [b""]})
    assert everything(stream, "m") == [*lines, b""]


def test_a_line_end_within_an_event_is_refused_and_nothing_is_appended(stream: Stream) -> None:
    with pytest.raises(InvariantError, match="line end"):
        stream.append({"a": numbered(0, 2), "b": [b"1\n2"]}, mark=Mark("tail", "1"))
    assert everything(stream, "a") == []
    assert stream.mark("tail") is None


def test_marks_of_sources_are_apart_and_the_last_one_counts(stream: Stream) -> None:
    assert stream.mark("tail") is None
    stream.append({"m": numbered(0, 1)}, mark=Mark("tail", "1"))
    stream.append({"m": numbered(1, 1)}, mark=Mark("other", "x"))
    stream.append({"m": numbered(2, 1)}, mark=Mark("tail", "2"))
    assert (stream.mark("tail"), stream.mark("other")) == ("2", "x")


def test_a_log_outlives_its_process(url: str) -> None:
    first = open_stream(url)
    first.append({"m": numbered(0, 5)}, mark=Mark("tail", "5"))
    first.close()
    second = open_stream(url)
    assert second.append({"m": numbered(5, 1)}) == {"m": 5}
    assert everything(second, "m") == numbered(0, 6)
    assert second.mark("tail") == "5"
    second.close()


def test_a_closed_log_says_so(url: str) -> None:
    stream = open_stream(url)
    stream.close()
    stream.close()
    with pytest.raises(Permanent, match="closed"):
        stream.append({"m": numbered(0, 1)})
    with pytest.raises(Permanent, match="closed"):
        stream.read("m", 0)


def test_a_big_append_comes_back_whole_and_can_be_read_in_parts(stream: Stream) -> None:
    count = 150_000
    stream.append({"m": numbered(0, 1)})
    assert stream.append({"m": numbered(1, count)}) == {"m": 1}
    blocks = list(stream.read("m", 0, limit=10**9))
    assert all(b.start == a.start + len(a.lines) for a, b in pairwise(blocks))
    assert [line for b in blocks for line in b.lines] == numbered(0, count + 1)
    part = list(stream.read("m", count - 3, limit=10))
    assert [line for b in part for line in b.lines] == numbered(count - 3, 4)


def test_a_block_of_megabytes_that_do_not_compress_comes_back(stream: Stream) -> None:
    rng = Random(5)
    lines = [rng.randbytes(60_000).replace(b"\n", b"-") for _ in range(200)]
    stream.append({"m": lines})
    assert everything(stream, "m") == lines


def test_concurrent_appenders_keep_offsets_gapless(stream: Stream) -> None:
    writers, rounds = 8, 25

    def write(writer: int) -> list[tuple[int, list[bytes]]]:
        acknowledged = []
        for i in range(rounds):
            lines = [
                b'{"w":%d,"i":%d,"k":%d}' % (writer, i, k) for k in range(1 + (writer + i) % 5)
            ]
            starts = stream.append({"m": lines, f"own-{writer}": lines})
            acknowledged.append((starts["m"], lines))
        return acknowledged

    with ThreadPoolExecutor(writers) as pool:
        acknowledged = sorted(a for done in pool.map(write, range(writers)) for a in done)
    log = everything(stream, "m")
    assert len(acknowledged) == writers * rounds
    assert [line for _, lines in acknowledged for line in lines] == log
    assert all(log[start : start + len(lines)] == lines for start, lines in acknowledged)
    assert len(everything(stream, "own-3")) == sum(1 + (3 + i) % 5 for i in range(rounds))


def test_two_processes_may_append_to_one_log(stream: Stream, url: str) -> None:
    other = open_stream(url)
    with ThreadPoolExecutor(2) as pool:
        done = [
            pool.submit(lambda s=s, w=w: [s.append({"m": numbered(w, 2)})["m"] for _ in range(20)])
            for w, s in ((0, stream), (1000, other))
        ]
    assert sorted(start for d in done for start in d.result()) == list(range(0, 80, 2))
    assert everything(other, "m") == everything(stream, "m")
    other.close()


def test_readers_see_only_whole_appends_while_others_write(stream: Stream, url: str) -> None:
    finished = Event()
    per = 50

    def write() -> None:
        for i in range(60):
            stream.append({"m": numbered(per * i, per)}, mark=Mark("tail", str(i + 1)))
        finished.set()

    def read() -> list[int]:
        seen = [0]
        while not (finished.is_set() and seen[-1] == 60 * per):
            marked = int(stream.mark("tail") or 0)
            lines = everything(stream, "m")
            assert lines == numbered(0, len(lines))
            assert len(lines) % per == 0
            if not url.startswith("kafka:"):  # which shows a transaction one topic after the other
                assert len(lines) >= marked * per
            seen.append(len(lines))
        return seen

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        pool.submit(write).result()
        assert all(r.result() == sorted(r.result()) for r in readers)


def test_a_writer_killed_at_any_moment_loses_and_tears_nothing(url: str) -> None:
    rng = Random(11)
    told: dict[int, tuple[int, int]] = {}
    found: dict[int, tuple[int, int]] = {}
    end_a = end_b = 0
    kills = 9 if "+" in url else 24
    for kill in range(kills):
        # A third of the kills fall into the start and the first append, the others after it.
        is_early = kill % 3 == 0
        told |= _killed_writer(url, wait_for_ack=not is_early, delay_s=rng.uniform(0, 0.15))
        stream = open_stream(url)
        marked = int(stream.mark("appender") or 0)
        a, end_a = _appends(stream, "a", end_a, per=1)
        b, end_b = _appends(stream, "b", end_b, per=2)
        if "+cluster:" not in url:  # there a model may be ahead of the mark, which comes last
            assert a.keys() == b.keys()
        found |= {number: (a[number], b[number]) for number in a.keys() & b.keys()}
        assert [n for n in sorted(found) if n <= marked] == list(range(1, marked + 1))
        assert max(found, default=0) in {marked, marked + ("+cluster:" in url)}
        assert told.items() <= found.items()
        stream.close()
    assert len(told) > kills


def _killed_writer(url: str, *, wait_for_ack: bool, delay_s: float) -> dict[int, tuple[int, int]]:
    """Run the appender, kill -9 it, and give what it was told: number -> starts."""
    command = [sys.executable, str(APPENDER), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.readline() if wait_for_ack else b""
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=delay_s)
            pytest.fail("the appender ended by itself")
        process.kill()
        said += process.stdout.read()
    rows = [tuple(map(int, line.split())) for line in said.splitlines()]
    return {number: (a, b) for number, a, b in rows}


def _appends(stream: Stream, model: str, at: int, *, per: int) -> tuple[dict[int, int], int]:
    """Number -> start of every append from offset `at` on, each of which must be whole; the end."""
    starts: dict[int, int] = {}
    lines = everything(stream, model, at)
    taken = 0
    while taken < len(lines):
        number = msgspec.json.decode(lines[taken])["n"]
        count = per * (2_000 if number % 10 == 0 else 1 + number % 7)
        heads = [b'{"n":%d,"i":%d,"of":%d,' % (number, i, count) for i in range(count)]
        whole = lines[taken : taken + count]
        assert all(line.startswith(head) for line, head in zip(whole, heads, strict=True))
        starts[number] = at + taken
        taken += count
    return starts, at + taken


# --- trimming ---------------------------------------------------------------------------------


def ten_blocks(stream: Stream, model: str = "m") -> None:
    for i in range(10):
        stream.append({model: numbered(10 * i, 10)})


def first_kept(stream: Stream, model: str = "m") -> int:
    try:
        return next((block.start for block in stream.read(model, 0)), 0)
    except Trimmed as exc:
        return exc.first


@pytest.mark.parametrize("asked", [*range(0, 101, 5), 109, 1_000])
def test_a_trim_drops_no_event_that_is_asked_for_and_no_offset_changes(
    stream: Stream, asked: int
) -> None:
    ten_blocks(stream)
    assert stream.append({}, trim={"m": asked}) == {}
    first = first_kept(stream)
    assert first % 10 == 0
    assert first <= asked
    assert everything(stream, "m", first) == numbered(first, 100 - first)
    assert everything(stream, "m", max(first, 95)) == numbered(max(first, 95), min(5, 100 - first))
    assert stream.append({"m": numbered(100, 3)}) == {"m": 100}
    assert everything(stream, "m", first) == numbered(first, 103 - first)


def test_a_read_of_what_was_trimmed_says_where_the_log_begins(stream: Stream) -> None:
    ten_blocks(stream)
    stream.append({}, trim={"m": 55})
    for start in (0, 1, 49):
        with pytest.raises(Trimmed, match="the log of m begins at event 50") as caught:
            next(stream.read("m", start))
        assert (caught.value.model, caught.value.first) == ("m", 50)
    assert everything(stream, "m", 50) == numbered(50, 50)


def test_an_emptied_log_goes_on_at_its_old_end_in_a_process_of_its_own(url: str) -> None:
    with closing(open_stream(url)) as stream:
        ten_blocks(stream)
        stream.append({}, mark=Mark("tail", "9"), trim={"m": 100})
        assert list(stream.read("m", 100)) == []
    with closing(open_stream(url)) as stream:
        assert first_kept(stream) == 100
        assert stream.mark("tail") == "9"
        assert stream.append({"m": []}) == {"m": 100}
        assert stream.append({"m": numbered(100, 2)}, trim={"m": 100}) == {"m": 100}
        assert list(stream.read("m", 100)) == [Block(100, tuple(numbered(100, 2)))]
        assert first_kept(stream) == 100


def test_a_trim_leaves_the_logs_of_other_models_alone(stream: Stream) -> None:
    ten_blocks(stream, "a")
    ten_blocks(stream, "b")
    stream.append({"c": numbered(0, 1)}, trim={"a": 70, "unknown": 5})
    assert (first_kept(stream, "a"), first_kept(stream, "b")) == (70, 0)
    assert everything(stream, "b") == numbered(0, 100)
    assert stream.append({"unknown": numbered(0, 1)}) == {"unknown": 0}


def test_a_trim_again_and_an_older_one_change_nothing(stream: Stream) -> None:
    ten_blocks(stream)
    for asked in (60, 60, 30, 0):
        stream.append({}, trim={"m": asked})
        assert first_kept(stream) == 60
    assert everything(stream, "m", 60) == numbered(60, 40)


def test_an_append_that_trims_its_own_model_keeps_what_it_appends(stream: Stream) -> None:
    ten_blocks(stream)
    assert stream.append({"m": numbered(100, 5)}, trim={"m": 100}) == {"m": 100}
    assert first_kept(stream) == 100
    assert everything(stream, "m", 100) == numbered(100, 5)


def test_an_append_that_fails_trims_nothing(stream: Stream) -> None:
    ten_blocks(stream)
    with pytest.raises(InvariantError, match="line end"):
        stream.append({"m": [b"1\n2"]}, trim={"m": 100})
    assert first_kept(stream) == 0
    assert everything(stream, "m") == numbered(0, 100)


def test_a_read_under_way_ends_with_an_error_where_it_was_overtaken(stream: Stream) -> None:
    for i in range(3):
        stream.append({"m": numbered(50_000 * i, 50_000)})  # more than a store fetches ahead
    blocks = stream.read("m", 0)
    seen = list(next(blocks).lines)
    stream.append({}, trim={"m": 150_000})
    with suppress(Trimmed):
        for block in blocks:
            seen += block.lines
    assert seen == numbered(0, len(seen))
    assert first_kept(stream) == 150_000


# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["sqlit:///x.db", "nats://user:secret@host/0", "x.db", ""])
def test_peer_10_an_unknown_scheme_is_an_error_that_lists_the_known_ones(url: str) -> None:
    with pytest.raises(Permanent, match=r"expected one of .*sqlite") as caught:
        open_stream(url)
    assert "secret" not in str(caught.value)
    assert all(name in str(caught.value) for name in BACKENDS)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://host/x.db"])
def test_an_address_without_a_file_is_an_error(url: str) -> None:
    with pytest.raises(Permanent, match="expected a file such as"):
        open_stream(url)
