"""`understudy serve --kubernetes` on the test cluster, its Envoy, and users who ask and reward.

A `Scene` is one model `digits` in a namespace: a policy, Deployments whose pods are real servers, a
Service of the model's own, and any number of controllers on one state folder.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError

import yaml

from tests.cluster import models, rollout_policies
from tests.cluster.client import Document, path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import TinyKubelet
from tests.processes import free_port, until
from tests.service.conftest import ROOT, Ran, Serve, environment

MODEL = "digits"
POLICIES = "/apis/understudy.dev/v1alpha1/namespaces/{}/rolloutpolicies"
EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events"
AUTOSCALERS = "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
FULL = 4
"""The champion's replicas."""

CANARY = {
    "steps": ["25%", "50%"],
    "min_duration": "2s",
    "min_outcomes": 20,
    "margin": "20%",
    "max_duration": "1h",
}

FORGET_ROUTERS = "1s"
"""Else each controller that has just begun would scale nothing down for minutes."""

PACE = {"warmup": "1s", "retain": "3s", "progress_deadline": "1m", "drain": "1s"}


def policy(
    namespace: str, *, model: str = MODEL, canary: Mapping[str, Any] | None = None, **target: Any
) -> Document:
    """A policy that is quick; `target` are more fields of `deploy.kubernetes`."""
    return {
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "RolloutPolicy",
        "metadata": {"name": model, "namespace": namespace},
        "spec": {
            "route": {"prefix": f"/{model}/", "unit": {"header": "x-user-id"}},
            "champion": {"version": "v1"},
            "reward": {"event": "ok", "window": "1s", "grace": "1s"},
            "stages": [{"canary": {**CANARY, **(canary or {})}}],
            "gates": {"cooldown": "1s"},
            "deploy": {"kubernetes": {"service": model, "port": 8080} | PACE | target},
        },
    }


SLOW = {"min_duration": "10m"}
"""A canary that only operators move."""


class ClusterServe(Serve):
    """One controller; several may share a folder, and with it the log, the ledger and the Envoy."""

    def __init__(
        self, folder: Path, kubeconfig: Path, namespaces: str, *, name: str = "a", router: int = 0
    ) -> None:
        self.folder, self.state = folder, folder / "state"
        self.kubeconfig, self.namespaces, self.name = kubeconfig, namespaces, name
        self.api_port, self.router_port, self.xds_port = (free_port() for _ in range(3))
        self.router_port = router or self.router_port
        self.process: subprocess.Popen[bytes] | None = None
        self.err, self.out = folder / f"{name}.err", folder / f"{name}.out"
        self.stores: dict[str, str] = {}
        self.launcher: tuple[str, ...] = ()
        self.environment: dict[str, str] = {}

    def command(self, **_: object) -> list[str]:
        """The command line; a launcher takes the place of the program."""
        program, *rest = super().command()
        given = [*rest[2:], "--kubernetes", self.namespaces]
        policies = given.index("--policies")
        del given[policies : policies + 2]
        return [program, *(self.launcher or rest[:2]), *given]

    @property
    def policies(self) -> Path:  # type: ignore[override]
        """Not used: they are in the cluster."""
        return self.folder

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process; it may stand by for ever."""
        own = {
            "KUBECONFIG": str(self.kubeconfig),
            "HOSTNAME": self.name,
            "UNDERSTUDY_FORGET_ROUTERS": FORGET_ROUTERS,
            **self.environment,
        }
        with self.err.open("ab") as err, self.out.open("wb") as out:
            self.process = subprocess.Popen(
                self.command(), stdout=out, stderr=err, cwd=ROOT, env=environment() | own
            )
        return self.process

    @property
    def is_up(self) -> bool:
        """Whether it leads, and said so."""
        return self.out.exists() and self.out.read_bytes().endswith(b"\n")

    def report(self, model: str = MODEL) -> Any:
        """Where the model stands; None while nobody answers."""
        with suppress(URLError, OSError, http.client.HTTPException, json.JSONDecodeError):
            return self.get(f"/v1/models/{model}")
        return None

    def order(self, operation: str, model: str = MODEL, **body: object) -> tuple[int, Any]:
        """An operator's command."""
        return self.call("POST", f"/v1/models/{model}/{operation}", body)

    def ask_for(self, operation: str, model: str = MODEL) -> None:
        """An operator's command whose answer nobody waits for."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=1)
        with suppress(OSError):
            head = {"content-type": "application/json"}
            connection.request("POST", f"/v1/models/{model}/{operation}", b"{}", head)
            connection.getresponse()
        connection.close()

    def decisions(self, model: str = MODEL) -> list[dict[str, Any]]:
        """All of them, oldest first."""
        found = self.get(f"/v1/models/{model}/decisions?limit=500")
        return sorted(found["decisions"], key=lambda each: each["number"])

    def verified(self, model: str = MODEL) -> Ran:
        """Derive every decision again from the log."""
        return self.cli("ledger", model, "--verify", "-o", "json")


@dataclass
class Scene:
    """One model in a namespace."""

    cluster: ControlPlane
    namespace: str
    folder: Path
    kubelet: TinyKubelet
    serves: list[ClusterServe] = field(default_factory=list)

    def __post_init__(self) -> None:
        rollout_policies.install(self.cluster)
        service = {
            "metadata": {"name": MODEL},
            "spec": {
                "selector": models.labels(MODEL, "v1"),
                "ports": [{"port": 80, "targetPort": 8080}],
            },
        }
        self.cluster.admin.create(path("services", self.namespace), service)

    def apply(self, document: Document) -> str:
        """As an owner would: `kubectl apply -f`."""
        return self.cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump(document))

    def deploy(self, version: str, replicas: int = 1, **annotations: str) -> None:
        """A Deployment whose pods are real servers, as `kubectl apply` makes it."""
        found = models.deployment(
            MODEL,
            version,
            replicas=replicas,
            pod_annotations={models.KUBELET: "tiny"},
            annotations=annotations,
        )
        if replicas == 1:
            del found["spec"]["replicas"]  # its owner leaves it to others
        found["metadata"]["namespace"] = self.namespace
        self.apply(found)

    def serve(self, name: str = "a", namespaces: str = "") -> ClusterServe:
        """A controller, not started yet; all of a scene have one folder and one router."""
        file = self.folder / "kubeconfig.yaml"
        self.cluster.kubeconfig(file, namespace=self.namespace)
        router = self.serves[0].router_port if self.serves else 0
        made = ClusterServe(
            self.folder, file, namespaces or self.namespace, name=name, router=router
        )
        self.serves.append(made)
        return made

    def end(self) -> None:
        """Whatever happened: nothing lives on."""
        for each in self.serves:
            each.end()

    def deployment(self, version: str) -> Document:
        """As the API server has it."""
        return self.cluster.admin.get(path("deployments", self.namespace, f"{MODEL}-{version}"))

    def replicas(self, version: str) -> tuple[int, int]:
        """Those that are wanted, and those that are ready."""
        found = self.deployment(version)
        return found["spec"]["replicas"], found.get("status", {}).get("readyReplicas", 0)

    def role(self, version: str) -> str | None:
        """The label of a Deployment."""
        labels = self.deployment(version)["metadata"]["labels"]
        return labels.get("understudy.dev/role")  # type: ignore[no-any-return]

    def served(self) -> str:
        """The version that the stable Service selects."""
        found = self.cluster.admin.get(path("services", self.namespace, MODEL))
        return str(found["spec"]["selector"][models.VERSION])

    def rollout_policy(self, name: str = MODEL) -> Document:
        """As the API server has it."""
        return self.cluster.admin.get(f"{POLICIES.format(self.namespace)}/{name}")

    def condition(self, kind: str, name: str = MODEL) -> Document:
        """A condition of the policy; empty if there is none."""
        rows = self.rollout_policy(name).get("status", {}).get("conditions", [])
        return next((row for row in rows if row["type"] == kind), {})

    def events(self, kind: str, name: str) -> list[Document]:
        """Our Events about an object, by time."""
        every = self.cluster.admin.items(EVENTS.format(self.namespace))
        found = [e for e in every if e["reportingController"] == "understudy.dev/controller"]
        about = [
            e for e in found if (e["regarding"]["kind"], e["regarding"]["name"]) == (kind, name)
        ]
        return sorted(about, key=lambda each: str(each["eventTime"]))

    def phase(self, serve: ClusterServe, *phases: str, timeout_s: float = 60) -> Any:
        """The report, once the model is in one of these phases."""

        def found() -> Any:
            report = serve.report()
            return report if report and report["phase"] in phases else None

        return self.until(f"the phase is {' or '.join(phases)}", found, serve, timeout_s)

    def until(
        self, what: str, is_so: Callable[[], Any], serve: ClusterServe, timeout_s: float = 60
    ) -> Any:
        """`until` that shows where the model stands when it fails."""
        try:
            return until(what, is_so, timeout_s, 0.1)
        except AssertionError as exc:
            report = json.dumps(serve.report(), indent=1)
            raise AssertionError(f"{exc}\n{report}\n{serve.tail()}") from exc


@dataclass(frozen=True, slots=True)
class Answer:
    """What a user got."""

    time: float
    arm: str
    status: int
    pod: str
    unit: str


@dataclass
class Users:
    """Steady traffic through the router; `chance` is that of a reward of 1, by version."""

    serve: ClusterServe
    chance: Mapping[str, float] = field(default_factory=dict)
    rate_hz: float = 150.0
    threads: int = 2
    model: str = MODEL
    answers: list[Answer] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ending = threading.Event()
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()
        work: Sequence[tuple[Callable[..., None], tuple[int, ...]]] = [
            *((self._ask, (n,)) for n in range(self.threads)),
            (self._reward, ()),
        ]
        self._workers = [threading.Thread(target=f, args=a, daemon=True) for f, a in work]
        for each in self._workers:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for each in self._workers:
            each.join(20)

    def since(self, begin: float) -> list[Answer]:
        """Answers from a wall-clock time on."""
        return [each for each in list(self.answers) if each.time >= begin]

    def share(self, arm: str, last_s: float = 1.0) -> float:
        """The share of an arm in the last seconds."""
        found = self.since(time.time() - last_s)
        return sum(each.arm == arm for each in found) / len(found) if found else math.nan

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.serve.router_port, timeout=10)
        due = time.monotonic()
        while not self._ending.is_set():
            due = max(due + self.threads / self.rate_hz, time.monotonic() - 0.2)
            time.sleep(max(0.0, due - time.monotonic()))
            unit = f"u{rng.randrange(5000)}"
            try:
                connection.request("GET", f"/{self.model}/x", headers={"x-user-id": unit})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as exc:
                self.lost.append(f"{time.time():.2f} {exc!r}")
                connection.close()
                continue
            arm = answer.headers.get("x-understudy-arm", "")
            if answer.status == 200:
                pod = json.loads(body)["name"]
                self._owe(answer.headers["x-request-id"], arm, rng)
            else:
                pod = ""
                self.lost.append(f"{time.time():.2f} {answer.status} {arm} {body[:80]!r}")
            self.answers.append(Answer(time.time(), arm, answer.status, pod, unit))
        connection.close()

    def _owe(self, request_id: str, arm: str, rng: random.Random) -> None:
        event = {
            "type": "reward",
            "time": time.time(),
            "model": self.model,
            "id": f"r-{request_id}",
            "request_id": request_id,
            "name": "ok",
            "value": int(rng.random() < self.chance.get(arm, 0.9)),
        }
        with self._lock:
            self._waiting.append(json.dumps(event).encode())

    def _reward(self) -> None:
        while not self._ending.wait(0.2):
            with self._lock:
                batch, self._waiting = self._waiting, []
            if not batch:
                continue
            kind = "application/x-ndjson"
            with suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
                self.serve.call("POST", "/v1/events", b"\n".join(batch), kind)


@dataclass(frozen=True, slots=True)
class Frame:
    """How many replicas of a version there were at a moment."""

    time: float
    wanted: int
    ready: int


class Film:
    """What the API server said of Deployments, several times a second, in a thread."""

    def __init__(self, scene: Scene, *versions: str) -> None:
        self._scene, self._versions = scene, versions
        self.frames: dict[str, list[Frame]] = {version: [] for version in versions}

    def __enter__(self) -> Self:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(20)

    def at(self, version: str, moment: float) -> Frame:
        """The last frame before a moment."""
        return max(
            (each for each in self.frames[version] if each.time <= moment), key=lambda f: f.time
        )

    def least(self, version: str, begin: float, end: float) -> int:
        """The fewest replicas that were wanted in a time."""
        return min(f.wanted for f in self.frames[version] if begin <= f.time <= end)

    def _run(self) -> None:
        while not self._ending.wait(0.05):
            for version in self._versions:
                with suppress(Exception):
                    wanted, ready = self._scene.replicas(version)
                    self.frames[version].append(Frame(time.time(), wanted, ready))


def pids_of(text: str) -> list[int]:
    """Processes whose command line holds a text."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if text.encode() in each.read_bytes() and int(each.parent.name) != os.getpid():
                found.append(int(each.parent.name))
    return found
