"""The real thing as child processes: `understudy serve`, its Envoy, model servers, users."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import pytest

from tests.processes import free_port, until

ROOT = Path(__file__).parents[2]
CLI = (sys.executable, "-m", "controller.cli")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "UNDERSTUDY" not in name}
    return {**kept, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def processes_of(folder: Path) -> list[int]:
    """Every process whose command line names `folder`."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in each.read_bytes():
                found.append(int(each.parent.name))
    return found


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Serve:
    """`understudy serve` on one state folder; may be killed and started again.

    stores  variables that say where log and ledger are, if not in the folder
    """

    def __init__(self, folder: Path, policies: dict[str, str]) -> None:
        self.folder, self.state, self.policies = folder, folder / "state", folder / "policies"
        self.policies.mkdir()
        for name, text in policies.items():
            (self.policies / f"{name}.yaml").write_text(text)
        self.api_port, self.router_port, self.xds_port = free_port(), free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.stores: dict[str, str] = {}
        self.err, self.out = folder / "serve.err", folder / "serve.out"

    def command(self, **other: object) -> list[str]:
        given = {
            "policies": self.policies,
            "state": self.state,
            "api": f"127.0.0.1:{self.api_port}",
            "router": f"127.0.0.1:{self.router_port}",
            "xds": f"127.0.0.1:{self.xds_port}",
        } | other
        options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
        return [*CLI, "serve", *options, "-o", "json"]

    def spawn(self) -> subprocess.Popen[bytes]:
        with self.err.open("ab") as err, self.out.open("wb") as out:
            self.process = subprocess.Popen(
                self.command(),
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env=environment() | self.stores,
            )
        return self.process

    def start(self, timeout_s: float = 30) -> Serve:
        process = self.spawn()

        def said() -> bool:
            assert process.poll() is None, f"serve ended with {process.returncode}\n{self.tail()}"
            return self.out.read_bytes().endswith(b"\n")

        try:
            until("serve is ready", said, timeout_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.tail()}") from exc
        line = json.loads(self.out.read_text())
        assert set(line) == {"ready", "api", "router"}
        assert line["ready"] is True
        return self

    def tail(self) -> str:
        return "\n".join(self.err.read_text(errors="replace").splitlines()[-25:])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Seconds until the process has ended."""
        assert self.process is not None
        begin = time.monotonic()
        self.process.send_signal(number)
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"serve did not end\n{self.tail()}") from None
        assert code == 0, self.tail()
        return time.monotonic() - begin

    def end(self) -> None:
        """Whatever happened: nothing of this folder lives on."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in processes_of(self.folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def envoy_pid(self) -> int:
        document = json.loads((self.state / "router" / "envoy.json").read_bytes())
        return int(document["process"]["pid"])

    def get(self, path: str) -> Any:
        with urlopen(f"http://127.0.0.1:{self.api_port}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        media_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=10)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {"content-type": media_type} | (headers or {}))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def arms(self, model: str = "m") -> Any:
        return self.get(f"/v1/models/{model}/arms")

    def offer(self, version: str, port: int, model: str = "m") -> None:
        body = {"version": version, "endpoints": [f"127.0.0.1:{port}"]}
        status, answer = self.call("POST", f"/v1/models/{model}/candidates", body)
        assert status in {200, 201, 202}, answer

    def cli(self, *arguments: object, timeout_s: float = 60) -> Ran:
        """A command against this serve: `--api` and `--state` come by the environment."""
        given = (
            environment()
            | self.stores
            | {
                "UNDERSTUDY_API": f"127.0.0.1:{self.api_port}",
                "UNDERSTUDY_STATE": str(self.state),
            }
        )
        return run(*arguments, env=given, timeout_s=timeout_s)

    def ask(self, path: str = "/m/x", **headers: str) -> tuple[int, dict[str, str]]:
        """One request through the router."""
        connection = http.client.HTTPConnection("127.0.0.1", self.router_port, timeout=10)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET", path, headers=named)
            answer = connection.getresponse()
            answer.read()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()


def run(*arguments: object, env: dict[str, str] | None = None, timeout_s: float = 60) -> Ran:
    done = subprocess.run(
        [*CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env=env or environment(),
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


@dataclass
class Users:
    """Steady traffic through the router from a few threads; every answer is kept."""

    serve: Serve
    rate_hz: float = 240.0
    threads: int = 3
    path: str = "/m/x"
    header: str | None = "x-user-id"
    population: int = 5000
    reward_chance: float = 0.0
    is_patient: bool = False
    answers: list[tuple[str, str, int]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    rewarded: dict[str, str] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._ending = threading.Event()
        self._done_asking = threading.Event()
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._askers = [
            threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(self.threads)
        ]
        self._rewarder = threading.Thread(target=self._reward, daemon=True)
        for each in (*self._askers, self._rewarder):
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for each in self._askers:
            each.join(20)
        self._done_asking.set()
        self._rewarder.join(30)
        assert not self._rewarder.is_alive(), "rewards were not acknowledged"

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.serve.router_port, timeout=10)
        due = time.monotonic()
        while not self._ending.is_set():
            due += self.threads / self.rate_hz
            time.sleep(max(0.0, due - time.monotonic()))
            unit = f"u{rng.randrange(self.population)}"
            try:
                connection.request(
                    "GET", self.path, headers={self.header: unit} if self.header else {}
                )
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as exc:
                self.lost.append(repr(exc))
                connection.close()
                continue
            request_id = answer.headers["x-request-id"]
            self.answers.append((request_id, answer.headers["x-understudy-arm"], answer.status))
            if rng.random() < self.reward_chance:
                self._owe(request_id, rng)
        connection.close()

    def _owe(self, request_id: str, rng: random.Random) -> None:
        event = {
            "type": "reward",
            "time": time.time(),
            "model": "m",
            "id": f"r-{request_id}",
            "request_id": request_id,
            "name": "ok",
            "value": int(rng.random() < 0.7),
        }
        with self._lock:
            self._waiting.append(event)

    def _reward(self) -> None:
        while not (self._done_asking.is_set() and not self._waiting):
            with self._lock:
                batch, self._waiting = self._waiting[:500], self._waiting[500:]
            if batch and not self._posted(batch):
                with self._lock:
                    self._waiting = batch + self._waiting
            time.sleep(0.1)

    def _posted(self, batch: list[dict[str, Any]]) -> bool:
        body = "\n".join(json.dumps(each) for each in batch).encode()
        url = f"http://127.0.0.1:{self.serve.api_port}/v1/events"
        request = Request(url, body, {"content-type": "application/x-ndjson"})
        try:
            with urlopen(request, timeout=5) as answer:
                document = json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return False
        assert document == {"accepted": len(batch), "rejected": []}
        self.acknowledged.update(each["id"] for each in batch)
        return True


@pytest.fixture(scope="session")
def models() -> Iterator[list[int]]:
    """Ports of eight model servers in one process."""
    script = Path(__file__).with_name("model_server.py")
    process = subprocess.Popen([sys.executable, str(script), "8"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def tell() -> Iterator[Callable[[int, int, float], None]]:
    """Tell a model server what to answer; all is well again afterwards."""
    touched = set()

    def said(port: int, status: int = 200, delay_s: float = 0.0) -> None:
        touched.add(port)
        with urlopen(f"http://127.0.0.1:{port}/tell/{status}/{delay_s}", timeout=5) as answer:
            answer.read()

    yield said
    for port in touched:
        said(port)


CANARY = """
    - canary:
        steps: [20%, 50%]
        min_duration: {min_duration}
        min_outcomes: 20
        margin: 10%
"""


def policy_text(
    port: int,
    *,
    name: str = "m",
    prefix: str = "/m/",
    unit: str = "{header: x-user-id}",
    window: str = "10s",
    stages: str = CANARY.format(min_duration="5s"),
) -> str:
    declared = f"\n    unit: {unit}" if unit else ""
    return f"""apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata:
  name: {name}
spec:
  route:
    prefix: {prefix}{declared}
  champion:
    version: v1
    endpoints: ["127.0.0.1:{port}"]
  reward:
    event: ok
    window: {window}
  stages:{stages}"""


@pytest.fixture
def make_serve(tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    """serve(**policies): not started yet; whatever it starts is ended."""
    made: list[Serve] = []

    def make(**policies: str) -> Serve:
        folder = tmp_path / f"s{len(made)}"
        folder.mkdir()
        made.append(Serve(folder, policies))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def serve(make_serve: Callable[..., Serve], models: list[int]) -> Serve:
    """A serve with one model `m`, started."""
    return make_serve(m=policy_text(models[0])).start()
