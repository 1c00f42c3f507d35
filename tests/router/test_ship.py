"""Shipping: every line at least once, whatever dies; what is lost is counted."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from controller.errors import Permanent, Retryable
from controller.router import ship as shipping
from controller.router.access_log import route_name
from controller.router.admin import Admin
from controller.router.ship import Limits, Shipper
from controller.router.sink import HttpSink
from controller.router.tail import rotation_target
from tests.stores.disk import fill, small_disk


def line(i: int) -> bytes:
    route = route_name("m", 4, "")
    fields = [f"17954386{i:02d}.000000", "exposure", route, "m/v1", "200", "2500", "-", "", f"q{i}"]
    return "\x1f".join(fields).encode()


def append(path: Path, *lines: bytes) -> None:
    with path.open("ab") as file:
        file.writelines(each + b"\n" for each in lines)


class Taken:
    """A sink that keeps what it takes, and does as it was told before."""

    def __init__(self, *says: Exception | None, poison: bytes = b"") -> None:
        self.lines: list[bytes] = []
        self.calls = 0
        self._says = list(says)
        self._poison = poison

    async def send(self, events: Sequence[bytes]) -> Sequence[str]:
        self.calls += 1
        if self._says and (said := self._says.pop(0)) is not None:
            raise said
        if self._poison and self._poison in events:
            raise Permanent("not this one")
        self.lines += events
        return [each.decode("latin-1") for each in events if not each.startswith(b"{")]

    async def close(self) -> None:
        pass

    @property
    def ids(self) -> list[str]:
        return [json.loads(each)["request_id"] for each in self.lines if each[:1] == b"{"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "EVERY_S", 0.02)
    monkeypatch.setattr(shipping, "BACKOFF_S", (0.01, 0.05))


def shipped(shipper: Shipper, timeout_s: float = 5) -> None:
    async def run() -> None:
        shipper.stop()
        await asyncio.wait_for(shipper.run(), timeout_s)

    asyncio.run(run())


def test_lines_are_shipped_once_over_restarts_and_rotation(tmp_path: Path) -> None:
    log, sink = tmp_path / "access.log", Taken()
    for i in range(6):
        append(log, line(2 * i), line(2 * i + 1))
        if i % 2:
            shipped(Shipper(log, tmp_path, sink))
        if i % 3 == 2:
            log.rename(rotation_target(log))
    append(log, line(12))
    shipped(Shipper(log, tmp_path, sink))
    assert sink.ids == [f"q{i}" for i in range(13)]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["access.log", "position"]


def test_what_was_not_taken_is_sent_again_and_only_then_is_the_position_written(
    tmp_path: Path,
) -> None:
    log = tmp_path / "access.log"
    append(log, *(line(i) for i in range(5)))
    sink = Taken(Retryable("away", after_s=0), Retryable("busy", after_s=0.02))
    shipper = Shipper(log, tmp_path, sink, limits=Limits(batch=1))

    async def cut_short() -> None:
        run = asyncio.create_task(shipper.run())
        while sink.calls < 1:  # noqa: ASYNC110 - the sink is a plain list
            await asyncio.sleep(0)
        assert not (tmp_path / "position").exists()
        await asyncio.sleep(0.1)
        run.cancel()

    asyncio.run(cut_short())
    assert sink.ids == [f"q{i}" for i in range(5)]
    assert shipper.counts.failures == 2
    assert shipper.waiting_bytes == 0


def test_requests_shrink_while_they_fail_and_grow_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "LEAST", 2)
    sizes: list[int] = []

    class Slow(Taken):
        """In time for three events at most, for a while."""

        async def send(self, events: Sequence[bytes]) -> Sequence[str]:
            sizes.append(len(events))
            if len(events) > 3 and len(self.lines) < 6:
                raise Retryable("it took too long")
            return await super().send(events)

    log, sink = tmp_path / "access.log", Slow()
    append(log, *(line(i) for i in range(40)))
    shipped(Shipper(log, tmp_path, sink))
    assert sizes == [40, 20, 10, 5, 2, 4, 2, 4, 2, 4, 8, 16, 6]
    assert sink.ids == [f"q{i}" for i in range(40)]


def test_a_crash_before_the_position_is_written_sends_again(tmp_path: Path) -> None:
    log, sink = tmp_path / "access.log", Taken()
    append(log, line(1), line(2))
    shipped(Shipper(log, tmp_path, sink))
    (tmp_path / "position").unlink()
    shipped(Shipper(log, tmp_path, sink))
    (tmp_path / "position").write_text("half a posi")
    shipped(Shipper(log, tmp_path, sink))
    assert sink.ids == ["q1", "q2"] * 3


def test_lines_that_are_no_exposures_are_sent_as_they_are_and_counted(tmp_path: Path) -> None:
    log, sink = tmp_path / "access.log", Taken()
    other = line(3).replace(route_name("m", 4, "").encode(), b"")
    append(log, line(1), b"half a li", b"", other, line(2))
    shipper = Shipper(log, tmp_path, sink)
    shipped(shipper)
    assert sink.ids == ["q1", "q2"]
    assert sink.lines[-1] == b"half a li"
    counts = shipper.counts
    assert (counts.shipped, counts.malformed, counts.unmatched) == (2, 2, 1)
    assert (counts.refused, counts.dropped) == (1, 0)


def test_a_line_that_is_never_taken_costs_only_itself(tmp_path: Path) -> None:
    log, sink = tmp_path / "access.log", Taken(poison=b"poison")
    append(log, *(line(i) for i in range(9)), b"poison", line(9))
    shipper = Shipper(log, tmp_path, sink)
    shipped(shipper)
    assert sink.ids == [f"q{i}" for i in range(10)]
    assert shipper.counts.dropped == 1


class Reopened:
    """An admin interface whose router writes to the old file until it is asked."""

    def __init__(self, log: Path, *, fails: int = 0, unwritten: Sequence[int] = ()) -> None:
        self.log, self.fails, self.unwritten = log, fails, list(unwritten)

    async def reopen_logs(self) -> None:
        if self.fails > 0:
            self.fails -= 1
            raise Retryable("busy", after_s=0)
        self.log.touch()

    async def failed_writes(self) -> int:
        if not self.unwritten:
            raise Retryable("busy", after_s=0)
        return self.unwritten.pop(0)


def test_what_the_router_could_not_write_is_counted_over_its_restarts(tmp_path: Path) -> None:
    admin = Reopened(tmp_path / "access.log", unwritten=[3, 3, 5, 5, 0, 0, 2])
    shipper = Shipper(tmp_path / "access.log", tmp_path, Taken(), admin=admin)  # type: ignore[arg-type]

    async def looked() -> None:
        tidying = asyncio.create_task(shipper.tidy())
        while admin.unwritten:  # noqa: ASYNC110 - a list tells no one
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        tidying.cancel()

    asyncio.run(looked())
    assert shipper.counts.unwritten == (5 - 3) + 2


def test_while_the_controller_is_away_the_oldest_files_are_dropped_and_counted(
    tmp_path: Path,
) -> None:
    log = tmp_path / "access.log"
    log.touch()
    sizes: list[int] = []

    def files() -> list[Path]:
        return list(tmp_path.glob("access.log*"))

    sink = Taken(*([Retryable("away", after_s=0)] * 1000))
    size = len(line(0)) + 1
    shipper = Shipper(
        log,
        tmp_path,
        sink,
        admin=Reopened(log, fails=2),  # type: ignore[arg-type]
        limits=Limits(batch=size, rotate=3 * size, disk=10 * size),
    )

    async def outage() -> None:
        tasks = [asyncio.create_task(shipper.run()), asyncio.create_task(shipper.tidy())]
        for i in range(30):
            while not log.exists():  # noqa: ASYNC110 - a file tells no one
                await asyncio.sleep(0.005)
            append(log, line(i))
            await asyncio.sleep(0.03)
        sizes.append(sum(each.stat().st_size for each in files()))
        sink._says.clear()
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()

    asyncio.run(outage())
    assert sizes[0] <= 11 * size
    first = next(i for i, each in enumerate(sink.ids) if each != f"q{i}")
    assert first >= 4  # the file that was being sent stays
    left = 30 - (len(sink.ids) - first)
    assert sink.ids == [f"q{i}" for i in (*range(first), *range(left, 30))]
    assert shipper.counts.dropped == 30 - len(sink.ids) > 10
    assert shipper.waiting_bytes == 0


def test_a_kill_loses_nothing_of_what_was_in_memory_while_files_are_dropped(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    size = len(line(0)) + 1
    limits = Limits(batch=2 * size, rotate=size, disk=3 * size)
    append(log, line(0), line(1))
    away = Taken(*([Retryable("away", after_s=0)] * 1000))
    shipper = Shipper(log, tmp_path, away, limits=limits)

    async def killed() -> None:
        run = asyncio.create_task(shipper.run())
        while not away.calls:  # noqa: ASYNC110 - the sink is a plain list
            await asyncio.sleep(0)
        for i in range(1, 5):
            log.rename(rotation_target(log))
            append(log, line(2 * i), line(2 * i + 1))
            shipper._drop()
        run.cancel()

    asyncio.run(killed())
    sink = Taken()
    shipped(Shipper(log, tmp_path, sink, limits=limits))
    assert sink.ids == ["q0", "q1", "q8", "q9"]
    assert shipper.counts.dropped == 6


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")
def test_a_position_that_cannot_be_written_costs_a_repetition_and_nothing_else(
    tmp_path: Path,
) -> None:
    log, sink = tmp_path / "access.log", Taken()
    with small_disk(tmp_path / "state", 64) as state:
        append(log, line(0))
        shipped(Shipper(log, state, sink))
        ballast = fill(state)
        append(log, line(1), line(2))
        log.rename(rotation_target(log))
        append(log, line(3))
        shipper = Shipper(log, state, sink)
        shipped(shipper)
        assert shipper.waiting_bytes == 0
        assert [each.name for each in tmp_path.glob("access.log*")] == ["access.log"]
        assert sink.ids == ["q0", "q1", "q2", "q3"]
        ballast.unlink()
        append(log, line(4))
        shipped(Shipper(log, state, sink))
        assert sorted(set(sink.ids)) == ["q0", "q1", "q2", "q3", "q4"]
        assert len(sink.ids) == 6, "one line was sent again"
        append(log, line(5))
        shipped(Shipper(log, state, sink))
        assert sink.ids[6:] == ["q5"]


# --- over HTTP --------------------------------------------------------------------------------


@pytest.fixture
def answers() -> Iterator[tuple[str, list[tuple[int, dict[str, str], bytes]], list[bytes]]]:
    """A server that gives these answers in turn, and the bodies that it got."""
    script: list[tuple[int, dict[str, str], bytes]] = []
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            status, headers, body = script.pop(0)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", script, bodies
    server.shutdown()
    server.server_close()
    thread.join()


def test_answers_of_a_controller_are_understood(
    answers: tuple[str, list[tuple[int, dict[str, str], bytes]], list[bytes]],
) -> None:
    url, script, bodies = answers

    async def send() -> Sequence[str]:
        sink = HttpSink(url, timeout_s=5)
        try:
            return await sink.send([b"{}", b"[]"])
        finally:
            await sink.close()

    script.append((202, {}, b'{"accepted": 1, "rejected": [{"index": 1, "error": "no"}]}'))
    assert asyncio.run(send()) == ["no"]
    assert bodies == [b"{}\n[]"]
    for status in (429, 503):
        script.append((status, {"retry-after": "7"}, b""))
        with pytest.raises(Retryable) as busy:
            asyncio.run(send())
        assert busy.value.after_s == 7
    for status in (401, 403, 404, 421, 500, 502):
        script.append((status, {}, b""))
        with pytest.raises(Retryable):
            asyncio.run(send())
    script.append((200, {}, b"<html>"))
    with pytest.raises(Retryable):
        asyncio.run(send())
    script.append((202, {}, b"<html>"))
    with pytest.raises(Retryable):
        asyncio.run(send())
    for status in (400, 413):
        script.append((status, {}, b""))
        with pytest.raises(Permanent):
            asyncio.run(send())


def test_nobody_at_the_other_side_is_a_reason_to_try_again() -> None:
    async def send() -> None:
        await HttpSink("http://127.0.0.1:1").send([b"{}"])

    with pytest.raises(Retryable):
        asyncio.run(send())


class Stats(http.server.BaseHTTPRequestHandler):
    """Envoy's admin interface, asked for one figure."""

    def do_GET(self) -> None:
        said = b"filesystem.write_failed: 3\n"
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


def test_asking_the_router_costs_less_than_making_a_client_for_it() -> None:
    async def scenario(port: int) -> tuple[float, float]:
        admin = Admin(f"http://127.0.0.1:{port}")
        began = time.thread_time()
        for _ in range(10):
            assert await admin.failed_writes() == 3
        asked = time.thread_time()
        for _ in range(10):
            async with httpx.AsyncClient(trust_env=False):
                pass
        made = time.thread_time()
        await admin.close()
        return asked - began, made - asked

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stats)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        asking_s, making_s = asyncio.run(scenario(server.server_port))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asking_s < making_s
