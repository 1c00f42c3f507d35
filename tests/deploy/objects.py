"""Objects of the API server, as short as tests need them."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def deployment(
    version: str = "v1",
    *,
    model: str = "digits",
    name: str = "",
    replicas: int = 2,
    ready: int = 2,
    notes: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    fields: list[Object] | None = None,
) -> Object:
    marks = {"understudy.dev/model": model, "understudy.dev/version": version}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name or f"{model}-{version}",
            "namespace": "models",
            "uid": f"uid-{name or version}",
            "resourceVersion": "7",
            "labels": marks | (labels or {}),
            "annotations": notes or {},
            "managedFields": fields or [],
        },
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": marks}}},
        "status": {"readyReplicas": ready},
    }


def autoscaler(
    *,
    target: str = "digits-v1",
    name: str = "scaler",
    minimum: int = 1,
    maximum: int = 10,
    notes: dict[str, str] | None = None,
    fields: list[Object] | None = None,
) -> Object:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {
            "name": name,
            "namespace": "models",
            "uid": "uid-scaler",
            "resourceVersion": "9",
            "annotations": notes or {},
            "managedFields": fields or [],
        },
        "spec": {
            "minReplicas": minimum,
            "maxReplicas": maximum,
            "scaleTargetRef": {"kind": "Deployment", "name": target},
        },
    }


def service(selector: dict[str, str], fields: list[Object] | None = None) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "digits",
            "namespace": "models",
            "uid": "uid-service",
            "resourceVersion": "3",
            "managedFields": fields or [],
        },
        "spec": {"selector": selector},
    }


def endpoint_slice(
    name: str, ready: dict[str, bool | None], *, version: str = "v1", service: str = ""
) -> Object:
    return {
        "metadata": {
            "name": name,
            "namespace": "models",
            "labels": {
                "understudy.dev/model": "digits",
                "understudy.dev/version": version,
                "kubernetes.io/service-name": service or f"arm-digits-{version}",
            },
        },
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [address], "conditions": {} if is_ready is None else {"ready": is_ready}}
            for address, is_ready in ready.items()
        ],
    }


def owns(manager: str, operation: str, *path: str, subresource: str = "") -> Object:
    """An entry of managedFields that names one field."""
    fields: Object = {}
    for name in reversed(path):
        fields = {f"f:{name}": fields}
    entry = {"manager": manager, "operation": operation, "fieldsV1": fields}
    return entry | ({"subresource": subresource} if subresource else {})
