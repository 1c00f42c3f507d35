"""What Kafka can do to us, and what we say then."""

from __future__ import annotations

import itertools
import logging.config
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from threading import Event
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from controller.errors import BackendError, Permanent, Retryable, Trimmed
from controller.stream import Mark, Stream, open_stream
from controller.stream import kafka as module
from controller.stream.kafka import KafkaStream, reader, tails, topics, writer
from controller.stream.kafka.faults import Faults
from controller.stream.kafka.topics import Topics
from controller.stream.kafka.writer import Writer
from controller.stream.kafka_url import parse
from controller.stream.packing import packed
from tests.processes import Child, until
from tests.stores.kafka import Kafka, refused
from tests.stream import rival


def events(stream: Stream, model: str = "m", start: int = 0) -> list[bytes]:
    return [line for block in stream.read(model, start) for line in block.lines]


def topic(url: str, name: str = "log.m") -> str:
    return f"{parse(url).prefix}.{name}"


@pytest.fixture
def admin(kafka: Kafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


def make(admin: AdminClient, name: str, **config: object) -> None:
    given = {key.replace("_", "."): str(value) for key, value in config.items()}
    admin.create_topics([NewTopic(name, 1, 1, config=given)])[name].result()


def alter(admin: AdminClient, name: str, setting: str, value: str) -> None:
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result()


@contextmanager
def synced(kafka: Kafka, admin: AdminClient) -> Iterator[None]:
    """Each commit is on the disk; the topic of transactions is there from the first one on."""
    with closing(open_stream(kafka.address())) as stream:
        stream.append({"m": [b"1"]})
    alter(admin, "__transaction_state", "flush.messages", "1")
    try:
        yield
    finally:
        alter(admin, "__transaction_state", "flush.messages", "9223372036854775807")


FIT = {"retention_ms": -1, "retention_bytes": -1, "flush_messages": 1}


def intruder(url: str) -> Producer:
    """A process that appends as one of ours would."""
    address = parse(url)
    name = f"{address.prefix}.append.intruder"
    producer = Producer({**address.client, "transactional.id": name})
    producer.init_transactions(20)
    return producer


def write(url: str, to: str, header: bytes | None, *, commit: bool) -> None:
    producer = intruder(url)
    producer.begin_transaction()
    headers = [] if header is None else [("understudy", header)]
    producer.produce(to, b"x", headers=headers, partition=0)
    producer.flush(10)
    if commit:
        producer.commit_transaction(10)
        until("it is visible", lambda: is_visible(url, to))
    else:
        producer.abort_transaction(10)


def is_visible(url: str, to: str) -> bool:
    try:
        return ends(url, to, "COMMITTED") == ends(url, to, "UNCOMMITTED")
    except KafkaException:  # a new client has three seconds to find its broker
        return False


def ends(url: str, to: str, which: str) -> int:
    place, level = TopicPartition(to, 0), IsolationLevel[f"READ_{which}"]
    admin = AdminClient(parse(url).client)
    return int(
        admin.list_offsets({place: OffsetSpec.latest()}, isolation_level=level)[place]
        .result()
        .offset
    )


# --- losses -----------------------------------------------------------------------------------


def test_kills_of_the_broker_while_others_append_lose_and_double_nothing() -> None:
    rng = Random(7)
    with Kafka() as server, closing(open_stream(url := server.address())) as stream:
        told: dict[int, int] = {}
        ending = Event()

        def append() -> int:
            for number in itertools.count():
                lines = [b"%d %d" % (number, i) for i in range(1 + number % 5)]
                with suppress(Retryable):
                    told[number] = stream.append({"m": lines, "n": lines[:1]})["m"]
                if ending.is_set():
                    return number
            raise AssertionError

        with ThreadPoolExecutor(1) as pool:
            appended = pool.submit(append)
            for _ in range(2):
                known = len(told)
                until("appends go on", lambda known=known: len(told) > known + 3)
                Event().wait(rng.uniform(0, 0.1))
                server.kill()
                server.start()
            ending.set()
            count = appended.result(60) + 1
        log = events(stream)
        numbers = [int(line.split()[0]) for line in log]
        assert numbers == sorted(numbers)
        for number, start in told.items():
            lines = [b"%d %d" % (number, i) for i in range(1 + number % 5)]
            assert log[start : start + len(lines)] == lines
        assert all(numbers.count(n) in {0, 1 + n % 5} for n in range(count))
        assert [int(line.split()[0]) for line in events(stream, "n")] == sorted(set(numbers))
        with closing(open_stream(url)) as other:
            assert events(other) == log
        assert len(told) >= 8  # four in each round


def test_a_broker_that_is_away_is_retryable_and_it_goes_on_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Kafka() as server, closing(open_stream(server.address())) as stream:
        stream.append({"m": [b"1"]}, mark=Mark("tail", "1"))
        monkeypatch.setattr(module, "_APPEND_S", 0.5)
        monkeypatch.setattr(writer, "_BEGIN_S", 1.0)
        monkeypatch.setattr(writer, "_FLUSH_S", 1.0)
        monkeypatch.setattr(topics, "_ANSWER_S", 1.0)
        monkeypatch.setattr(reader, "_ANSWER_S", 1.0)
        server.kill()
        works: list[Callable[[], object]] = [
            lambda: stream.append({"m": [b"lost"]}),
            lambda: stream.read("m", 0),
            lambda: stream.mark("tail"),
            lambda: open_stream(server.address()),
        ]
        for work in works:
            with pytest.raises(Retryable, match="it is tried again"):
                work()
        server.start()
        monkeypatch.undo()
        assert stream.append({"m": [b"2"]}, mark=Mark("tail", "2")) == {"m": 1}
        assert (events(stream), stream.mark("tail")) == ([b"1", b"2"], "2")


def test_what_the_client_logs_is_not_shown_whoever_sets_up_logs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    Faults("x").settings()["logger"].critical("this instance has been fenced")
    assert caplog.records == []


@pytest.mark.parametrize("code", [KafkaError._FATAL, KafkaError.UNKNOWN])
def test_what_kafka_says_around_a_fence_is_no_lasting_fault(code: int) -> None:
    """By `produce` of a producer that was fenced before, by a commit in the midst of a fence."""
    with pytest.raises(Retryable), Faults("x").mapped():
        raise KafkaException(KafkaError(code))


def test_an_answer_without_an_offset_is_no_damage(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.append({"m": [b"1"]})
    asked, missing = Topics._asked, iter([True, True])

    def ask(self: Topics, names: Collection[str]) -> dict[str, list[Future[Any]]]:
        found = asked(self, names)
        if next(missing, False):
            nothing = Future[Any]()
            nothing.set_result(SimpleNamespace(offset=-1001))
            return {name: [first, nothing, nothing] for name, (first, *_) in found.items()}
        return found

    monkeypatch.setattr(Topics, "_asked", ask)
    assert stream.end("m") == 1
    assert stream.append({"m": [b"2"]}) == {"m": 1}
    assert next(missing, None) is None


@pytest.mark.parametrize("took_place", [True, False])
def test_an_append_whose_commit_is_in_doubt_is_in_the_log_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, took_place: bool
) -> None:
    stream.append({"m": [b"1"]})
    commit, doubts = Writer.commit, iter([True, True, False])

    def lost(self: Writer, drafts: Any, token: bytes) -> dict[str, int]:
        if not next(doubts, False):
            return commit(self, drafts, token)
        if took_place:
            commit(self, drafts, token)
        raise Retryable("the answer is lost")

    monkeypatch.setattr(Writer, "commit", lost)
    mark = Mark("tail", "2")
    assert stream.append({"m": [b"2", b"3"], "n": [b"4"]}, mark=mark) == {"m": 1, "n": 0}
    assert stream.append({"m": [b"5"]}) == {"m": 3}
    assert (events(stream), events(stream, "n")) == ([b"1", b"2", b"3", b"5"], [b"4"])
    assert stream.mark("tail") == "2"


def test_a_mark_alone_whose_commit_is_in_doubt_is_stored(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, doubts = Writer.commit, iter([True])

    def lost(self: Writer, drafts: Any, token: bytes) -> dict[str, int]:
        last = commit(self, drafts, token)
        if next(doubts, False):
            raise Retryable("the answer is lost")
        return last

    monkeypatch.setattr(Writer, "commit", lost)
    assert stream.append({}, mark=Mark("tail", "1")) == {}
    assert stream.mark("tail") == "1"


def settle(url: str) -> None:
    """Wait until Kafka has written down that it told every topic: else it does so once more."""
    with closing(open_stream(url)) as stream:
        stream.append({}, mark=Mark("settled", "1"))


def test_records_whose_transaction_kafka_forgot_to_end_are_committed_or_taken_back_as_a_whole() -> (
    None
):
    with Kafka() as server:
        url = server.address()

        def append(lines: dict[str, list[bytes]]) -> dict[str, int]:
            with closing(open_stream(url)) as stream:
                return stream.append(lines)

        append({"m": [b"1"], "n": [b"1"]})
        append({"m": [b"2"], "n": [b"2"]})
        settle(url)
        server.kill()
        server.forget(topic(url), 1)  # the mark that says that it is committed
        server.start()
        with closing(open_stream(url)) as stream:
            assert (events(stream), events(stream, "n")) == ([b"1"], [b"1", b"2"])
        assert append({"n": [b"3"]}) == {"n": 2}
        assert append({"m": [b"3"]}) == {"m": 2}
        append({"m": [b"lost"], "n": [b"lost"]})
        settle(url)
        server.kill()
        server.forget(topic(url), 1)
        server.forget(topic(url, "log.n"), 2)  # the record, too
        server.start()
        assert append({"m": [b"4"]}) == {"m": 3}
        with closing(open_stream(url)) as stream:
            assert events(stream) == [b"1", b"2", b"3", b"4"]
            assert events(stream, "n") == [b"1", b"2", b"3"]


# --- other writers ------------------------------------------------------------------------------


def test_what_was_not_committed_is_never_read_and_takes_no_offset(stream: Stream, url: str) -> None:
    for i in range(5):
        stream.append({"m": [b"%d" % i]})
        with closing(open_stream(url)) as other:
            write(url, topic(url), b"2 0 0 1 intruder.1 1", commit=False)
            assert events(other) == [b"%d" % n for n in range(i + 1)]
    assert stream.append({"m": [b"5"]}) == {"m": 5}
    assert events(stream) == [b"%d" % n for n in range(6)]


def test_a_writer_that_died_in_a_transaction_is_ended_by_who_waits_for_it(
    stream: Stream, url: str
) -> None:
    stream.append({"m": [b"0"]})
    dead = intruder(url)
    dead.begin_transaction()
    dead.produce(topic(url), b"x", headers=[("understudy", b"2 0 0 1 intruder.1 1")], partition=0)
    dead.flush(10)
    with closing(open_stream(url)) as other:
        assert (events(stream), events(other)) == ([b"0"], [b"0"])
        began = monotonic()
        assert stream.append({"m": [b"1"]}) == {"m": 1}
        assert monotonic() - began < 6.0  # two of patience, half to begin, and slack
        assert (events(stream), events(other)) == ([b"0", b"1"], [b"0", b"1"])
        with pytest.raises(KafkaException, match="fenced"):  # had it only been stopped
            dead.commit_transaction(10)
        began = monotonic()
        assert other.append({"m": [b"2"]}) == {"m": 2}
        assert monotonic() - began < 2.0
    assert events(stream) == [b"0", b"1", b"2"]


def test_a_writer_that_was_stopped_in_an_append_and_goes_on_appends_it_once(
    stream: Stream, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, is_stopped, goes_on = Writer.commit, Event(), Event()

    def stopped(self: Writer, drafts: Any, token: bytes) -> dict[str, int]:
        if any(draft.value == packed([b"late"])[0][1] for draft in drafts) and not goes_on.is_set():
            send = self._send

            def sent(*given: Any) -> dict[str, int]:
                found = send(*given)
                is_stopped.set()
                assert goes_on.wait(30)
                return found

            monkeypatch.setattr(self, "_send", sent)
        return commit(self, drafts, token)

    monkeypatch.setattr(Writer, "commit", stopped)
    with closing(open_stream(url)) as other, ThreadPoolExecutor(1) as pool:
        stream.append({"m": [b"0"]})
        late = pool.submit(stream.append, {"m": [b"late"]})
        assert is_stopped.wait(10)
        assert other.append({"m": [b"1"]}, mark=Mark("tail", "1")) == {"m": 1}
        goes_on.set()
        assert late.result(30) == {"m": 2}
        assert events(other) == [b"0", b"1", b"late"]


@pytest.mark.parametrize("models", [("m", "n"), ("m", "m")])
def test_those_who_append_at_the_same_time_do_not_end_one_another(
    url: str, monkeypatch: pytest.MonkeyPatch, models: tuple[str, str]
) -> None:
    begin, begun = Writer.begin, list[bool]()

    def counted(self: Writer) -> bool:
        begun.append(begin(self))
        return begun[-1]

    monkeypatch.setattr(Writer, "begin", counted)

    def append(own: Stream, model: str, name: str) -> list[int]:
        mark = partial(Mark, name)
        return [
            own.append({model: [f"{name} {i}".encode()]}, mark=mark(str(i)))[model]
            for i in range(40)
        ]

    with closing(open_stream(url)) as one, closing(open_stream(url)) as two:
        with ThreadPoolExecutor(2) as pool:
            done = [
                pool.submit(append, own, model, name)
                for own, model, name in zip((one, two), models, "ab", strict=True)
            ]
            starts = [each.result(60) for each in done]
        assert begun.count(True) == 2
        for model, name, found in zip(models, "ab", starts, strict=True):
            log = events(one, model)
            assert [log[start] for start in found] == [f"{name} {i}".encode() for i in range(40)]
            assert found == sorted(found)
        assert [two.mark(name) for name in "ab"] == ["39", "39"]


@pytest.mark.timeout(120)
def test_writers_that_are_killed_and_stopped_among_others_lose_and_double_nothing(
    url: str, tmp_path: Path
) -> None:
    rng, names = Random(11), (f"w{number}" for number in itertools.count())
    living, dead = list[Child](), list[Child]()

    def begin() -> None:
        name = next(names)
        living.append(Child(name, (sys.executable, rival.__file__, url, name), tmp_path / name))
        living[-1].start()
        until("it appends", living[-1].log.read_bytes)

    def go_on(children: Sequence[Child]) -> None:
        said = [len(child.log.read_bytes()) for child in children]
        until(
            "the others go on",
            lambda: all(len(c.log.read_bytes()) > n for c, n in zip(children, said, strict=True)),
        )

    for _ in range(3):
        begin()
    for turn in range(8):
        Event().wait(rng.uniform(0, 0.3))
        victim = living.pop(rng.randrange(len(living)))
        if turn % 2:
            victim.stop()
            dead.append(victim)
            go_on(living)
            begin()
        else:
            victim.signal(signal.SIGSTOP)
            go_on(living)
            victim.signal(signal.SIGCONT)
            living.append(victim)
    go_on(living)
    for child in living:
        child.stop()
    with closing(open_stream(url)) as stream:
        stream.append({"a": [b"end 0 0"], "b": [b"end 0 0"]})
        logs = {log: events(stream, log) for log in "ab"}
        for child in (*living, *dead):
            found = {log: of(child.name, logs[log]) for log in "ab"}
            numbers = found["a"]
            assert numbers == found["b"] == sorted(set(numbers))
            assert stream.mark(child.name) == str(numbers[-1])
            *told, _ = child.log.read_text().split("\n")
            assert told
            for number, *starts in (map(int, line.split()) for line in told):
                own = rival.lines(child.name, number)
                for log, start in zip("ab", starts, strict=True):
                    assert logs[log][start : start + len(own)] == own


def of(name: str, log: Sequence[bytes]) -> list[int]:
    """The numbers of a rival's appends in a log, each of which must be whole."""
    own = [line for line in log if line.startswith(name.encode() + b" ")]
    numbers = [int(line.split()[1]) for line in own if line.endswith(b" 0")]
    assert own == [line for number in numbers for line in rival.lines(name, number)]
    return numbers


def test_appends_that_come_together_share_a_transaction(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.append({"m": [b"0"]})
    commit, count = Writer.commit, itertools.count(1)
    under_way, others_wait = Event(), Event()

    def slow(self: Writer, drafts: Any, token: bytes) -> dict[str, int]:
        next(count)
        under_way.set()
        assert others_wait.wait(10)
        return commit(self, drafts, token)

    monkeypatch.setattr(Writer, "commit", slow)
    with ThreadPoolExecutor(21) as pool:
        first = pool.submit(stream.append, {"m": [b"1"]})
        assert under_way.wait(10)
        done = [pool.submit(stream.append, {"m": [b"2"]}) for _ in range(20)]
        while len(stream._queue) < 20:  # type: ignore[attr-defined]
            Event().wait(0.01)
        others_wait.set()
        assert first.result() == {"m": 1}
        assert sorted(d.result()["m"] for d in done) == list(range(2, 22))
    assert next(count) == 3


# --- places -------------------------------------------------------------------------------------


def test_any_offset_is_found_among_many_small_transactions(
    stream: Stream, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_FEW", 3)
    rng, log = Random(2), 0
    for i in range(150):
        count = rng.choice((1, 1, 2, 40))
        stream.append({"m": [b"%d" % n for n in range(log, log + count)]})
        log += count
        if i % 30 == 29:
            write(url, topic(url), b"2 0 0 1 intruder.1 1", commit=False)
    with closing(open_stream(url)) as fresh:
        for start in (0, 1, log - 1, *(rng.randrange(log) for _ in range(12))):
            assert events(fresh, start=start) == [b"%d" % n for n in range(start, log)]


def test_a_read_goes_on_where_the_last_one_ended(
    stream: Stream, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        stream.append({"m": [b"%d" % i]})
    with closing(KafkaStream(url)) as fresh:
        assert [b.start for b in fresh.read("m", 3, limit=4)] == [3, 4, 5, 6]
        monkeypatch.setattr(fresh, "_place", None)  # no search
        assert events(fresh, start=7) == [b"%d" % i for i in range(7, 20)]
        stream.append({"m": [b"20"]})
        assert events(fresh, start=20) == [b"20"]


def test_what_is_no_more_in_memory_is_read_from_kafka_at_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "_MEMORY", 1_000)
    for i in range(30):
        stream.append({"m": [b"%d" % i], "n": [b"x"]})
        assert events(stream, start=max(0, i - 4)) == [
            b"%d" % n for n in range(max(0, i - 4), i + 1)
        ]


def test_blocks_are_as_small_as_their_topic_asks(kafka: Kafka, admin: AdminClient) -> None:
    url = kafka.address(durability="always")
    make(admin, topic(url), **FIT, max_message_bytes=150_000)
    lines = [Random(i).randbytes(40_000).replace(b"\n", b"-") for i in range(12)]
    with synced(kafka, admin), closing(open_stream(url)) as stream:
        stream.append({"m": lines})
        blocks = list(stream.read("m", 0))
        assert len(blocks) > 2
        assert [each for block in blocks for each in block.lines] == lines
        with pytest.raises(Permanent, match=r"raise max.message.bytes of the topic"):
            stream.append({"m": [Random(1).randbytes(300_000).replace(b"\n", b"-")]})


# --- what is not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("durability", "config", "found"),
    [
        (
            "always",
            {"retention_ms": 60_000},
            "retention.ms=60000 .* expected -1: set it with kafka",
        ),
        ("always", {"retention_bytes": 10}, "retention.bytes=10 .* expected -1"),
        ("always", {"cleanup_policy": "compact"}, "cleanup.policy=compact .* expected delete"),
        ("always", {"unclean_leader_election_enable": "true"}, "expected false"),
        ("always", {"max_message_bytes": 1_000}, "max.message.bytes=1000"),
        ("always", {"flush_messages": 5}, "flush.messages=5 .* expected 1"),
        ("replicated", {}, r"found 1 copy .* expected two or more"),
    ],
)
def test_a_topic_that_may_lose_events_is_refused_with_the_remedy(
    kafka: Kafka, admin: AdminClient, durability: str, config: dict[str, object], found: str
) -> None:
    url = kafka.address(durability=durability)
    make(admin, topic(url), **FIT | config)
    with closing(open_stream(url)) as stream, pytest.raises(Permanent, match=found):
        stream.append({"m": [b"1"]})
    with closing(open_stream(url.replace(durability, "unchecked"))) as stream:
        assert stream.append({"m": [b"1"]}) == {"m": 0}


def test_commits_that_a_power_cut_may_undo_are_refused(kafka: Kafka, admin: AdminClient) -> None:
    with closing(open_stream(kafka.address(durability="always"))) as stream:
        with pytest.raises(Permanent, match=r"flush.messages=.* at the topic __transaction_state"):
            stream.append({"m": [b"1"]})
        with synced(kafka, admin):
            assert stream.append({"m": [b"1"]}, mark=Mark("tail", "1")) == {"m": 0}


def test_a_topic_for_more_copies_than_there_are_brokers_says_so(kafka: Kafka) -> None:
    with (
        closing(open_stream(kafka.address(replication=3))) as stream,
        pytest.raises(Permanent, match=r"fewer brokers than copies .*replication in the address"),
    ):
        stream.append({"m": [b"1"]})


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("acks=0", "'acks' in the address, expected one of mechanism, .*durability, replication"),
        ("durability=maybe", "expected one of replicated, always, unchecked"),
        ("replication=many", "expected a number of brokers"),
        ("min_insync=0", "expected a number of brokers"),
    ],
)
def test_an_option_that_is_not_known_is_an_error(query: str, why: str) -> None:
    with pytest.raises(Permanent, match=why):
        open_stream(f"kafka://127.0.0.1:1/p?{query}")


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(Permanent, match=r"ssl.ca.location"):
        open_stream("kafkas://127.0.0.1:1/p?ca=/no/such/file.pem")


def test_a_name_that_no_topic_can_have_is_refused(stream: Stream) -> None:
    for name in ("a_b", "a b", "ü", "x" * 260):
        with pytest.raises(Permanent, match="can not be named"):
            stream.append({name: [b"1"]})
    assert stream.append({"a/0": [b"1"], "a-0": [b"2"]}) == {"a/0": 0, "a-0": 0}
    assert events(stream, "a/0") == [b"1"]


# --- users --------------------------------------------------------------------------------------

ALLOWED = [
    (ResourceType.TOPIC, "team", operation)
    for operation in (
        AclOperation.CREATE,
        AclOperation.DESCRIBE,
        AclOperation.DESCRIBE_CONFIGS,
        AclOperation.READ,
        AclOperation.WRITE,
        AclOperation.DELETE,
    )
] + [
    (ResourceType.TRANSACTIONAL_ID, "team", AclOperation.DESCRIBE),
    (ResourceType.TRANSACTIONAL_ID, "team", AclOperation.WRITE),
]
"""What docs/event-log.md says that Understudy needs."""


def allow(admin: AdminClient, user: str, rights: Sequence[tuple[Any, str, Any]]) -> None:
    bindings = [
        AclBinding(
            kind,
            name,
            ResourcePatternType.PREFIXED,
            f"User:{user}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for kind, name, operation in rights
    ]
    for future in admin.create_acls(bindings).values():
        future.result()


def test_users_get_in_with_their_password_and_the_rights_that_are_documented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users = {"ana": "hunter2", "bob": "hunter3"}
    with Kafka(users=users, authorizer_class_name=AUTHORIZER) as server:
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        allow(admin, "ana", ALLOWED)
        options = "mechanism=PLAIN&durability=unchecked"
        address = f"kafka://ana:hunter2@{server.guarded}/team?{options}"
        with closing(open_stream(address)) as stream:
            for i in range(3):
                assert stream.append({"m": [b"%d" % i]}, mark=Mark("tail", str(i))) == {"m": i}
            stream.append({}, trim={"m": 2})
            assert events(stream, start=2) == [b"2"]
        with closing(open_stream(address)) as stream:
            assert events(stream, start=2) == [b"2"]
            assert stream.mark("tail") == "2"
        messages = []
        monkeypatch.setattr(reader, "_ANSWER_S", 2.0)  # a client with a wrong password waits
        for wrong in ("ana:hunter9", "bob:hunter3"):
            url = address.replace("ana:hunter2", wrong)
            messages.append(str(refused(lambda url=url: open_stream(url).append({"m": [b"1"]}))))
            assert "see to the user, the password" in messages[-1]
        checked = address.replace("unchecked", "always")
        with closing(open_stream(checked)) as stream, pytest.raises(BackendError) as failed:
            stream.append({"m": [b"3"]})
        messages.append(str(failed.value))
        assert "hunter" not in " ".join(messages)


AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"2 2 5 1 t.1 1", "says that 5 events stand before Kafka's offset 2, where 2 do"),
        (b"2 0 7 1 t.1 1", "says that 7 events stand before Kafka's offset 0, where 0 do"),
        (b"1 2 1 t 1", "has format b'1', expected b'2'"),
        (None, "was not written by Understudy"),
    ],
)
def test_a_record_that_does_not_follow_is_permanent(
    stream: Stream, url: str, header: bytes | None, message: str
) -> None:
    stream.append({"m": [b"0", b"1"]})
    write(url, topic(url), header, commit=True)
    with pytest.raises(Permanent, match=message):
        stream.append({"m": [b"2"]})
    with pytest.raises(Permanent, match=message):
        events(stream)


def test_a_block_that_cannot_be_unpacked_is_permanent(stream: Stream, url: str) -> None:
    write_to = topic(url)
    stream.append({"m": [b"0"]})
    write(url, write_to, b"2 2 1 1 t.1 1", commit=True)
    with pytest.raises(Permanent, match="damaged: block 1"):
        events(stream)


def test_a_topic_that_is_gone_is_permanent(stream: Stream, url: str, admin: AdminClient) -> None:
    stream.append({"m": [b"0"]})
    admin.delete_topics([topic(url)])[topic(url)].result()
    with pytest.raises(Permanent, match=r"is gone|was acknowledged"):
        until("it is seen", lambda: not events(stream))  # Kafka takes its time


def test_records_that_somebody_deleted_are_trimmed(
    stream: Stream, url: str, admin: AdminClient
) -> None:
    for i in range(4):
        stream.append({"m": [b"%d" % i]})
    place = TopicPartition(topic(url), 0, 4)
    admin.delete_records([place])[place].result()
    with closing(open_stream(url)) as other:
        with pytest.raises(Trimmed) as caught:
            events(other)
        assert caught.value.first == 2
        assert events(other, start=2) == [b"2", b"3"]


def test_logs_with_different_prefixes_do_not_see_each_other(kafka: Kafka) -> None:
    with closing(open_stream(kafka.address())) as one, closing(open_stream(kafka.address())) as two:
        one.append({"m": [b"1"]}, mark=Mark("tail", "1"))
        assert (events(two), two.mark("tail")) == ([], None)
