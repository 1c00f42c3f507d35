"""A controller's log, ledger and wheel over topics of real brokers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.core.policy import parse
from controller.ledger import open_ledger
from controller.loop.backend import LoopBackend
from controller.loop.feeds import Feeds
from controller.loop.fold import Fold, PolicySource
from controller.loop.wheel import Wheel
from controller.stream import open_stream
from tests.stores.kafka import Kafka
from tests.stores.redis import Redis
from tests.topics.brokers import KafkaTopics, RedisTopics, Topics

MAP = {"request_id": "$.ctx.rid", "name": "$.event", "value": "$.v", "time": "$.ts"}


def click(n: int, **other: Any) -> dict[str, Any]:
    return {"ctx": {"rid": f"r{n}"}, "event": "click", "v": 1, "ts": time.time()} | other


def policy(model: str, *sources: dict[str, Any], **reward: Any) -> PolicySource:
    document = {
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "RolloutPolicy",
        "metadata": {"name": model},
        "spec": {
            "route": {"prefix": f"/{model}/"},
            "champion": {"version": "v1", "endpoints": ["127.0.0.1:9"]},
            "reward": {"event": "click", "window": "10s", "grace": "5s", **reward},
            "sources": list(sources),
            "stages": [{"canary": {"steps": ["10%"], "min_duration": "10s"}}],
        },
    }
    text = json.dumps(document)
    return PolicySource(parse(text, model), text)


class Willing:
    """A router that takes every split at once."""

    def __init__(self) -> None:
        self._models: list[Any] = []

    async def publish(self, models: Any) -> None:
        self._models = list(models)

    async def confirmed(self, _timeout_s: float) -> dict[str, int]:
        return {model.name: model.split.epoch for model in self._models}

    def status(self) -> dict[str, Any]:
        return {"connected": 1, "nacks": 0, "last_nack": None}


class Desk:
    """One controller, in this process, over the state that a folder has."""

    def __init__(self, folder: Path, urls: dict[str, str | None], *policies: PolicySource) -> None:
        self.ahead_s = 0.0
        self.stream = open_stream(f"sqlite:///{folder}/events.db")
        self.ledger = open_ledger(f"sqlite:///{folder}/ledger.db", clock=self.clock)
        self.ledger.begin_term("desk")
        self.backend = LoopBackend(
            [each.policy.model for each in policies],
            ledger=self.ledger,
            router=Willing(),
            clock=self.clock,
        )
        self.feeds = Feeds(urls, stream=self.stream)
        self.wheel = self.backend.wheel = Wheel(
            [Fold(each, self.stream, self.ledger) for each in policies],
            stream=self.stream,
            ledger=self.ledger,
            router=self.backend._router,
            sources=[],
            clock=self.clock,
            told=self.backend.told,
            worried=self.backend.worried,
            feeds=self.feeds,
        )

    def clock(self) -> float:
        return time.time() + self.ahead_s

    def close(self) -> None:
        self.feeds.close()
        self.stream.close()
        self.ledger.close()

    def turn(self) -> None:
        asyncio.run(self.wheel._try_turn())

    def turn_until(self, is_so: Callable[[], Any], timeout_s: float = 30) -> None:
        end = time.monotonic() + timeout_s
        while True:
            self.turn()
            if is_so():
                return
            assert time.monotonic() < end, self.state()
            time.sleep(0.05)

    def state(self) -> str:
        known = {m: self.health(m) for m in self.backend.models()}
        return f"{known} {self.wheel.troubles} {self.wheel.feed_troubles}"

    def settle(self, timeout_s: float = 30) -> None:
        """All that the topics have now is in the log."""
        now = self.clock()
        self.turn_until(lambda: all(f.horizon >= now for f in self.feeds.each), timeout_s)
        self.turn()

    def later(self, seconds: float) -> None:
        """Time goes on, in steps that are no outage of the controller's own."""
        end = self.ahead_s + seconds
        while self.ahead_s < end:
            self.ahead_s = min(end, self.ahead_s + 5.0)
            self.turn()

    def later_until(self, is_so: Callable[[], Any], steps: int = 12) -> None:
        """Time goes on, read up to each step, until something is so."""
        for _ in range(steps):
            if is_so():
                return
            self.ahead_s += 5.0
            self.settle()
        assert is_so(), self.state()

    def lines(self, model: str, kind: str = "reward") -> list[dict[str, Any]]:
        found, start = [], 0
        while blocks := list(self.stream.read(model, start)):
            for block in blocks:
                found += [json.loads(line) for line in block.lines]
                start = block.start + len(block.lines)
        return [line for line in found if line["type"] == kind]

    def health(self, model: str) -> dict[str, Any]:
        return self.backend.report(model).health

    def counts(self, model: str, name: str) -> dict[str, int]:
        return self.health(model)["sources"][name]

    def exposed(self, model: str, requests: list[str], at: float) -> None:
        lines = [
            json.dumps(
                {
                    "type": "exposure",
                    "time": at,
                    "model": model,
                    "request_id": request,
                    "arm": "v1",
                    "epoch": 1,
                }
            ).encode()
            for request in requests
        ]
        asyncio.run(self.wheel.append({model: lines}))

    def arm(self, model: str) -> Any:
        return self.backend.report(model).arms[0]


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaTopics]:
    with Kafka() as broker:
        yield KafkaTopics(broker)


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisTopics]:
    with Redis() as server:
        yield RedisTopics(server)


@pytest.fixture(params=["kafka", "redis"])
def topics(request: pytest.FixtureRequest) -> Topics:
    return request.getfixturevalue(request.param)


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Desk]]:
    """desk(policies…): over one folder, so that the second goes on where the first was."""
    made: list[Desk] = []

    def make(*policies: PolicySource) -> Desk:
        urls = {
            each.kind: each.url
            for name in ("kafka", "redis")
            if name in request.fixturenames or "topics" in request.fixturenames
            for each in (request.getfixturevalue(name),)
        }
        made.append(Desk(tmp_path, urls, *policies))
        return made[-1]

    yield make
    for each in made:
        each.close()
