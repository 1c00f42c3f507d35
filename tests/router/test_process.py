"""The life of the local Envoy: adopted, replaced, restarted, stopped."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from controller.bootstrap.routers import AccessLog
from controller.core.model import Split
from controller.core.policy import Route
from controller.errors import Permanent, Retryable
from controller.router.envoy import LocalEnvoy
from controller.router.memory import remembered
from controller.router.server import ControlPlane
from controller.router.snapshot import TYPES, RoutedModel, Snapshot, snapshot

DAMAGED = json.dumps(
    {"epochs": {}, "led_to": [], "resources": {kind: {"x": "/w=="} for kind in TYPES}}
).encode()

CONTROLLER = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_process as t
async def main():
    envoy, plane = await t.serve(Path(sys.argv[1]))
    print(envoy.pid, envoy.listener.port, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def wanted(envoy: LocalEnvoy, epoch: int = 1) -> Snapshot:
    """A model without servers: its answers are 503, which is an answer of the split."""
    split = Split(epoch=epoch, champion="v1", weights={"v1": 10_000}, salt="s")
    return snapshot([RoutedModel("m", Route(prefix="/"), split)], envoy.listener)


async def serve(
    state: Path, *, is_published: bool = True, forget_s: float = 60.0, **options: Any
) -> tuple[LocalEnvoy, ControlPlane]:
    envoy = LocalEnvoy(state, **options)
    plane = ControlPlane(memory=envoy.memory_path, forget_s=forget_s)
    await plane.start("127.0.0.1", 0, unix_path=envoy.xds_path)
    await envoy.start()
    if is_published:
        await plane.publish(wanted(envoy))
    await envoy.ready()
    return envoy, plane


def test_a_stopped_envoy_may_route_by_the_split_that_it_has_until_it_has_the_next(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        envoy, plane = await serve(tmp_path, forget_s=0.0)
        pid = envoy.pid
        assert pid is not None
        both = snapshot([two_arms()], envoy.listener)
        await plane.publish(both)
        assert await plane.acked(both, 10)
        assert plane.stragglers("m", "v3") == ()
        os.kill(pid, signal.SIGSTOP)
        try:
            one = wanted(envoy, 3)
            await plane.publish(one)
            assert not await plane.acked(one, 0.5)
            (found,) = plane.stragglers("m", "v2")
            assert found.is_connected
            assert (found.name,) == plane.connected
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await plane.acked(one, 10)
        assert plane.stragglers("m", "v2") == ()
        await envoy.stop()
        await plane.stop()

    asyncio.run(scenario())


def test_an_envoy_that_comes_back_may_lead_anywhere_and_one_that_begins_anew_nowhere(
    tmp_path: Path,
) -> None:
    async def until_it_is_there(plane: ControlPlane) -> None:
        async with asyncio.timeout(10):
            while not plane.connected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def scenario() -> None:
        envoy, first = await serve(tmp_path, forget_s=0.0)
        pid = envoy.pid
        assert pid is not None
        await first.stop()
        plane = ControlPlane(forget_s=0.0)
        await plane.start("127.0.0.1", 0, unix_path=envoy.xds_path)
        await until_it_is_there(plane)
        (found,) = plane.stragglers("m", "v2")
        assert found.is_connected
        os.kill(pid, signal.SIGKILL)
        while envoy.restarts == 0:  # noqa: ASYNC110 - a counter, no event
            await asyncio.sleep(0.02)
        await until_it_is_there(plane)
        assert plane.stragglers("m", "v2") == ()
        await envoy.stop()
        await plane.stop()

    asyncio.run(scenario())


def two_arms() -> RoutedModel:
    split = Split(2, "v1", {"v1": 9_000, "v2": 1_000}, salt="s", anchors=("v2",))
    return RoutedModel("m", Route(prefix="/"), split)


def status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_envoy_comes_back_with_the_last_split(tmp_path: Path) -> None:
    async def scenario() -> None:
        envoy, plane = await serve(tmp_path)
        first, port = envoy.pid, envoy.listener.port
        assert first is not None
        os.kill(first, signal.SIGKILL)
        while envoy.restarts == 0:  # noqa: ASYNC110 - a counter, no event
            await asyncio.sleep(0.02)
        await envoy.ready()
        assert envoy.pid != first
        assert await asyncio.to_thread(status, port) == 503
        assert (tmp_path / "router" / "access.log.1").exists()
        second = envoy.pid
        began = time.monotonic()
        await envoy.stop()
        assert time.monotonic() - began < 3
        assert second is not None
        assert not is_alive(second)
        await plane.stop()

    asyncio.run(scenario())


def test_an_envoy_outlives_a_killed_controller_and_is_adopted(tmp_path: Path) -> None:
    script = CONTROLLER.format(here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, port = map(int, done.stdout.split())
    assert is_alive(pid)
    assert status(port) == 503

    async def scenario() -> None:
        envoy, plane = await serve(tmp_path)
        assert (envoy.pid, envoy.listener.port) == (pid, port)
        built = wanted(envoy, epoch=2)
        await plane.publish(built)
        assert await plane.acked(built, 5)
        await envoy.stop()
        await plane.stop()

    asyncio.run(scenario())
    assert not is_alive(pid)


def test_replacing_an_envoy_that_does_not_fit_loses_no_request(tmp_path: Path) -> None:
    async def ask(port: int, seen: list[int], stop: asyncio.Event) -> None:
        while not stop.is_set():
            seen.append(await asyncio.to_thread(status, port))

    async def scenario() -> None:
        envoy, plane = await serve(tmp_path, drain_s=1)
        old, port = envoy.pid, envoy.listener.port
        assert old is not None
        await envoy.detach()
        await plane.stop()
        seen: list[int] = []
        stop = asyncio.Event()
        asking = [asyncio.create_task(ask(port, seen, stop)) for _ in range(3)]
        envoy, plane = await serve(tmp_path, drain_s=2)
        assert envoy.pid != old
        assert envoy.listener.port == port
        while is_alive(old):  # noqa: ASYNC110 - a process, no event
            await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*asking)
        assert len(seen) > 50
        assert set(seen) == {503}
        await envoy.stop()
        await plane.stop()

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_refused_and_the_last_one_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        envoy, plane = await serve(tmp_path / "a")
        with pytest.raises(Permanent, match="taken"):
            LocalEnvoy(tmp_path / "b", port=envoy.listener.port)
        port = envoy.listener.port
        await envoy.stop()
        await plane.stop()
        assert LocalEnvoy(tmp_path / "a").listener.port == port

    asyncio.run(scenario())


def test_a_port_file_that_a_full_disk_left_empty_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "port").write_text("")
    assert LocalEnvoy(tmp_path).listener.port > 0


def test_an_envoy_that_cannot_be_started_is_started_when_it_can(tmp_path: Path) -> None:
    async def scenario() -> None:
        envoy, plane = await serve(tmp_path)
        first, document = envoy.pid, tmp_path / "router" / "bootstrap.json"
        assert first is not None
        document.unlink()
        document.mkdir()
        os.kill(first, signal.SIGKILL)
        await asyncio.sleep(0.5)
        assert envoy.pid == first
        document.rmdir()
        await envoy.ready()
        assert envoy.restarts == 1
        await envoy.stop()
        await plane.stop()

    asyncio.run(scenario())


def test_a_rotation_that_envoy_did_not_hear_of_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.router.envoy.ADMIN_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        envoy, plane = await serve(tmp_path)
        pid = envoy.pid
        assert pid is not None
        source = AccessLog(envoy, None)
        assert await asyncio.to_thread(status, envoy.listener.port) == 503
        while (drained := source.drain()) is None:  # noqa: ASYNC110 - Envoy tells no one
            await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(Retryable, match="does not answer"):
            await envoy.rotate()
        assert not envoy.log_path.exists()
        await source.committed(drained.mark.position)
        os.kill(pid, signal.SIGCONT)
        await source.committed(drained.mark.position)
        async with asyncio.timeout(5):
            while not envoy.log_path.exists():  # noqa: ASYNC110 - Envoy tells no one
                await asyncio.sleep(0.02)
        await envoy.stop()
        await plane.stop()

    asyncio.run(scenario())


def test_a_split_that_cannot_be_remembered_is_in_force_and_none_is_remembered(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        envoy, plane = await serve(tmp_path)
        node = plane.connected
        assert envoy.memory_path.exists()
        fresh = envoy.memory_path.with_suffix(".new")
        fresh.mkdir()
        second = wanted(envoy, 2)
        await plane.publish(second)
        assert await plane.acked(second, 5)
        assert plane.connected == node
        assert not envoy.memory_path.exists(), "an older split would be given out at the next start"
        fresh.rmdir()
        third = wanted(envoy, 3)
        await plane.publish(third)
        assert await plane.acked(third, 5)
        assert envoy.memory_path.exists()
        await envoy.stop()
        await plane.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "what", [b"", b"[]", b"\xff", DAMAGED], ids=["empty", "list", "bytes", "xds"]
)
def test_a_memory_that_is_damaged_is_as_good_as_none(tmp_path: Path, what: bytes) -> None:
    file = tmp_path / "snapshot.json"
    file.write_bytes(what)
    assert remembered(file) is None
