"""Objects of the Kubernetes API, as JSON, and where the API server has them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Object: TypeAlias = dict[str, Any]
"""An object of the API, as JSON."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A type of objects, and where the API server has them."""

    version: str
    plural: str
    kind: str

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The path of one object, or, without `name`, of all; without namespace, of every one."""
        root = f"/api/{self.version}" if "/" not in self.version else f"/apis/{self.version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{name}" if name else "")

    def head(self, namespace: str | None, name: str) -> Object:
        """The beginning of an object: type, name and namespace."""
        where = {"name": name} | ({"namespace": namespace} if namespace else {})
        return {"apiVersion": self.version, "kind": self.kind, "metadata": where}


DEPLOYMENTS: Final = Resource("apps/v1", "deployments", "Deployment")
AUTOSCALERS: Final = Resource(
    "autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"
)
SERVICES: Final = Resource("v1", "services", "Service")
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice")


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects at one moment; `version` is that moment, from which a watch goes on."""

    items: list[Object]
    version: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a watch tells; of a bookmark only the resourceVersion means anything."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object

    @property
    def version(self) -> str:
        """The moment up to which everything has been told."""
        return str(self.object["metadata"]["resourceVersion"])
