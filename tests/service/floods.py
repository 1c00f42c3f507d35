"""What a broken or hostile client does to the API, at any scale; and who watches meanwhile.

Used by `tests/service/test_flood.py` (small) and `python -m tests.bench flood` (whole). Each flood
is bounded in count and time, and goes to a `serve` on this machine.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

NDJSON = {"content-type": "application/x-ndjson"}
BAD = b'{"type":"reward","time":1,"model":"m"}\n'


@dataclass
class Target:
    """A `serve` under test: its process, its API, and a model of it."""

    pid: int
    port: int
    model: str = "m"

    def post(self, body: bytes, **headers: str) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            client.request("POST", "/v1/events", body, NDJSON | named)
            answer = client.getresponse()
            return answer.status, json.loads(answer.read())

    def patiently(self, body: bytes, **headers: str) -> tuple[int, Any]:
        """As a good client: a 429 or 503 is sent again."""
        for _ in range(200):
            status, answer = self.post(body, **headers)
            if status not in {429, 503}:
                return status, answer
            time.sleep(0.2)
        raise AssertionError("it was never taken")

    def get(self, path: str, timeout_s: float = 10.0) -> bytes:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)) as c:
            c.request("GET", path)
            answer = c.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            return body

    def peak_bytes(self) -> int:
        """The most memory that the process has had since `forget_peak`."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        line = next(each for each in text.splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def forget_peak(self) -> None:
        with suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@dataclass
class Watch:
    """A good client and a probe, beside a flood: what they saw."""

    target: Target
    sent: int = 0
    slowest_probe_s: float = 0.0
    slowest_post_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    name: str = field(default_factory=lambda: f"good-{time.monotonic_ns()}")

    def __enter__(self) -> Self:
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(work,), daemon=True)
            for work in (self._probe, self._send)
        ]
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for each in self._threads:
            each.join(60)

    def _loop(self, work: Callable[[], None]) -> None:
        while not self._ending.wait(0.2):
            try:
                work()
            except (OSError, http.client.HTTPException, AssertionError) as exc:
                self.faults.append(f"{work.__name__}: {exc!r}")

    def _probe(self) -> None:
        began = time.monotonic()
        self.target.get("/healthz")
        self.slowest_probe_s = max(self.slowest_probe_s, time.monotonic() - began)

    def _send(self) -> None:
        number, now = self.sent, time.time()
        common = {"time": now, "model": self.target.model, "request_id": f"{self.name}-{number}"}
        good = [
            {"type": "exposure", "arm": "v1", "epoch": 1, **common},
            {"type": "reward", "id": f"{self.name}-{number}", "name": "ok", "value": 1, **common},
        ]
        began = time.monotonic()
        status, answer = self.target.patiently(b"\n".join(json.dumps(e).encode() for e in good))
        self.slowest_post_s = max(self.slowest_post_s, time.monotonic() - began)
        assert (status, answer) == (202, {"accepted": 2, "rejected": []})
        self.sent += 1


def malformed(target: Target, count: int, per_body: int = 50_000) -> Counter[int]:
    """Events that are none, in large bodies."""
    seen: Counter[int] = Counter()
    for _ in range(0, count, per_body):
        status, answer = target.patiently(BAD * per_body)
        seen[status] += 1
        assert len(answer["rejected"]) == per_body
    return seen


def bombs(target: Target, count: int) -> Counter[int]:
    """A few bytes that unpack to `count` events, and to a GiB of nothing."""
    seen: Counter[int] = Counter()
    lines = gzip.compress(b"x\n" * count, 9)
    commas = gzip.compress(b"[" + b"1," * (4 * count) + b"1]", 9)
    nothing = _gzip_of_zeros(1 << 30)
    for body, kind in ((lines, "x-ndjson"), (commas, "json"), (nothing, "json")):
        headers = {"content_encoding": "gzip", "content_type": f"application/{kind}"}
        seen[target.patiently(body, **headers)[0]] += 1
    return seen


def _gzip_of_zeros(size: int) -> bytes:
    member = gzip.compress(bytes(16 << 20), 9)
    return member * (size >> 24)


def huge(target: Target, size: int, *, is_chunked: bool) -> bytes:
    """A body without end; the first line of the answer, or nothing when the line was cut."""
    block = bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", target.port), timeout=30) as line:
        head = b"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        if is_chunked:
            line.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
        else:
            line.sendall(head + b"content-length: %d\r\n\r\n" % size)
        with suppress(OSError):
            for _ in range(0, size, len(block)):
                line.sendall(b"%x\r\n%b\r\n" % (len(block), block) if is_chunked else block)
        with suppress(OSError):
            return line.recv(1000).partition(b"\r\n")[0]
    return b""


def orphans(target: Target, count: int, per_body: int = 10_000, **other: str) -> int:
    """Rewards for requests that nobody made; how many were accepted."""
    accepted, now = 0, time.time()
    given = {"type": "reward", "time": now, "model": target.model, "name": "ok", "value": 1} | other
    for first in range(0, count, per_body):
        lines = [
            json.dumps(given | {"request_id": f"nobody{i}", "id": f"o{i}"}).encode()
            for i in range(first, first + per_body)
        ]
        status, answer = target.patiently(b"\n".join(lines))
        assert status == 202, answer
        accepted += answer["accepted"]
    return accepted


def inventions(target: Target, count: int, per_body: int = 10_000) -> int:
    """Exposures that each name another arm, another segment and another epoch."""
    accepted, now = 0, time.time()
    for first in range(0, count, per_body):
        lines = [
            json.dumps(
                {
                    "type": "exposure",
                    "time": now,
                    "model": target.model,
                    "request_id": f"invented{i}",
                    "arm": f"arm{i}",
                    "segment": f"segment{i}",
                    "epoch": i,
                    "propensity": (i + 1) / (count + 1),
                }
            ).encode()
            for i in range(first, first + per_body)
        ]
        status, answer = target.patiently(b"\n".join(lines))
        assert status == 202, answer
        accepted += answer["accepted"]
    return accepted


def crowd(target: Target, clients: int, per_body: int = 100_000) -> int:
    """Good rewards in the largest bodies that there may be, from all at once; how many got 429."""
    sent_away = 0

    def one(number: int) -> None:
        nonlocal sent_away
        line = b'{"type":"reward","time":%.3f,"model":"%b","id":"%d-%d","request_id":"%d-%d"'
        rest = b',"name":"ok","value":1}'
        now, model = time.time(), target.model.encode()
        body = b"\n".join(line % (now, model, number, i, number, i) + rest for i in range(per_body))
        while (status := target.post(body)[0]) != 202:
            assert status == 429, status
            sent_away += 1
            time.sleep(0.5)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(clients)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return sent_away


@contextmanager
def idlers(target: Target, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing, half a head, or half a body, each a third."""
    words = (
        b"",
        b"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ",
        b"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n{",
    )
    lines = []
    try:
        for number in range(count):
            line = socket.create_connection(("127.0.0.1", target.port), timeout=10)
            lines.append(line)
            with suppress(OSError):
                line.sendall(words[number % 3])
        yield lines
    finally:
        for line in lines:
            line.close()


@contextmanager
def listeners(target: Target, count: int) -> Iterator[Counter[bytes]]:
    """Clients of `/v1/stream` that never read; the answers' first lines."""
    lines, seen = [], Counter[bytes]()
    try:
        for _ in range(count):
            line = socket.create_connection(("127.0.0.1", target.port), timeout=10)
            line.sendall(b"GET /v1/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            lines.append(line)
        for line in lines:
            seen[line.recv(100).partition(b"\r\n")[0]] += 1
        yield seen
    finally:
        for line in lines:
            line.close()


def is_closed(line: socket.socket) -> bool:
    """Whether the server has ended this connection."""
    line.setblocking(False)
    try:
        while line.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
