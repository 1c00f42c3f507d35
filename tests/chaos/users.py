"""Users: requests at a steady rate over both routers, and rewards for what was answered.

`python -m tests.chaos.users CONFIG` runs until SIGTERM, then posts what it still owes and ends. The
rate does not wait for anybody: a request for which no connection is idle is skipped, and counted.

Written down are, in the folder of the scene,

    answers.log    a line for each answer: request id, arm, status, router
    rewards.jsonl  the events of each body that was answered by 202, as they were sent
    refused.jsonl  those of them that the answer called rejected
    users.json     the figures so far, renewed each second

A client of the API must send again what was not acknowledged, and here it does, with the same
bytes: so a reward may come twice, and none may be lost.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

CONNECTIONS = 96
"""To each router; one may hang with all of its own, and those to the other must do."""

UNITS = 50_000
STEP_S = 0.02
PAUSE_S = 0.5
BODY = 2_000
"""Events in a body, at most."""

LATE, TWICE, ORPHAN, OUTSIDE, OTHER_NAME = 0.05, 0.05, 0.03, 0.01, 0.01
"""Shares of the rewards that are not as they should be."""


@dataclass
class Config:
    """Where routers and controller are, and what is wanted of these users.

    reward_share  of the answers are followed by a reward
    window_s      the attribution window, beyond which late rewards are
    """

    routers: list[str]
    port: int
    api: str
    folder: str
    rate_hz: float
    reward_share: float
    window_s: float
    seed: int


@dataclass
class Figures:
    """Requests and rewards so far; `seconds` of asking."""

    seconds: float = 0.0
    asked: int = 0
    skipped: int = 0
    answered: int = 0
    broken: int = 0
    posted: int = 0
    acknowledged: int = 0
    refused: int = 0
    attempts_failed: int = 0
    owed: int = 0


class Connection(asyncio.Protocol):
    """One request at a time over one connection to a router."""

    def __init__(self, users: Users, router: str) -> None:
        self._users, self._router = users, router
        self._transport: asyncio.Transport | None = None
        self._got = b""
        self._is_asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._users.idle[self._router].append(self)

    def ask(self, request: bytes) -> None:
        assert self._transport is not None
        self._is_asking = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end or len(body) < int(_header(head, b"content-length")):
            return
        self._got, self._is_asking = b"", False
        self._users.answered(
            self._router,
            _header(head, b"x-request-id").decode(),
            _header(head, b"x-understudy-arm").decode(),
            int(head[9:12]),
        )
        if b"\r\nconnection: close" in head:
            assert self._transport is not None
            self._transport.close()
        else:
            self._users.idle[self._router].append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_asking:
            self._users.figures.broken += 1
        with suppress(ValueError):
            self._users.idle[self._router].remove(self)
        self._users.connect_soon(self._router)


class Users:
    """All of them."""

    def __init__(self, config: Config) -> None:
        self.config, self.figures = config, Figures()
        self.idle: dict[str, deque[Connection]] = {each: deque() for each in config.routers}
        folder = Path(config.folder)
        self._answers = (folder / "answers.log").open("w")
        self._rewards = (folder / "rewards.jsonl").open("wb")
        self._refused = (folder / "refused.jsonl").open("wb")
        self._state = folder / "users.json"
        self._rng = random.Random(config.seed)
        self._due: list[tuple[float, int, bytes]] = []
        self._numbers = 0
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ask until told to end; return when all that is owed was taken."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._ending.set)
        for router in self.config.routers:
            for _ in range(CONNECTIONS):
                self.connect_soon(router)
        posting = asyncio.create_task(self._post())
        reporting = asyncio.create_task(self._report())
        await self._ask()
        await posting
        reporting.cancel()
        self._say()
        self._answers.close()

    def connect_soon(self, router: str) -> None:
        """Open a connection, as soon as somebody is there."""
        if not self._ending.is_set():
            task = asyncio.create_task(self._connect(router))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, router: str) -> None:
        loop = asyncio.get_running_loop()
        while not self._ending.is_set():
            with suppress(OSError, TimeoutError):
                made = loop.create_connection(
                    lambda: Connection(self, router), router, self.config.port
                )
                await asyncio.wait_for(made, 3)
                return
            await asyncio.sleep(0.2)

    # --- requests -----------------------------------------------------------------------------

    async def _ask(self) -> None:
        began = time.monotonic()
        while not self._ending.is_set():
            await asyncio.sleep(STEP_S)
            self.figures.seconds = time.monotonic() - began
            due = int(self.figures.seconds * self.config.rate_hz)
            for _ in range(due - self.figures.asked - self.figures.skipped):
                self._ask_once()
        await asyncio.sleep(1)  # whoever is to be answered is, or never

    def _ask_once(self) -> None:
        router = max(self.idle, key=lambda each: len(self.idle[each]))
        if not self.idle[router]:
            self.figures.skipped += 1
            return
        self.figures.asked += 1
        unit = self._rng.randrange(UNITS)
        head = f"GET /m/x HTTP/1.1\r\nhost: m\r\nx-user-id: u{unit}\r\n\r\n"
        self.idle[router].popleft().ask(head.encode())

    def answered(self, router: str, request_id: str, arm: str, status: int) -> None:
        """An answer came; a reward may follow."""
        self.figures.answered += 1
        self._answers.write(f"{request_id} {arm} {status} {router}\n")
        if arm and status == 200 and self._rng.random() < self.config.reward_share:
            self._owe(request_id, arm)

    # --- rewards ------------------------------------------------------------------------------

    def _owe(self, request_id: str, arm: str) -> None:
        rng, now = self._rng, time.time()
        kind, at = rng.random(), now + rng.uniform(0.0, min(3.0, self.config.window_s / 2))
        if kind < LATE:
            at = now + self.config.window_s + rng.uniform(0.5, 2.0)
        event: dict[str, Any] = {
            "type": "reward",
            "time": at,
            "model": "m",
            "id": f"r-{request_id}",
            "request_id": request_id,
            "name": "ok",
            "value": int(rng.random() < chance(arm)),
        }
        self._schedule(at, event)
        odd = rng.random()
        if (odd := odd - TWICE) < 0:
            self._schedule(at + rng.uniform(0, 2), event)
        elif (odd := odd - ORPHAN) < 0:
            nobody = str(UUID(int=rng.getrandbits(128), version=4))
            self._schedule(at, event | {"id": f"o-{request_id}", "request_id": nobody})
        elif (odd := odd - OUTSIDE) < 0:
            self._schedule(at, event | {"id": f"x-{request_id}", "value": 7})
        elif odd - OTHER_NAME < 0:
            self._schedule(at, event | {"id": f"n-{request_id}", "name": "another"})

    def _schedule(self, at: float, event: dict[str, Any]) -> None:
        self._numbers += 1
        heapq.heappush(self._due, (at, self._numbers, json.dumps(event).encode()))

    async def _post(self) -> None:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            while self._due or not self._ending.is_set():
                if not self._due or self._due[0][0] > time.time():
                    await asyncio.sleep(PAUSE_S)
                body, now = list[bytes](), time.time()
                while self._due and self._due[0][0] <= now and len(body) < BODY:
                    body.append(heapq.heappop(self._due)[2])
                if body:
                    await self._posted(client, body)

    async def _posted(self, client: httpx.AsyncClient, events: list[bytes]) -> None:
        """Send until it is acknowledged."""
        self.figures.posted += len(events)
        pause_s = 0.2
        while True:
            wait_s = pause_s
            with suppress(httpx.HTTPError):
                answer = await client.post(
                    f"{self.config.api}/v1/events",
                    content=b"\n".join(events),
                    headers={"content-type": "application/x-ndjson"},
                )
                if answer.status_code == 202:
                    self._note(events, answer.json())
                    return
                wait_s = max(wait_s, float(answer.headers.get("retry-after", 0)))
            self.figures.attempts_failed += 1
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, 2.0)

    def _note(self, events: list[bytes], answer: dict[str, Any]) -> None:
        refused = {each["index"] for each in answer["rejected"]}
        assert answer["accepted"] == len(events) - len(refused)
        self.figures.acknowledged += answer["accepted"]
        self.figures.refused += len(refused)
        for i, event in enumerate(events):
            (self._refused if i in refused else self._rewards).write(event + b"\n")
        self._rewards.flush()
        self._refused.flush()

    # --- figures ------------------------------------------------------------------------------

    async def _report(self) -> None:
        while True:
            self._say()
            await asyncio.sleep(1)

    def _say(self) -> None:
        self.figures.owed = len(self._due)
        fresh = self._state.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self.figures)))
        fresh.replace(self._state)


def chance(arm: str) -> float:
    """With which probability a user of this version is content: v2, v5, … are the better ones."""
    return 0.5 + 0.1 * ((int(arm.removeprefix("v")) % 3) - 1)


def _header(head: bytes, name: bytes) -> bytes:
    """The value of a header, empty where there is none."""
    _, found, rest = head.partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0] if found else b""


if __name__ == "__main__":
    asyncio.run(Users(Config(**json.loads(sys.argv[1]))).run())
