"""Events a second that `POST /v1/events` takes in, by how many clients send and how much at once.

A real `serve` with its log in SQLite on this disk; clients are coroutines of one other process,
each with a connection of its own that it keeps. An answer means that the events are durable.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.bench import Row
from tests.bench.start import POLICIES, PORTS

CLIENTS = (1, 16, 64)
SIZES = (1, 1_000)
SECONDS = 3.0


def run() -> list[Row]:
    """One figure for each number of clients and each size of a body."""
    rows = []
    with serving() as (_, port):
        for size in SIZES:
            for clients in CLIENTS:
                child = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "tests.bench.intake",
                        str(port),
                        str(clients),
                        str(size),
                    ],
                    stdout=subprocess.PIPE,
                    check=True,
                    timeout=30,
                )
                name = f"intake: {clients} clients, {size:,} events a body"
                rows.append(Row(name, float(child.stdout), "events/s", ""))
    return rows


@contextmanager
def serving() -> Iterator[tuple[int, int]]:
    """A `serve` without a router, on an empty state folder; its process, and its API's port."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "controller.cli", "serve", *PORTS, "--router", "none"]
        command += ["--policies", str(POLICIES), "--state", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            try:
                assert child.stdout is not None
                api = urlsplit(json.loads(child.stdout.readline())["api"])
                yield child.pid, api.port or 80
            finally:
                child.send_signal(signal.SIGTERM)


async def post_for(port: int, *, clients: int, size: int, seconds: float) -> float:
    """Events a second that were acknowledged."""
    end = time.perf_counter() + seconds
    began = time.perf_counter()
    counts = await asyncio.gather(*(_client(port, n, size, end) for n in range(clients)))
    return sum(counts) / (time.perf_counter() - began)


async def _client(port: int, number: int, size: int, end: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    done = 0
    while time.perf_counter() < end:
        body = b"\n".join(_reward(number, done + i) for i in range(size))
        writer.write(
            b"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-type: application/x-ndjson\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 202"), head
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
        await reader.readexactly(length)
        done += size
    writer.close()
    return done


def _reward(client: int, number: int) -> bytes:
    event = b'{"type":"reward","time":%.3f,"model":"digits","id":"%d-%d","request_id":"%d-%d"'
    rest = b',"name":"correct","value":1}'
    return event % (time.time(), client, number, client, number) + rest


if __name__ == "__main__":
    _, given_port, given_clients, given_size = sys.argv
    measured = post_for(
        int(given_port), clients=int(given_clients), size=int(given_size), seconds=SECONDS
    )
    print(asyncio.run(measured))
