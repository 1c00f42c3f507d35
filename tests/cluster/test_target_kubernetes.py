from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import ArmRole, PointService, Scale, SetRole
from controller.core.policy import Policy
from controller.deploy.client import Connection
from controller.deploy.kubernetes import Deployments
from controller.deploy.target import Order
from controller.errors import Conflict, Permanent
from tests.cluster import models
from tests.cluster.client import path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.scene import AUTOSCALERS, autoscaler, connect, policy, stable_service
from tests.cluster.target_contract import Effect, TargetContract
from tests.processes import until

ROLE, FIELDS = "understudy.dev/role", "understudy.dev/fields"


class DeploymentsWorld:
    """Deployments as somebody creates them by kubectl, and a Service before the champion."""

    def __init__(self, cluster: ControlPlane, namespace: str, connection: Connection) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.target = Deployments(connection)
        self.policy: Policy = policy(namespace)
        selector = {models.MODEL: "digits", models.VERSION: "v1", "app": "digits"}
        cluster.admin.create(path("services", namespace), stable_service(selector))

    def order(self, effect: Effect, champion: str = "v1") -> Order:
        return Order("digits", self.policy, effect, {}, champion, "because")

    def start(self, version: str, replicas: int) -> None:
        document = models.deployment("digits", version, replicas=replicas)
        self.cluster.admin.create(path("deployments", self.namespace), document)

    def remove(self, version: str) -> None:
        where = self.where(version)
        self.cluster.admin.delete(where)
        until("it is deleted", lambda: self.cluster.admin.call("GET", where)[0] == 404)

    def replicas(self, version: str) -> int:
        return int(self.found(version)["spec"]["replicas"])

    def role(self, version: str) -> str | None:
        found: str | None = self.found(version)["metadata"]["labels"].get(ROLE)
        return found

    def served(self) -> str | None:
        found: str | None = self.service()["spec"]["selector"].get(models.VERSION)
        return found

    def applied_by(self, manager: str, version: str, replicas: int) -> None:
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": replicas}}
        self.cluster.admin.apply(self.where(version), body, manager)

    def fingerprint(self) -> object:
        """Specs, labels, annotations and managers: a Deployment's status changes by itself."""
        found = self.cluster.admin.items(path("deployments", self.namespace))
        found += self.cluster.admin.items(path("services", self.namespace))
        return [
            (
                each["spec"],
                each["metadata"].get("labels"),
                sorted(
                    (m["manager"], m["operation"], m.get("time"))
                    for m in each["metadata"]["managedFields"]
                    if m["manager"] != "kube-controller-manager"
                ),
            )
            for each in found
        ]

    # More than the contract needs

    def where(self, version: str) -> str:
        return path("deployments", self.namespace, f"digits-{version}")

    def found(self, version: str) -> dict[str, Any]:
        return self.cluster.admin.get(self.where(version))

    def service(self) -> dict[str, Any]:
        return self.cluster.admin.get(path("services", self.namespace, "digits"))

    def autoscale(self, version: str, minimum: int, maximum: int) -> None:
        where = AUTOSCALERS.format(self.namespace)
        self.cluster.admin.create(where, autoscaler(f"digits-{version}", minimum, maximum))

    def autoscaler(self, version: str) -> dict[str, Any]:
        where = AUTOSCALERS.format(self.namespace)
        return self.cluster.admin.get(f"{where}/digits-{version}")

    def carry_out(self, effect: Effect, champion: str = "v1") -> None:
        self.target.carry_out(self.order(effect, champion))


@pytest.fixture
def world(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[DeploymentsWorld]:
    connection = connect(cluster, tmp_path)
    yield DeploymentsWorld(cluster, namespace, connection)
    connection.close()


class TestDeployments(TargetContract):
    pass


def test_what_kubectl_wrote_is_taken_over_once_and_that_is_noted(world: DeploymentsWorld) -> None:
    world.start("v2", 1)
    world.carry_out(Scale(1, "v2", 3))
    assert world.found("v2")["metadata"]["annotations"][FIELDS] == "spec.replicas"
    world.carry_out(SetRole(2, "v2", ArmRole.CANDIDATE))
    world.carry_out(Scale(3, "v2", 4))
    assert (world.replicas("v2"), world.role("v2")) == (4, "candidate")
    world.cluster.kubectl("scale", "deployment/digits-v2", "--replicas=2", "-n", world.namespace)
    with pytest.raises(Conflict, match="changed to 2 by 'kubectl'") as conflict:
        world.carry_out(Scale(4, "v2", 4))
    assert FIELDS in str(conflict.value)
    assert world.replicas("v2") == 2
    world.cluster.admin.patch(world.where("v2"), {"metadata": {"annotations": {FIELDS: None}}})
    world.carry_out(Scale(5, "v2", 4))
    assert world.replicas("v2") == 4


def test_what_was_given_back_is_taken_over_anew(world: DeploymentsWorld) -> None:
    world.start("v1", 1)
    world.carry_out(Scale(1, "v1", 3))
    world.carry_out(Scale(2, "v1", None))
    assert FIELDS not in world.found("v1")["metadata"]["annotations"]
    world.cluster.kubectl("scale", "deployment/digits-v1", "--replicas=2", "-n", world.namespace)
    world.carry_out(Scale(3, "v1", 3))
    assert world.replicas("v1") == 3


def test_rest_of_the_deployment_is_left_alone(world: DeploymentsWorld) -> None:
    world.start("v2", 1)
    before = world.found("v2")
    world.carry_out(Scale(1, "v2", 2))
    world.carry_out(SetRole(1, "v2", ArmRole.CANDIDATE))
    after = world.found("v2")
    assert after["spec"] == before["spec"] | {"replicas": 2}
    assert after["metadata"]["labels"] == before["metadata"]["labels"] | {ROLE: "candidate"}
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_owner_who_applies_again_keeps_what_we_changed(
    world: DeploymentsWorld, tmp_path: Path
) -> None:
    document = models.deployment("digits", "v2")
    del document["spec"]["replicas"]
    file = tmp_path / "v2.json"
    file.write_text(json.dumps(document))
    world.cluster.kubectl("apply", "-f", file, "-n", world.namespace)
    world.carry_out(Scale(1, "v2", 3))
    world.carry_out(SetRole(1, "v2", ArmRole.CANDIDATE))
    world.cluster.kubectl("apply", "-f", file, "-n", world.namespace)
    world.cluster.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", file, "-n", world.namespace
    )
    assert (world.replicas("v2"), world.role("v2")) == (3, "candidate")
    before = world.fingerprint()
    world.carry_out(Scale(1, "v2", 3))
    assert world.fingerprint() == before


def test_service_keeps_the_rest_of_its_selector(world: DeploymentsWorld) -> None:
    world.start("v2", 1)
    world.carry_out(PointService(1, "v2"))
    assert world.service()["spec"]["selector"] == {
        models.MODEL: "digits",
        models.VERSION: "v2",
        "app": "digits",
    }


def test_service_that_is_not_there_is_named(world: DeploymentsWorld) -> None:
    world.cluster.admin.delete(path("services", world.namespace, "digits"))
    with pytest.raises(Permanent, match="no Service digits"):
        world.carry_out(PointService(1, "v2"))


def test_selector_that_somebody_applies_is_not_fought(world: DeploymentsWorld) -> None:
    body = stable_service({"app": "digits", models.VERSION: "v1"})
    where = path("services", world.namespace, "digits")
    world.cluster.admin.apply(where, body, "helm")
    with pytest.raises(Conflict, match="helm"):
        world.carry_out(PointService(1, "v2"))
    assert world.served() == "v1"


def test_autoscaler_is_raised_and_gets_its_own_minimum_back(world: DeploymentsWorld) -> None:
    world.start("v1", 2)
    world.autoscale("v1", 2, 8)
    before = world.found("v1")["metadata"]["managedFields"]
    world.carry_out(Scale(1, "v1", 5))
    world.carry_out(Scale(1, "v1", 5))
    assert world.autoscaler("v1")["spec"]["minReplicas"] == 5
    world.carry_out(Scale(2, "v1", 20))
    assert world.autoscaler("v1")["spec"]["minReplicas"] == 8
    world.carry_out(Scale(3, "v1", None))
    found = world.autoscaler("v1")
    assert (found["spec"]["minReplicas"], found["spec"]["maxReplicas"]) == (2, 8)
    assert not found["metadata"].get("annotations")
    assert world.replicas("v1") == 2
    ours = [
        m for m in world.found("v1")["metadata"]["managedFields"] if m["manager"] == "understudy"
    ]
    assert not ours
    assert before
    world.carry_out(Scale(4, "v1", 4))
    assert world.autoscaler("v1")["spec"]["minReplicas"] == 4


def test_minimum_that_somebody_applies_is_not_fought(world: DeploymentsWorld) -> None:
    world.start("v1", 2)
    where = f"{AUTOSCALERS.format(world.namespace)}/digits-v1"
    world.cluster.admin.apply(where, autoscaler("digits-v1", 2, 8), "flux")
    with pytest.raises(Conflict, match="minReplicas is 2 and applied by 'flux'"):
        world.carry_out(Scale(1, "v1", 5))
    assert world.autoscaler("v1")["spec"]["minReplicas"] == 2


def test_autoscaled_arm_sleeps_and_wakes(world: DeploymentsWorld) -> None:
    world.start("v2", 2)
    world.autoscale("v2", 2, 8)
    world.carry_out(Scale(1, "v2", 4))
    world.carry_out(Scale(2, "v2", 0))
    assert (world.replicas("v2"), world.autoscaler("v2")["spec"]["minReplicas"]) == (0, 2)
    world.carry_out(Scale(3, "v2", 3))
    assert (world.replicas("v2"), world.autoscaler("v2")["spec"]["minReplicas"]) == (3, 3)


def test_observed_deployments_are_never_scaled(world: DeploymentsWorld) -> None:
    world.policy = policy(world.namespace, scaling="observed")
    world.start("v2", 1)
    before = world.fingerprint()
    for replicas in (5, 0, None):
        world.carry_out(Scale(1, "v2", replicas))
    assert world.fingerprint() == before
    world.carry_out(SetRole(1, "v2", ArmRole.CANDIDATE))
    assert world.role("v2") == "candidate"


def test_right_that_is_missing_is_named(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    account = cluster.service_account(namespace, "understudy")
    rules = [
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
        {
            "apiGroups": ["autoscaling"],
            "resources": ["horizontalpodautoscalers"],
            "verbs": ["list"],
        },
    ]
    cluster.grant(account, *rules, namespace=namespace)
    models.deploy(cluster.admin, namespace, "digits", "v2")
    its = cluster.client(account)
    until("the role holds", lambda: its.call("GET", path("deployments", namespace))[0] == 200)
    connection = connect(cluster, tmp_path, account)
    order = Order("digits", policy(namespace), Scale(1, "v2", 3), {}, "v1", "because")
    with pytest.raises(Permanent, match=r"cannot patch resource \"deployments\""):
        Deployments(connection).carry_out(order)
    connection.close()


def test_scaled_arm_gets_ready(world: DeploymentsWorld) -> None:
    world.start("v2", 1)
    world.carry_out(Scale(1, "v2", 3))
    models.rolled_out(world.cluster.admin, world.namespace, "digits-v2")
    assert len(models.pods(world.cluster.admin, world.namespace, "digits", "v2")) == 3
