"""Orders posted to a real HTTP server, about Deployments of the real API server.

The contract of targets (target_contract.py) reads back from the cluster what was ordered. Here
somebody else makes it so, later, so these tests look at what was posted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import ArmRole, PointService, Scale, SetRole
from controller.core.policy import Policy
from controller.deploy.client import Connection
from controller.deploy.target import Order
from controller.deploy.webhook import Webhook
from controller.errors import Permanent, Retryable
from tests.cluster import models
from tests.cluster.client import Document, path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.scene import AUTOSCALERS, autoscaler, connect, policy_of, stable_service
from tests.processes import free_port

Effect = Scale | SetRole | PointService


class Receiver:
    """Answers every POST with `status` and remembers it; `merge` does what it was asked for."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.cluster = cluster
        self.status, self.headers = 202, {"X-None": ""}
        self.got: list[tuple[dict[str, str], Document]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), json.loads(body)))
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"because of this")

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def merge(self) -> None:
        """As the pull request would."""
        body = self.got[-1][1]
        plural = {"Deployment": "deployments", "Service": "services"}[body["object"]["kind"]]
        where = path(plural, body["namespace"], body["object"]["name"])
        self.cluster.admin.patch(where, body["patch"])


class World:
    def __init__(self, cluster: ControlPlane, namespace: str, connection: Connection) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.receiver = Receiver(cluster)
        self.target = Webhook(connection)
        self.policy = self.policy_at(self.receiver.server.server_port)
        selector = {models.MODEL: "digits", models.VERSION: "v1", "app": "digits"}
        cluster.admin.create(path("services", namespace), stable_service(selector))
        for version, replicas in (("v1", 2), ("v2", 1)):
            document = models.deployment("digits", version, replicas=replicas)
            cluster.admin.create(path("deployments", namespace), document)

    def policy_at(self, port: int, **more: str) -> Policy:
        target = {"namespace": self.namespace, "service": "digits", "port": 8080, **more}
        webhook = f"http://127.0.0.1:{port}/orders"
        return policy_of(self.namespace, deploy={"kubernetes": target, "webhook": webhook})

    def carry_out(self, effect: Effect, champion: str = "v1") -> None:
        self.target.carry_out(Order("digits", self.policy, effect, {}, champion, "because"))

    def bodies(self) -> list[Document]:
        return [body for _, body in self.receiver.got]


@pytest.fixture
def world(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[World]:
    connection = connect(cluster, tmp_path)
    made = World(cluster, namespace, connection)
    yield made
    made.receiver.stop()
    made.target.close()
    connection.close()


@pytest.mark.parametrize(
    ("effect", "action", "kind", "patch"),
    [
        (Scale(7, "v2", 3), "scale", "Deployment", {"spec": {"replicas": 3}}),
        (Scale(7, "v2", 0), "scale", "Deployment", {"spec": {"replicas": 0}}),
        (
            SetRole(7, "v2", ArmRole.CANDIDATE),
            "label",
            "Deployment",
            {"metadata": {"labels": {"understudy.dev/role": "candidate"}}},
        ),
        (
            PointService(7, "v2"),
            "point_service",
            "Service",
            {"spec": {"selector": {models.MODEL: "digits", models.VERSION: "v2"}}},
        ),
    ],
    ids=repr,
)
def test_order_is_posted_with_its_patch_and_not_again_once_it_is_so(
    world: World, effect: Effect, action: str, kind: str, patch: Document
) -> None:
    world.carry_out(effect)
    [(headers, body)] = world.receiver.got
    name = "digits" if kind == "Service" else "digits-v2"
    assert (body["action"], body["object"]["kind"], body["object"]["name"]) == (action, kind, name)
    assert (body["model"], body["arm"], body["namespace"]) == ("digits", "v2", world.namespace)
    assert (body["decision"], body["reason"], body["patch"]) == (7, "because", patch)
    assert headers["Idempotency-Key"] == body["id"]
    world.carry_out(effect)
    assert world.bodies() == [body, body]
    world.receiver.merge()
    world.carry_out(effect)
    assert len(world.receiver.got) == 2


def test_nothing_is_written_to_the_cluster(world: World) -> None:
    where = path("deployments", world.namespace, "digits-v2")
    world.carry_out(Scale(1, "v2", 3))
    world.carry_out(SetRole(1, "v2", ArmRole.CANDIDATE))
    found = world.cluster.admin.get(where)
    assert found["spec"]["replicas"] == 1
    assert not [m for m in found["metadata"]["managedFields"] if m["manager"] == "understudy"]


def test_other_orders_have_other_keys(world: World) -> None:
    for effect in (Scale(1, "v2", 3), Scale(1, "v2", 4), Scale(2, "v2", 3), Scale(1, "v1", 3)):
        world.carry_out(effect)
    assert len({body["id"] for body in world.bodies()}) == 4


def test_autoscaled_deployment_gets_a_minimum(world: World) -> None:
    where = AUTOSCALERS.format(world.namespace)
    world.cluster.admin.create(where, autoscaler("digits-v2", 1, 8))
    world.carry_out(Scale(1, "v2", 20))
    [body] = world.bodies()
    assert body["object"]["kind"] == "HorizontalPodAutoscaler"
    assert body["patch"] == {"spec": {"minReplicas": 8}}


def test_scale_that_is_given_back_has_no_patch(world: World) -> None:
    world.carry_out(Scale(1, "v1", None))
    [body] = world.bodies()
    assert (body["replicas"], body["patch"]) == (None, None)


def test_scale_means_at_least(world: World) -> None:
    world.carry_out(Scale(1, "v1", 1))
    assert world.bodies() == []


def test_observed_deployments_are_never_asked_for(world: World) -> None:
    world.policy = world.policy_at(world.receiver.server.server_port, scaling="observed")
    world.carry_out(Scale(1, "v2", 3))
    assert world.bodies() == []


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_receiver_that_cannot_now_is_asked_again(world: World, status: int) -> None:
    world.receiver.status, world.receiver.headers = status, {"Retry-After": "7"}
    with pytest.raises(Retryable, match=f"answers {status}: because of this") as failure:
        world.carry_out(Scale(1, "v2", 3))
    assert failure.value.after_s == 7


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 422])
def test_receiver_that_will_not_is_named(world: World, status: int) -> None:
    world.receiver.status = status
    with pytest.raises(Permanent, match=f"orders answers {status}: because of this"):
        world.carry_out(Scale(1, "v2", 3))


def test_receiver_that_is_away_is_asked_again(world: World) -> None:
    world.policy = world.policy_at(free_port())
    with pytest.raises(Retryable, match="cannot be reached"):
        world.carry_out(Scale(1, "v2", 3))


def test_champion_is_never_scaled_to_nothing(world: World) -> None:
    with pytest.raises(Permanent, match="v1 is the champion"):
        world.carry_out(Scale(1, "v1", 0))
    assert world.bodies() == []


def test_arm_that_is_not_there_is_named_or_needs_nothing(world: World) -> None:
    for effect in (Scale(1, "v9", 0), Scale(1, "v9", None), SetRole(1, "v9", ArmRole.RETIRED)):
        world.carry_out(effect)
    assert world.bodies() == []
    with pytest.raises(Permanent, match="version=v9"):
        world.carry_out(Scale(1, "v9", 2))
