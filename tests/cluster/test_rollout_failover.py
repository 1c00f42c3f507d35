"""Two controllers on one state folder: who leads, who answers, who may act."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import TinyKubelet
from tests.cluster.serving import FULL, MODEL, SLOW, ClusterServe, Scene, Users, policy

pytestmark = pytest.mark.timeout(180)

LONGEST_S = 15.0
MORTAL = Path(__file__).with_name("mortal.py")


@pytest.fixture
def scene(
    cluster: ControlPlane, namespace: str, kubelet: TinyKubelet, tmp_path: Path
) -> Iterator[Scene]:
    """A model in its first step, with a leader `a` and a standby `b`."""
    made = Scene(cluster, namespace, tmp_path, kubelet)
    made.apply(policy(namespace, canary=SLOW))
    made.deploy("v1", FULL)
    leader, standby = made.serve("a").start(), made.serve("b")
    standby.spawn()
    made.deploy("v2")
    made.phase(leader, "ramping")
    made.phase(standby, "ramping")
    yield made
    made.end()


def took_over_s(scene: Scene, serve: ClusterServe, begun: float) -> float:
    """Seconds until a controller takes an operator's command."""

    def answers() -> bool:
        try:
            return serve.order("pause")[0] == 200
        except OSError:
            return False

    scene.until("it takes commands", answers, serve)
    return time.monotonic() - begun


def test_standby_answers_and_refuses_until_the_leader_is_killed(scene: Scene) -> None:
    leader, standby = scene.serves
    assert standby.report()["arms"][1]["weight"] == 2500
    code, answer = standby.order("promote")
    assert code == 503
    assert "stands by; a_" in answer["detail"]
    assert standby.call("GET", "/readyz")[0] == 200
    with Users(leader, rate_hz=60, threads=1) as users:
        begun = time.monotonic()
        leader.kill()
        took = took_over_s(scene, standby, begun)
        print(f"failover after kill -9: {took:.1f} s")
        assert took <= LONGEST_S
        assert standby.order("resume")[0] == 200
        assert standby.order("rollback")[0] == 200
        scene.until("nobody gets v2", lambda: users.share("v2", 0.5) == 0, standby, 5)
        scene.until("v2 is put aside", lambda: scene.role("v2") == "rejected", standby)
    assert users.lost == []
    assert standby.verified().code == 0


def test_leader_that_ends_hands_over(scene: Scene) -> None:
    leader, standby = scene.serves
    begun = time.monotonic()
    leader.stop()
    took = took_over_s(scene, standby, begun)
    print(f"hand-over after SIGTERM: {took:.1f} s")
    assert took <= LONGEST_S
    assert standby.report()["phase"] == "paused"


def test_leader_that_slept_changes_nothing(scene: Scene) -> None:
    leader, standby = scene.serves
    assert leader.process is not None
    # The worst moment: it is about to scale v2 up, for a promotion.
    leader.stop()
    standby.stop()
    go = scene.folder / "go"
    leader.launcher = (str(MORTAL), "stop", str(go))
    leader.start()
    standby.spawn()
    scene.until("the standby answers", standby.report, standby)
    go.touch()
    leader.ask_for("promote")
    scene.until("it sleeps", lambda: not go.exists(), standby)
    took_over_s(scene, standby, time.monotonic())
    standby.order("resume")
    standby.order("rollback")
    scene.until("v2 is put aside", lambda: scene.role("v2") == "rejected", standby)
    scene.until("v2 is scaled down", lambda: scene.replicas("v2") == (0, 0), standby)
    before = [scene.deployment(version)["spec"] for version in ("v1", "v2")]
    mark = scene.cluster.audit.mark()
    decided = [each["number"] for each in standby.decisions()]
    leader.process.send_signal(signal.SIGCONT)
    assert leader.process.wait(20) != 0
    assert "does not lead any more" in leader.tail()
    time.sleep(2)
    assert [scene.deployment(version)["spec"] for version in ("v1", "v2")] == before
    written = scene.cluster.audit.requests(since=mark, agent="understudy/", verb="patch")
    done = {each.resource for each in written if each.code < 300}
    assert done <= {"rolloutpolicies/status"}
    assert [each["number"] for each in standby.decisions()] == decided
    assert standby.ask(f"/{MODEL}/x")[1]["x-understudy-arm"] == "v1"
    assert standby.verified().code == 0
