"""A tiny kubelet: real model servers for pods, so that traffic moves when the cluster's objects do.

It owns the pods of one namespace that carry the annotation `models.KUBELET` (KWOK leaves them
alone). Such a pod gets an address, a process that listens on it, and a status: ready while its
readiness path answers 200. A process that ends is started again, as a container is. A deleted pod
serves on for a while (`models.DELETE_AFTER`, the preStop sleep of a well-kept server), is ended
with SIGTERM, then killed, and only then its object goes.

It looks several times a second rather than watch: an API server that is gone, or a watch that has
expired, needs no case of its own. What runs goes on running meanwhile, as on a real node.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import httpx

from tests.cluster import models
from tests.cluster.client import Document, Refused, path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.network import Network
from tests.processes import Child

_HERE = Path(__file__).parent
_LOOK_EVERY_S = 0.1
_SERVE_ON_S = 0.5
_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """What a model server is told."""

    pod: str
    model: str
    version: str
    address: str
    port: int


Command = Callable[[Place], Sequence[object]]


def says_its_name(place: Place) -> Sequence[object]:
    """`model_server.py`: answers `{"name": POD, "version": VERSION}`."""
    program = _HERE / "model_server.py"
    return sys.executable, program, place.address, place.port, place.pod, place.version


def digits(files: Mapping[str, Path]) -> Command:
    """The demo's models by version, behind the Open Inference Protocol."""

    def command(place: Place) -> Sequence[object]:
        # The checkout's controller, whatever is installed.
        python = ("env", f"PYTHONPATH={_HERE.parents[1]}", sys.executable)
        given = (place.address, place.port, place.version, files[place.version])
        return *python, _HERE / "digits_server.py", *given

    return command


class _Server:
    """The process of one pod."""

    def __init__(self, place: Place, child: Child) -> None:
        self.place, self.child = place, child
        self.restarts = 0
        self.told: bool | None = None
        """The readiness that the API server was told."""
        self.ends_at: float | None = None

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.place.address, self.place.port, timeout=1)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class TinyKubelet:
    """Runs the annotated pods of a namespace; `with TinyKubelet(...):`."""

    def __init__(
        self,
        cluster: ControlPlane,
        network: Network,
        namespace: str,
        folder: Path,
        command: Command = says_its_name,
    ) -> None:
        self._client = cluster.client(cluster.user("tiny-kubelet", ("system:masters",)))
        self._network, self._namespace = network, namespace
        self._folder, self._command = folder, command
        self._servers: dict[str, _Server] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiny-kubelet", daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)
        if self._failure is not None:
            raise AssertionError("the tiny kubelet has failed") from self._failure

    def places(self) -> dict[str, Place]:
        """What runs now, by the pod's name."""
        return {each.place.pod: each.place for each in list(self._servers.values())}

    def kill(self, pod: str) -> None:
        """The pod's process crashes; it is started again."""
        [server] = (each for each in list(self._servers.values()) if each.place.pod == pod)
        server.child.stop()

    def _run(self) -> None:
        try:
            while not self._ending.wait(_LOOK_EVERY_S):
                try:
                    self._look()
                except httpx.TransportError:
                    continue  # the API server is gone: look again
        except BaseException as exc:  # noqa: BLE001 - raised again where the test sees it
            self._failure = exc
        finally:
            # Here, as the kernel ends a child with the thread that started it.
            for server in self._servers.values():
                server.child.stop()

    def _look(self) -> None:
        found = {
            str(pod["metadata"]["uid"]): pod
            for pod in self._client.items(path("pods", self._namespace))
            if models.KUBELET in pod["metadata"].get("annotations", {})
            and "nodeName" in pod["spec"]
        }
        for uid in self._servers.keys() - found.keys():
            self._servers.pop(uid).child.stop()
        for uid, pod in found.items():
            try:
                self._attend(uid, pod)
            except Refused as refusal:
                if refusal.code not in {404, 409}:
                    raise

    def _attend(self, uid: str, pod: Document) -> None:
        server = self._servers.get(uid)
        if "deletionTimestamp" in pod["metadata"]:
            self._end(uid, pod, server)
        elif server is None:
            self._begin(uid, pod)
        else:
            self._watch_over(pod, server)

    def _begin(self, uid: str, pod: Document) -> None:
        meta = pod["metadata"]
        place = Place(
            pod=meta["name"],
            model=meta["labels"].get(models.MODEL, ""),
            version=meta["labels"].get(models.VERSION, ""),
            address=meta["annotations"].get(models.POD_IP) or self._network.address(),
            port=pod["spec"]["containers"][0]["ports"][0]["containerPort"],
        )
        log = self._folder / f"{place.pod}.log"
        child = Child(place.pod, self._command(place), log, self._network.inside)
        server = _Server(place, child)
        self._servers[uid] = server
        child.start()
        self._tell(pod, server, is_ready=False)

    def _watch_over(self, pod: Document, server: _Server) -> None:
        if not server.child.is_running:
            server.restarts += 1
            server.child.start()
        is_ready = server.is_ready()
        if is_ready != server.told:
            self._tell(pod, server, is_ready=is_ready)

    def _end(self, uid: str, pod: Document, server: _Server | None) -> None:
        if server is not None:
            if server.ends_at is None:
                given = pod["metadata"]["annotations"].get(models.DELETE_AFTER)
                server.ends_at = time.monotonic() + (_seconds(given) if given else _SERVE_ON_S)
            if time.monotonic() < server.ends_at:
                return
            server.child.stop(_GRACE_S)
            del self._servers[uid]
        self._client.delete(path("pods", self._namespace, pod["metadata"]["name"]), grace_s=0)

    def _tell(self, pod: Document, server: _Server, *, is_ready: bool) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status, reason = ("True", None) if is_ready else ("False", "ContainersNotReady")
        containers = [
            {
                "name": each["name"],
                "image": each["image"],
                "imageID": "",
                "ready": is_ready,
                "started": True,
                "restartCount": server.restarts,
                "state": {"running": {"startedAt": now}},
            }
            for each in pod["spec"]["containers"]
        ]
        conditions = [
            {"type": "Initialized", "status": "True", "lastTransitionTime": now},
            *(
                {"type": kind, "status": status, "reason": reason, "lastTransitionTime": now}
                for kind in ("Ready", "ContainersReady")
            ),
        ]
        told = {
            "phase": "Running",
            "podIP": server.place.address,
            "podIPs": [{"ip": server.place.address}],
            "conditions": conditions,
            "containerStatuses": containers,
        }
        where = path("pods", self._namespace, server.place.pod, "status")
        self._client.patch_strategic(where, {"status": told})
        server.told = is_ready


def _seconds(text: str) -> float:
    """Of a Go duration with one unit, `ms` or `s`."""
    if text.endswith("ms"):
        return float(text.removesuffix("ms")) / 1000
    return float(text.removesuffix("s"))
