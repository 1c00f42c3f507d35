"""The harness itself: what other tests of this folder lean on does hold."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from kubernetes import client as library

from tests.cluster import models
from tests.cluster.client import Refused, path
from tests.cluster.control_plane import ControlPlane
from tests.processes import until


def watch_from(cluster: ControlPlane, namespace: str, version: str) -> tuple[int, str]:
    """Status of a watch, and its first event."""
    given = cluster.admin.user.pair
    assert given is not None
    context = ssl.create_default_context(cafile=str(cluster.authority))
    context.load_cert_chain(given.certificate, given.key)
    connection = http.client.HTTPSConnection("127.0.0.1", cluster.port, context=context, timeout=10)
    where = path("pods", namespace)
    connection.request("GET", f"{where}?watch=1&timeoutSeconds=1&resourceVersion={version}")
    answer = connection.getresponse()
    first = answer.readline().decode()
    connection.close()
    return answer.status, first


def test_every_program_says_its_version(cluster: ControlPlane) -> None:
    # Not a constant: KUBEBUILDER_ASSETS may bring another version.
    said = subprocess.check_output([cluster.tools["kube-apiserver"], "--version"], text=True)
    server = cluster.admin.get("/version")
    assert said.split() == ["Kubernetes", server["gitVersion"]]
    kubectl = json.loads(cluster.kubectl("version", "-o", "json"))
    assert kubectl["serverVersion"]["gitVersion"] == server["gitVersion"]
    assert cluster.helm("version", "--short").startswith("v3.22.0")
    nodes = cluster.admin.items(path("nodes"))
    assert [node["metadata"]["name"] for node in nodes] == ["node-1", "node-2"]


def test_deployment_rolls_out_and_its_endpoints_appear(
    cluster: ControlPlane, namespace: str
) -> None:
    name = models.deploy(cluster.admin, namespace, "digits", "v1", replicas=3, port=9000)
    models.rolled_out(cluster.admin, namespace, name)
    pods = models.pods(cluster.admin, namespace, "digits", "v1")
    assert [models.is_ready(pod) for pod in pods] == [True] * 3
    expected = sorted(f"{pod['status']['podIP']}:9000" for pod in pods)
    until(
        "three endpoints are ready",
        lambda: models.addresses(cluster.admin, namespace, "digits", "v1") == expected,
    )


def test_new_template_replaces_the_pods(cluster: ControlPlane, namespace: str) -> None:
    name = models.deploy(cluster.admin, namespace, "digits", "v1", replicas=2)
    models.rolled_out(cluster.admin, namespace, name)
    before = {p["metadata"]["uid"] for p in models.pods(cluster.admin, namespace, "digits", "v1")}
    image = {"name": "model", "image": "registry.example/digits:new"}
    template = {"spec": {"template": {"spec": {"containers": [image]}}}}
    cluster.admin.patch_strategic(path("deployments", namespace, name), template)
    models.rolled_out(cluster.admin, namespace, name)
    after = models.pods(cluster.admin, namespace, "digits", "v1")
    assert len(after) == 2
    assert not before & {pod["metadata"]["uid"] for pod in after}


def test_annotations_of_a_pod_steer_it(cluster: ControlPlane, namespace: str) -> None:
    marks = {models.READINESS: "manual", models.POD_IP: "10.231.7.7"}
    models.deploy(cluster.admin, namespace, "digits", "v1", pod_annotations=marks)

    def unready() -> list[str]:
        return models.addresses(cluster.admin, namespace, "digits", "v1", ready=False)

    def ready() -> list[str]:
        return models.addresses(cluster.admin, namespace, "digits", "v1")

    until("the pod has its address", lambda: unready() == ["10.231.7.7:8080"])
    [pod] = models.pods(cluster.admin, namespace, "digits", "v1")
    models.set_ready(cluster.admin, namespace, pod["metadata"]["name"], ready=True)
    until("it is ready", ready)
    assert not unready()
    models.set_ready(cluster.admin, namespace, pod["metadata"]["name"], ready=False)
    until("it is unready", unready)
    assert not ready()


def test_pod_is_ready_after_its_delay_and_not_before(cluster: ControlPlane, namespace: str) -> None:
    marks = {models.READY_AFTER: "1500ms"}
    name = models.deploy(cluster.admin, namespace, "digits", "v1", pod_annotations=marks)
    models.rolled_out(cluster.admin, namespace, name)
    [pod] = models.pods(cluster.admin, namespace, "digits", "v1")
    [since] = (c for c in pod["status"]["conditions"] if c["type"] == "Ready")
    # Times in a status are whole seconds.
    assert since["lastTransitionTime"] > pod["status"]["startTime"]


def test_flapping_pod_goes_up_and_down(cluster: ControlPlane, namespace: str) -> None:
    marks = {models.FLAP_EVERY: "100ms"}
    models.deploy(cluster.admin, namespace, "digits", "v1", pod_annotations=marks)

    def readiness() -> list[bool]:
        found = models.pods(cluster.admin, namespace, "digits", "v1")
        return [models.is_ready(pod) for pod in found]

    for _ in range(2):
        until("it is up", lambda: readiness() == [True], every_s=0.01)
        until("it is down", lambda: readiness() == [False], every_s=0.01)


def test_deleted_pod_may_take_its_time(cluster: ControlPlane, namespace: str) -> None:
    marks = {models.DELETE_AFTER: "1s"}
    name = models.deploy(cluster.admin, namespace, "digits", "v1", pod_annotations=marks)
    models.rolled_out(cluster.admin, namespace, name)
    cluster.admin.patch(path("deployments", namespace, name), {"spec": {"replicas": 0}})

    def terminating() -> list[bool]:
        slices = cluster.admin.items(
            path("endpointslices", namespace), models.selector("digits", "v1")
        )
        found = (e for each in slices for e in each.get("endpoints") or [])
        return [e["conditions"].get("terminating", False) for e in found]

    until("its endpoint is terminating", lambda: terminating() == [True])
    until("it is gone", lambda: terminating() == [])


def test_token_may_do_what_is_granted_and_no_more(cluster: ControlPlane, namespace: str) -> None:
    account = cluster.service_account(namespace, "reader")
    its = cluster.client(account)
    with pytest.raises(Refused) as refusal:
        its.get(path("pods", namespace))
    assert refusal.value.code == 403
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    cluster.grant(account, rule, namespace=namespace)
    until("the role holds", lambda: its.call("GET", path("pods", namespace))[0] == 200)
    assert its.call("GET", path("pods", "default"))[0] == 403
    assert its.call("GET", path("services", namespace))[0] == 403


def test_library_and_kubectl_act_for_a_user(cluster: ControlPlane, namespace: str) -> None:
    account = cluster.service_account(namespace, "reader")
    rule = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}
    cluster.grant(account, rule)
    api = library.AppsV1Api(cluster.api(account, agent="some-library/1"))
    its = cluster.client(account)
    until("the role holds", lambda: its.call("GET", path("deployments"))[0] == 200)
    models.deploy(cluster.admin, namespace, "digits", "v1")
    found = api.list_namespaced_deployment(namespace)
    assert [item.metadata and item.metadata.name for item in found.items] == ["digits-v1"]
    assert "digits-v1" in cluster.kubectl("get", "deployments", "-n", namespace, user=account)


def test_audit_log_names_each_request_and_the_right_it_needed(
    cluster: ControlPlane, namespace: str
) -> None:
    account = cluster.service_account(namespace, "asker")
    its = cluster.client(account)
    rule = {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get"]}
    cluster.grant(account, rule)
    scale = path("deployments", namespace, "none", "scale")
    until("the role holds", lambda: its.call("GET", scale)[0] == 404)
    mark = cluster.audit.mark()
    assert its.call("GET", scale)[0] == 404
    assert its.call("GET", path("pods", namespace))[0] == 403
    until(
        "both are logged", lambda: len(cluster.audit.requests(since=mark, user=account.name)) == 2
    )
    granted, refused = cluster.audit.requests(
        since=mark, agent="understudy-tests", user=account.name
    )
    assert (granted.permission, granted.code, granted.is_allowed) == (
        ("apps", "deployments/scale", "get"),
        404,
        True,
    )
    assert (refused.permission, refused.code, refused.is_allowed) == (
        ("", "pods", "list"),
        403,
        False,
    )
    assert granted.reason.startswith("RBAC: allowed by ClusterRoleBinding")
    assert cluster.audit.permissions(account.name, since=mark) == {
        granted.permission,
        refused.permission,
    }


def test_api_server_comes_back_with_its_data(cluster: ControlPlane, namespace: str) -> None:
    name = models.deploy(cluster.admin, namespace, "digits", "v1")
    cluster.stop_api()
    with pytest.raises(httpx.TransportError):
        cluster.admin.get("/readyz")
    cluster.start_api()
    models.rolled_out(cluster.admin, namespace, name)
    # The controllers and KWOK have found it again, too.
    cluster.admin.patch(path("deployments", namespace, name), {"spec": {"replicas": 2}})
    models.rolled_out(cluster.admin, namespace, name)


def test_paused_api_server_answers_nothing_and_then_everything(cluster: ControlPlane) -> None:
    def hangs() -> bool:
        with httpx.Client(verify=False, timeout=0.3) as asker:
            try:
                asker.get(f"{cluster.url}/readyz")
            except httpx.TimeoutException:
                return True
        return False

    cluster.pause_api()
    try:
        until("it hangs", hangs)  # a signal is not there at once
    finally:
        cluster.resume_api()
    until("it is ready", lambda: cluster.admin.call("GET", "/readyz")[0] == 200)


def test_old_watch_is_gone_after_expiry(cluster: ControlPlane, namespace: str) -> None:
    version = cluster.admin.get(path("pods", namespace))["metadata"]["resourceVersion"]
    assert "Expired" not in watch_from(cluster, namespace, version)[1]
    cluster.expire_watches()
    status, first = watch_from(cluster, namespace, version)
    assert status == 410 or json.loads(first)["object"]["code"] == 410


@pytest.mark.parametrize(
    ("family", "where"),
    [("gateway", "httproutes"), ("kserve", "inferenceservices")],
)
def test_definitions_install_more_than_once(
    cluster: ControlPlane, namespace: str, family: str, where: str
) -> None:
    for _ in range(2):
        cluster.install_crds(family)
    until(
        f"{where} can be listed",
        lambda: cluster.admin.call("GET", path(where, namespace))[0] == 200,
    )


def test_helm_installs_a_chart(cluster: ControlPlane, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: c, version: 1.0.0}\n")
    (tmp_path / "templates" / "map.yaml").write_text(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}'}}\n"
    )
    cluster.helm("install", "hello", tmp_path, "-n", namespace)
    assert cluster.admin.get(path("configmaps", namespace, "hello"))["kind"] == "ConfigMap"
