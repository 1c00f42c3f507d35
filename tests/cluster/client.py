"""The API server's REST interface, as little of it as tests need to set a scene and to look.

Tests do not look through `kubernetes.client`, which may be what they test; documents are dicts, as
the API server sends them.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.cluster.certificates import Pair

Document = dict[str, Any]

_API = {
    "/api/v1": (
        "configmaps endpoints events namespaces nodes pods secrets serviceaccounts services"
    ),
    "/apis/apps/v1": "deployments replicasets statefulsets",
    "/apis/apiextensions.k8s.io/v1": "customresourcedefinitions",
    "/apis/coordination.k8s.io/v1": "leases",
    "/apis/discovery.k8s.io/v1": "endpointslices",
    "/apis/gateway.networking.k8s.io/v1": "gatewayclasses gateways grpcroutes httproutes",
    "/apis/policy/v1": "poddisruptionbudgets",
    "/apis/rbac.authorization.k8s.io/v1": "clusterrolebindings clusterroles rolebindings roles",
    "/apis/serving.kserve.io/v1beta1": "inferenceservices",
}
_GROUPS = {resource: group for group, names in _API.items() for resource in names.split()}


class Refused(Exception):  # noqa: N818 - an answer, not always an error
    """The API server answered with a status of 400 or above."""

    def __init__(self, code: int, document: Document) -> None:
        super().__init__(f"{code}: {document.get('message', document)}")
        self.code, self.document = code, document


@dataclass(frozen=True, slots=True)
class User:
    """Who asks: by a client certificate or a token; `name` is what the audit log says."""

    name: str
    pair: Pair | None = None
    token: str | None = None


def path(resource: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Where a resource lies: `path("pods", "default", "p-1", "status")`."""
    inside = f"namespaces/{namespace}" if namespace else ""
    return "/".join(p for p in (_GROUPS[resource], inside, resource, name, subresource) if p)


class Client:
    """One user's requests; they fail with `Refused`, or httpx' errors when nobody answers."""

    def __init__(self, url: str, authority: Path, user: User) -> None:
        self.user = user
        context = ssl.create_default_context(cafile=str(authority))
        if user.pair:
            context.load_cert_chain(user.pair.certificate, user.pair.key)
        headers = {"user-agent": "understudy-tests"}
        if user.token:
            headers["authorization"] = f"Bearer {user.token}"
        self._http = httpx.Client(
            base_url=url, verify=context, headers=headers, timeout=20, trust_env=False
        )

    def call(
        self, method: str, where: str, body: object = None, content_type: str = "application/json"
    ) -> tuple[int, Document]:
        """Status and document, whatever the status."""
        headers = {} if body is None else {"content-type": content_type}
        answer = self._http.request(method, where, json=body, headers=headers)
        if answer.headers.get("content-type", "").startswith("application/json"):
            return answer.status_code, answer.json()
        return answer.status_code, {"message": answer.text}

    def get(self, where: str) -> Document:
        """An object, or a list as it is sent."""
        return self._done("GET", where)

    def items(self, where: str, labels: str = "") -> list[Document]:
        """The items of a list."""
        query = f"?labelSelector={labels}" if labels else ""
        found: list[Document] = self.get(where + query)["items"]
        return found

    def create(self, where: str, body: Document) -> Document:
        """POST."""
        return self._done("POST", where, body)

    def patch(self, where: str, body: Document) -> Document:
        """A JSON merge patch: lists are replaced, None removes."""
        return self._done("PATCH", where, body, "application/merge-patch+json")

    def patch_strategic(self, where: str, body: Document) -> Document:
        """A strategic merge patch: lists with a key (conditions, containers) are merged."""
        return self._done("PATCH", where, body, "application/strategic-merge-patch+json")

    def apply(self, where: str, body: Document, manager: str = "understudy-tests") -> Document:
        """Server-side apply; creates what is not there."""
        query = f"?fieldManager={manager}&force=true"
        return self._done("PATCH", where + query, body, "application/apply-patch+yaml")

    def delete(self, where: str, grace_s: int | None = None) -> Document:
        """DELETE."""
        query = "" if grace_s is None else f"?gracePeriodSeconds={grace_s}"
        return self._done("DELETE", where + query)

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def _done(
        self, method: str, where: str, body: object = None, content_type: str = "application/json"
    ) -> Document:
        code, document = self.call(method, where, body, content_type)
        if code >= 400:
            raise Refused(code, document)
        return document


def write_kubeconfig(
    into: Path, url: str, authority: Path, user: User, namespace: str = "default"
) -> Path:
    """A kubeconfig file of one user."""
    given: Document = {"token": user.token} if user.token else {}
    if user.pair:
        given |= {
            "client-certificate": str(user.pair.certificate),
            "client-key": str(user.pair.key),
        }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [
            {"name": "tests", "cluster": {"server": url, "certificate-authority": str(authority)}}
        ],
        "users": [{"name": user.name, "user": given}],
        "contexts": [
            {
                "name": "tests",
                "context": {"cluster": "tests", "user": user.name, "namespace": namespace},
            }
        ],
    }
    into.touch(mode=0o600)
    into.write_text(yaml.safe_dump(document))
    return into


def documents(file: Path) -> Iterator[Document]:
    """The documents of a YAML file."""
    # In C where it is there: the definition of InferenceService is a megabyte.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with file.open() as text:
        yield from (each for each in yaml.load_all(text, loader) if each)
