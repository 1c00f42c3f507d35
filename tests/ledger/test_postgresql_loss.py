"""The server goes away in the middle of a turn: the turn is forgotten, and done again once."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from controller.core.policy import parse
from controller.core.record import canonical, decision_document
from controller.errors import Permanent, Retryable
from controller.ledger import open_ledger
from controller.ledger.database import open_engine
from controller.loop.fold import Fold, PolicySource
from controller.stream import open_stream
from tests.core.logs import Log, Traffic, drive
from tests.loop.home import DOCUMENT
from tests.processes import until
from tests.stores.postgres import Postgres
from tests.stores.postgres_pair import Pair

STEP = 120
"""Lines of the log between two turns."""


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """Two minutes with a candidate and two operators, and rewards that come to nothing."""
    log = Log()
    log.tick(0)
    log.version(1)
    policy = parse(DOCUMENT, "m.yaml")
    traffic = Traffic({"v1": 0.3, "v2": 0.3}, rate=15)
    told = drive(policy, log, traffic, seconds=60, seed=2)
    for i in range(4):
        start = 60.0 + 15 * i
        log.command(start + 1, "pause" if i % 2 == 0 else "resume", by="ana", reason="")
        log.reward(start + 2, f"nobody's-{i}")
        told = drive(policy, log, traffic, seconds=15, seed=i, start=start, told=None)
    assert len(told.decisions) > 5
    return log.lines


Written = tuple[list[str], list[tuple[int, str, str]]]


class Scene:
    """A log in a file and a ledger on a server."""

    def __init__(self, folder: Path, ledger_url: str) -> None:
        self.stream = open_stream(f"sqlite:///{folder}/events.db")
        self.ledger = open_ledger(ledger_url, clock=lambda: 1.0)
        source = PolicySource(parse(DOCUMENT, "m.yaml"), DOCUMENT)
        self.fold = Fold(source, self.stream, self.ledger)
        self.refused = 0
        self.mend: Callable[[], object] = lambda: None
        """What is done after a turn that failed."""

    def feed(self, lines: list[bytes]) -> Iterator[int]:
        """Fold the lines turn by turn; gives the number of each turn before it is made."""
        for number, start in enumerate(range(0, len(lines), STEP)):
            self.stream.append({"m": lines[start : start + STEP]})
            yield number
            self.turn()

    def turn(self) -> None:
        """A turn, made as often as it takes."""

        def is_done() -> bool:
            try:
                self.fold.turn()
            except Retryable:
                self.refused += 1
                self.mend()
                return False
            return True

        until("the turn is done", is_done, every_s=0.02)

    def written(self) -> Written:
        """Everything that was decided, and everything that could not be used."""
        decisions = [canonical(decision_document(d)) for d in self.ledger.decisions("m")]
        letters = [(e.offset, e.reason, e.event) for e in self.ledger.dead_letters("m")]
        assert self.ledger.verify_chain("m") is None
        return decisions, letters

    def close(self) -> None:
        self.stream.close()
        self.ledger.close()


@pytest.fixture(scope="module")
def wanted(lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """What comes of the log where nothing goes wrong."""
    folder = tmp_path_factory.mktemp("wanted")
    with closing(Scene(folder, f"sqlite:///{folder}/ledger.db")) as scene:
        for _ in scene.feed(lines):
            pass
        assert len(scene.written()[0]) > 5
        assert len(scene.written()[1]) >= 4
        return scene.written()


@pytest.fixture
def address(postgres: Postgres, postgres_template: str) -> str:
    return postgres.database(postgres_template)


@pytest.mark.parametrize("place", [1, 3, 6, 10])
def test_a_session_that_is_ended_at_a_statement_of_a_commit(
    address: str, lines: list[bytes], wanted: Written, tmp_path: Path, place: int
) -> None:
    """pg_terminate_backend before the statement with this number of every second turn's writing."""
    with (
        closing(Scene(tmp_path, address)) as scene,
        psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as other,
    ):
        left = [0]

        def ended(connection: Any, cursor: Any, *_: object) -> None:
            if left[0] and not connection.get_execution_options().get("readonly"):
                left[0] -= 1
                if left[0] == 0:
                    pid = cursor.connection.info.backend_pid
                    other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

        event.listen(scene.ledger._engine, "before_cursor_execute", ended)
        for number in scene.feed(lines):
            left[0] = place if number % 2 else 0
        left[0] = 0
        assert scene.refused >= 2
        assert scene.written() == wanted


class Way:
    """A way to the server on which an answer can be lost, or everything be held up."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self.is_to_lose = False
        self.lost = 0
        self._ends: list[socket.socket] = []
        self.open = threading.Event()
        self.open.set()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self.open.set()
        self._door.close()
        for each in self._ends:
            each.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._door.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, far]
                is_last = threading.Event()
                for pair in ((near, far, is_last, True), (far, near, is_last, False)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(
        self, source: socket.socket, sink: socket.socket, is_last: threading.Event, is_out: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.open.wait()
                if is_out and self.is_to_lose and b"COMMIT" in data:
                    self.is_to_lose = False
                    is_last.set()
                elif not is_out and is_last.is_set():
                    self.lost += 1
                    break
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    postgres: Postgres, address: str, lines: list[bytes], wanted: Written, tmp_path: Path
) -> None:
    with closing(Way(postgres.port)) as way:
        url = address.replace(f":{postgres.port}/", f":{way.port}/")
        with closing(Scene(tmp_path, url)) as scene:
            for _ in scene.feed(lines):
                way.is_to_lose = True
            way.is_to_lose = False
            assert way.lost >= 5
            assert scene.refused == way.lost
            assert scene.written() == wanted


def test_a_network_that_is_silent_for_a_while_holds_a_turn_up_and_nothing_else(
    postgres: Postgres, address: str, lines: list[bytes], wanted: Written, tmp_path: Path
) -> None:
    with closing(Way(postgres.port)) as way:
        url = address.replace(f":{postgres.port}/", f":{way.port}/")
        with closing(Scene(tmp_path, url)) as scene:
            for number in scene.feed(lines):
                if number in {2, 5}:
                    way.open.clear()
                    threading.Timer(1.0, way.open.set).start()
            assert scene.written() == wanted


def test_a_server_that_is_killed_and_comes_back_again_and_again(
    lines: list[bytes], wanted: Written, tmp_path: Path
) -> None:
    with Postgres() as server, closing(Scene(tmp_path, server.database())) as scene:
        scene.ledger.begin_term("a")
        rng = Random(4)
        scene.mend = server.start_again
        killers: list[threading.Timer] = []
        for number in scene.feed(lines):
            if number % 3 == 1:
                killers.append(threading.Timer(rng.uniform(0, 0.03), server.kill))
                killers[-1].start()
        for killer in killers:
            killer.join()
        server.start_again()
        assert scene.refused > 0
        assert scene.written() == wanted
        assert scene.ledger.is_current()


def test_a_standby_takes_over_from_a_primary_that_was_killed_and_has_all_that_was_decided(
    lines: list[bytes], wanted: Written, tmp_path: Path
) -> None:
    """Synchronous replication: a commit that returned is on both."""
    with Pair() as pair, closing(Scene(tmp_path, pair.database())) as scene:
        scene.ledger.begin_term("a")
        known: list[str] = []
        for number in scene.feed(lines):
            if number == 6:
                known = scene.written()[0]
                pair.primary.kill()
                threading.Timer(1.0, pair.standby.promote).start()
        assert len(known) > 2
        assert scene.refused > 0
        assert scene.written() == wanted
        assert scene.ledger.is_current()


# --- addresses ----------------------------------------------------------------------------------


def test_of_several_hosts_the_one_that_can_be_written_to_is_wanted(
    postgres: Postgres, address: str
) -> None:
    hosts = f"127.0.0.1:1,127.0.0.1:{postgres.port}"
    url = address.replace(f"127.0.0.1:{postgres.port}", hosts)
    with closing(open_ledger(url, clock=lambda: 1.0)) as ledger:
        assert ledger.begin_term("a") == 1
    plain = url.replace("postgresql+psycopg:", "postgresql:")
    with closing(open_ledger(plain, clock=lambda: 1.0)) as ledger:
        assert ledger.newest_term().holder == "a"


@pytest.mark.parametrize("hosts", ["h1:1,h2:x", "h:x"])
def test_an_address_that_cannot_be_is_an_error_and_shows_no_password(hosts: str) -> None:
    with pytest.raises((Permanent, Retryable)) as caught:
        open_engine(f"postgresql://ana:hunter2@{hosts}/db")
    assert "hunter2" not in str(caught.value)
