"""The router against the same Envoy as a plain proxy, and how soon a push is accepted.

Both are the same binary with one worker and the same upstream, an Envoy that answers by itself;
they take turns, and the ratio is that of the medians of their turns.
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
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from controller.core.model import Split
from controller.core.policy import Route, Unit
from controller.router.envoy import LocalEnvoy, _free_base_id, _free_port, binary
from controller.router.server import ControlPlane
from controller.router.snapshot import RoutedModel, snapshot
from tests.bench import Row

TURNS, TURN_S, PUSHES = 5, 3, 200
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
def _envoy(folder: Path, name: str, config: dict[str, Any]) -> Iterator[None]:
    document = folder / f"{name}.json"
    document.write_bytes(msgspec.json.encode(config))
    arguments = [str(binary()), "-c", str(document), "--concurrency", "1", "-l", "error"]
    child = subprocess.Popen([*arguments, "--base-id", str(_free_base_id(document))])
    try:
        yield
    finally:
        child.terminate()
        child.wait()


async def _load(port: int) -> tuple[float, float]:
    """Requests per second, and the 99th percentile of latency in ms."""
    arguments = ["-t1", "-c32", f"-d{TURN_S}s", "--latency", "-H", "x-user-id: user-4711"]
    child = await asyncio.create_subprocess_exec(
        _wrk(), *arguments, f"http://127.0.0.1:{port}/m/x", stdout=asyncio.subprocess.PIPE
    )
    said = (await child.communicate())[0].decode()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert rate is not None
    assert slow is not None
    assert "Non-2xx" not in said, said
    return float(rate[1]), float(slow[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[slow[2]]


def _model(upstream: int, epoch: int) -> RoutedModel:
    weights = {"v1": 9000 - epoch, "v2": 1000 + epoch}
    split = Split(epoch, "v1", weights, salt="m/r1:", anchors=("v2",))
    endpoints = dict.fromkeys(weights, (f"127.0.0.1:{upstream}",))
    return RoutedModel("m", Route(prefix="/m/", unit=Unit(header="x-user-id")), split, endpoints)


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
    upstream, plain = _free_port("127.0.0.1", 0), _free_port("127.0.0.1", 0)
    assert upstream is not None
    assert plain is not None
    answer = {"direct_response": {"status": 200, "body": {"inline_string": "{}"}}}
    proxy = _static(plain, {"route": {"cluster": "up"}}, [_cluster(upstream)])
    with (
        _envoy(folder, "upstream", _static(upstream, answer, [])),
        _envoy(folder, "plain", proxy),
    ):
        envoy = LocalEnvoy(folder)
        plane = ControlPlane()
        await plane.start("127.0.0.1", 0, unix_path=envoy.xds_path)
        await envoy.start()
        try:
            await plane.publish(snapshot([_model(upstream, 1)], envoy.listener))
            await envoy.ready()
            await asyncio.sleep(1)
            turns = [(await _load(plain), await _load(envoy.listener.port)) for _ in range(TURNS)]
            took = await _pushes(plane, envoy, upstream)
        finally:
            await envoy.stop()
            await plane.stop()
            shutil.rmtree(folder)
    return _rows(turns, took)


def _rows(
    turns: list[tuple[tuple[float, float], tuple[float, float]]], took: list[float]
) -> list[Row]:
    bare, ours = (median(turn[i][0] for turn in turns) for i in (0, 1))
    bare_ms, ours_ms = (median(turn[i][1] for turn in turns) for i in (0, 1))
    return [
        Row("router: plain Envoy", bare, "requests/s", ""),
        Row("router: split, sticky, logged", ours, "requests/s", ""),
        Row("router: ratio of requests/s", ours / bare, "", ">= 0.90"),
        Row("router: ratio of p99 latency", ours_ms / bare_ms, "", "<= 1.1"),
        Row("router: push to ACK, p50", took[len(took) // 2], "ms", ""),
        Row("router: push to ACK, p99", took[int(0.99 * len(took))], "ms", "<= 50"),
    ]
