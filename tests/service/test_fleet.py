"""Routers that the controller did not start: they connect over TCP and ship their own logs."""

from __future__ import annotations

import collections
import http.client
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from controller.router.envoy import binary
from tests.processes import free_port, until
from tests.service.conftest import CLI, ROOT, Serve, environment, policy_text, run


class Controller(Serve):
    """`understudy serve` without a router of its own."""

    def command(self, **other: object) -> list[str]:
        return super().command(**({"router": "none"} | other))


class Router:
    """An Envoy and the `understudy ship` beside it, as in a pod."""

    def __init__(
        self, folder: Path, name: str, xds: list[int], api: int, log: Path | None = None
    ) -> None:
        self.folder, self.name = folder / name, name
        self.folder.mkdir()
        self.port, self.admin, self.probe = free_port(), free_port(), free_port()
        self.log, self.metrics = log or self.folder / "access.log", free_port()
        self.document = self.folder / "bootstrap.yaml"
        self.document.write_text(self.bootstrap(xds))
        self.api = api
        self.envoy: subprocess.Popen[bytes] | None = None
        self.shipper: subprocess.Popen[bytes] | None = None

    def bootstrap(self, xds: list[int]) -> str:
        options = {
            "--node": self.name,
            "--listen": f"127.0.0.1:{self.port}",
            "--log": self.log,
            "--admin": f"127.0.0.1:{self.admin}",
            "--probe": f"127.0.0.1:{self.probe}",
            "--shadow": f"@{self.folder}",
        }
        planes = [text for port in xds for text in ("--xds", f"localhost:{port}")]
        made = run("router-bootstrap", *planes, *(t for pair in options.items() for t in pair))
        assert made.code == 0, made.err
        return made.out

    def start_envoy(self) -> Router:
        base = str(self.port * 10)
        arguments = ["-c", self.document, "--base-id", base, "--concurrency", "1"]
        arguments += ["--file-flush-interval-msec", "100", "--log-level", "warning"]
        arguments += ["--drain-time-s", "2", "--drain-strategy", "immediate"]
        with (self.folder / "envoy.err").open("ab") as err:
            self.envoy = subprocess.Popen([binary(), *map(str, arguments)], stderr=err)
        return self

    def start_shipper(self, *more: object) -> Router:
        options = ["--log", self.log, "--to", f"http://127.0.0.1:{self.api}"]
        options += ["--state", self.folder / "ship", "--admin", f"127.0.0.1:{self.admin}"]
        options += ["--metrics", f"127.0.0.1:{self.metrics}", *more]
        with (self.folder / "ship.err").open("ab") as err:
            self.shipper = subprocess.Popen(
                [*CLI, "ship", *map(str, options)], stderr=err, cwd=ROOT, env=environment()
            )
        return self

    def is_ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.probe}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def ask(self, count: int, padding: str = "") -> collections.Counter[str]:
        """The arms of so many units, each its own."""
        units = [f"{self.name}-{i}{padding}" for i in range(count)]
        return collections.Counter(self.arms_of(units).values())

    def arms_of(self, units: Sequence[str]) -> dict[str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        found = {}
        for unit in units:
            connection.request("GET", "/m/x", headers={"x-user-id": unit})
            found[unit] = arm_of(connection)
        connection.close()
        return found

    def ask_later(self, unit: str) -> http.client.HTTPConnection:
        """A request whose answer is read later."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/m/x", headers={"x-user-id": unit})
        return connection

    def figures(self) -> dict[str, float]:
        try:
            answer = urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5)
        except URLError:
            return collections.defaultdict(float)  # it has only just been started
        with answer:
            rows = [row.split() for row in answer.read().decode().splitlines() if row[0] != "#"]
        return {name.removeprefix("understudy_ship_"): float(value) for name, value in rows}

    def end(self) -> None:
        for each in (self.shipper, self.envoy):
            if each is not None and each.poll() is None:
                each.kill()
                each.wait()


def arm_of(connection: http.client.HTTPConnection) -> str:
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
    return answer.headers["x-understudy-arm"]


@pytest.fixture
def controller(tmp_path: Path, models: list[int]) -> Iterator[Controller]:
    made = Controller(tmp_path, {"m": policy_text(models[0])})
    yield made
    made.end()


@pytest.fixture
def make_router(tmp_path: Path, controller: Controller) -> Iterator[Callable[..., Router]]:
    made: list[Router] = []

    def make(name: str, xds: list[int] | None = None, log: Path | None = None) -> Router:
        planes = xds or [controller.xds_port]
        made.append(Router(tmp_path, name, planes, controller.api_port, log))
        return made[-1]

    yield make
    for each in made:
        each.end()


def exposures(controller: Controller) -> dict[str, int]:
    return {arm["arm"]: arm["exposures"] for arm in controller.arms()["arms"]}


def is_in_force(controller: Controller) -> bool:
    report = controller.arms()
    return len(report["arms"]) == 2 and all(
        arm["weight"] == arm["weight_in_force"] for arm in report["arms"]
    )


def routers(controller: Controller) -> int:
    return int(controller.get("/readyz")["routers"])


def test_two_routers_get_the_splits_and_their_exposures_are_counted_exactly(
    controller: Controller, make_router: Callable[..., Router], models: list[int]
) -> None:
    controller.start()
    assert routers(controller) == 0
    pair = [make_router(name).start_envoy().start_shipper() for name in ("one", "two")]
    until("both routers serve", lambda: all(each.is_ready() for each in pair), 20)
    until("both are connected", lambda: routers(controller) == 2, 5)
    assert controller.get("/v1/models")["router"]["connected"] == 2
    controller.offer("v2", models[1])
    until("the split is in force at both", lambda: is_in_force(controller), 10)

    seen: collections.Counter[str] = collections.Counter()
    one = threading.Thread(target=lambda: seen.update(pair[0].ask(600)))
    one.start()
    two = pair[1].ask(600)
    one.join()
    seen += two
    assert seen["v2"] > 100  # of 1 200 units at 20 %, chance below 1e-21
    until("every exposure is counted, each once", lambda: exposures(controller) == dict(seen), 20)
    for each in pair:
        figures = each.figures()
        assert figures["shipped_total"] == 600
        assert figures["waiting_bytes"] == figures["dropped_total"] == 0
        assert figures["up"] == 1
    assert controller.cli("ledger", "m", "--verify").code == 0


def test_exposures_survive_the_death_of_controller_and_shipper(
    controller: Controller, make_router: Callable[..., Router]
) -> None:
    controller.start()
    router = make_router("one").start_envoy().start_shipper()
    until("the router serves", router.is_ready, 20)
    router.ask(100)
    controller.kill()
    router.ask(100)  # the split stays, the log waits
    until("the controller is missed", lambda: router.figures()["failures_total"] > 0, 10)
    assert router.shipper is not None
    router.shipper.send_signal(signal.SIGKILL)
    router.shipper.wait()
    router.ask(100)
    router.start_shipper()
    controller.start()
    router.ask(100)
    until("nothing is lost or counted twice", lambda: exposures(controller) == {"v1": 400}, 40)


def test_a_pod_that_ends_ships_what_its_router_answers_while_it_drains(
    controller: Controller, make_router: Callable[..., Router]
) -> None:
    controller.start()
    router = make_router("one").start_envoy().start_shipper("--drain-router", "--drain", "15")
    until("the router serves", router.is_ready, 20)
    router.ask(50)
    until("the shipper is there to be told", lambda: router.figures()["up"], 10)
    assert router.shipper is not None
    assert router.envoy is not None
    router.shipper.send_signal(signal.SIGTERM)  # all containers at once; Envoy's waits in preStop
    until("the router drains", lambda: not router.is_ready(), 5)
    router.ask(1)  # whoever has not noticed yet is still answered
    time.sleep(0.5)
    assert router.shipper.poll() is None
    router.envoy.send_signal(signal.SIGTERM)
    assert router.shipper.wait(10) == 0
    until("the last ones were shipped, too", lambda: exposures(controller) == {"v1": 51}, 10)


def test_a_router_finds_the_controller_that_leads(
    controller: Controller, make_router: Callable[..., Router], tmp_path: Path
) -> None:
    """Of several addresses one is open: that of the leader; it moves."""
    first, second = controller.xds_port, free_port()
    router = make_router("one", [second, first]).start_envoy()
    controller.start()
    until("it found the leader", lambda: router.is_ready() and routers(controller) == 1, 20)
    controller.kill()
    controller.xds_port = second
    began = time.monotonic()
    controller.start()
    until("it found the next one", lambda: routers(controller) == 1, 20)
    assert time.monotonic() - began < 15
    assert router.ask(10) == {"v1": 10}


def test_a_router_that_hangs_is_not_waited_for_for_ever(
    controller: Controller, make_router: Callable[..., Router], models: list[int]
) -> None:
    """As one whose machine is gone: nothing says farewell, and no ping is answered."""
    controller.start()
    pair = [make_router(name).start_envoy() for name in ("one", "two")]
    until("both are connected", lambda: routers(controller) == 2, 20)
    assert pair[0].envoy is not None
    pair[0].envoy.send_signal(signal.SIGSTOP)
    controller.offer("v2", models[1])
    assert not is_in_force(controller)
    until("the split is in force at the other one", lambda: is_in_force(controller), 25)
    assert routers(controller) == 1
    pair[0].envoy.send_signal(signal.SIGCONT)
    until("it is back", lambda: routers(controller) == 2, 15)
    until("and has the split", lambda: is_in_force(controller), 10)


def test_a_controller_that_hangs_is_left_for_the_next_one(
    controller: Controller, make_router: Callable[..., Router], models: list[int], tmp_path: Path
) -> None:
    controller.start()
    folder = tmp_path / "next"
    folder.mkdir()
    following = Controller(folder, {"m": policy_text(models[0])})
    router = make_router("one", [controller.xds_port, following.xds_port]).start_envoy()
    until("it serves", lambda: router.is_ready() and routers(controller) == 1, 20)
    assert controller.process is not None
    controller.process.send_signal(signal.SIGSTOP)
    try:
        following.start()
        until("it has found the next one", lambda: routers(following) == 1, 20)
        assert router.ask(10) == {"v1": 10}
    finally:
        controller.process.send_signal(signal.SIGCONT)
        following.end()


def test_a_log_is_rotated_while_it_is_shipped(
    controller: Controller, make_router: Callable[..., Router]
) -> None:
    controller.start()
    router = make_router("one").start_envoy().start_shipper("--rotate", "1")
    until("the router serves", router.is_ready, 20)
    asked = 0
    while router.log.stat().st_size < (1 << 20) + 1:
        router.ask(500)
        asked += 500
    first = router.log.stat().st_ino
    until("a new file", lambda: router.log.exists() and router.log.stat().st_ino != first, 10)
    router.ask(100)
    until("all are counted", lambda: exposures(controller) == {"v1": asked + 100}, 30)
    until("gone", lambda: [p.name for p in router.folder.glob("access.log*")] == ["access.log"], 10)


def test_wrong_options_are_refused_with_a_sentence() -> None:
    for options in (["--to", "nowhere"], ["--to", "http://x", "--drain-router"], []):
        assert run("ship", *options).code == 2
    made = run("router-bootstrap", "--xds", "controller")
    assert made.code == 2
    assert "expected HOST:PORT" in made.err
