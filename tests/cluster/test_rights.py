"""`serve` with exactly the rights that the chart gives: all that it needs, and nothing else.

The controller runs as the chart's ServiceAccount, by its token, with the arguments that matter of
the chart. The API server's audit log says afterwards what it asked for.
"""

from __future__ import annotations

import pytest

from controller.deploy.words import service_name
from tests.cluster.chart import controller_user, of_kind, rendered
from tests.cluster.client import Document, Refused, User, path, write_kubeconfig
from tests.cluster.control_plane import ControlPlane
from tests.cluster.scene import autoscaler
from tests.cluster.serving import (
    AUTOSCALERS,
    FULL,
    MODEL,
    SLOW,
    ClusterServe,
    Scene,
    Users,
    policy,
)
from tests.cluster.test_gateway import PARENT, model_rule
from tests.cluster.test_kserve import URIS, KServe

pytestmark = pytest.mark.timeout(240)

Right = tuple[str, str, str]

ONLY_ASKED_WITHIN: set[Right] = {("", "services", "create")}
"""An apply that makes an object needs this, and the audit log shows the `patch` alone; that it is
needed is what `test_apply_that_makes_a_service_needs_the_right_to_create` shows."""

EVERYBODYS: set[Right] = {("", "/readyz", "get")}


class Rights:
    """The chart's rights of one installation, and what a controller made of them."""

    def __init__(self, scene: Scene, **targets: bool) -> None:
        self.scene, self.values = scene, {"targets": targets}
        self.user: User = controller_user(scene.cluster, scene.namespace, self.values)
        self.mark = scene.cluster.audit.mark()

    def serve(self, name: str = "a") -> ClusterServe:
        """A controller as the chart's ServiceAccount, not started yet."""
        made = self.scene.serve(name)
        cluster, file = self.scene.cluster, self.scene.folder / f"{name}.kubeconfig"
        made.kubeconfig = write_kubeconfig(
            file, cluster.url, cluster.authority, self.user, self.scene.namespace
        )
        return made

    def granted(self) -> set[Right]:
        """All that the rendered Roles say."""
        documents = rendered(self.scene.cluster, self.scene.namespace, self.values)
        rules = [rule for role in of_kind(documents, "Role") for rule in role["rules"]]
        return {
            (group, resource, verb)
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    def check(self, resource: str = "") -> None:
        """Nothing was refused, and everything was needed; of `resource`, if one is given."""
        audit = self.scene.cluster.audit
        asked = audit.requests(since=self.mark, user=self.user.name)
        assert asked
        refused = {(each.permission, each.uri) for each in asked if each.code == 403}
        assert refused == set()
        assert {each.user for each in audit.requests(since=self.mark, agent="understudy/")} == {
            self.user.name
        }
        used = {each.permission for each in asked} - EVERYBODYS
        granted = self.granted()
        assert used <= granted
        idle = granted - used - ONLY_ASKED_WITHIN
        assert {each for each in idle if resource in {"", each[1]}} == set()


def test_whole_rollout_needs_all_rights_and_no_others(scene: Scene) -> None:
    rights = Rights(scene)
    scene.apply(policy(scene.namespace, canary={**SLOW, "steps": ["50%"]}, retain="1s"))
    scene.deploy("v1", FULL)
    serve = rights.serve().start()
    with Users(serve, rate_hz=40, threads=1):
        promote(scene, serve)
        undo(scene, serve)
        roll_back(scene, serve)
        edit(scene, serve)
    named = [MODEL, *(f"{MODEL}-{version}" for version in ("v1", "v2", "v3"))]
    told = [scene.events(kind, n) for kind in ("RolloutPolicy", "Deployment") for n in named]
    assert len([each for each in told if each]) >= 3
    hand_over(scene, serve, rights.serve("b"))
    rights.check()


def promote(scene: Scene, serve: ClusterServe) -> None:
    """To v2, which an autoscaler scales."""
    name = f"{MODEL}-v2"
    where = AUTOSCALERS.format(scene.namespace)
    scene.cluster.admin.create(where, autoscaler(name, 1, FULL))
    scene.deploy("v2")
    for count in (2, FULL):
        scene.until(
            f"its minimum is {count}",
            lambda n=count: scene.cluster.admin.get(f"{where}/{name}")["spec"]["minReplicas"] == n,
            serve,
        )
        # There is no metrics server: do what the autoscaler would.
        scene.cluster.kubectl(
            "scale", "-n", scene.namespace, "deployment", name, f"--replicas={count}"
        )
        if count == 2:
            scene.phase(serve, "ramping")
            assert serve.order("promote")[0] == 200
    scene.until("v1 is retired", lambda: scene.role("v1") == "retired", serve)
    scene.until("v1 is scaled to 0", lambda: scene.replicas("v1") == (0, 0), serve)
    assert (scene.role("v2"), scene.served()) == ("champion", "v2")


def undo(scene: Scene, serve: ClusterServe) -> None:
    """v1 comes back."""
    assert serve.order("undo")[0] == 200
    scene.until("v1 is champion", lambda: scene.role("v1") == "champion", serve)
    scene.until("the Service is v1's", lambda: scene.served() == "v1", serve)
    scene.until("v2 is retired", lambda: scene.role("v2") == "retired", serve)


def roll_back(scene: Scene, serve: ClusterServe) -> None:
    """v3 is put aside."""
    scene.deploy("v3")
    scene.phase(serve, "ramping")
    assert serve.order("rollback")[0] == 200
    scene.until("v3 is rejected", lambda: scene.role("v3") == "rejected", serve)
    scene.until("v3 is scaled to 0", lambda: scene.replicas("v3") == (0, 0), serve)


def edit(scene: Scene, serve: ClusterServe) -> None:
    """A policy that is faulty, and then not any more."""
    for steps, expected in ((["50%", "25%"], "False"), (["60%"], "True")):
        scene.apply(policy(scene.namespace, canary={**SLOW, "steps": steps}, retain="1s"))
        scene.until(
            f"valid is {expected}",
            lambda e=expected: (
                scene.condition("Valid")["status"] == e
                and scene.rollout_policy()["status"]["observedGeneration"]
                == scene.rollout_policy()["metadata"]["generation"]
            ),
            serve,
        )


def hand_over(scene: Scene, leader: ClusterServe, standby: ClusterServe) -> None:
    """The Lease is given back, and taken by another."""
    lease = path("leases", scene.namespace, "understudy")

    def holder() -> str:
        return str(scene.cluster.admin.get(lease)["spec"].get("holderIdentity") or "")

    assert holder().startswith("a_")
    leader.stop()
    assert not holder()
    standby.start()
    assert holder().startswith("b_")
    standby.stop()


def test_gateways_need_the_rights_to_their_routes(scene: Scene) -> None:
    scene.cluster.install_crds("gateway")
    rights = Rights(scene, gateway=True)
    document = policy(scene.namespace, canary={**SLOW, "steps": ["50%"]})
    document["spec"]["deploy"]["gateway"] = {"route": "public"}
    del document["spec"]["route"]["unit"]
    scene.apply(document)
    scene.deploy("v1")
    serve = rights.serve()
    serve.spawn()
    trouble = "there is no HTTPRoute public"
    scene.until("it looks for the route", lambda: trouble in serve.err.read_text(), serve)
    gateway = Gateway(scene)
    scene.deploy("v2")
    services = (service_name(MODEL, "v1"), service_name(MODEL, "v2"))
    both = dict.fromkeys(services, 5000)
    scene.until("both get half", lambda: gateway.accepts() == both, serve)
    scene.phase(serve, "ramping")
    assert serve.order("rollback")[0] == 200
    scene.until("v1 gets all", lambda: gateway.accepts() == {services[0]: 10_000}, serve)
    scene.until("v2 is rejected", lambda: scene.role("v2") == "rejected", serve)
    rights.check("httproutes")


class Gateway:
    """The owner's route, and a gateway that accepts whatever it says."""

    def __init__(self, scene: Scene) -> None:
        self._admin = scene.cluster.admin
        self._where = path("httproutes", scene.namespace, "public")
        body = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "public"},
            "spec": {"parentRefs": [PARENT], "rules": [model_rule()]},
        }
        self._admin.create(path("httproutes", scene.namespace), body)

    def accepts(self) -> dict[str, int]:
        """Say so in the status; gives the weights."""
        found = self._admin.get(self._where)
        parent = {
            "parentRef": PARENT,
            "controllerName": "example.net/gateway",
            "conditions": [
                {
                    "type": kind,
                    "status": "True",
                    "reason": "Because",
                    "message": "",
                    "observedGeneration": found["metadata"]["generation"],
                    "lastTransitionTime": "2026-11-24T00:00:00Z",
                }
                for kind in ("Accepted", "ResolvedRefs")
            ],
        }
        self._admin.patch(f"{self._where}/status", {"status": {"parents": [parent]}})
        refs = found["spec"]["rules"][0]["backendRefs"]
        return {each["name"]: each["weight"] for each in refs}


def test_kserve_needs_the_rights_to_its_services(scene: Scene) -> None:
    scene.cluster.install_crds("kserve")
    rights = Rights(scene, kserve=True)
    document = policy(scene.namespace, canary={**SLOW, "steps": ["50%"]})
    document["spec"]["deploy"] = {"kserve": {"service": MODEL}}
    del document["spec"]["route"]["unit"]
    scene.apply(document)
    serve = rights.serve()
    serve.spawn()
    trouble = "there is no InferenceService digits"
    scene.until("it looks for the service", lambda: trouble in serve.err.read_text(), serve)
    kserve = inference_service(scene)
    offer = {"version": "v2", "uri": URIS["v2"]}
    assert serve.call("POST", f"/v1/models/{MODEL}/candidates", offer)[0] in {200, 201, 202}

    def gets() -> dict[str, int]:
        kserve.reconcile()
        return kserve.gets()

    scene.until("both get half", lambda: gets() == {URIS["v1"]: 50, URIS["v2"]: 50}, serve)
    scene.phase(serve, "ramping")
    assert serve.order("rollback")[0] == 200
    scene.until("v1 gets all", lambda: gets() == {URIS["v1"]: 100}, serve)
    rights.check("inferenceservices")


def inference_service(scene: Scene) -> KServe:
    """As its owner created it, and KServe beside it."""
    model = {"modelFormat": {"name": "sklearn"}, "storageUri": URIS["v1"]}
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": MODEL},
        "spec": {"predictor": {"minReplicas": 1, "model": model}},
    }
    where = path("inferenceservices", scene.namespace)
    scene.cluster.admin.create(f"{where}?fieldManager=kubectl", body)
    made = KServe(scene.cluster, f"{where}/{MODEL}")
    made.reconcile()
    return made


def test_policy_that_needs_more_rights_says_so_and_disturbs_no_other(scene: Scene) -> None:
    for crds in ("gateway", "kserve"):
        scene.cluster.install_crds(crds)
    rights = Rights(scene)
    ways: dict[str, Document] = {
        "letters": {"kserve": {"service": "letters"}},
        MODEL: {"gateway": {"route": "public"}},
    }
    for model, way in ways.items():
        document = policy(scene.namespace, model=model)
        kubernetes = {} if "kserve" in way else document["spec"]["deploy"]
        document["spec"]["deploy"] = kubernetes | way
        document["spec"]["stages"][0]["canary"]["steps"] = ["50%"]
        del document["spec"]["route"]["unit"]
        scene.apply(document)
    scene.apply(policy(scene.namespace, model="words"))
    serve = rights.serve()
    serve.spawn()
    for model, resource in ((MODEL, "httproutes"), ("letters", "inferenceservices")):
        scene.until(
            f"{resource} are named",
            lambda m=model, r=resource: (
                f'cannot list resource "{r}"' in said(scene, m)
                or f'cannot get resource "{r}"' in said(scene, m)
            ),
            serve,
        )
    scene.until("it serves", lambda: serve.report("words")["epoch_in_force"] == 1, serve)
    asked = scene.cluster.audit.requests(since=rights.mark, user=rights.user.name)
    refused = {each.resource for each in asked if each.code == 403}
    assert refused == {"httproutes", "inferenceservices"}
    assert scene.condition("Healthy", "words")["status"] == "True"


def said(scene: Scene, model: str) -> str:
    """What is wrong with a model, in its policy."""
    return str(scene.condition("Healthy", model).get("message", ""))


def test_apply_that_makes_a_service_needs_the_right_to_create(
    cluster: ControlPlane, namespace: str
) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "arm"},
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
    }
    for verbs, is_made in ((["patch"], False), (["patch", "create"], True)):
        user = cluster.user(f"{namespace}-{len(verbs)}")
        rule = {"apiGroups": [""], "resources": ["services"], "verbs": verbs}
        cluster.grant(user, rule, namespace=namespace)
        client = cluster.client(user)
        if is_made:
            client.apply(path("services", namespace, "arm"), body)
        else:
            with pytest.raises(Refused, match="cannot create resource"):
                client.apply(path("services", namespace, "arm"), body)
