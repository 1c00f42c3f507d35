"""The router against the same Envoy as a plain proxy, and how soon a push is accepted.

Both are the same binary with one worker and the same upstream, an Envoy that answers by itself.
They take turns, one short turn after the other, and a ratio is the median of those of two turns
side by side. Beside busy neighbours requests/s say as much of them as of us; processor time per
request says less of them. docs/router-performance.md tells what each feature costs in instructions.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from controller.core.model import Split
from controller.core.policy import Route, Unit
from controller.router.envoy import LocalEnvoy, _free_base_id, binary
from controller.router.server import ControlPlane
from controller.router.snapshot import RoutedModel, snapshot
from tests.bench import Row
from tests.processes import free_port

TURNS, TURN_S, PUSHES = 15, 1, 200
MANY = (100, 1000)
_EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"


def run() -> list[Row]:
    """Measure, in about a minute."""
    return asyncio.run(_measure())


def _wrk() -> str:
    if shutil.which("wrk") is None:
        subprocess.run(["apt-get", "install", "-y", "-q", "wrk"], check=True, capture_output=True)
    return shutil.which("wrk") or "wrk"


def _static(port: int, route: dict[str, Any], clusters: list[dict[str, Any]]) -> dict[str, Any]:
    manager = {
        "@type": f"{_EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_EXTENSIONS}.http.router.v3.Router"}}
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}
            ]
        },
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    filters = [{"name": "http", "typed_config": manager}]
    listener = {"name": "plain", "address": address, "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _cluster(port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    return {"name": "up", "load_assignment": {"cluster_name": "up", "endpoints": [endpoint]}}


@contextmanager
def _envoy(folder: Path, name: str, config: dict[str, Any]) -> Iterator[int]:
    """Its process id. It has a session of its own, as ours has: Linux shares cores by sessions."""
    document = folder / f"{name}.json"
    document.write_bytes(msgspec.json.encode(config))
    arguments = [str(binary()), "-c", str(document), "--concurrency", "1", "-l", "error"]
    arguments += ["--base-id", str(_free_base_id(document))]
    child = subprocess.Popen(arguments, start_new_session=True)
    try:
        yield child.pid
    finally:
        child.terminate()
        child.wait()


@dataclass(frozen=True, slots=True)
class Turn:
    """Requests per second, the 99th percentile of latency, processor time of a request."""

    rate: float
    p99_ms: float
    spent_us: float


def _spent_s(pid: int) -> float:
    """Processor time of all threads so far."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


async def _load(port: int, pid: int, path: str = "/m/x") -> Turn:
    arguments = ["-t1", "-c32", f"-d{TURN_S}s", "--latency", "-H", "x-user-id: user-4711"]
    before = _spent_s(pid)
    child = await asyncio.create_subprocess_exec(
        _wrk(), *arguments, f"http://127.0.0.1:{port}{path}", stdout=asyncio.subprocess.PIPE
    )
    said = (await child.communicate())[0].decode()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    count = re.search(r"(\d+) requests in", said)
    assert rate is not None
    assert slow is not None
    assert count is not None
    assert "Non-2xx" not in said, said
    p99_ms = float(slow[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[slow[2]]
    return Turn(float(rate[1]), p99_ms, 1e6 * (_spent_s(pid) - before) / int(count[1]))


def _model(upstream: int, epoch: int, name: str = "m") -> RoutedModel:
    weights = {"v1": 9000 - epoch, "v2": 1000 + epoch}
    split = Split(epoch, "v1", weights, salt=f"{name}/r1:", anchors=("v2",))
    endpoints = dict.fromkeys(weights, (f"127.0.0.1:{upstream}",))
    route = Route(prefix=f"/{name}/", unit=Unit(header="x-user-id"))
    return RoutedModel(name, route, split, endpoints)


async def _pushes(plane: ControlPlane, envoy: LocalEnvoy, upstream: int) -> list[float]:
    """Milliseconds from publishing a new split to its ACK."""
    took = []
    for epoch in range(2, PUSHES + 2):
        built = snapshot([_model(upstream, epoch)], envoy.listener)
        began = time.perf_counter()
        await plane.publish(built)
        assert await plane.acked(built, 10)
        took.append(1000 * (time.perf_counter() - began))
    return sorted(took)


async def _measure() -> list[Row]:
    folder = Path(tempfile.mkdtemp())
    upstream, plain = free_port(), free_port()
    answer = {"direct_response": {"status": 200, "body": {"inline_string": "{}"}}}
    proxy = _static(plain, {"route": {"cluster": "up"}}, [_cluster(upstream)])
    with (
        _envoy(folder, "upstream", _static(upstream, answer, [])),
        _envoy(folder, "plain", proxy) as bare,
    ):
        envoy = LocalEnvoy(folder)
        plane = ControlPlane(forget_s=60.0)
        await plane.start("127.0.0.1", 0, unix_path=envoy.xds_path)
        await envoy.start()
        try:
            await plane.publish(snapshot([_model(upstream, 1)], envoy.listener))
            await envoy.ready()
            await asyncio.sleep(1)
            port, pid = envoy.listener.port, envoy.pid
            assert pid is not None
            turns = [(await _load(plain, bare), await _load(port, pid)) for _ in range(TURNS)]
            took = await _pushes(plane, envoy, upstream)
            many = [await _of_many(plane, envoy, upstream, (plain, bare), n) for n in MANY]
        finally:
            await envoy.stop()
            await plane.stop()
            shutil.rmtree(folder)
    return _rows(turns, took) + many


async def _of_many(
    plane: ControlPlane, envoy: LocalEnvoy, upstream: int, plain: tuple[int, int], count: int
) -> Row:
    """What a request to the last of many models costs, against the plain proxy."""
    models = [_model(upstream, PUSHES + 2, f"m{i:04}") for i in range(count)]
    built = snapshot(models, envoy.listener)
    await plane.publish(built)
    assert await plane.acked(built, 60)
    await asyncio.sleep(1)
    assert envoy.pid is not None
    ours = (envoy.listener.port, envoy.pid, f"/{models[-1].name}/x")
    await _load(*ours)
    turns = [(await _load(*plain), await _load(*ours)) for _ in range(TURNS // 3)]
    name = f"router: ratio of processor time, {count:,} models"
    return Row(name, median(ours.spent_us / bare.spent_us for bare, ours in turns), "", "")


def _rows(turns: list[tuple[Turn, Turn]], took: list[float]) -> list[Row]:
    bare, ours = (median(turn[i].rate for turn in turns) for i in (0, 1))
    rates = median(ours.rate / bare.rate for bare, ours in turns)
    slow = median(ours.p99_ms / bare.p99_ms for bare, ours in turns)
    spent = median(ours.spent_us / bare.spent_us for bare, ours in turns)
    return [
        Row("router: plain Envoy", bare, "requests/s", ""),
        Row("router: split, sticky, logged", ours, "requests/s", ""),
        Row("router: ratio of requests/s", rates, "", ">= 0.95"),
        Row("router: ratio of p99 latency", slow, "", "<= 1.1"),
        Row("router: ratio of processor time", spent, "", ""),
        Row("router: push to ACK, p50", took[len(took) // 2], "ms", ""),
        Row("router: push to ACK, p99", took[int(0.99 * len(took))], "ms", "<= 50"),
    ]
