"""What a cluster costs, and how soon traffic moves: a real API server, Envoy and servers.

One model for the way from a decision to its traffic and for requests an hour; 1 000 policies for
memory, requests a minute and the time to react. Needs what the tests of `tests/cluster` need.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import Row
from tests.cluster import models
from tests.cluster.audit import Request
from tests.cluster.client import path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import TinyKubelet
from tests.cluster.network import Network
from tests.cluster.processes import until
from tests.cluster.serving import MODEL, POLICIES, SLOW, ClusterServe, Scene, Users, policy

MEASURED_S = 60.0
MANY = 1_000
AGENT = "understudy/"


def run() -> list[Row]:
    """One model, then many."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        cluster = stack.enter_context(ControlPlane(root))
        network = stack.enter_context(Network())
        rows = []
        with _scene(cluster, network, root / "one", "one") as scene:
            rows += _one(scene)
        with _scene(cluster, network, root / "many", "many") as scene:
            rows += _many(scene)
        return rows


@contextmanager
def _scene(cluster: ControlPlane, network: Network, folder: Path, name: str) -> Iterator[Scene]:
    folder.mkdir()
    cluster.admin.create(path("namespaces"), {"metadata": {"name": name}})
    account = path("serviceaccounts", name, "default")
    until("the namespace is ready", lambda: cluster.admin.call("GET", account)[0] == 200)
    with TinyKubelet(cluster, network, name, folder) as kubelet:
        scene = Scene(cluster, name, folder, kubelet)
        try:
            yield scene
        finally:
            scene.end()


# --- one model ----------------------------------------------------------------------------------


def _one(scene: Scene) -> list[Row]:
    scene.apply(policy(scene.namespace, canary={**SLOW, "steps": ["50%"]}, warmup="0s"))
    scene.deploy("v1", 2)
    serve = scene.serve().start()
    scene.until("v1 answers", lambda: serve.ask(f"/{MODEL}/x")[0] == 200, serve)
    time.sleep(5)
    idle = _requests(scene)
    with Users(serve, rate_hz=400, threads=4) as users:
        time.sleep(1)
        scene.deploy("v2")
        scene.phase(serve, "ramping")
        scene.until("v2 answers", lambda: users.share("v2") > 0.3, serve)
        began = _decided(serve, "advance")
        up_s = min(each.time for each in users.answers if each.arm == "v2") - began
        ramping = _requests(scene)
        serve.order("rollback")
        scene.until("nobody gets v2", lambda: users.share("v2", 0.5) == 0, serve)
        ended = _decided(serve, "roll_back")
        down_s = max(each.time for each in users.answers if each.arm == "v2") - ended
    renewals = _per_hour(idle, lambda each: each.resource == "leases")
    return [
        Row("decision to the candidate's first answer", 1000 * up_s, "ms", "< 1000"),
        Row("roll-back to the candidate's last answer", 1000 * down_s, "ms", "< 1000"),
        Row("API requests, idle, renewals of the Lease", renewals, "/h", ""),
        Row("API requests, idle, all others", _per_hour(idle) - renewals, "/h", "< 200"),
        Row("API requests, ramping, all but the Lease", _per_hour(ramping) - renewals, "/h", ""),
    ]


def _decided(serve: ClusterServe, verdict: str) -> float:
    return float(next(d["time"] for d in serve.decisions() if d["verdict"] == verdict))


def _requests(scene: Scene) -> list[Request]:
    mark = scene.cluster.audit.mark()
    time.sleep(MEASURED_S)
    return scene.cluster.audit.requests(since=mark, agent=AGENT)


def _per_hour(found: list[Request], is_so: Callable[[Request], bool] = lambda _: True) -> float:
    return sum(map(is_so, found)) * 3600 / MEASURED_S


# --- many models --------------------------------------------------------------------------------


def _many(scene: Scene) -> list[Row]:
    admin, namespace = scene.cluster.admin, scene.namespace
    names = [f"m{n}" for n in range(MANY)]
    for name in names:
        document = policy(namespace, model=name, canary=SLOW, warmup="0s")
        admin.create(POLICIES.format(namespace), document)
        replicas = 1 if name == names[0] else 0
        admin.create(
            path("deployments", namespace), models.deployment(name, "v1", replicas=replicas)
        )
    serve = scene.serve()
    begun = time.monotonic()
    serve.start(300)
    start_s = time.monotonic() - begun
    _quiet(scene)
    assert serve.process is not None
    found = _requests(scene)
    megabytes = _resident_mb(serve.process.pid)
    edited_s = _edited_s(scene, names[-1])
    ready_s = _ready_s(scene, serve, names[0])
    per_minute = len(found) * 60 / MEASURED_S
    return [
        Row(f"{MANY} policies: start", start_s, "s", ""),
        Row(f"{MANY} policies: memory of the controller", megabytes, "MB", ""),
        Row(f"{MANY} policies: API requests, idle", per_minute, "/min", ""),
        Row(f"{MANY} policies: an edited policy is in force", edited_s, "s", "< 5"),
        Row(f"{MANY} policies: a pod is ready, its arm gets traffic", ready_s, "s", "< 5"),
    ]


def _quiet(scene: Scene) -> None:
    """Until the statuses of the start are written."""

    def is_quiet() -> bool:
        mark = scene.cluster.audit.mark()
        time.sleep(5)
        return len(scene.cluster.audit.requests(since=mark, agent=AGENT)) < 20

    until("the start is over", is_quiet, 300)


def _resident_mb(pid: int) -> float:
    [line] = [
        each
        for each in Path(f"/proc/{pid}/status").read_text().splitlines()
        if each.startswith("VmRSS")
    ]
    return int(line.split()[1]) / 1024


def _edited_s(scene: Scene, name: str) -> float:
    where = f"{POLICIES.format(scene.namespace)}/{name}"
    edited = policy(scene.namespace, model=name, canary={**SLOW, "margin": "10%"})
    begun = time.monotonic()
    generation = scene.cluster.admin.patch(where, {"spec": edited["spec"]})["metadata"][
        "generation"
    ]
    until(
        "the status is of the new policy",
        lambda: scene.rollout_policy(name)["status"]["observedGeneration"] == generation,
        60,
        0.02,
    )
    return time.monotonic() - begun


def _ready_s(scene: Scene, serve: ClusterServe, name: str) -> float:
    admin, namespace = scene.cluster.admin, scene.namespace
    marks = {models.READINESS: "manual"}
    document = models.deployment(name, "v2", pod_annotations=marks)
    admin.create(path("deployments", namespace), document)
    [pod] = until("a pod runs", lambda: _running(scene, name))
    time.sleep(3)
    begun = time.monotonic()
    models.set_ready(admin, namespace, pod, ready=True)
    until("v2 gets traffic", lambda: serve.report(name)["phase"] == "ramping", 60, 0.02)
    return time.monotonic() - begun


def _running(scene: Scene, name: str) -> list[str]:
    found = models.pods(scene.cluster.admin, scene.namespace, name, "v2")
    return [p["metadata"]["name"] for p in found if p["status"].get("phase") == "Running"]


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:60} {row.value:14,.2f} {row.unit:8} {row.target}")
