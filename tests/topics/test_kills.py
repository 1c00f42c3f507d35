"""Rewards that come by Kafka while `serve` and the broker are killed: each counts, and once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from controller.bootstrap.serving import require_addresses
from controller.errors import Permanent
from controller.settings import Address, Settings, SettingsError, source_urls
from tests.processes import until
from tests.service.conftest import (  # noqa: F401 - fixtures
    Serve,
    Users,
    make_serve,
    models,
    policy_text,
)
from tests.topics.brokers import KafkaTopics, topic_name
from tests.topics.conftest import MAP, policy

SOURCES = """
  sources:
    - kafka:
        topic: {topic}
        when: {{$.event: [ok, other]}}
        map: {{request_id: $.ctx.rid, name: $.event, value: $.v, time: $.ts, time_unit: ms}}
  stages:"""


class Producing(Users):
    """Users whose rewards go to a topic, among other things and things that nobody can read."""

    def begin(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "delivery.timeout.ms": 120_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )

    def _posted(self, batch: list[dict[str, Any]]) -> bool:
        for each in batch:
            record = {
                "ctx": {"rid": each["request_id"]},
                "event": each["name"],
                "v": each["value"],
                "ts": round(each["time"] * 1_000),
            }
            self._send(json.dumps(record).encode(), each["id"])
            self._send(b'{"event": "scroll"}')
            self._send(b"\xff\x00")
        self.producer.poll(0)
        return True

    def _send(self, value: bytes, named: str | None = None) -> None:
        def delivered(error: object, _: object) -> None:
            assert error is None, error
            if named is not None:
                self.acknowledged.add(named)

        self.producer.produce(self.topic, value, on_delivery=delivered)


@pytest.mark.timeout(150)
def test_kills_of_serve_and_of_the_broker_lose_and_double_no_reward(
    make_serve: Callable[..., Serve],  # noqa: F811 - the fixture
    models: list[int],  # noqa: F811 - the fixture
    kafka: KafkaTopics,
) -> None:
    topic = topic_name()
    kafka.make(topic)
    text = policy_text(models[0], window="3s").replace(
        "    window: 3s", "    window: 3s\n    grace: 1s"
    )
    serve = make_serve(m=text.replace("\n  stages:", SOURCES.format(topic=topic)))
    serve.stores = {"UNDERSTUDY_KAFKA": kafka.url}
    serve.start()
    name = f"kafka:{topic}"
    until("the first look", lambda: serve.arms()["health"]["sources"][name]["behind"] == 0, 20)
    users = Producing(serve, rate_hz=150, reward_chance=0.3)
    users.begin(kafka.broker.bootstrap, topic)
    with users:
        time.sleep(1.5)
        kafka.kill()
        until("it is said that the broker is away", lambda: "trouble" in serve.arms()["health"], 20)
        time.sleep(3)  # window and grace are over
        kafka.start()
        time.sleep(0.5)  # in the middle of what waited
        serve.kill()
        serve.start()
        time.sleep(1.0)
    assert users.producer.flush(60) == 0
    sent = len(users.acknowledged)
    assert sent > 200

    def is_read() -> bool:
        counts = serve.arms()["health"]["sources"][name]
        return bool(counts["used"] >= sent and counts["behind"] == 0)

    try:
        until("all is read", is_read, 30)
    except AssertionError as exc:
        raise AssertionError(f"{exc}, {sent}: {serve.arms()['health']}\n{serve.tail()}") from exc
    until("all windows have closed", lambda: not serve.arms()["arms"][0]["pending"], 30)
    report = serve.arms()
    (arm,) = report["arms"]
    assert users.lost == []
    assert arm["rewards"] == sent
    assert arm["outcomes"] == arm["exposures"] == len(users.answers)
    assert {k: v for k, v in report["rejected"].items() if v} == {}
    counts = report["health"]["sources"][name]
    assert counts == {
        "read": 3 * sent,
        "used": sent,
        "skipped": sent,
        "dead": sent,
        "lost": 0,
        "behind": 0,
    }


def test_a_policy_with_a_topic_and_no_address_is_refused_with_the_option(tmp_path: Path) -> None:
    source = policy("m", {"kafka": {"topic": "clicks", "map": MAP}})
    nowhere = Address("127.0.0.1", 0)
    settings = Settings(tmp_path, tmp_path, nowhere, None, nowhere)
    with pytest.raises(Permanent, match="reads kafka:clicks: give --kafka kafka://HOST:PORT"):
        require_addresses(settings, [source])
    urls = source_urls(kafka=None, redis=None, stream="kafka://log:9092/understudy")
    require_addresses(replace(settings, topics=urls), [source])


def test_the_event_logs_own_address_is_that_of_topics_of_its_kind() -> None:
    log = "rediss://queue:6379/0?prefix=a"
    assert source_urls(kafka=None, redis=None, stream=log) == {"kafka": None, "redis": log}
    given = source_urls(kafka="kafkas://k:1", redis="redis://r", stream=log)
    assert given == {"kafka": "kafkas://k:1", "redis": "redis://r"}
    with pytest.raises(SettingsError, match="expected kafka://HOST:PORT") as caught:
        source_urls(kafka="amqp://ana:hunter2@host/0", redis=None, stream=None)
    assert "hunter2" not in str(caught.value)
