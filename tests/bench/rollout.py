"""A rollout in a cluster: how soon traffic moves, and what it costs. Real API server and Envoy.

One model: the way from a decision to its traffic, and requests an hour. Many of them are measured
by `cluster`. Needs what the tests of `tests/cluster` need.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import Row
from tests.cluster.audit import Request
from tests.cluster.client import path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import TinyKubelet
from tests.cluster.network import Network
from tests.cluster.serving import MODEL, SLOW, ClusterServe, Scene, Users, policy
from tests.processes import until

MEASURED_S = 60.0
AGENT = "understudy/"


def run() -> list[Row]:
    """One model, from its first pod to its roll-back."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        cluster = stack.enter_context(ControlPlane(root))
        network = stack.enter_context(Network())
        with _scene(cluster, network, root / "one", "one") as scene:
            return _one(scene)


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


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:60} {row.value:14,.2f} {row.unit:8} {row.target}")
