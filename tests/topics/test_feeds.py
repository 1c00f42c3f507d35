"""Topics of others, from the broker to the log: each story on Kafka and on Redis."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from confluent_kafka import Producer
from prometheus_client import generate_latest

from controller.api.metrics import Reports
from controller.api.pressure import Budget
from controller.core.model import Operation
from controller.errors import Retryable
from controller.stream import kafka_reader
from tests.topics.brokers import KafkaTopics, RedisTopics, Topics, topic_name
from tests.topics.conftest import MAP, Desk, click, policy


def test_rewards_come_by_the_map_and_are_counted_by_what_became_of_them(topics: Topics, desk):
    topic = topic_name()
    topics.make(topic)
    at = desk(policy("m", topics.source(topic, map=MAP, when={"$.event": ["click", "buy"]})))
    at.settle()
    topics.produce(topic, [click(0), click(1, v="0.5"), click(2, v=True), click(3, event="buy")])
    topics.produce(topic, [click(4, event="scroll"), {"other": 1}, click(5, v=[]), b"\xff\x00"])
    at.settle()
    found = {line["request_id"]: line for line in at.lines("m")}
    assert {r: (f["name"], f["value"]) for r, f in found.items()} == {
        "r0": ("click", 1),
        "r1": ("click", 0.5),
        "r2": ("click", 1.0),
        "r3": ("buy", 1),
    }
    name = f"{topics.kind}:{topic}"
    assert all(line["id"].startswith(name) for line in found.values())
    assert at.counts("m", name) == {
        "read": 8,
        "used": 4,
        "skipped": 2,
        "dead": 2,
        "lost": 0,
        "behind": 0,
    }
    rejected = {row.detail.partition(",")[0]: row for row in at.ledger.rejections()}
    assert any(detail.startswith("value: found [] at $.v") for detail in rejected)
    assert any(detail.startswith("record: found no JSON") for detail in rejected)
    assert all(row.reason == "malformed" for row in rejected.values())
    assert all(row.source.startswith(name) and "@" in row.source for row in rejected.values())


def test_a_restart_goes_on_where_the_log_is_and_reads_nothing_twice(topics: Topics, desk):
    topic = topic_name()
    topics.make(topic)
    source = policy("m", topics.source(topic, map=MAP))
    first = desk(source)
    first.settle()
    topics.produce(topic, [click(n) for n in range(100)])
    first.settle()
    first.close()
    topics.produce(topic, [click(n) for n in range(100, 250)])
    second = desk(source)
    second.settle()
    rids = [line["request_id"] for line in second.lines("m")]
    assert sorted(rids) == sorted(f"r{n}" for n in range(250))
    assert second.counts("m", f"{topics.kind}:{topic}")["read"] == 250


@pytest.mark.parametrize("is_stored", [False, True])
def test_an_append_that_fails_or_is_answered_too_late_counts_once(
    redis: RedisTopics, desk, monkeypatch, is_stored
):
    topic = topic_name()
    redis.make(topic)
    at = desk(policy("m", redis.source(topic, map=MAP)))
    at.settle()
    at.exposed("m", [f"r{n}" for n in range(10)], at.clock())
    append, failed = at.stream.append, []

    def failing(lines, *, mark=None, **options):
        is_first = mark is not None and lines and not failed
        if not is_first or is_stored:
            starts = append(lines, mark=mark, **options)
        if is_first:
            failed.append(mark)
            raise Retryable("no answer")
        return starts

    monkeypatch.setattr(at.stream, "append", failing)
    redis.produce(topic, [click(n) for n in range(10)])
    at.turn_until(lambda: failed)
    assert "no answer" in at.health("m")["trouble"]
    at.settle()
    assert len(at.lines("m")) == (20 if is_stored else 10)
    assert at.arm("m").rewards == 10
    assert at.counts("m", f"redis:{topic}")["used"] == 10


@pytest.mark.parametrize(("start", "found"), [("latest", 1), ("earliest", 4)])
def test_a_first_look_begins_where_the_policy_says(topics: Topics, desk, start, found):
    topic = topic_name()
    topics.make(topic)
    topics.produce(topic, [click(n) for n in range(3)])
    at = desk(policy("m", topics.source(topic, map=MAP, start=start)))
    at.settle()
    at.close()
    topics.produce(topic, [click(3)])  # while nobody looks
    again = desk(policy("m", topics.source(topic, map=MAP, start=start)))
    again.settle()
    assert len(again.lines("m")) == found


def test_latest_begins_when_the_policy_came_however_late_the_first_look_succeeds(
    topics: Topics, desk, tmp_path
):
    topic = topic_name()
    topics.make(topic)
    source = policy("m", topics.source(topic, map=MAP))
    at = Desk(tmp_path, {}, source)
    at.turn_until(lambda: at.wheel.feed_troubles)
    assert f"give `serve` --{topics.kind}" in at.health("m")["trouble"]
    at.exposed("m", ["r0", "r1"], at.clock())
    at.later(60)
    assert at.arm("m").pending == 2
    at.close()
    topics.produce(topic, [click(0), click(1)])
    again = desk(source)
    again.settle()
    assert {line["request_id"] for line in again.lines("m")} == {"r0", "r1"}
    again.later_until(lambda: again.arm("m").outcomes)
    assert (again.arm("m").outcomes, again.arm("m").rewards) == (2, 2)


def test_two_models_take_from_one_topic_that_is_read_once(topics: Topics, desk):
    topic = topic_name()
    topics.make(topic)
    sources = [
        policy(model, topics.source(topic, map=MAP, when={"$.model": model})) for model in "ab"
    ]
    at = desk(*sources)
    at.settle()
    assert len(at.feeds.each) == 1
    topics.produce(topic, [click(n, model="ab"[n % 2]) for n in range(40)])
    at.settle()
    for model, first in (("a", 0), ("b", 1)):
        rids = {line["request_id"] for line in at.lines(model)}
        assert rids == {f"r{n}" for n in range(first, 40, 2)}
        counts = at.counts(model, f"{topics.kind}:{topic}")
        assert (counts["read"], counts["used"], counts["skipped"]) == (40, 20, 20)


def test_events_of_ours_and_cloud_events_need_no_map(topics: Topics, desk):
    topic = topic_name()
    topics.make(topic)
    at = desk(policy("m", topics.source(topic)), policy("other", topics.source(topic)))
    at.settle()
    reward = {"time": time.time(), "model": "m", "request_id": "r1", "name": "click", "value": 1}
    cloud = {
        "specversion": "1.0",
        "id": "7",
        "source": "/shop",
        "type": "dev.understudy.reward",
        "data": {**reward, "request_id": "r2"},
    }
    tick = {"type": "tick", "time": time.time()}
    own = {"type": "reward", "id": "e1", **reward}
    topics.produce(topic, [own, cloud, {**own, "model": "strange"}, tick])
    at.settle()
    assert {line["id"] for line in at.lines("m")} == {"e1", "/shop#7"}
    assert at.lines("other") == []
    assert [row.detail for row in at.ledger.rejections()] == ["ticks are made by the controller"]
    counts = at.counts("m", f"{topics.kind}:{topic}")
    assert (counts["used"], counts["skipped"], counts["dead"]) == (2, 1, 1)


def test_exposures_and_rewards_of_elsewhere_meet_and_metrics_tell_of_them(
    kafka: KafkaTopics, redis: RedisTopics, desk
):
    answers, clicks = topic_name(), topic_name()
    kafka.make(answers)
    redis.make(clicks)
    answered = {
        "type": "exposure",
        "request_id": "$.rid",
        "unit": "$.user",
        "arm": "$.version",
        "status": "$.status",
        "epoch": "$.epoch",
    }
    at = desk(policy("m", kafka.source(answers, map=answered), redis.source(clicks, map=MAP)))
    at.settle()
    exposure = {"user": "u", "version": "v1", "status": 200, "epoch": 1}
    redis.produce(clicks, [click(n) for n in range(30)])  # before what they are rewards for
    kafka.produce(answers, [exposure | {"rid": f"r{n}", "user": f"u{n}"} for n in range(40)])
    at.settle()
    assert (at.arm("m").exposures, at.arm("m").rewards, at.arm("m").pending) == (40, 30, 40)
    at.later_until(lambda: at.arm("m").outcomes)
    assert (at.arm("m").outcomes, at.arm("m").mean) == (40, 0.75)
    assert at.health("m")["unattributed"] == 0
    text = generate_latest(Reports(at.backend, Budget())).decode()
    for name, used in ((f"kafka:{answers}", 40), (f"redis:{clicks}", 30)):
        labels = f'model="m",outcome="used",source="{name}"'
        assert f"understudy_source_records_total{{{labels}}} {used}.0" in text
        assert f'understudy_source_behind{{model="m",source="{name}"}} 0.0' in text


def test_a_policy_that_comes_goes_and_changes_is_followed(topics: Topics, desk):
    topic, other = topic_name(), topic_name()
    topics.make(topic)
    topics.make(other)
    at = desk(policy("m", topics.source(topic, map=MAP)))
    at.settle()
    at.wheel.adopt("n", policy("n", topics.source(topic, map=MAP), topics.source(other, map=MAP)))
    at.backend.adopt("n")
    at.turn()
    at.settle()
    topics.produce(topic, [click(1)])
    topics.produce(other, [click(2)])
    at.settle()
    assert len(at.lines("m")) == 1
    assert {line["request_id"] for line in at.lines("n")} == {"r1", "r2"}
    at.wheel.adopt("n", None)
    at.backend.forget("n")
    at.wheel.adopt("m", policy("m", topics.source(topic, map=MAP | {"value": 0.25})))
    at.turn()
    assert [feed.name for feed in at.feeds.each] == [f"{topics.kind}:{topic}"]
    at.settle()
    topics.produce(topic, [click(3)])
    at.settle()
    assert at.lines("m")[-1]["value"] == 0.25
    assert len(at.lines("n")) == 2


def test_a_trimmed_topic_goes_on_at_what_there_is_and_counts_what_is_lost(topics: Topics, desk):
    topic = topic_name()
    topics.make(topic, partitions=1)
    source = policy("m", topics.source(topic, map=MAP))
    at = desk(source)
    at.settle()
    topics.produce(topic, [click(n) for n in range(10)])
    at.settle()
    at.close()
    topics.produce(topic, [click(n) for n in range(10, 30)])
    topics.trim(topic, keep=5)
    again = desk(source)
    again.settle()
    rids = {line["request_id"] for line in again.lines("m")}
    assert rids == {f"r{n}" for n in [*range(10), *range(25, 30)]}
    counts = again.counts("m", f"{topics.kind}:{topic}")
    assert (counts["read"], counts["lost"]) == (15, 15)


def test_a_topic_that_is_not_there_yet_holds_its_model_alone_and_is_read_whole(
    topics: Topics, desk
):
    topic = topic_name()
    at = desk(policy("m", topics.source(topic, map=MAP)), policy("alone"))
    at.turn_until(lambda: at.wheel.feed_troubles)
    assert topic in at.health("m")["trouble"]
    assert "(yet)" in at.health("m")["trouble"]
    assert "trouble" not in at.health("alone")
    assert at.backend.ready()["log and ledger"] is True
    topics.make(topic)
    topics.produce(topic, [click(1)])
    at.settle()
    assert len(at.lines("m")) == 1
    assert "trouble" not in at.health("m")


@pytest.mark.parametrize("count", [3, 13])
def test_a_topic_made_anew_is_read_from_its_beginning(topics: Topics, desk, count):
    topic = topic_name()
    topics.make(topic, partitions=1)
    source = policy("m", topics.source(topic, map=MAP))
    at = desk(source)
    at.settle()
    topics.produce(topic, [click(n) for n in range(10)])
    at.settle()
    at.close()
    topics.delete(topic)
    time.sleep(0.3)
    topics.make(topic, partitions=1)
    topics.produce(topic, [click(n) for n in range(10, 10 + count)])
    again = desk(source)
    again.settle()
    found = again.lines("m")
    assert [line["request_id"] for line in found] == [f"r{n}" for n in range(10 + count)]
    assert len({line["id"] for line in found}) == len(found)


def test_partitions_that_are_added_are_read_from_their_beginning(
    kafka: KafkaTopics, desk, monkeypatch
):
    monkeypatch.setattr(kafka_reader, "PARTITIONS_S", 0.2)
    topic = topic_name()
    kafka.make(topic, partitions=1)
    at = desk(policy("m", kafka.source(topic, map=MAP)))
    at.settle()
    kafka.produce(topic, [click(0)])
    kafka.extend(topic, 3)
    kafka.produce(topic, [click(1)], partition=1)
    kafka.produce(topic, [click(2)], partition=2)
    at.turn_until(lambda: len(at.lines("m")) == 3)
    mark = json.loads(at.stream.mark(f"kafka:{topic}"))
    assert mark["at"].pop("topic")
    assert mark["at"] == {"0": 1, "1": 1, "2": 1}


def test_what_a_transaction_took_back_is_not_read_and_its_marks_are_no_delay(
    kafka: KafkaTopics, desk
):
    topic = topic_name()
    kafka.make(topic, partitions=1)
    at = desk(policy("m", kafka.source(topic, map=MAP)))
    at.settle()
    producer = Producer(
        {"bootstrap.servers": kafka.broker.bootstrap, "transactional.id": topic, "log_level": 0}
    )
    producer.init_transactions(30)
    for n, is_kept in ((0, True), (1, False), (2, True), (3, False)):
        producer.begin_transaction()
        producer.produce(topic, json.dumps(click(n)).encode())
        producer.flush(30)
        (producer.commit_transaction if is_kept else producer.abort_transaction)(30)
    at.settle()
    assert [line["request_id"] for line in at.lines("m")] == ["r0", "r2"]
    assert at.counts("m", f"kafka:{topic}")["behind"] == 0


def test_poison_of_every_kind_is_kept_apart_and_stops_nothing(topics: Topics, desk):
    topic = topic_name()
    topics.make(topic, partitions=1)
    at = desk(policy("m", topics.source(topic, map=MAP)))
    at.settle()
    poison = [
        b"\xff\xfe\x00avro",
        b"x" * 5_000_000,
        b"[" * 200_000,
        b'{"v": NaN}',
        json.dumps(click(0, v="NaN")).encode(),
        json.dumps(click(0, ts=time.time() + 1e6)).encode(),
        json.dumps(click(0, ctx={"rid": [1]})).encode(),
    ]
    topics.produce(topic, [body for n, bad in enumerate(poison) for body in (bad, click(n))])
    at.settle()
    assert len(at.lines("m")) == len(poison)
    rows = at.ledger.rejections()
    assert len(rows) == len(poison) == at.counts("m", f"{topics.kind}:{topic}")["dead"]
    assert {row.reason for row in rows} == {"malformed"}
    assert len({row.source for row in rows}) == len(poison)
    assert max(len(row.event) for row in rows) <= 4_096


def test_large_entries_of_a_stream_come_in_small_batches(redis: RedisTopics, desk):
    topic = topic_name()
    redis.make(topic)
    at = desk(policy("m", redis.source(topic, map=MAP)))
    at.settle()
    redis.produce(topic, [click(n, page="x" * 200_000) for n in range(150)])
    at.settle()
    assert [line["request_id"] for line in at.lines("m")] == [f"r{n}" for n in range(150)]
    (feed,) = at.feeds.each
    assert feed._reader._count < 50


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("kafka://127.0.0.1:1", "Connection refused"),
        ("kafka://ana:hunter2@127.0.0.1:1", "Connection refused"),
        ("kafka://", "expected kafka://"),
    ],
)
def test_a_broker_that_cannot_be_reached_is_told_with_its_reason(tmp_path, url, why):
    at = Desk(tmp_path, {"kafka": url}, policy("m", {"kafka": {"topic": "clicks", "map": MAP}}))
    at.turn_until(lambda: at.wheel.feed_troubles)
    trouble = at.health("m")["trouble"]
    at.close()
    assert why in trouble
    assert "hunter2" not in trouble


@pytest.mark.timeout(120)
def test_no_window_closes_while_its_rewards_wait_in_a_topic_that_is_away(topics: Topics, desk):
    topic = topic_name()
    topics.make(topic)
    at = desk(policy("m", topics.source(topic, map=MAP)), policy("alone"))
    at.settle()
    now = at.clock()
    for model in ("m", "alone"):
        at.exposed(model, [f"r{n}" for n in range(20)], now)
    topics.produce(topic, [click(n, ts=now + 1) for n in range(20)])
    topics.kill()
    try:
        at.turn_until(lambda: at.wheel.feed_troubles)
        at.later(60)  # window and grace are long over
        late = at.clock()
        at.exposed("m", [f"late{n}" for n in range(5)], late)
        at.turn()
        assert (at.arm("m").outcomes, at.arm("m").pending) == (0, 25)
        assert "no attribution window closes" in at.health("m")["trouble"]
        assert "trouble" not in at.health("alone")
        assert at.arm("alone").outcomes == 20  # nothing that was to come was missing there
        _rolls_back_by_hand(at)
    finally:
        topics.start()
    topics.produce(topic, [click(0, ctx={"rid": "late0"}, ts=late + 1)])
    at.settle(60)
    assert "trouble" not in at.health("m")
    assert (at.arm("m").rewards, at.arm("m").exposures) == (21, 25)
    at.later_until(lambda: not at.arm("m").pending)
    assert (at.arm("m").outcomes, at.arm("m").pending) == (25, 0)
    assert at.arm("m").mean == 21 / 25


def _rolls_back_by_hand(at):
    """Operators are obeyed while the clock stands, and it does not move for them."""
    before = at.backend.report("m").time

    async def story():
        await at.backend.candidate("m", {"version": "v2", "endpoints": ["127.0.0.1:9"]})
        assert at.backend.report("m").phase == "ramping"
        return await at.backend.command("m", Operation.ROLLBACK, by="ana", reason="slow")

    assert asyncio.run(story()).phase in {"rolling_back", "rolled_back"}
    assert at.backend.report("m").time == before
