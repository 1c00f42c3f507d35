"""A hundred routers on one control plane: how soon all have a new split, and what they cost.

Two of them are Envoys; the others are gRPC clients in a process of their own that ask and answer as
Envoy does. The control plane has this process for itself, so its processor time is that of the
controller. Every figure is of the same machine: clients, Envoys and plane share its cores.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from controller.core.model import Split
from controller.core.policy import Route, Unit
from controller.router import bootstrap
from controller.router.envoy import _free_base_id, binary
from controller.router.server import LAG_S, ControlPlane
from controller.router.snapshot import (
    RDS,
    TYPES,
    ListenerConfig,
    Parts,
    RoutedModel,
    Snapshot,
    snapshot,
)
from tests.bench import Row
from tests.processes import free_port
from tests.router.ads import Client

CLIENTS, ENVOYS, PUSHES = 98, 2, 15
ROUTERS = CLIENTS + ENVOYS
SIZES = (1, 100, 1000)
IDLE_S = 10.0


def run() -> list[Row]:
    """Measure, in about two minutes."""
    return asyncio.run(_measure())


class Models:
    """So many models, of which one gets a new split whenever it is asked."""

    def __init__(self, count: int) -> None:
        self._models = [_model(i, 1) for i in range(count)]
        self._parts = Parts()
        self._epoch = 1
        self._place = ListenerConfig("127.0.0.1", 1, "/dev/null")

    def next(self) -> Snapshot:
        self._epoch += 1
        at = self._epoch % len(self._models)
        split = _model(at, self._epoch).split
        self._models[at] = replace(self._models[at], split=split)
        return snapshot(self._models, self._place, self._parts)


def _model(i: int, epoch: int) -> RoutedModel:
    weights = {"v1": 9000 - epoch, "v2": 1000 + epoch}
    split = Split(epoch, "v1", weights, salt=f"m{i}/r1:", anchors=("v2",))
    endpoints = dict.fromkeys(weights, ("127.0.0.1:9",))
    route = Route(prefix=f"/v2/models/m{i}/", unit=Unit(header="x-user-id"))
    return RoutedModel(f"m{i}", route, split, endpoints)


@contextmanager
def _clients(address: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.router.ads", address, str(CLIENTS)]
    child = subprocess.Popen(command)
    try:
        yield
    finally:
        child.terminate()
        child.wait()


@contextmanager
def _envoy(folder: Path, address: str, i: int) -> Iterator[None]:
    host, _, port = address.rpartition(":")
    place = ListenerConfig(
        "127.0.0.1", free_port(), str(folder / f"{i}.log"), f"@{folder.name}-shadow-{i}"
    )
    made = bootstrap.remote(
        node=f"envoy-{i}",
        xds=[(host, int(port))],
        place=place,
        admin=("127.0.0.1", free_port()),
        probe=None,
    )
    document = folder / f"{i}.json"
    document.write_bytes(msgspec.json.encode(made))
    arguments = [str(binary()), "-c", str(document), "--concurrency", "1", "-l", "error"]
    child = subprocess.Popen([*arguments, "--base-id", str(_free_base_id(document))])
    try:
        yield
    finally:
        child.terminate()
        child.wait()


async def _all_have(plane: ControlPlane, made: Snapshot, timeout_s: float = 60.0) -> None:
    """Until every one of the routers is connected and routes by this snapshot."""
    async with asyncio.timeout(timeout_s):
        while not await plane.acked(made, timeout_s) or len(plane.connected) < ROUTERS:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        while any(epochs != made.epochs for epochs in plane.in_force.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def _splits(plane: ControlPlane, models: Models) -> tuple[list[float], float]:
    """Milliseconds of each new split until all have it, and of processor time for one."""
    took, spent = [], time.process_time()
    for _ in range(PUSHES):
        began = time.perf_counter()
        made = models.next()
        await plane.publish(made)
        await _all_have(plane, made)
        took.append(1e3 * (time.perf_counter() - began))
    return sorted(took), 1e3 * (time.process_time() - spent) / PUSHES


async def _idle(plane: ControlPlane) -> float:
    """Per cent of a core while nothing happens."""
    before, began = time.process_time(), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    assert len(plane.connected) == ROUTERS
    return 100 * (time.process_time() - before) / (time.perf_counter() - began)


async def _restart(plane: ControlPlane, memory: Path, address: str, made: Snapshot) -> ControlPlane:
    host, _, port = address.rpartition(":")
    await plane.stop()
    again = ControlPlane(forget_s=60.0, memory=memory)
    await again.start(host, int(port))
    await again.publish(made)
    return again


async def _hung(plane: ControlPlane, models: Models, address: str) -> tuple[float, list[float]]:
    """Seconds of the first split while one router more hangs; then milliseconds of others."""
    hung = Client(address, "hung").start()
    made = models.next()
    await plane.publish(made)
    await hung.has(made.versions[RDS], 30)
    hung.hears = False
    took = []
    for _ in range(1 + PUSHES):
        began = time.perf_counter()
        made = models.next()
        await plane.publish(made)
        assert await plane.acked(made, 30)
        took.append(time.perf_counter() - began)
    await hung.stop()
    return took[0], sorted(1e3 * each for each in took[1:])


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def _measure() -> list[Row]:
    rows: list[Row] = []
    for count in SIZES:  # fewer models first: their figures are not disturbed by what others left
        rows += await _of(count)
    return rows


async def _of(count: int) -> list[Row]:
    folder = Path(tempfile.mkdtemp())
    memory = folder / "memory"
    plane = ControlPlane(forget_s=60.0, memory=memory)
    address = await plane.start("127.0.0.1", 0)
    models = Models(count)
    made = models.next()
    await plane.publish(made)
    before_mb = _rss_mb()
    name = f"fleet: {ROUTERS} routers, {count:,} model{'s' * (count > 1)}"
    try:
        with ExitStack() as stack:
            for i in range(ENVOYS):
                stack.enter_context(_envoy(folder, address, i))
            stack.enter_context(_clients(address))
            await _all_have(plane, made, 120)
            took, spent = await _splits(plane, models)
            rows = [
                Row(f"{name}: a new split at all, p50", took[len(took) // 2], "ms", ""),
                Row(f"{name}: a new split at all, slowest", took[-1], "ms", "<= 1000"),
                Row(f"{name}: processor time of it", spent, "ms", ""),
                Row(f"{name}: sent to each router", _size(plane, made, (RDS,)), "kB", ""),
                Row(f"{name}: all there is", _size(plane, made, TYPES), "kB", ""),
                Row(f"{name}: memory", _rss_mb() - before_mb, "MB", ""),
            ]
            if count == 1:
                rows.append(Row(f"{name}: idle", await _idle(plane), "% of a core", ""))
            made = models.next()
            began = time.perf_counter()
            plane = await _restart(plane, memory, address, made)
            await _all_have(plane, made)
            rows.append(Row(f"{name}: restart to all", time.perf_counter() - began, "s", ""))
            if count == SIZES[0]:
                first, later = await _hung(plane, models, address)
                rows += [
                    Row("fleet: one more hangs: its first split", first, "s", f"<= {LAG_S + 1}"),
                    Row("fleet: one more hangs: later ones", later[-1], "ms", "<= 1000"),
                ]
    finally:
        await plane.stop()
        shutil.rmtree(folder)
    return rows


def _size(plane: ControlPlane, made: Snapshot, kinds: Sequence[str]) -> float:
    return sum(len(plane._wire.response(kind, made, "1", None)) for kind in kinds) / 1e3
