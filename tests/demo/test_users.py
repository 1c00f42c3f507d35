"""Users against a small router and a small controller, both real servers on sockets.

The router answers right or wrong as it likes, fails or hangs up on a known share of the requests,
and counts; the controller takes rewards after having failed in every way that may be tried again.
What the users count must be what the servers counted.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from controller.demo.control import Control
from controller.demo.models import Holdout
from controller.demo.pool import Lost, Pool
from controller.demo.tally import reconcile
from controller.demo.users import Habits, Users

HOLDOUT = Holdout(
    images=np.arange(10 * 64, dtype=np.float32).reshape(10, 64),
    labels=np.arange(10, dtype=np.int64),
)
HABITS = Habits(rate_hz=400, population=50, delay_mean_s=0.05, delay_most_s=0.2, timeout_s=0.5)


@dataclass
class Router:
    """Answers each question with its right label, but for the requests whose number says else."""

    number: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    spoilt: Counter[str] = field(default_factory=Counter)
    units: set[str] = field(default_factory=set)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                if not await self.answer(writer, headers, body):
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def answer(self, writer, headers, body) -> bool:
        self.number += 1
        self.units.add(headers["x-user-id"])
        image = int(body["inputs"][0]["data"][0]) // 64
        arm = "v2" if self.number % 3 == 0 else "v1"
        match self.number % 20:
            case 5:
                self.spoilt["dropped"] += 1
                return False
            case 10:
                self.spoilt["cut"] += 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
                return False
            case 15:
                self.spoilt["5xx"] += 1
                return self.write(writer, 503, {}, {"error": "no arm is healthy"})
            case 18:
                self.spoilt["5xx of an arm"] += 1
                self.answered[arm] += 1
                return self.write(writer, 500, self.names(arm), {"error": "boom"})
        self.answered[arm] += 1
        label = image if self.number % 2 else image + 1
        return self.write(writer, 200, self.names(arm), {"outputs": [{"data": [label]}]})

    def names(self, arm: str) -> dict[str, str]:
        return {"x-understudy-arm": arm, "X-Request-Id": f"r{self.number}"}

    def write(self, writer, status, headers, document) -> bool:
        body = json.dumps(document).encode()
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return True


@dataclass
class Controller:
    """Takes events at the fifth try; refuses every reward of one request."""

    tries: int = 0
    rewards: dict[str, dict[str, object]] = field(default_factory=dict)

    async def events(self, request: Request) -> Response:
        self.tries += 1
        if self.tries == 1:
            return Response(status_code=429, headers={"retry-after": "0.1"})
        if self.tries == 2:
            return Response(status_code=503)
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        for line in lines:
            self.rewards[line["id"]] = line
        if self.tries == 3:
            # Durable, but the answer is lost: the same rewards come again, under the same ids.
            raise RuntimeError("gone before it answered")
        return JSONResponse({"accepted": len(lines), "rejected": []}, status_code=202)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/events", self.events, methods=["POST"])])


@asynccontextmanager
async def listening(connect: Callable[..., Awaitable[None]]) -> AsyncIterator[str]:
    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await task


@dataclass
class World:
    router: Router
    controller: Controller
    users: Users


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    router, controller = Router(), Controller()
    async with (
        listening(router.connect) as router_url,
        serving(controller.app()) as api_url,
        httpx.AsyncClient(base_url=api_url) as http,
    ):
        control = Control(http, "digits")
        users = Users(router=router_url, control=control, holdout=HOLDOUT, habits=HABITS, seed=1)
        yield World(router, controller, users)
        await users.close()


async def some_traffic(w: World, requests: int) -> None:
    w.users.start()
    async with asyncio.timeout(30):
        while w.users.tally.sent < requests:  # noqa: ASYNC110 - it counts, it has no event
            await asyncio.sleep(0.02)
        await w.users.stop()
        await w.users.drain(20)


def test_users_count_what_the_servers_count():
    async def scene() -> None:
        async with world() as w:
            await some_traffic(w, 500)
            tally, router = w.users.tally, w.router
            assert tally.sent == router.number >= 500
            assert tally.answers == router.answered
            assert tally.dropped == router.spoilt["dropped"] + router.spoilt["cut"] >= 40
            assert tally.unusable == router.spoilt["5xx"] + router.spoilt["5xx of an arm"] >= 40
            usable = router.number - sum(router.spoilt.values())
            assert tally.accepted == len(w.controller.rewards) == usable
            assert (tally.outstanding, tally.refused) == (0, 0)
            account = reconcile(
                tally, exposures=router.answered, joined=len(w.controller.rewards), rejected={}
            )
            assert account.lost == account.requests == sum(router.spoilt.values())
            assert w.users.failure() is None

    asyncio.run(scene())


def test_rewards_name_their_request_and_carry_the_true_label():
    async def scene() -> None:
        async with world() as w:
            await some_traffic(w, 200)
            rewards = list(w.controller.rewards.values())
            # The router answers odd numbers right, and names requests after their number.
            for reward in rewards:
                assert reward["value"] == int(str(reward["request_id"])[1:]) % 2
                assert (reward["type"], reward["model"]) == ("reward", "digits")
                assert reward["name"] == "correct"
            assert len({r["request_id"] for r in rewards}) == len(rewards)
            right = sum(w.users.tally.right.values())
            assert right == sum(int(str(r["value"])) for r in rewards)
            assert 40 <= len(w.router.units) <= 50

    asyncio.run(scene())


def test_rewards_are_posted_until_they_are_accepted():
    async def scene() -> None:
        async with world() as w:
            await some_traffic(w, 100)
            assert w.controller.tries >= 4
            why = w.users.tally.why
            assert why["POST /v1/events: status 429"] == 1
            assert why["POST /v1/events: status 503"] == 1
            assert w.users.tally.accepted == len(w.controller.rewards) > 0

    asyncio.run(scene())


def test_rewards_that_nobody_takes_stay_outstanding():
    async def scene() -> None:
        nowhere = httpx.AsyncClient(base_url="http://127.0.0.1:1")
        async with listening(Router().connect) as url, nowhere as http:
            control = Control(http, "digits")
            users = Users(router=url, control=control, holdout=HOLDOUT, habits=HABITS, seed=2)
            users.start()
            await asyncio.sleep(0.3)
            await users.stop()
            await users.drain(0.5)
            assert users.tally.outstanding > 0
            assert users.tally.accepted == 0
            await users.close()

    asyncio.run(scene())


def test_delays_follow_the_cut_off_exponential_distribution():
    async def scene() -> np.ndarray:
        async with httpx.AsyncClient() as http:
            habits = Habits(delay_mean_s=2, delay_most_s=5)
            users = Users(
                router="http://127.0.0.1:1",
                control=Control(http, "digits"),
                holdout=HOLDOUT,
                habits=habits,
                seed=3,
            )
            return np.array([users._delay_s() for _ in range(20_000)])

    delays = asyncio.run(scene())
    assert delays.min() >= 0
    assert delays.max() <= 5
    # Mean of the truncated exponential: m - T / (exp(T / m) - 1); four standard errors.
    expected = 2 - 5 / np.expm1(2.5)
    assert abs(delays.mean() - expected) < 4 * delays.std() / np.sqrt(20_000)


def test_a_silent_server_is_given_up():
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def scene() -> None:
        async with listening(silent) as url:
            pool = Pool(url, timeout_s=0.1)
            with pytest.raises(Lost, match=r"no answer within 0\.1 s"):
                await pool.post("/", {}, b"{}")
            # The server's side ends too, because the connection was closed.
            await asyncio.sleep(0.05)

    asyncio.run(scene())


def test_nobody_listening_is_a_loss():
    async def scene() -> None:
        with pytest.raises(Lost, match="connection"):
            await Pool("http://127.0.0.1:1").post("/", {}, b"{}")

    asyncio.run(scene())


def test_connections_are_used_again():
    opened = 0

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await Router().connect(reader, writer)

    async def scene() -> None:
        async with listening(connect) as url:
            pool = Pool(url)
            body = json.dumps({"inputs": [{"data": [0]}]}).encode()
            for _ in range(4):
                assert (await pool.post("/", {"x-user-id": "u"}, body)).status == 200
            pool.close()
            await asyncio.sleep(0.05)

    asyncio.run(scene())
    assert opened == 1
