"""What many policies cost in a cluster: a real control plane, `understudy serve --kubernetes`.

Each model has a policy and a champion's Deployment with one pod, which KWOK simulates; all are in
one namespace and idle. Requests are those that the API server's audit log has of our user agent.
Times to react begin when the API server has answered whoever made the change, and so contain what
its own controllers need. Both cores of a small machine are shared with the control plane.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import yaml

from controller.core.policy.crd import NAME, crd
from controller.deploy.policies import POLICIES
from tests.bench import Row
from tests.bench.idle import cpu_s
from tests.cluster import models
from tests.cluster.client import path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.serving import ClusterServe, policy
from tests.processes import until

NAMESPACE = "fleet"
MODELS = 1_000
PODS_PER_NODE = 250
RAMPS = 10
IDLE_S = 60.0
CALM_S = 5.0
"""No request for so long: what a start leaves to do is done."""

SLOW = {"min_duration": "10m", "min_outcomes": 1_000}
"""A canary that only operators move."""

FULL_SHARE = 10_000


def run() -> list[Row]:
    """Start, idle, reactions and ramps."""
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder) / "cluster") as cluster:
        fleet = Fleet(cluster, Path(folder), MODELS)
        fleet.fill()
        try:
            return measured(fleet)
        finally:
            fleet.serve.end()


def measured(fleet: Fleet) -> list[Row]:
    """All figures of a fleet that stands."""
    started = [*starts(fleet), *idle(fleet)]
    return [*started, *reactions(fleet), *ramps(fleet)]


class Fleet:
    """Many idle models, and one controller that has them."""

    def __init__(self, cluster: ControlPlane, folder: Path, size: int) -> None:
        self.cluster = cluster
        self.names = [f"m{number:04}" for number in range(size)]
        kubeconfig = cluster.kubeconfig(folder / "kubeconfig.yaml", namespace=NAMESPACE)
        self.serve = ClusterServe(folder, kubeconfig, NAMESPACE)

    def fill(self) -> None:
        """Make the models, and wait until their pods are ready."""
        admin, size = self.cluster.admin, len(self.names)
        admin.create(path("customresourcedefinitions"), crd())
        admin.create(path("namespaces"), {"metadata": {"name": NAMESPACE}})
        account = path("serviceaccounts", NAMESPACE, "default")
        until("there is an account", lambda: admin.call("GET", account)[0] == 200)
        where = POLICIES.path(NAMESPACE)
        until(f"{NAME} is served", lambda: admin.call("GET", where)[0] == 200)
        for number in range(size // PODS_PER_NODE):
            self.cluster.add_node(f"more-{number}")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._make, self.names))
        until("all pods are ready", lambda: self._ready() == size, 600, 2)

    def deploy(self, name: str, version: str) -> None:
        """One version of a model: a Deployment with one pod."""
        deployment = models.deployment(name, version)
        self.cluster.admin.create(path("deployments", NAMESPACE), deployment)

    def is_routed(self, prefix: str) -> bool:
        """Whether the router knows the prefix; where it leads, nobody answers."""
        url = f"http://127.0.0.1:{self.serve.router_port}{prefix}"
        return httpx.get(url, timeout=20, trust_env=False).status_code != httpx.codes.NOT_FOUND

    def endpoints(self, name: str, version: str) -> int:
        """How many the router has for an arm."""
        stat = f"cluster.{name}/{version}.membership_total"
        transport = httpx.HTTPTransport(uds=str(self._admin_socket))
        with httpx.Client(transport=transport, base_url="http://envoy") as client:
            text = client.get(f"/stats?filter=^{stat}$").text
        return int(text.rpartition(": ")[2] or 0)

    def requests(self, since: int) -> int:
        """What the controller has asked of the API server since a mark of the audit log."""
        return len(self.cluster.audit.requests(since=since, agent="understudy/"))

    def calm(self, timeout_s: float = 300) -> float:
        """When the controller's last request was; returns once it only keeps its Lease."""
        last = time.monotonic()
        while time.monotonic() < last + CALM_S:
            mark = self.cluster.audit.mark()
            time.sleep(1)
            news = self.cluster.audit.requests(
                since=mark, agent="understudy/", is_so=lambda r: r.resource != "leases"
            )
            last = time.monotonic() if news else last
            timeout_s -= 1
            assert timeout_s > 0, "the controller never rests"
        return last

    @property
    def _admin_socket(self) -> Path:
        bootstrap = json.loads((self.serve.state / "router" / "bootstrap.json").read_bytes())
        return Path(bootstrap["admin"]["address"]["pipe"]["path"])

    def _make(self, name: str) -> None:
        self.deploy(name, "v1")
        document = policy(NAMESPACE, model=name, canary=SLOW)
        self.cluster.admin.create(POLICIES.path(NAMESPACE), document)

    def _ready(self) -> int:
        found = self.cluster.admin.items(path("deployments", NAMESPACE))
        return sum(each.get("status", {}).get("readyReplicas", 0) for each in found)


def starts(fleet: Fleet) -> list[Row]:
    """To the ready line, and until all that a start leaves to do is done: first, and again."""
    rows = []
    for which in ("first", "second"):
        mark, began = fleet.cluster.audit.mark(), time.monotonic()
        fleet.serve.start(300)
        ready = time.monotonic() - began
        calm = fleet.calm() - began
        asked = fleet.requests(mark) / len(fleet.names)
        rows += [
            Row(f"{which} start: ready", ready, "s", "<= 60"),
            Row(f"{which} start: every arm known, every status written", calm, "s", ""),
            Row(f"{which} start: API requests per model", asked, "", ""),
        ]
        if which == "first":
            fleet.serve.stop()
    return rows


def idle(fleet: Fleet) -> list[Row]:
    """Shares of one core, memory, and requests, when nothing happens."""
    assert fleet.serve.process is not None
    pids = fleet.serve.process.pid, fleet.serve.envoy_pid
    time.sleep(10)
    mark, began = fleet.cluster.audit.mark(), time.monotonic()
    before = [cpu_s(pid) for pid in pids]
    time.sleep(IDLE_S)
    elapsed = time.monotonic() - began
    ours, envoy = (
        100 * (cpu_s(pid) - was) / elapsed for pid, was in zip(pids, before, strict=True)
    )
    hourly = fleet.requests(mark) * 3600 / elapsed
    return [
        Row("idle: controller", ours, "% of a core", "<= 25"),
        Row("idle: Envoy", envoy, "% of a core", ""),
        Row("idle: memory of the controller", rss_mib(pids[0]), "MiB", "<= 500"),
        Row("idle: memory of Envoy", rss_mib(pids[1]), "MiB", ""),
        Row("idle: API requests", hourly, "/h", ""),
        Row("idle: API requests per model", hourly / len(fleet.names), "/h", ""),
    ]


def rss_mib(pid: int) -> float:
    """Resident memory of a process: field 2 of proc(5)'s statm."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def reactions(fleet: Fleet) -> list[Row]:
    """The slowest of three of each kind."""
    kinds: dict[str, Callable[[Fleet, str], float]] = {
        "policy edited -> its route at the router": _edited,
        "pod unready -> no endpoint at the router": _unready,
        "pod ready -> its endpoint at the router": _ready_again,
        "candidate's Deployment -> rollout begins": _deployed,
        "operator's rollback -> split in force": _rolled_back,
    }
    return [
        Row(f"react: {kind}", max(react(fleet, name) for name in fleet.names[:3]), "s", "<= 2")
        for kind, react in kinds.items()
    ]


def _edited(fleet: Fleet, name: str) -> float:
    document = policy(NAMESPACE, model=name, canary=SLOW)
    document["spec"]["route"]["prefix"] = f"/{name}-edited/"
    fleet.cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump(document))
    return _took("the route", lambda: fleet.is_routed(f"/{name}-edited/x"))


def _unready(fleet: Fleet, name: str) -> float:
    return _turned(fleet, name, ready=False)


def _ready_again(fleet: Fleet, name: str) -> float:
    return _turned(fleet, name, ready=True)


def _turned(fleet: Fleet, name: str, *, ready: bool) -> float:
    admin = fleet.cluster.admin
    [pod] = models.pods(admin, NAMESPACE, name, "v1")
    models.set_ready(admin, NAMESPACE, pod["metadata"]["name"], ready=ready)
    return _took("the endpoint", lambda: fleet.endpoints(name, "v1") == int(ready))


def _deployed(fleet: Fleet, name: str) -> float:
    fleet.deploy(name, "v2")
    took = _took("the rollout", lambda: _report(fleet, name)["phase"] != "idle")
    until(f"{name} ramps", lambda: _is_in_force(fleet, name, "ramping"), 60)
    return took


def _rolled_back(fleet: Fleet, name: str) -> float:
    began = time.monotonic()
    status, answer = fleet.serve.order("rollback", name)
    assert status == httpx.codes.OK, answer
    return _took("the split", lambda: _is_in_force(fleet, name, "rolling_back", "idle"), began)


def _report(fleet: Fleet, name: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.serve.get(f"/v1/models/{name}")
    return found


def _is_in_force(fleet: Fleet, name: str, *phases: str) -> bool:
    found = _report(fleet, name)
    return found["phase"] in phases and found["epoch"] == found["epoch_in_force"]


def _took(what: str, is_so: Callable[[], bool], began: float | None = None) -> float:
    """Seconds until it is so."""
    start = time.monotonic() if began is None else began
    until(what, is_so, 60, 0.05)
    return time.monotonic() - start


def ramps(fleet: Fleet) -> list[Row]:
    """Rollouts at the same time: what one of them asks, in its ramp and as a whole."""
    names = fleet.names[-RAMPS:]
    fleet.calm()
    mark, began = fleet.cluster.audit.mark(), time.monotonic()
    for name in names:
        fleet.deploy(name, "v2")
    _await(fleet, names, "ramping")
    ramp_mark, ramp_began = fleet.cluster.audit.mark(), time.monotonic()
    time.sleep(IDLE_S)
    ramp = fleet.requests(ramp_mark) * 3600 / (time.monotonic() - ramp_began)
    for name in names:
        assert fleet.serve.order("promote", name)[0] == httpx.codes.OK
    _await(fleet, names, "promoted", "idle")
    fleet.calm()
    leases = (time.monotonic() - began) * _leases_hz(fleet, mark, began)
    whole = (fleet.requests(mark) - leases) / len(names)
    lease_hourly = 3600 * _leases_hz(fleet, mark, began)
    return [
        Row(f"{RAMPS} ramps: API requests per model", (ramp - lease_hourly) / RAMPS, "/h", ""),
        Row(f"{RAMPS} ramps: API requests per rollout", whole, "", ""),
    ]


def _leases_hz(fleet: Fleet, mark: int, began: float) -> float:
    """How often the Lease is renewed, whatever the models do."""
    found = fleet.cluster.audit.requests(since=mark, agent="understudy/", resource="leases")
    return len(found) / (time.monotonic() - began)


def _await(fleet: Fleet, names: Sequence[str], *phases: str) -> None:
    def are_there() -> bool:
        return all(_is_in_force(fleet, name, *phases) for name in names)

    until(" or ".join(phases), are_there, 120, 0.5)
