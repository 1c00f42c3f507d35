"""What `understudy doctor` looks at in a cluster: the kind RolloutPolicy, and our rights.

Rights are asked for one by one, as they will be used (SelfSubjectAccessReview): a list of rules
would leave out what other authorisers allow or forbid.
"""

from __future__ import annotations

import time  # noqa: TID251 - the connection wants monotonic seconds
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from controller.core.model.checks import Finding, failed, fine, of_error, skew, warning
from controller.deploy.client import Connection
from controller.deploy.faults import NotFound
from controller.errors import BackendError

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_POLICIES: Final = "/apis/understudy.dev/v1alpha1"
_OLDEST: Final = 25

_RULES: Final[tuple[tuple[str, str, str, tuple[str, ...]], ...]] = (
    ("understudy.dev", "rolloutpolicies", "", ("list", "watch")),
    ("understudy.dev", "rolloutpolicies", "status", ("patch",)),
    ("apps", "deployments", "", ("list", "watch", "patch")),
    ("autoscaling", "horizontalpodautoscalers", "", ("list", "watch", "patch")),
    ("", "services", "", ("get", "list", "watch", "create", "patch")),
    ("discovery.k8s.io", "endpointslices", "", ("list", "watch")),
    ("events.k8s.io", "events", "", ("create",)),
)
"""Group, resource, subresource, verbs: the chart's rules for a namespace with models."""

_OPTIONAL: Final = {
    "gateway.networking.k8s.io": ("httproutes", ("get", "list", "watch", "patch")),
    "serving.kserve.io": ("inferenceservices", ("get", "list", "watch", "patch")),
}
"""What only policies with `deploy.gateway` and `deploy.kserve` need."""


def check_cluster(
    namespaces: Sequence[str], clock: Callable[[], float], *, kubeconfig: Path | None = None
) -> Iterator[Finding]:
    """Everything that can be seen of the cluster; no namespace means all of them."""
    try:
        connection = Connection.from_settings(kubeconfig=kubeconfig, clock=time.monotonic)
    except BackendError as exc:
        yield failed("cluster", str(exc), "set KUBECONFIG, or run in a Pod")
        return
    try:
        yield from _server(connection, clock)
        yield from _kind(connection)
        for namespace in namespaces or ("",):
            yield _rights(connection, namespace)
        yield from _optional(connection, namespaces or ("",))
        yield _lease(connection)
    except BackendError as exc:
        yield of_error("cluster", exc, "see that the API server is there, and that it knows us")
    finally:
        connection.close()


def _server(connection: Connection, clock: Callable[[], float]) -> Iterator[Finding]:
    before = clock()
    found = connection.get("/version")
    minor = "".join(filter(str.isdecimal, str(found.get("minor", "0")))) or "0"
    said = f"Kubernetes {found.get('gitVersion', '?')} at {connection.host}"
    if int(minor) < _OLDEST:
        yield warning("cluster", said, f"use 1.{_OLDEST} or newer")
    else:
        yield fine("cluster", said)
    date = connection.said_at
    if date is not None:
        theirs = parsedate_to_datetime(date).replace(tzinfo=UTC).timestamp()
        # A date has whole seconds: it lies up to one behind.
        ours = (before + clock()) / 2 - 0.5
        yield skew("cluster: clock", theirs=theirs, ours=ours, whose="the API server")


def _kind(connection: Connection) -> Iterator[Finding]:
    check = "cluster: RolloutPolicy"
    try:
        found = connection.get(_POLICIES)
    except NotFound:
        remedy = "understudy schema --crd | kubectl apply --server-side -f -"
        yield failed(check, "the cluster does not know the kind", remedy)
        return
    names = {each.get("name") for each in found.get("resources", ())}
    if {"rolloutpolicies", "rolloutpolicies/status"} <= names:
        yield fine(check, "v1alpha1, with status")
    else:
        remedy = "understudy schema --crd | kubectl apply --server-side -f -"
        yield failed(check, f"found {', '.join(sorted(map(str, names)))} only", remedy)


def _rights(connection: Connection, namespace: str) -> Finding:
    where = namespace or "all namespaces"
    missing = [
        f"{verb} {resource}{'/' + sub if sub else ''}"
        for group, resource, sub, verbs in _RULES
        for verb in verbs
        if not _may(connection, namespace, group, resource, verb, sub)
    ]
    check = f"cluster: rights in {where}"
    if not missing:
        return fine(check, f"all {sum(len(verbs) for *_, verbs in _RULES)} that are needed")
    remedy = "bind the Role of the chart: charts/understudy/templates/rbac.yaml"
    return failed(check, f"it may not {', '.join(missing)}", remedy)


def _optional(connection: Connection, namespaces: Sequence[str]) -> Iterator[Finding]:
    groups = {each["name"] for each in connection.get("/apis").get("groups", ())}
    for group in sorted(_OPTIONAL.keys() & groups):
        resource, verbs = _OPTIONAL[group]
        missing = [
            f"{verb} {resource}"
            for namespace in namespaces
            for verb in verbs
            if not _may(connection, namespace, group, resource, verb)
        ]
        check = f"cluster: {group}"
        if missing:
            remedy = "needed only by policies with such a target: targets in the chart's values"
            yield warning(check, f"it may not {', '.join(missing)}", remedy)
        else:
            yield fine(check, "installed, with the rights that are needed")


def _lease(connection: Connection) -> Finding:
    group, where = "coordination.k8s.io", connection.namespace
    missing = [
        verb
        for verb in ("create", "get", "update")
        if not _may(connection, where, group, "leases", verb, name="understudy")
    ]
    check = f"cluster: lease in {where}"
    if missing:
        remedy = "bind the chart's Role for the lease"
        return failed(check, f"it may not {', '.join(missing)} leases", remedy)
    return fine(check, "it may hold the lease")


def _may(  # noqa: PLR0913, PLR0917 - a right has these parts
    connection: Connection,
    namespace: str,
    group: str,
    resource: str,
    verb: str,
    subresource: str = "",
    *,
    name: str = "",
) -> bool:
    wanted = {"namespace": namespace, "group": group, "resource": resource, "verb": verb}
    if subresource:
        wanted["subresource"] = subresource
    if name and verb != "create":
        wanted["name"] = name
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    return bool(connection.create(_REVIEWS, review).get("status", {}).get("allowed"))
