"""Pods with a real server: what they answer, from this machine, at the address in the cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from controller.demo.models import save, train
from tests.cluster import models
from tests.cluster.client import path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import TinyKubelet, digits
from tests.cluster.network import Network
from tests.processes import until

MARKS = {models.KUBELET: "tiny"}


def ask(address: str, where: str = "/") -> tuple[int, dict[str, str]]:
    answer = httpx.get(f"http://{address}{where}", trust_env=False, timeout=5)
    return answer.status_code, answer.json()


@pytest.fixture
def digits_v1(cluster: ControlPlane, namespace: str, kubelet: TinyKubelet) -> str:
    """The address of its one pod, which is ready."""
    name = models.deploy(cluster.admin, namespace, "digits", "v1", pod_annotations=MARKS)
    models.rolled_out(cluster.admin, namespace, name)
    found = until(
        "an endpoint is ready", lambda: models.addresses(cluster.admin, namespace, "digits", "v1")
    )
    assert len(found) == 1
    return found[0]


def test_pod_answers_at_its_address(cluster: ControlPlane, namespace: str, digits_v1: str) -> None:
    [pod] = models.pods(cluster.admin, namespace, "digits", "v1")
    expected = {"name": pod["metadata"]["name"], "version": "v1"}
    assert ask(digits_v1) == (200, expected)
    assert digits_v1 == f"{pod['status']['podIP']}:8080"


def test_deleted_pod_ends_its_process(
    cluster: ControlPlane, namespace: str, kubelet: TinyKubelet, digits_v1: str
) -> None:
    cluster.admin.patch(path("deployments", namespace, "digits-v1"), {"spec": {"replicas": 0}})
    until("no pod is left", lambda: not cluster.admin.items(path("pods", namespace)))
    assert kubelet.places() == {}
    with pytest.raises(httpx.ConnectError):
        ask(digits_v1)


def test_server_that_says_503_is_unready_until_it_recovers(
    cluster: ControlPlane, namespace: str, digits_v1: str
) -> None:
    def addresses(*, ready: bool) -> list[str]:
        return models.addresses(cluster.admin, namespace, "digits", "v1", ready=ready)

    ask(digits_v1, "/tell/503/0")
    until("the endpoint is unready", lambda: addresses(ready=False) == [digits_v1])
    ask(digits_v1, "/tell/200/0")
    until("the endpoint is ready", lambda: addresses(ready=True) == [digits_v1])


def test_crashed_server_is_started_again(
    cluster: ControlPlane, namespace: str, kubelet: TinyKubelet, digits_v1: str
) -> None:
    [pod] = kubelet.places()
    kubelet.kill(pod)

    def restarts() -> int:
        [found] = models.pods(cluster.admin, namespace, "digits", "v1")
        return int(found["status"]["containerStatuses"][0]["restartCount"])

    until("it was started again", lambda: restarts() == 1)
    until("it is ready", lambda: models.addresses(cluster.admin, namespace, "digits", "v1"))
    assert ask(digits_v1)[0] == 200


def test_server_outlives_the_api_server(
    cluster: ControlPlane, namespace: str, digits_v1: str
) -> None:
    cluster.stop_api()
    try:
        assert ask(digits_v1)[0] == 200
    finally:
        cluster.start_api()
        cluster.restart_controllers()
    cluster.admin.patch(path("deployments", namespace, "digits-v1"), {"spec": {"replicas": 2}})
    models.rolled_out(cluster.admin, namespace, "digits-v1")


def test_pod_runs_a_real_model(
    cluster: ControlPlane, network: Network, namespace: str, tmp_path: Path
) -> None:
    save(train(), tmp_path)
    command = digits({"v2": tmp_path / "v2.pickle"})
    with TinyKubelet(cluster, network, namespace, tmp_path, command):
        name = models.deploy(cluster.admin, namespace, "digits", "v2", pod_annotations=MARKS)
        models.rolled_out(cluster.admin, namespace, name)
        [pod] = models.pods(cluster.admin, namespace, "digits", "v2")
        status, said = ask(f"{pod['status']['podIP']}:8080", "/v2")
    assert (status, said["version"]) == (200, "v2")


_KILLED = """
import sys, time
from tests.cluster.network import Network
with Network() as network:
    print(network.gateway, flush=True)
    time.sleep(600)
"""


def test_network_of_a_killed_run_is_removed() -> None:
    with subprocess.Popen([sys.executable, "-c", _KILLED], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        number = killed.stdout.readline().decode().split(".")[2]
        os.kill(killed.pid, signal.SIGKILL)
    left = Path(f"/run/netns/understudy-{number}")
    assert left.exists()
    with Network() as network:
        # It took the same number, or removed what was there.
        assert network.gateway.split(".")[2] == number or not left.exists()
    assert not left.exists()
    links = json.loads(subprocess.check_output(["ip", "-json", "link"]))
    assert f"understudy{number}" not in {link["ifname"] for link in links}
