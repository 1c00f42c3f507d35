"""The whole of it: policies and Deployments by `kubectl`, a real API server, Envoy and servers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import TinyKubelet
from tests.cluster.serving import FULL, MODEL, ClusterServe, Film, Scene, Users, policy

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(180)]


@pytest.fixture
def scene(
    cluster: ControlPlane, namespace: str, kubelet: TinyKubelet, tmp_path: Path
) -> Iterator[Scene]:
    """A model without a policy; whatever is started is ended."""
    made = Scene(cluster, namespace, tmp_path, kubelet)
    yield made
    made.end()


def served(scene: Scene, **target: object) -> ClusterServe:
    """A controller that leads, with v1 as the champion that answers."""
    scene.apply(policy(scene.namespace, **target))  # type: ignore[arg-type]
    scene.deploy("v1", FULL)
    serve = scene.serve().start()
    scene.until("v1 answers", lambda: serve.ask(f"/{MODEL}/x")[0] == 200, serve)
    return serve


def test_promotes_by_the_policy_and_undoes(scene: Scene) -> None:
    serve = served(scene)
    with Users(serve, {"v1": 0.5, "v2": 0.9}) as users, Film(scene, "v1", "v2") as film:
        scene.until("v1 answers", lambda: len(users.answers) > 50, serve)
        scene.deploy("v2")
        scene.phase(serve, "ramping")
        scene.phase(serve, "promoted")
        promoted = time.time()
        assert {a.arm for a in users.since(promoted + 0.5)} <= {"v2"}
        scene.until("roles", lambda: scene.role("v1") == "retained", serve)
        assert (scene.role("v2"), scene.served()) == ("champion", "v2")
        assert scene.replicas("v1")[0] == FULL
        scene.until("v1 is retired", lambda: scene.role("v1") == "retired", serve)
        assert scene.replicas("v1")[0] == 0
        assert scene.replicas("v2") == (FULL, FULL)
        rises = weights_of("v2", serve)
        print(serve.cli("undo", MODEL, "--reason", "on a whim").out)
        scene.until("v1 answers again", lambda: users.share("v1") == 1, serve)
        scene.phase(serve, "rolled_back")
        scene.until("the Service is v1's", lambda: scene.served() == "v1", serve)
        scene.until("v2 is retired", lambda: scene.role("v2") == "retired", serve)
        assert scene.role("v1") == "champion"
        assert scene.replicas("v2")[0] == 0
    assert [weight for _, weight in rises] == [2500, 5000, 10_000]
    for moment, weight in rises:
        frame, needed = film.at("v2", moment), math.ceil(FULL * weight / 10_000)
        assert frame.ready >= needed, (weight, frame)
    assert film.least("v1", 0, promoted) == FULL
    assert users.lost == []
    assert {a.pod for a in users.answers if a.arm == "v2"}
    assert serve.verified().code == 0


def weights_of(arm: str, serve: ClusterServe) -> list[tuple[float, int]]:
    """When the arm's weight changed, and to what."""
    found: list[tuple[float, int]] = []
    for each in serve.decisions():
        weight = each["weights"].get(arm, 0)
        if weight != (found[-1][1] if found else 0):
            found.append((each["time"], weight))
    return found
