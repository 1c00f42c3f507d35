"""A router that hangs while a candidate is rolled back: the users who wait in it are answered."""

from __future__ import annotations

import http.client
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.serving import FULL, MODEL, SLOW, ClusterServe, Scene, Users, policy
from tests.cluster.test_rollout import in_force
from tests.service.test_fleet import Router

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def serve(scene: Scene) -> ClusterServe:
    scene.apply(policy(scene.namespace, canary=SLOW))
    scene.deploy("v1", FULL)
    made = scene.serve()
    # A router that hangs is cut off after 10 s, and may yet come back for as long as this.
    made.environment = {"UNDERSTUDY_FORGET_ROUTERS": "10s"}
    made.start()
    scene.until("v1 answers", lambda: made.ask(f"/{MODEL}/x")[0] == 200, made)
    return made


@pytest.fixture
def routers(serve: ClusterServe, tmp_path: Path) -> Iterator[list[Router]]:
    """Two beside the controller's own: one of three may hang."""
    made = [
        Router(tmp_path, name, [serve.xds_port], serve.api_port).start_envoy()
        for name in ("two", "three")
    ]
    yield made
    for each in made:
        each.end()


def asked(router: Router, unit: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=20)
    connection.request("GET", f"/{MODEL}/x", headers={"x-user-id": unit})
    return connection


def answer(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.headers.get("x-understudy-arm")


def test_an_arm_that_a_hanging_router_names_is_kept_for_its_users(
    scene: Scene, serve: ClusterServe, routers: list[Router]
) -> None:
    def status() -> dict[str, object]:
        found = serve.get("/v1/models")["router"]
        assert isinstance(found, dict)
        return found

    def health() -> str:
        found = (serve.report() or {}).get("health", {})
        return str(found.get("left_behind") or found.get("kept") or "")

    scene.until("all are connected", lambda: status()["connected"] == 3, serve)
    scene.until("all serve", lambda: all(each.is_ready() for each in routers), serve)
    with Users(serve):
        scene.deploy("v2")
        scene.phase(serve, "ramping")
        scene.until("all have the split", lambda: in_force(serve, "v2") == 2500, serve)
        hung = routers[0]
        units = [f"u{n}" for n in range(40)]
        before = [answer(asked(hung, unit)) for unit in units]
        assert {arm for _, arm in before} == {"v1", "v2"}
        assert hung.envoy is not None
        hung.envoy.send_signal(signal.SIGSTOP)
        try:
            waiting = [asked(hung, unit) for unit in units]
            serve.order("rollback")
            scene.until("it is said who keeps it", lambda: "router two" in health(), serve)
            assert health().startswith("v2 is kept running, for users may still come: router two")
            assert scene.role("v2") == "rejected"
            assert scene.replicas("v2")[0] > 0
        finally:
            hung.envoy.send_signal(signal.SIGCONT)
        assert {status for status, _ in map(answer, waiting)} == {200}
        scene.until("v2 is scaled down", lambda: scene.replicas("v2")[0] == 0, serve, 60)
        scene.until("nothing is held", lambda: not health(), serve)
    assert serve.verified().code == 0
