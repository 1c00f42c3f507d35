"""One control plane, many routers: some are slow, refuse, or vanish, and the others do not care."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controller.core.model import BASIS, Split
from controller.core.policy import Route, Unit
from controller.router.memory import load
from controller.router.server import LAG_S, ControlPlane
from controller.router.snapshot import (
    CDS,
    EDS,
    LDS,
    RDS,
    ListenerConfig,
    RoutedModel,
    Snapshot,
    snapshot,
)
from tests.router.ads import ACK, Client

PLACE = ListenerConfig("127.0.0.1", 8080, "/tmp/access.log")
ROUTERS = 12


def built(epoch: int, arms: tuple[str, ...] = ("v1", "v2")) -> Snapshot:
    weights = dict.fromkeys(arms[1:], 100 + epoch)
    weights[arms[0]] = BASIS - sum(weights.values())
    split = Split(epoch, arms[0], weights, salt="m/1:", anchors=arms[1:])
    endpoints = dict.fromkeys(arms, ("127.0.0.1:9001",))
    unit = Unit(header="x-user-id")
    return snapshot([RoutedModel("m", Route(prefix="/m/", unit=unit), split, endpoints)], PLACE)


class Scene:
    def __init__(self, plane: ControlPlane, clients: list[Client], address: str) -> None:
        self.plane, self.clients, self.address = plane, clients, address

    async def publish(self, made: Snapshot, timeout_s: float = 10.0) -> float | None:
        """Seconds until it was in force; None if it was not."""
        began = time.monotonic()
        await self.plane.publish(made)
        return time.monotonic() - began if await self.plane.acked(made, timeout_s) else None


def with_routers(
    work: Callable[[Scene], Awaitable[None]],
    *,
    memory: Path | None = None,
    forget_s: float = 0.0,
    host: str = "127.0.0.1",
) -> None:
    async def main() -> None:
        plane = ControlPlane(memory=memory, forget_s=forget_s)
        address = await plane.start(host, 0)
        clients = [Client(address, f"r{i:02}").start() for i in range(ROUTERS)]
        scene = Scene(plane, clients, address)
        try:
            first = built(1)
            await plane.publish(first)
            await asyncio.gather(*(each.has(first.versions[RDS]) for each in clients))
            assert await plane.acked(first, 10)
            await work(scene)
        finally:
            await asyncio.gather(*(each.stop() for each in clients))
            await scene.plane.stop()

    asyncio.run(main())


def epochs(plane: ControlPlane) -> dict[str, int]:
    return {name: known["m"] for name, known in plane.in_force.items()}


def test_a_new_split_is_one_message_of_routes_to_each_router() -> None:
    async def work(scene: Scene) -> None:
        before = [dict(each.got) for each in scene.clients]
        assert await scene.publish(built(2)) is not None
        await asyncio.gather(*(c.has(built(2).versions[RDS]) for c in scene.clients))
        for then, client in zip(before, scene.clients, strict=True):
            assert client.got == {**then, RDS: then[RDS] + 1}

    with_routers(work)


def test_a_new_arm_is_sent_with_its_endpoints_before_its_routes_and_one_that_goes_after() -> None:
    async def work(scene: Scene) -> None:
        first = scene.clients[0]
        order: list[str] = []

        def note(kind: str) -> None:
            order.append(kind)

        first.answer = note
        assert await scene.publish(built(2, ("v1", "v2", "v3"))) is not None
        assert await scene.publish(built(3)) is not None
        await asyncio.sleep(0.2)
        assert order == [CDS, EDS, RDS, RDS, CDS, EDS]
        assert LDS not in order

    with_routers(work)


def test_one_that_hangs_holds_up_the_first_split_for_a_moment_and_no_later_one() -> None:
    async def work(scene: Scene) -> None:
        hung = scene.clients[3]
        hung.hears = False
        took = await scene.publish(built(2))
        assert took is not None
        assert LAG_S - 0.1 < took < LAG_S + 3
        assert scene.plane.behind == ("r03",)
        for epoch in (3, 4, 5):
            took = await scene.publish(built(epoch))
            assert took is not None
            assert took < LAG_S / 2
        found = epochs(scene.plane)
        assert found.pop("r03") == 1
        assert set(found.values()) == {5}

    with_routers(work)


def test_a_slow_one_is_not_waited_for_and_counts_again_once_it_has_caught_up() -> None:
    async def work(scene: Scene) -> None:
        slow = scene.clients[0]
        slow.pause_s = LAG_S + 1
        assert await scene.publish(built(2)) is not None
        assert scene.plane.behind == ("r00",)
        last = built(3)
        took = await scene.publish(last)
        assert took is not None
        assert took < LAG_S / 2
        slow.pause_s = 0.0
        await slow.has(last.versions[RDS])
        await asyncio.sleep(0.1)
        assert scene.plane.behind == ()

    with_routers(work)


def test_where_half_of_them_are_behind_nothing_is_in_force() -> None:
    async def work(scene: Scene) -> None:
        for each in scene.clients[: ROUTERS // 2]:
            each.hears = False
        assert await scene.publish(built(2), LAG_S + 1) is None
        assert len(scene.plane.behind) == ROUTERS // 2

    with_routers(work)


def test_a_refusal_by_one_is_its_own_affair(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        odd = scene.clients[5]
        odd.answer = lambda kind: "no such field" if kind == RDS else None
        took = await scene.publish(built(2))
        assert took is not None
        assert took < LAG_S
        await asyncio.sleep(0.2)
        assert scene.plane.last_nack is not None
        assert scene.plane.last_nack.node == "r05"
        assert scene.plane.last_nack.number < 4  # it is not asked over and over
        assert scene.plane.behind == ("r05",)
        found = epochs(scene.plane)
        assert found.pop("r05") == 1
        assert set(found.values()) == {2}
        assert load((tmp_path / "memory").read_bytes()).epochs == {"m": 2}
        odd.answer = ACK
        assert await scene.publish(built(3)) is not None
        await odd.has(built(3).versions[RDS])
        assert set(epochs(scene.plane).values()) == {3}

    with_routers(work, memory=tmp_path / "memory")


def test_what_half_of_them_refuse_is_taken_back_everywhere(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        for each in scene.clients[::2]:
            each.answer = lambda kind: "no" if kind == RDS else None
        assert await scene.publish(built(2)) is None
        for each in scene.clients:
            each.answer = ACK
        await asyncio.gather(*(c.has(built(1).versions[RDS]) for c in scene.clients))
        await asyncio.sleep(0.2)
        assert set(epochs(scene.plane).values()) == {1}
        assert load((tmp_path / "memory").read_bytes()).epochs == {"m": 1}

    with_routers(work, memory=tmp_path / "memory")


def test_one_that_vanishes_is_forgotten() -> None:
    async def work(scene: Scene) -> None:
        await scene.clients[0].stop()
        took = await scene.publish(built(2))
        assert took is not None
        assert took < LAG_S
        assert len(scene.plane.connected) == ROUTERS - 1

    with_routers(work)


@pytest.mark.parametrize("is_remembered", [True, False])
def test_after_a_restart_of_the_controller_all_have_the_split_again(
    tmp_path: Path, is_remembered: bool
) -> None:
    memory = tmp_path / "memory" if is_remembered else None

    async def work(scene: Scene) -> None:
        await scene.plane.stop()
        scene.plane = ControlPlane(forget_s=60.0, memory=memory)
        host, _, port = scene.address.rpartition(":")
        await scene.plane.start(host, int(port))
        again = built(1)
        took = await scene.publish(again)
        assert took is not None
        await asyncio.gather(*(c.has(again.versions[RDS]) for c in scene.clients))
        assert len(scene.plane.connected) == ROUTERS

    with_routers(work, memory=memory)


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_routers_come_by_ipv6_too(host: str) -> None:
    async def work(scene: Scene) -> None:
        assert scene.address.startswith(f"[{host}]:")
        assert await scene.publish(built(2)) is not None

    with_routers(work, host=host)


# --- who may still route by an older split ------------------------------------------------------


def stragglers(plane: ControlPlane, arm: str = "v2") -> list[tuple[str, bool]]:
    return [(each.name, each.is_connected) for each in plane.stragglers("m", arm)]


def test_one_that_hangs_may_route_to_what_its_last_split_leads_to_until_it_is_back() -> None:
    async def work(scene: Scene) -> None:
        hung = scene.clients[3]
        began = time.time()
        hung.hears = False
        assert await scene.publish(built(2, ("v1", "v3"))) is not None
        assert stragglers(scene.plane) == [("r03", True)]
        (found,) = scene.plane.stragglers("m", "v2")
        assert abs(found.since - began) < 1
        # What it was sent it may have taken, and could not say so.
        assert ("r03", True) in stragglers(scene.plane, "v3")
        assert stragglers(scene.plane, "v9") == []
        assert await scene.publish(built(3, ("v1",))) is not None
        assert stragglers(scene.plane, "v3") == [("r03", True)]
        hung.hears = True
        await hung.stop()
        hung.start()
        await hung.has(built(3, ("v1",)).versions[RDS])
        await asyncio.sleep(0.1)
        assert stragglers(scene.plane) == []
        assert stragglers(scene.plane, "v3") == []

    with_routers(work)


def test_one_that_refuses_goes_on_with_the_split_before() -> None:
    async def work(scene: Scene) -> None:
        odd = scene.clients[5]
        odd.answer = lambda kind: "no such field" if kind == RDS else None
        assert await scene.publish(built(2, ("v1",))) is not None
        await asyncio.sleep(0.2)
        assert stragglers(scene.plane) == [("r05", True)]
        odd.answer = ACK
        assert await scene.publish(built(3, ("v1",))) is not None
        await odd.has(built(3, ("v1",)).versions[RDS])
        await asyncio.sleep(0.1)
        assert stragglers(scene.plane) == []

    with_routers(work)


def test_one_that_was_lost_before_a_split_counts_until_it_is_forgotten() -> None:
    async def work(scene: Scene) -> None:
        await asyncio.sleep(1.5)  # none that was never met is waited for any more
        await scene.clients[0].stop()
        assert await scene.publish(built(2, ("v1",))) is not None
        await scene.clients[1].stop()
        await asyncio.sleep(0.1)
        assert stragglers(scene.plane) == [("r00", False)]
        await asyncio.sleep(1.5)
        assert stragglers(scene.plane) == []

    with_routers(work, forget_s=1.5)


def test_one_that_comes_back_and_hangs_routes_as_it_did() -> None:
    async def work(scene: Scene) -> None:
        back = scene.clients[0]
        await back.stop()
        assert await scene.publish(built(2, ("v1",))) is not None
        back.hears = False
        back.start()
        async with asyncio.timeout(5):
            while "r00" not in scene.plane.connected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert ("r00", True) in stragglers(scene.plane, "v2")
        assert ("r00", True) not in stragglers(scene.plane, "v9")

    with_routers(work, forget_s=30)


def test_one_that_crashes_again_and_again_is_not_lost_anew_with_what_it_once_led_to() -> None:
    async def work(scene: Scene) -> None:
        broken = scene.clients[0]
        await broken.stop()
        assert await scene.publish(built(2, ("v1",))) is not None
        await asyncio.sleep(0.1)
        assert ("r00", False) in stragglers(scene.plane)
        broken.hears = False  # each of its processes ends before it has taken anything
        for _ in range(2):
            broken.has_now.clear()
            broken.start()
            async with asyncio.timeout(5):
                while "r00" not in scene.plane.connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert [name for name, _ in stragglers(scene.plane) if name] == []
            await broken.stop()
            await asyncio.sleep(0.1)
            assert [name for name, _ in stragglers(scene.plane) if name] == []
            assert ("r00", False) in stragglers(scene.plane, "v1")

    with_routers(work, forget_s=30)


def test_one_that_nobody_follows_is_cut_off_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = iter([RuntimeError("a bug")])

    def broken(_memory: object, _snapshot: Snapshot) -> None:
        for each in failures:
            raise each

    async def work(scene: Scene) -> None:
        monkeypatch.setattr("controller.router.server.remember", broken)
        made = built(2)
        await scene.plane.publish(made)
        await asyncio.gather(*(each.has(made.versions[RDS]) for each in scene.clients))
        async with asyncio.timeout(10):
            while len(scene.plane.connected) < ROUTERS:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await scene.publish(built(3)) is not None
        assert set(epochs(scene.plane).values()) == {3}
        assert len(epochs(scene.plane)) == ROUTERS

    with_routers(work)


def test_a_control_plane_that_has_just_begun_cannot_know_whom_the_last_one_had_lost() -> None:
    async def work(scene: Scene) -> None:
        await scene.plane.stop()
        scene.plane = ControlPlane(forget_s=1.0)
        host, _, port = scene.address.rpartition(":")
        await scene.plane.start(host, int(port))
        assert await scene.publish(built(2, ("v1",))) is not None
        assert stragglers(scene.plane) == [("", False)]
        await asyncio.sleep(1.0)
        await asyncio.gather(*(c.has(built(2, ("v1",)).versions[RDS]) for c in scene.clients))
        await asyncio.sleep(0.1)
        assert stragglers(scene.plane) == []

    with_routers(work)
