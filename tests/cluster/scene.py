"""A policy and a connection, for the tests of what talks to the API server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from controller.core.policy import Policy, parse
from controller.deploy.client import Connection
from tests.cluster.client import User
from tests.cluster.control_plane import ControlPlane

AUTOSCALERS = "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers"


def policy(namespace: str, *, model: str = "digits", **deploy: Any) -> Policy:
    """The policy of a model whose arms are Deployments; `deploy` are more fields of the target."""
    target: dict[str, Any] = {"namespace": namespace, "service": model, "port": 8080}
    return policy_of(namespace, model=model, deploy={"kubernetes": target | deploy})


def gateway_policy(namespace: str, *, model: str = "digits") -> Policy:
    """The same where an HTTPRoute `public` carries the split."""
    target: dict[str, Any] = {"namespace": namespace, "service": model, "port": 8080}
    both = {"kubernetes": target, "gateway": {"route": "public"}}
    return policy_of(namespace, model=model, deploy=both)


def kserve_policy(namespace: str) -> Policy:
    """The policy of a model that KServe serves."""
    return policy_of(namespace, deploy={"kserve": {"service": "digits"}})


def policy_of(namespace: str, *, model: str = "digits", **spec: Any) -> Policy:
    """A policy with these fields."""
    document = {
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "RolloutPolicy",
        "metadata": {"name": model, "namespace": namespace},
        "spec": {
            "route": {"prefix": f"/{model}/"},
            "champion": {"version": "v1"},
            "reward": {"event": "correct"},
            "stages": [{"canary": {"steps": ["5%", "25%"]}}],
            **spec,
        },
    }
    return parse(yaml.safe_dump(document), f"{model}.yaml")


def connect(
    cluster: ControlPlane, folder: Path, user: User | None = None, url: str | None = None
) -> Connection:
    """A connection as a user (admin by default), perhaps by another address."""
    file = cluster.kubeconfig(folder / "kubeconfig.yaml", user)
    if url is not None:
        file.write_text(file.read_text().replace(cluster.url, url))
    return Connection.from_settings(kubeconfig=file, clock=time.monotonic)


def stable_service(selector: Mapping[str, str]) -> dict[str, Any]:
    """The Service of the model itself, as its owner wrote it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "digits"},
        "spec": {"selector": dict(selector), "ports": [{"port": 80, "targetPort": 8080}]},
    }


def autoscaler(deployment: str, minimum: int, maximum: int) -> dict[str, Any]:
    """A HorizontalPodAutoscaler."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": deployment},
        "spec": {
            "minReplicas": minimum,
            "maxReplicas": maximum,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
        },
    }
