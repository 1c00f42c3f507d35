"""Splits as weights of an HTTPRoute, on the real API server with the real definitions.

No gateway runs here: the test writes the status that a gateway's controller would write. What
proxies make of weights is theirs to test.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import Split
from controller.core.policy import Policy
from controller.deploy.client import Connection
from controller.deploy.gateway import GatewayRouter
from controller.deploy.words import service_name
from controller.errors import Deposed
from controller.router.snapshot import RoutedModel
from tests.cluster.client import Document, path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.scene import connect, gateway_policy
from tests.processes import until

PARENT = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"}
OTHER_RULE = {
    "matches": [{"path": {"type": "PathPrefix", "value": "/shop/"}}],
    "backendRefs": [{"group": "", "kind": "Service", "name": "shop", "port": 80, "weight": 1}],
}
REWRITE = {
    "type": "URLRewrite",
    "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
}
WAIT_S = 5.0


def model_rule(**more: Any) -> Document:
    return {
        "matches": [{"path": {"type": "PathPrefix", "value": "/digits/"}}],
        "filters": [REWRITE],
        "timeouts": {"request": "5s"},
        "backendRefs": [{"name": "digits", "port": 80, **more}],
    }


class World:
    """A route that its owner has created, and the router that carries splits by it."""

    def __init__(self, cluster: ControlPlane, namespace: str, connection: Connection) -> None:
        self.cluster, self.namespace, self.connection = cluster, namespace, connection
        self.policy: Policy = gateway_policy(namespace)
        self.where = path("httproutes", namespace, "public")
        self.routers: list[GatewayRouter] = []
        self.router = self.another()

    def another(self) -> GatewayRouter:
        """As after a restart."""
        router = GatewayRouter(self.connection, namespaces=[self.namespace], clock=time.monotonic)
        self.routers.append(router)
        return router

    def create(self, *rules: Document) -> None:
        body = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "public"},
            "spec": {"parentRefs": [PARENT], "rules": list(rules or (OTHER_RULE, model_rule()))},
        }
        self.cluster.admin.create(
            path("httproutes", self.namespace) + "?fieldManager=kubectl", body
        )

    def model(self, epoch: int, weights: dict[str, int], **split: Any) -> RoutedModel:
        return RoutedModel(
            "digits",
            self.policy.spec.route,
            Split(epoch, "v1", weights, "salt", **split),
            deploy=self.policy.spec.deploy,
            namespace=self.policy.namespace,
        )

    def publish(self, epoch: int, weights: dict[str, int], **split: Any) -> None:
        asyncio.run(self.router.publish([self.model(epoch, weights, **split)]))

    def confirmed(self, timeout_s: float = 0.2) -> dict[str, int]:
        return dict(asyncio.run(self.router.confirmed(timeout_s)))

    def found(self) -> Document:
        return self.cluster.admin.get(self.where)

    def weights(self) -> dict[str, int]:
        refs = self.found()["spec"]["rules"][-1]["backendRefs"]
        return {ref["name"]: ref["weight"] for ref in refs}

    def says(self, generation: int | None = None, **conditions: str) -> None:
        """What the gateway's controller would write."""
        seen = generation or self.found()["metadata"]["generation"]
        given = {"Accepted": "True", "ResolvedRefs": "True"} | conditions
        parent = {
            "parentRef": PARENT,
            "controllerName": "example.net/gateway",
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "reason": "Because",
                    "message": "somebody said so",
                    "observedGeneration": seen,
                    "lastTransitionTime": "2026-11-24T00:00:00Z",
                }
                for kind, status in given.items()
            ],
        }
        self.cluster.admin.patch(f"{self.where}/status", {"status": {"parents": [parent]}})


@pytest.fixture
def world(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[World]:
    cluster.install_crds("gateway")
    connection = connect(cluster, tmp_path)
    made = World(cluster, namespace, connection)
    yield made
    for router in made.routers:
        router.stop()
    connection.close()


V1, V2 = service_name("digits", "v1"), service_name("digits", "v2")


def test_split_is_weights_in_basis_points_and_says_arm_and_epoch(world: World) -> None:
    world.create()
    world.publish(3, {"v1": 9_500, "v2": 500})
    other, rule = world.found()["spec"]["rules"]
    assert other == OTHER_RULE
    assert {n: v for n, v in rule.items() if n != "backendRefs"} == {
        n: v for n, v in model_rule().items() if n != "backendRefs"
    }
    assert [(r["name"], r["port"], r["weight"]) for r in rule["backendRefs"]] == [
        (V1, 8080, 9_500),
        (V2, 8080, 500),
    ]
    for ref, arm in zip(rule["backendRefs"], ("v1", "v2"), strict=True):
        headers = [
            {"name": "x-understudy-arm", "value": arm},
            {"name": "x-understudy-epoch", "value": "3"},
        ]
        assert ref["filters"] == [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": headers}},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": headers}},
        ]


def test_arm_without_weight_is_no_backend(world: World) -> None:
    world.create()
    world.publish(1, {"v1": 9_500, "v2": 500})
    world.publish(2, {"v1": 10_000, "v2": 0})
    assert world.weights() == {V1: 10_000}


def test_moving_traffic_back_is_one_request(world: World) -> None:
    world.create()
    world.publish(1, {"v1": 5_000, "v2": 5_000})
    world.says()
    assert world.confirmed(WAIT_S) == {"digits": 1}
    before = sum(world.connection.requests.values())
    world.publish(2, {"v1": 10_000})
    after = world.connection.requests
    assert sum(after.values()) - before == 1
    assert world.weights() == {V1: 10_000}


def test_same_split_again_writes_nothing(world: World) -> None:
    world.create()
    world.publish(1, {"v1": 9_500, "v2": 500})
    version = world.found()["metadata"]["resourceVersion"]
    world.router = world.another()
    world.publish(1, {"v1": 9_500, "v2": 500})
    assert world.found()["metadata"]["resourceVersion"] == version


def test_mirrored_share_is_a_fraction_of_the_rule(world: World) -> None:
    world.create()
    world.publish(1, {"v1": 10_000}, mirror={"v2": 1_050})
    rule = world.found()["spec"]["rules"][-1]
    assert rule["filters"] == [
        REWRITE,
        {
            "type": "RequestMirror",
            "requestMirror": {
                "backendRef": {"group": "", "kind": "Service", "name": V2, "port": 8080},
                "fraction": {"numerator": 1_050, "denominator": 10_000},
            },
        },
    ]
    world.router = world.another()
    world.publish(2, {"v1": 10_000})
    assert world.found()["spec"]["rules"][-1]["filters"] == [REWRITE]


def test_filters_of_the_owners_backend_are_kept_for_every_arm(world: World) -> None:
    team = {"name": "x-team", "value": "vision"}
    own = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [team]}}
    world.create(OTHER_RULE, model_rule(filters=[own]))
    for epoch in (1, 2):
        world.publish(epoch, {"v1": 5_000, "v2": 5_000})
        for ref in world.found()["spec"]["rules"][-1]["backendRefs"]:
            [modifier] = [f for f in ref["filters"] if f["type"] == "RequestHeaderModifier"]
            names = [h["name"] for h in modifier["requestHeaderModifier"]["set"]]
            assert names == ["x-team", "x-understudy-arm", "x-understudy-epoch"]


def test_split_is_in_force_when_the_gateway_has_accepted_this_generation(world: World) -> None:
    world.create()
    world.says()
    world.publish(1, {"v1": 9_500, "v2": 500})
    assert world.confirmed() == {}
    assert "has not yet said Accepted" in str(world.router.status())
    assert world.router.troubles == {}
    world.says()
    assert world.confirmed(WAIT_S) == {"digits": 1}
    assert world.router.status()["not_in_force"] == {}


def test_route_that_no_controller_knows_is_not_in_force(world: World) -> None:
    world.create()
    world.publish(1, {"v1": 9_500, "v2": 500})
    assert world.confirmed() == {}
    assert "no controller has said anything of it for Gateway public" in str(world.router.status())


@pytest.mark.parametrize(
    "condition",
    [{"Accepted": "False"}, {"ResolvedRefs": "False"}, {"PartiallyInvalid": "True"}],
    ids=str,
)
def test_refused_split_is_not_in_force(world: World, condition: dict[str, str]) -> None:
    world.create()
    world.publish(1, {"v1": 9_500, "v2": 500})
    world.says(**condition)
    [kind] = condition
    until("the refusal is known", lambda: world.router.troubles)
    assert world.confirmed() == {}
    assert (
        f"Gateway public refuses it: {kind} is {condition[kind]}"
        in (world.router.troubles["digits"])
    )
    world.says(**({"PartiallyInvalid": "False"} if kind == "PartiallyInvalid" else {}))
    assert world.confirmed(WAIT_S) == {"digits": 1}
    assert world.router.troubles == {}


def test_another_writer_in_mid_ramp_is_named_and_not_fought(world: World) -> None:
    world.create()
    world.publish(1, {"v1": 9_500, "v2": 500})
    world.says()
    assert world.confirmed(WAIT_S) == {"digits": 1}
    rules = world.found()["spec"]["rules"]
    rules[-1]["backendRefs"][1]["weight"] = 9_000
    world.cluster.admin.call(
        "PATCH",
        f"{world.where}?fieldManager=kubectl-edit",
        {"spec": {"rules": rules}},
        "application/merge-patch+json",
    )
    until("the change is seen", lambda: "digits" in world.router.troubles)
    assert "it was written by 'kubectl-edit'" in world.router.troubles["digits"]
    world.says()
    assert world.confirmed() == {}
    world.publish(2, {"v1": 7_500, "v2": 2_500})
    assert world.weights() == {V1: 9_500, V2: 9_000}
    assert "Conflict" in world.router.troubles["digits"]
    assert "changed by 'kubectl-edit'" in world.router.troubles["digits"]
    assert world.confirmed() == {}
    mark = {"metadata": {"annotations": {"understudy.dev/fields": None}}}
    world.cluster.admin.patch(world.where, mark)
    world.publish(3, {"v1": 7_500, "v2": 2_500})
    assert world.weights() == {V1: 7_500, V2: 2_500}


def test_rules_that_somebody_applies_are_not_taken(world: World) -> None:
    world.create()
    body = {"spec": {"parentRefs": [PARENT], "rules": [OTHER_RULE, model_rule()]}}
    head = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"}
    world.cluster.admin.apply(world.where, head | body, "flux")
    world.publish(1, {"v1": 9_500, "v2": 500})
    assert "applied by 'flux'" in world.router.troubles["digits"]
    assert world.weights() == {"digits": 1}


def test_rules_that_were_applied_once_are_handed_over_by_forgetting_who_did(world: World) -> None:
    """The command of docs/gateway-api.md."""
    body = {"spec": {"parentRefs": [PARENT], "rules": [OTHER_RULE, model_rule()]}}
    head = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"}
    named = {"metadata": {"name": "public"}}
    world.cluster.admin.apply(world.where, head | named | body, "flux")
    forget = '[{"op":"replace","path":"/metadata/managedFields","value":[{}]}]'
    arguments = ("httproute", "public", "-n", world.namespace, "--type=json", "-p", forget)
    world.cluster.kubectl("patch", *arguments)
    world.publish(1, {"v1": 9_500, "v2": 500})
    world.publish(2, {"v1": 7_500, "v2": 2_500})
    assert world.weights() == {V1: 7_500, V2: 2_500}


def test_who_applies_after_us_is_told(world: World) -> None:
    world.create()
    world.publish(1, {"v1": 9_500, "v2": 500})
    body = {"spec": {"rules": [OTHER_RULE, model_rule()]}}
    head = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"}
    code, answer = world.cluster.admin.call(
        "PATCH",
        f"{world.where}?fieldManager=flux",
        head | body,
        "application/apply-patch+yaml",
    )
    assert code == 409
    assert 'conflict with "understudy": .spec.rules' in answer["message"]


def test_route_that_is_deleted_is_named_and_taken_over_when_it_is_back(world: World) -> None:
    world.create()
    world.publish(1, {"v1": 9_500, "v2": 500})
    world.says()
    assert world.confirmed(WAIT_S) == {"digits": 1}
    world.cluster.admin.delete(world.where)
    until("that is seen", lambda: "is not there" in world.router.troubles.get("digits", ""))
    assert world.confirmed() == {}
    world.create()
    until("it carries the split", lambda: world.weights() == {V1: 9_500, V2: 500})
    world.says()
    assert world.confirmed(WAIT_S) == {"digits": 1}


def test_leader_that_slept_before_it_wrote_does_not_undo_what_the_next_one_wrote(
    world: World, cluster: ControlPlane, tmp_path: Path
) -> None:
    world.create()
    is_deposed = False

    def fence() -> None:
        if is_deposed:
            raise Deposed("another leads")

    def slept(*args: Any, **options: Any) -> Document:
        nonlocal is_deposed
        line.apply = apply  # type: ignore[method-assign]
        asyncio.run(world.another().publish([world.model(4, {"v1": 10_000})]))
        is_deposed = True
        return apply(*args, **options)

    line = connect(cluster, tmp_path)
    apply = line.apply
    world.router = GatewayRouter(
        line, namespaces=[world.namespace], clock=time.monotonic, fence=fence
    )
    world.routers.append(world.router)
    world.publish(2, {"v1": 9_500, "v2": 500})
    line.apply = slept  # type: ignore[method-assign]
    world.publish(3, {"v1": 5_000, "v2": 5_000})
    assert world.weights() == {V1: 10_000}
    assert "another leads" in str(world.router.troubles["digits"])
    world.router.stop()
    line.close()


def test_split_that_comes_late_does_not_take_the_place_of_the_next_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The route is made anew while a split is published, and its watch is slow."""
    world.create()
    world.publish(2, {"v1": 9_500, "v2": 500})
    router, carry = world.router, world.router.carry
    is_late, goes_on = threading.Event(), threading.Event()

    def slow(model: RoutedModel) -> None:
        if model.split.epoch == 2:
            is_late.set()
            assert goes_on.wait(30)
        carry(model)

    monkeypatch.setattr(router, "carry", slow)
    world.cluster.admin.delete(world.where)
    world.create()
    assert is_late.wait(30)
    world.publish(3, {"v1": 9_000, "v2": 1_000})
    goes_on.set()
    until("the last one stands", lambda: world.weights() == {V1: 9_000, V2: 1_000})
    time.sleep(0.5)
    assert world.weights() == {V1: 9_000, V2: 1_000}
    world.says()
    assert world.confirmed(WAIT_S) == {"digits": 3}


def test_api_server_that_is_away_is_waited_for(world: World, cluster: ControlPlane) -> None:
    world.create()
    world.publish(1, {"v1": 9_500, "v2": 500})
    world.says()
    assert world.confirmed(WAIT_S) == {"digits": 1}
    cluster.stop_api()
    try:
        world.publish(2, {"v1": 10_000})
        assert world.router.troubles["digits"].startswith("Retryable")
        assert world.confirmed() == {}
    finally:
        cluster.start_api()
    until("the split is carried", lambda: world.confirmed() == {} and not world.router.troubles)
    assert world.weights() == {V1: 10_000}
    world.says()
    assert world.confirmed(WAIT_S) == {"digits": 2}


def test_one_models_trouble_is_not_anothers(world: World) -> None:
    world.create()
    other = gateway_policy(world.namespace, model="letters").spec.deploy
    lost = replace(world.model(7, {"v1": 10_000}), name="letters", deploy=other)
    asyncio.run(world.router.publish([lost, world.model(1, {"v1": 9_500, "v2": 500})]))
    assert "has no rule for letters" in world.router.troubles["letters"]
    world.says()
    assert world.confirmed(WAIT_S) == {"digits": 1}


def test_rule_that_also_sends_elsewhere_is_refused(world: World) -> None:
    rule = model_rule()
    rule["backendRefs"].append({"name": "legacy", "port": 80, "weight": 1})
    world.create(rule)
    world.publish(1, {"v1": 9_500, "v2": 500})
    assert "sends to legacy beside the Services of digits" in world.router.troubles["digits"]
    assert world.weights() == {"digits": 1, "legacy": 1}


def test_route_that_is_not_there_is_named(world: World) -> None:
    world.publish(1, {"v1": 10_000})
    assert "no HTTPRoute public in namespace" in world.router.troubles["digits"]
