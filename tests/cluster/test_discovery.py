from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import Version
from controller.deploy.client import Connection
from controller.deploy.discovery import UNKNOWN_AFTER_S, ClusterDiscovery
from controller.deploy.news import news
from controller.deploy.target import FoundArm
from tests.cluster import models
from tests.cluster.client import User, path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.proxy import Proxy
from tests.cluster.scene import AUTOSCALERS, autoscaler, connect, policy
from tests.processes import until

LATE_S = UNKNOWN_AFTER_S + 8


@dataclass
class Scene:
    """A discovery at work, and the log of the model `digits` as its events would make it."""

    cluster: ControlPlane
    namespace: str
    connection: Connection
    discovery: ClusterDiscovery
    changed: list[str]
    before: dict[str, FoundArm] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)

    def found(self, **more: Any) -> Mapping[str, FoundArm]:
        return self.discovery.found(policy(self.namespace, **more), self.versions)

    def arm(self, version: str) -> FoundArm | None:
        return self.found().get(version)

    def is_ready(self, version: str, ready: int) -> bool:
        arm = self.arm(version)
        return arm is not None and (arm.state, arm.ready) == ("known", ready)

    def until_ready(self, version: str, ready: int, timeout_s: float = 30) -> FoundArm:
        until(f"{ready} of {version} are ready", lambda: self.is_ready(version, ready), timeout_s)
        arm = self.arm(version)
        assert arm is not None
        return arm

    def until_state(self, state: str, *, every: str = "v1", timeout_s: float = LATE_S) -> float:
        """How long it took."""
        began = time.monotonic()

        def is_so() -> bool:
            arm = self.arm(every)
            return arm is not None and arm.state == state

        until(f"{every} is {state}", is_so, timeout_s)
        return time.monotonic() - began

    def tell(self) -> list[dict[str, Any]]:
        """Tell the log what is new, as the wheel does."""
        told = [
            json.loads(line)
            for line in news("digits", self.before, self.found(), self.versions, "v1", time.time())
        ]
        for line in told:
            if line["type"] == "version":
                self.versions[line["version"]] = Version(line["version"])
            else:
                counts = (line["ready"], line["replicas"], line.get("limit"))
                self.before[line["arm"]] = FoundArm(line["arm"], line["state"], *counts)
        self.lines += told
        return told


@contextmanager
def discovering(
    cluster: ControlPlane,
    namespace: str,
    folder: Path,
    *,
    namespaces: Sequence[str] | None = None,
    user: User | None = None,
    url: str | None = None,
    may_write: bool = True,
    patience_s: float = UNKNOWN_AFTER_S,
) -> Iterator[Scene]:
    connection = connect(cluster, folder, user, url)
    changed: list[str] = []
    discovery = ClusterDiscovery(
        connection,
        namespaces=[namespace] if namespaces is None else namespaces,
        changed=changed.append,
        may_write=lambda: may_write,
        clock=time.monotonic,
        patience_s=patience_s,
    )
    discovery.start()
    try:
        until("everything was looked at", lambda: discovery.is_known)
        yield Scene(cluster, namespace, connection, discovery, changed)
    finally:
        discovery.stop()
        connection.close()


@pytest.fixture
def scene(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Scene]:
    with discovering(cluster, namespace, tmp_path) as found:
        yield found


def deploy(scene: Scene, version: str, **more: Any) -> str:
    return models.deploy(scene.cluster.admin, scene.namespace, "digits", version, **more)


def services(scene: Scene) -> dict[str, dict[str, Any]]:
    found = scene.cluster.admin.items(path("services", scene.namespace))
    return {each["metadata"]["name"]: each for each in found}


def back(cluster: ControlPlane) -> None:
    cluster.start_api()
    cluster.restart_controllers()


def pods(scene: Scene, version: str) -> list[dict[str, Any]]:
    return models.pods(scene.cluster.admin, scene.namespace, "digits", version)


def test_labelled_deployment_is_an_arm_with_its_ready_endpoints(scene: Scene) -> None:
    notes = {
        "understudy.dev/parent": "v0",
        "understudy.dev/trained-at": "2026-11-20T00:00:00Z",
        "understudy.dev/metrics": '{"accuracy": 0.94}',
        "understudy.dev/uri": "s3://models/v1",
    }
    deploy(scene, "v1", replicas=2, annotations=notes)
    arm = scene.until_ready("v1", 2)
    addresses = sorted(f"{pod['status']['podIP']}:8080" for pod in pods(scene, "v1"))
    assert arm == FoundArm(
        "v1",
        "known",
        2,
        2,
        None,
        tuple(addresses),
        "v0",
        "2026-11-20T00:00:00Z",
        {"accuracy": 0.94},
        "s3://models/v1",
    )
    assert "digits" in scene.changed


def test_deployment_without_labels_or_of_another_namespace_is_none(
    cluster: ControlPlane, scene: Scene
) -> None:
    document = models.deployment("digits", "v1")
    document["metadata"]["labels"] = {"app": "digits"}
    cluster.admin.create(path("deployments", scene.namespace), document)
    models.deploy(cluster.admin, "default", "digits", "v9", replicas=0)
    deploy(scene, "v2")
    try:
        scene.until_ready("v2", 1)
        assert set(scene.found()) == {"v2"}
    finally:
        cluster.admin.delete(path("deployments", "default", "digits-v9"))
        cluster.admin.delete(path("services", "default", "digits-v9"))


def test_all_namespaces_are_watched_when_none_is_named(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with discovering(cluster, namespace, tmp_path, namespaces=[]) as scene:
        deploy(scene, "v1")
        scene.until_ready("v1", 1)


def test_each_arm_has_a_service_of_its_own_that_goes_with_its_deployment(scene: Scene) -> None:
    name = deploy(scene, "v1")
    scene.until_ready("v1", 1)
    found = services(scene)["arm-digits-v1"]
    owner = scene.cluster.admin.get(path("deployments", scene.namespace, name))["metadata"]
    assert found["spec"]["clusterIP"] == "None"
    assert found["spec"]["selector"] == models.labels("digits", "v1")
    assert found["metadata"]["ownerReferences"][0]["uid"] == owner["uid"]
    assert models.labels("digits", "v1").items() <= found["metadata"]["labels"].items()
    [port] = found["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8080, 8080)
    scene.cluster.admin.delete(path("deployments", scene.namespace, name))
    until("its Service is gone", lambda: "arm-digits-v1" not in services(scene))


def test_service_that_somebody_deleted_is_made_again(scene: Scene) -> None:
    deploy(scene, "v1")
    scene.until_ready("v1", 1)
    before = services(scene)["arm-digits-v1"]["metadata"]["uid"]
    scene.cluster.admin.delete(path("services", scene.namespace, "arm-digits-v1"))

    def is_another() -> bool:
        scene.found()
        found = services(scene).get("arm-digits-v1")
        return found is not None and found["metadata"]["uid"] != before

    until("there is another", is_another)
    scene.until_ready("v1", 1)


def test_controller_that_stands_by_makes_no_service(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with discovering(cluster, namespace, tmp_path, may_write=False) as scene:
        name = deploy(scene, "v1")
        models.rolled_out(cluster.admin, namespace, name)
        until("it is found", lambda: scene.arm("v1"))
        time.sleep(1.5)
        assert set(services(scene)) == {name}


def test_arm_that_is_not_ready_gets_no_endpoint(scene: Scene) -> None:
    deploy(scene, "v1", replicas=2, pod_annotations={models.READINESS: "manual"})
    until("it is found", lambda: (a := scene.arm("v1")) is not None and a.replicas == 2)
    until("its pods are there", lambda: len(pods(scene, "v1")) == 2)
    first, second = (pod["metadata"]["name"] for pod in pods(scene, "v1"))
    models.set_ready(scene.cluster.admin, scene.namespace, first, ready=True)
    arm = scene.until_ready("v1", 1)
    assert len(arm.endpoints) == 1
    models.set_ready(scene.cluster.admin, scene.namespace, second, ready=True)
    scene.until_ready("v1", 2)
    models.set_ready(scene.cluster.admin, scene.namespace, first, ready=False)
    assert len(scene.until_ready("v1", 1).endpoints) == 1


def test_terminating_pod_gets_no_endpoint(scene: Scene) -> None:
    name = deploy(scene, "v1", replicas=2, pod_annotations={models.DELETE_AFTER: "5s"})
    scene.until_ready("v1", 2)
    patch = {"spec": {"replicas": 1}}
    scene.cluster.admin.patch(path("deployments", scene.namespace, name), patch)
    assert len(scene.until_ready("v1", 1, timeout_s=4).endpoints) == 1


def test_autoscaler_is_the_limit(scene: Scene) -> None:
    name = deploy(scene, "v1")
    scene.until_ready("v1", 1)
    where = AUTOSCALERS.format(scene.namespace)
    scene.cluster.admin.create(where, autoscaler(name, 1, 7))
    until("the limit is 7", lambda: (a := scene.arm("v1")) is not None and a.limit == 7)
    scene.cluster.admin.delete(f"{where}/{name}")
    until("there is none", lambda: (a := scene.arm("v1")) is not None and a.limit is None)


def test_deployment_that_is_deleted_is_gone_and_may_come_back(scene: Scene) -> None:
    name = deploy(scene, "v1")
    scene.until_ready("v1", 1)
    scene.tell()
    scene.cluster.admin.delete(path("deployments", scene.namespace, name))
    until("the log hears of it", scene.tell)
    assert scene.lines[-1]["state"] == "gone"
    assert scene.arm("v1") == FoundArm("v1", "gone", 0, 0)
    document = models.deployment("digits", "v1")
    scene.cluster.admin.create(path("deployments", scene.namespace), document)
    scene.until_ready("v1", 1)
    until("the log hears of it", scene.tell)
    assert scene.before["v1"].state == "known"


def test_deployment_that_lost_its_labels_is_gone(scene: Scene) -> None:
    name = deploy(scene, "v1")
    scene.until_ready("v1", 1)
    scene.tell()
    patch = {"metadata": {"labels": {models.VERSION: None}}}
    scene.cluster.admin.patch(path("deployments", scene.namespace, name), patch)
    scene.until_state("gone")


def test_flapping_readiness_is_told_only_when_counts_change(scene: Scene) -> None:
    deploy(scene, "v1", replicas=3, pod_annotations={models.FLAP_EVERY: "150ms"})
    until("it is found", lambda: scene.arm("v1"))
    end = time.monotonic() + 4
    turns = 0
    while time.monotonic() < end:
        scene.tell()
        turns += 1
        time.sleep(0.01)
    capacities = [line for line in scene.lines if line["type"] == "capacity"]
    counts = [(each["ready"], each["replicas"], each["state"]) for each in capacities]
    assert len(counts) > 2
    assert all(a != b for a, b in itertools.pairwise(counts))
    assert len(counts) < turns / 2
    assert sum(line["type"] == "version" for line in scene.lines) == 1


def test_two_deployments_of_one_version_and_lost_pods_are_named(scene: Scene) -> None:
    document = models.deployment("digits", "v1")
    document["metadata"]["name"] = "another"
    scene.cluster.admin.create(path("deployments", scene.namespace), document)
    lost = models.deployment("digits", "v2")
    lost["spec"]["selector"]["matchLabels"] = {"app": "x"}
    lost["spec"]["template"]["metadata"]["labels"] = {"app": "x"}
    scene.cluster.admin.create(path("deployments", scene.namespace), lost)
    deploy(scene, "v1")
    made = policy(scene.namespace)
    until("all are found", lambda: len(scene.discovery.problems(made)) == 2)
    lost_text, double_text = scene.discovery.problems(made)
    assert "Deployment digits-v2: its pod template lacks the labels" in lost_text
    assert "digits-v1: version v1 is Deployment another already" in double_text


# --- faults -------------------------------------------------------------------------------------


def test_api_server_that_is_away_makes_all_unknown_until_it_is_back(scene: Scene) -> None:
    name = deploy(scene, "v1", replicas=2)
    arm = scene.until_ready("v1", 2)
    scene.tell()
    scene.cluster.stop_api()
    try:
        took_s = scene.until_state("unknown")
        assert took_s > UNKNOWN_AFTER_S - 3
        away = scene.arm("v1")
        assert away is not None
        assert away.endpoints == arm.endpoints
        [line] = scene.tell()
        assert (line["state"], line["ready"], line["replicas"]) == ("unknown", 2, 2)
        assert scene.discovery.trouble is not None
        assert "cannot be reached" in scene.discovery.trouble
        assert scene.discovery.status()["reachable"] is False
    finally:
        back(scene.cluster)
    assert scene.until_state("known") < 8
    [line] = scene.tell()
    assert (line["state"], line["ready"]) == ("known", 2)
    scene.cluster.admin.patch(path("deployments", scene.namespace, name), {"spec": {"replicas": 3}})
    scene.until_ready("v1", 3)
    assert scene.discovery.trouble is None


def test_short_absence_is_no_news(cluster: ControlPlane, namespace: str, tmp_path: Path) -> None:
    with discovering(cluster, namespace, tmp_path, patience_s=30) as scene:  # it starts for seconds
        deploy(scene, "v1")
        scene.until_ready("v1", 1)
        scene.tell()
        scene.cluster.stop_api()
        try:
            time.sleep(2)
        finally:
            back(scene.cluster)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert scene.tell() == []
            time.sleep(0.1)


def test_api_server_that_hangs_makes_all_unknown(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with discovering(cluster, namespace, tmp_path, patience_s=3) as scene:
        deploy(scene, "v1")
        scene.until_ready("v1", 1)
        cluster.pause_api()
        try:
            scene.until_state("unknown")
        finally:
            cluster.resume_api()
        assert scene.until_state("known") < 8
        scene.until_ready("v1", 1)
    cluster.restart_controllers()


def test_stale_watch_is_listed_again(cluster: ControlPlane, namespace: str, tmp_path: Path) -> None:
    with (
        Proxy(cluster.port) as proxy,
        discovering(cluster, namespace, tmp_path, url=proxy.url) as scene,
    ):
        name = deploy(scene, "v1")
        deploy(scene, "v2")
        scene.until_ready("v1", 1)
        scene.until_ready("v2", 1)
        scene.tell()
        lists = scene.discovery.status()["lists"]
        proxy.block()
        cluster.admin.delete(path("deployments", namespace, "digits-v2"))
        cluster.admin.patch(path("deployments", namespace, name), {"spec": {"replicas": 2}})
        models.rolled_out(cluster.admin, namespace, name)
        cluster.expire_watches()
        cluster.restart_controllers()
        proxy.unblock()
        scene.until_ready("v1", 2)
        scene.until_state("gone", every="v2")
        assert scene.discovery.status()["lists"] > lists


def test_watch_that_is_cut_goes_on_without_listing(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with (
        Proxy(cluster.port) as proxy,
        discovering(cluster, namespace, tmp_path, url=proxy.url) as scene,
    ):
        name = deploy(scene, "v1")
        scene.until_ready("v1", 1)
        mark = cluster.audit.mark()
        proxy.block()
        cluster.admin.patch(path("deployments", namespace, name), {"spec": {"replicas": 2}})
        models.rolled_out(cluster.admin, namespace, name)
        proxy.unblock()
        scene.until_ready("v1", 2)
        for replicas in (3, 1):
            proxy.cut()
            cluster.admin.patch(
                path("deployments", namespace, name), {"spec": {"replicas": replicas}}
            )
            scene.until_ready("v1", replicas)
        assert not cluster.audit.requests(since=mark, agent="understudy/", verb="list")


def test_nothing_is_asked_while_nothing_happens(scene: Scene) -> None:
    for version in ("v1", "v2", "v3"):
        deploy(scene, version)
        scene.until_ready(version, 1)
    before = scene.connection.requests
    end = time.monotonic() + 9
    while time.monotonic() < end:
        scene.found()
        time.sleep(0.05)
    after = scene.connection.requests
    probes = ("get", "readyz")
    assert {k: v for k, v in after.items() if k != probes} == {
        k: v for k, v in before.items() if k != probes
    }
    assert after.get(probes, 0) - before.get(probes, 0) <= 3


def test_missing_right_is_named_and_nothing_is_believed(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    account = cluster.service_account(namespace, "understudy")
    rule = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "watch"]}
    cluster.grant(account, rule, namespace=namespace)
    its = cluster.client(account)
    until("the role holds", lambda: its.call("GET", path("deployments", namespace))[0] == 200)
    connection = connect(cluster, tmp_path, account)
    discovery = ClusterDiscovery(
        connection,
        namespaces=[namespace],
        changed=lambda _: None,
        may_write=lambda: True,
        clock=time.monotonic,
        patience_s=3,
    )
    discovery.start()
    try:
        until("it says why", lambda: discovery.trouble)
        assert discovery.trouble is not None
        assert "cannot be watched" in discovery.trouble
        assert "forbidden" in discovery.trouble
        assert not discovery.is_known
        assert discovery.found(policy(namespace), {"v1": Version("v1")}) == {}
        until(
            "it is unknown",
            lambda: discovery.found(policy(namespace), {"v1": Version("v1")}),
            LATE_S,
        )
    finally:
        discovery.stop()
        connection.close()


def test_stopping_does_not_wait_for_the_watch(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with discovering(cluster, namespace, tmp_path) as scene:
        began = time.monotonic()
        scene.discovery.stop()
        assert time.monotonic() - began < 3
