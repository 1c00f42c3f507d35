"""Model Deployments as a test's owner of a cluster would write them."""

from __future__ import annotations

from collections.abc import Mapping

from tests.cluster.client import Client, Document, path
from tests.cluster.control_plane import has_condition
from tests.processes import until

MODEL, VERSION = "understudy.dev/model", "understudy.dev/version"

POD_IP = "test.understudy.dev/pod-ip"
READY_AFTER = "test.understudy.dev/ready-after"
READINESS = "test.understudy.dev/readiness"
FLAP_EVERY = "test.understudy.dev/flap-every"
DELETE_AFTER = "test.understudy.dev/delete-after"
KUBELET = "test.understudy.dev/kubelet"


def labels(model: str, version: str) -> dict[str, str]:
    """The two labels that a model's objects carry."""
    return {MODEL: model, VERSION: version}


def selector(model: str, version: str) -> str:
    """The same as a label selector of a list."""
    return ",".join(f"{key}={value}" for key, value in labels(model, version).items())


def deployment(
    model: str,
    version: str,
    *,
    replicas: int = 1,
    port: int = 8080,
    annotations: Mapping[str, str] | None = None,
    pod_annotations: Mapping[str, str] | None = None,
) -> Document:
    """A Deployment `MODEL-VERSION`, labelled itself and on its pods.

    `pod_annotations` steer the pods, see `stages.yaml`.
    """
    marks = labels(model, version)
    container = {
        "name": "model",
        "image": f"registry.example/{model}:{version}",
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": "http"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": f"{model}-{version}",
            "labels": marks,
            "annotations": dict(annotations or {}),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": marks},
            "template": {
                "metadata": {"labels": marks, "annotations": dict(pod_annotations or {})},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        },
    }


def service(model: str, version: str, *, port: int = 80) -> Document:
    """A Service `MODEL-VERSION` before the Deployment's pods; its EndpointSlices get its labels."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{model}-{version}", "labels": labels(model, version)},
        "spec": {
            "selector": labels(model, version),
            "ports": [{"name": "http", "port": port, "targetPort": "http"}],
        },
    }


def deploy(
    admin: Client,
    namespace: str,
    model: str,
    version: str,
    *,
    replicas: int = 1,
    port: int = 8080,
    annotations: Mapping[str, str] | None = None,
    pod_annotations: Mapping[str, str] | None = None,
) -> str:
    """Create both; gives their name, `MODEL-VERSION`. Waits for nothing."""
    wanted = deployment(
        model,
        version,
        replicas=replicas,
        port=port,
        annotations=annotations,
        pod_annotations=pod_annotations,
    )
    admin.create(path("deployments", namespace), wanted)
    admin.create(path("services", namespace), service(model, version))
    return f"{model}-{version}"


def rolled_out(admin: Client, namespace: str, name: str, timeout_s: float = 30) -> Document:
    """The Deployment, once all its wanted pods are of its newest template and ready."""

    def found() -> Document:
        return admin.get(path("deployments", namespace, name))

    def is_done() -> bool:
        document = found()
        status, wanted = document.get("status", {}), document["spec"]["replicas"]
        if status.get("observedGeneration", 0) < document["metadata"]["generation"]:
            return False
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        return all(status.get(count, 0) == wanted for count in counts)

    try:
        until(f"{name} is rolled out", is_done, timeout_s)
    except AssertionError as exc:
        pods = [pod["status"] for pod in admin.items(path("pods", namespace))]
        raise AssertionError(f"{exc}\n{found()['status']}\npods: {pods}") from exc
    return found()


def pods(admin: Client, namespace: str, model: str, version: str) -> list[Document]:
    """The model's pods that are not being deleted, by name."""
    found = admin.items(path("pods", namespace), selector(model, version))
    alive = (pod for pod in found if "deletionTimestamp" not in pod["metadata"])
    return sorted(alive, key=lambda pod: str(pod["metadata"]["name"]))


def addresses(
    admin: Client, namespace: str, model: str, version: str, *, ready: bool = True
) -> list[str]:
    """`IP:PORT` of the model's EndpointSlices, those that are (or are not) ready."""
    found = admin.items(path("endpointslices", namespace), selector(model, version))
    return sorted(
        f"{endpoint['addresses'][0]}:{each['ports'][0]['port']}"
        for each in found
        for endpoint in each.get("endpoints") or []
        if endpoint["conditions"]["ready"] == ready
    )


def set_ready(admin: Client, namespace: str, pod: str, *, ready: bool) -> None:
    """Say what a pod's kubelet would say; KWOK leaves it so (a flapping pod excepted)."""
    status = "True" if ready else "False"
    reason = None if ready else "TestSaysSo"
    found = admin.get(path("pods", namespace, pod))
    patch = {
        "status": {
            "conditions": [
                {"type": kind, "status": status, "reason": reason}
                for kind in ("Ready", "ContainersReady")
            ],
            "containerStatuses": [
                each | {"ready": ready} for each in found["status"].get("containerStatuses", [])
            ],
        }
    }
    admin.patch_strategic(path("pods", namespace, pod, "status"), patch)


def is_ready(pod: Document) -> bool:
    """Whether a pod says that it is ready."""
    return has_condition(pod, "Ready")
