"""What Redis can do to us, and what we say then."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from random import Random

import pytest

from controller.errors import Permanent, Retryable
from controller.stream import Mark, Stream, open_stream
from controller.stream import redis as module
from tests.stores.redis import Redis


def events(stream: Stream, model: str = "m") -> list[bytes]:
    return [line for block in stream.read(model, 0) for line in block.lines]


@pytest.fixture
def stream(redis: Redis) -> Iterator[Stream]:
    with closing(open_stream(redis.address(prefix="known"))) as opened:
        yield opened
    with redis.client() as client:
        client.delete(*(client.keys("{known}:*") or ["none"]))


# --- losses -----------------------------------------------------------------------------------


def test_what_was_acknowledged_survives_a_kill_of_the_server() -> None:
    with Redis() as server, closing(open_stream(server.address())) as stream:
        for i in range(30):
            stream.append({"m": [b"%d" % i], "n": [b"x"]}, mark=Mark("tail", str(i)))
        server.kill()
        for work in (
            lambda: stream.append({"m": [b"lost"]}),
            lambda: stream.read("m", 0),
            lambda: stream.mark("tail"),
        ):
            with pytest.raises(Retryable, match="it is tried again"):
                work()
        server.start()
        assert events(stream) == [b"%d" % i for i in range(30)]
        assert stream.mark("tail") == "29"
        assert stream.append({"m": [b"30"]}) == {"m": 30}


class Cutter:
    """A way to the server that loses some answers: it cuts the connection in their place."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self.to_lose = 0
        self.lost = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._door.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._door.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()
                threading.Thread(target=self._bring_back, args=(far, near), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(1 << 16):
                self._is_append = b"EVAL" in data
                far.sendall(data)
        far.close()

    def _bring_back(self, far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(1 << 16):
                if self._is_append and self.to_lose > self.lost:
                    self.lost += 1
                    break
                near.sendall(data)
        near.shutdown(socket.SHUT_RDWR)
        near.close()


def test_an_append_whose_answer_is_lost_is_in_the_log_once(redis: Redis) -> None:
    with closing(Cutter(redis.port)) as cutter:
        url = redis.address().replace(str(redis.port), str(cutter.port))
        with closing(open_stream(url)) as stream:
            cutter.to_lose = 2
            assert stream.append({"m": [b"1", b"2"], "n": [b"3"]}) == {"m": 0, "n": 0}
            assert cutter.lost == 2
            assert stream.append({"m": [b"4"]}) == {"m": 2}
            assert (events(stream), events(stream, "n")) == ([b"1", b"2", b"4"], [b"3"])


def test_a_full_memory_is_retryable_and_leaves_the_log_whole() -> None:
    with Redis() as server, closing(open_stream(server.address())) as stream:
        stream.append({"m": [b"1"]}, mark=Mark("tail", "1"))
        with server.client() as client:
            used = client.info("memory")["used_memory"]
            client.config_set("maxmemory", used // 2)
            incompressible = Random(3).randbytes(200_000).replace(b"\n", b"-")
            with pytest.raises(Retryable, match=r"maxmemory|OOM"):
                stream.append({"m": [b"2"], "n": [incompressible]}, mark=Mark("tail", "2"))
            assert (events(stream), events(stream, "n"), stream.mark("tail")) == ([b"1"], [], "1")
            client.config_set("maxmemory", 0)
        assert stream.append({"m": [b"2"], "n": [incompressible]}) == {"m": 1, "n": 0}


def test_an_append_waits_for_its_replicas(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REPLICAS_MS", 200)
    with closing(open_stream(redis.address(replicas=1))) as stream:
        with pytest.raises(Retryable, match="0 of 1 replicas have the events"):
            stream.append({"m": [b"1"]})
        with Redis(replicaof=f"127.0.0.1 {redis.port}") as replica:
            monkeypatch.setattr(module, "_REPLICAS_MS", 4_000)
            stream.append({"m": [b"2"]})
            with replica.client() as client:
                assert client.keys("*:log:m")


# --- what is not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "option", "found"),
    [
        ({"appendonly": "no"}, "always", "appendonly no"),
        ({"appendonly": "no"}, "everysec", "appendonly no"),
        ({"appendfsync": "everysec"}, "always", "appendfsync everysec"),
        ({"appendfsync": "no"}, "everysec", "appendfsync no"),
        ({"maxmemory-policy": "allkeys-lru"}, "always", "may throw events away"),
    ],
)
def test_a_redis_that_may_lose_events_is_refused_with_the_remedy(
    settings: dict[str, str], option: str, found: str
) -> None:
    with Redis(**settings) as server:
        with pytest.raises(Permanent, match=found):
            open_stream(server.address(durability=option))
        with closing(open_stream(server.address(durability="unchecked"))) as stream:
            assert stream.append({"m": [b"1"]}) == {"m": 0}


def test_less_than_a_sync_per_append_is_accepted_where_it_was_asked_for() -> None:
    with Redis(appendfsync="everysec") as server:
        open_stream(server.address(durability="everysec")).close()


def test_a_redis_that_does_not_tell_its_settings_says_what_to_do(redis: Redis) -> None:
    with redis.client() as client:
        client.execute_command("ACL SETUSER silent on >secret ~* +@all -config")
    url = redis.address().replace("//", "//silent:secret@")
    with pytest.raises(Permanent, match=r"add \?durability=unchecked") as caught:
        open_stream(url)
    assert "secret" not in str(caught.value)
    open_stream(f"{url}&durability=unchecked").close()


def test_a_wrong_password_is_permanent_and_not_shown(redis: Redis) -> None:
    with pytest.raises(Permanent, match="see to the user") as caught:
        open_stream(redis.address().replace("//", "//ana:hunter2@"))
    assert "hunter2" not in str(caught.value)


def test_nobody_there_is_retryable(redis: Redis) -> None:
    with pytest.raises(Retryable, match=r"redis://127\.0\.0\.1:1/0: .*refused"):
        open_stream("redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("prefixx=a", r"'prefixx' in the address, expected one of prefix, durability, replicas"),
        ("durability=maybe", "expected one of always, everysec, unchecked"),
        ("replicas=many", "expected a number"),
        ("prefix=", "expected a name"),
        ("prefix={a}", "expected a name"),
    ],
)
def test_an_option_that_is_not_known_is_an_error(query: str, why: str) -> None:
    with pytest.raises(Permanent, match=why):
        open_stream(f"redis://127.0.0.1:1/0?{query}")


def test_a_log_of_a_newer_understudy_is_refused(redis: Redis, stream: Stream) -> None:
    with redis.client() as client:
        client.set("{known}:format", "2")
    with pytest.raises(Permanent, match="found format b'2', expected b'1'"):
        open_stream(redis.address(prefix="known"))


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("XDEL {known}:log:m 3-0", "offset 1 of m is missing"),
        ("DEL {known}:log:m", "offset 0 of m is missing"),
    ],
)
def test_a_block_that_is_gone_is_permanent(
    redis: Redis, stream: Stream, command: str, message: str
) -> None:
    for lines in ([b"1"], [b"2", b"3"], [b"4"]):
        stream.append({"m": lines})
    with redis.client() as client:
        client.execute_command(command)
    with pytest.raises(Permanent, match=f"damaged: {message}"):
        events(stream)


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        (["HDEL {known}:ends n"], "n: its log is a stream"),
        (["HSET {known}:ends n 1"], "n: there are events after its end"),
        (["DEL {known}:log:n"], "n: its log is a none"),
        (["DEL {known}:log:n", "SET {known}:log:n x"], "n: its log is a string"),
    ],
)
def test_nothing_is_appended_to_a_log_whose_end_is_in_doubt_nor_to_others_with_it(
    redis: Redis, stream: Stream, commands: list[str], message: str
) -> None:
    stream.append({"m": [b"1"], "n": [b"1", b"2"]}, mark=Mark("tail", "1"))
    with redis.client() as client:
        for command in commands:
            client.execute_command(command)
    with pytest.raises(Permanent, match=message):
        stream.append({"m": [b"2"], "n": [b"3"]}, mark=Mark("tail", "2"))
    assert (events(stream), stream.mark("tail")) == ([b"1"], "1")


def test_logs_with_different_prefixes_do_not_see_each_other(redis: Redis) -> None:
    with closing(open_stream(redis.address())) as one, closing(open_stream(redis.address())) as two:
        one.append({"m": [b"1"]}, mark=Mark("tail", "1"))
        assert (events(two), two.mark("tail")) == ([], None)


def test_a_redis_that_misses_its_replicas_is_worth_another_try() -> None:
    with Redis() as server, closing(open_stream(server.address())) as stream:
        with server.client() as client:
            client.config_set("min-replicas-to-write", 1)
            with pytest.raises(Retryable, match="NOREPLICAS"):
                stream.append({"m": [b"1"]})
            client.config_set("min-replicas-to-write", 0)
        assert stream.append({"m": [b"1"]}) == {"m": 0}
