"""Appends that go on while servers are lost, and what must be so of them afterwards."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Self

from controller.errors import Retryable
from controller.stream import Mark, Stream, open_stream
from tests.processes import until


@dataclass
class Writer:
    """Appends number after number to the logs a, b and c, until it is told to stop.

    pause_s  between appends, to leave the processor to the servers that are to recover
    """

    stream: Stream
    pause_s: float = 0.0
    acknowledged: dict[int, dict[str, int]] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    longest_s: float = 0.0
    failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(60)
        assert self.failure is None, self.failure

    def goes_on(self) -> None:
        """Wait for an append that was begun after this."""
        last = max(self.acknowledged, default=0)
        until("appends go on", lambda: max(self.acknowledged, default=0) > last + 10)

    def _run(self) -> None:
        number = 0
        try:
            while not self._stopping.is_set():
                number += 1
                begun = time.monotonic()
                self._append(number)
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
                self._stopping.wait(self.pause_s)
        except BaseException as exc:  # noqa: BLE001 - it is told to the test
            self.failure = exc

    def _append(self, number: int) -> None:
        lines = {log: [b'{"n":%d,"of":"%s"}' % (number, log.encode())] * 3 for log in "abc"}
        try:
            told = self.stream.append(lines, mark=Mark("writer", str(number)))
        except Retryable:
            self.refused.add(number)
        else:
            self.acknowledged[number] = told


def check(writer: Writer, url: str) -> None:
    """Each acknowledged append is where it was said to be, once; one that failed is there once or
    not at all. (It was given up before it could be known.)"""
    with closing(open_stream(url)) as stream:
        marked = int(stream.mark("writer") or 0)
        for log in "abc":
            lines = [line for b in stream.read(log, 0, limit=10**9) for line in b.lines]
            numbers = [int(line.split(b",")[0].removeprefix(b'{"n":')) for line in lines]
            assert numbers == sorted(numbers)
            for number, starts in writer.acknowledged.items():
                assert numbers[starts[log] : starts[log] + 3] == [number] * 3
            found = set(numbers)
            assert set(writer.acknowledged) <= found <= set(writer.acknowledged) | writer.refused
            assert all(numbers.count(n) == 3 for n in found)
        assert marked >= max(writer.acknowledged)
