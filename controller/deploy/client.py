"""The one place that talks to the API server.

Objects are plain mappings, as they came: the typed models of the `kubernetes` package take ten
times their memory, and a server-side apply must say exactly the fields that it means, no defaults.
From the package come the reading of configurations, TLS, credentials that renew themselves, the
pool of connections and the reading of a watch.

Every call has a timeout, and every fault is one of ours (`faults.py`).

`heard` is when the API server last answered anybody with sense: who wonders whether it is still
there asks that first, and probes only when nobody else has talked to it.

Why `kubernetes.informer` is not used (37.0): it asks for no bookmarks and no pages, wants typed
models, reads without a timeout, so a connection that died silently stays open for ever, and when
the API server is away its watch is tried again at once, without a pause, with a trace in the log
each time. `kubernetes.watch` is used for what it does well, one connection; when to
list, resume and wait is `watching.py`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
import structlog
from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

from controller.deploy.faults import fault, unreachable
from controller.deploy.objects import Listing, Object
from controller.deploy.open_watch import Watching
from controller.deploy.words import MANAGER
from controller.errors import BackendError, Permanent

CONNECT_S: Final = 3.0
READ_S: Final = 10.0
SILENCE_S: Final = 150.0
"""Longest silence of a watch: bookmarks come about once a minute."""
PAGE: Final = 500

_PING_S: Final = (1.0, 2.0)
_POOL: Final = 32
_IN_CLUSTER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_KEEPALIVE: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
)
"""A peer that vanished without a word is noticed after 15 s, also by a watch, which only reads."""

log = structlog.get_logger()

Verb: TypeAlias = Literal["get", "list", "watch", "create", "apply", "replace", "delete"]
Clock: TypeAlias = Callable[[], float]


class Connection:
    """One API server, as one user. Any thread may call."""

    def __init__(self, configuration: Configuration, *, namespace: str, clock: Clock) -> None:
        configuration.retries = False
        configuration.connection_pool_maxsize = _POOL
        configuration.socket_options = list(_KEEPALIVE)
        self._api = ApiClient(configuration)
        self._api.user_agent = f"understudy/{metadata.version('understudy')}"
        self._clock = clock
        self._lock = threading.Lock()
        self._requests: Counter[tuple[Verb, str]] = Counter()
        self.namespace = namespace
        self.host = str(configuration.host)
        self.heard = float("-inf")
        self.said_at: str | None = None
        """The `Date` of its last answer."""

    @classmethod
    def from_settings(
        cls, *, kubeconfig: Path | None = None, context: str | None = None, clock: Clock
    ) -> Connection:
        """As the Pod's service account, or else as a kubeconfig says (`KUBECONFIG`, `~/.kube`).

        clock  monotonic seconds
        """
        configuration = Configuration()
        is_inside = "KUBERNETES_SERVICE_HOST" in os.environ and _IN_CLUSTER.exists()
        try:
            if is_inside and kubeconfig is None:
                config.load_incluster_config(client_configuration=configuration)
                namespace = (_IN_CLUSTER / "namespace").read_text(encoding="utf-8").strip()
            else:
                file = None if kubeconfig is None else str(kubeconfig)
                config.load_kube_config(file, context, configuration, persist_config=False)
                namespace = _namespace(file, context)
        except (config.ConfigException, OSError) as exc:
            raise Permanent(f"no way to the Kubernetes API is configured: {exc}") from exc
        return cls(configuration, namespace=namespace, clock=clock)

    def close(self) -> None:
        """Close the pool of connections."""
        self._api.close()

    @property
    def requests(self) -> dict[tuple[Verb, str], int]:
        """How many requests were made, by verb and resource."""
        with self._lock:
            return dict(self._requests)

    @property
    def silent_s(self) -> float:
        """How long ago the API server last answered."""
        return self._clock() - self.heard

    def ping(self) -> None:
        """Ask whether it is ready; `heard` says so when it answers, and else this raises."""
        answer = self._send("get", "GET", "/readyz", query={}, timeout=_PING_S)
        if not 200 <= answer.status <= 299:
            raise self._fault(answer.status, self._read(answer), answer.headers)
        self._read(answer)
        self.hear()

    def probe(self, after_s: float) -> None:
        """Ask whether it is there if it has been silent for so long; `silent_s` says the rest."""
        if self.silent_s <= after_s:
            return
        try:
            self.ping()
        except BackendError as exc:
            log.debug("the API server does not answer", reason=str(exc))

    def get(self, path: str) -> Object:
        """One object."""
        return self._json("get", "GET", path)

    def list(self, path: str, *, labels: str = "", fields: str = "") -> Listing:
        """All objects of a resource that fit the selectors, in pages."""
        query = _query(labelSelector=labels, fieldSelector=fields, limit=str(PAGE))
        items: list[Object] = []
        page: Object = {"metadata": {"continue": ""}}
        while True:
            query["continue"] = page["metadata"].get("continue", "")
            page = self._json("list", "GET", path, query=_query(**query))
            items += page.get("items") or []
            if not page["metadata"].get("continue"):
                return Listing(items, str(page["metadata"]["resourceVersion"]))

    def apply(
        self,
        path: str,
        body: Object,
        *,
        subresource: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply as `understudy`; gives the object as it is then.

        `body` names all fields that we mean to own: one that we owned and that is missing now is
        removed. Raises `FieldConflict` when others own one, unless `force` takes it from them.
        """
        query = _query(
            fieldManager=MANAGER,
            force="true" if force else "",
            dryRun="All" if dry_run else "",
            fieldValidation="Strict",
        )
        where = f"{path}/{subresource}" if subresource else path
        return self._json("apply", "PATCH", where, query=query, body=msgspec.json.encode(body))

    def create(self, path: str, body: Object) -> Object:
        """A new object; `Exists` when it is there. `path` is that of the resource."""
        return self._json("create", "POST", path, query={"fieldManager": MANAGER}, body=body)

    def replace(self, path: str, body: Object) -> Object:
        """Write a whole object; `Stale` when its resourceVersion is not the present one."""
        return self._json("replace", "PUT", path, query={"fieldManager": MANAGER}, body=body)

    def delete(self, path: str, *, uid: str = "", propagation: str = "Background") -> None:
        """Delete an object; with `uid` only that one, not another of the same name."""
        body: Object = {"propagationPolicy": propagation}
        if uid:
            body["preconditions"] = {"uid": uid}
        self._json("delete", "DELETE", path, body=body)

    def watch(
        self,
        path: str,
        *,
        version: str,
        labels: str = "",
        fields: str = "",
        opened: Callable[[], None] = lambda: None,
    ) -> Watching:
        """What happens after `version`; ends by itself after some minutes, or by `stop`.

        opened  called when the API server has accepted it
        """
        query = _query(
            labelSelector=labels,
            fieldSelector=fields,
            resourceVersion=version,
            allowWatchBookmarks="true",
        )
        return Watching(self, path, query, opened)

    def stream(self, path: str, query: Mapping[str, str]) -> HTTPResponse:
        """The open answer to a watch."""
        answer = self._send("watch", "GET", path, query=query, timeout=(CONNECT_S, SILENCE_S))
        if not 200 <= answer.status <= 299:
            raise self._fault(answer.status, self._read(answer), answer.headers)
        self.hear()
        return cast("HTTPResponse", answer.response)

    def hear(self) -> None:
        """Note that the API server spoke."""
        self.heard = self._clock()

    def _json(
        self,
        verb: Verb,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | bytes | None = None,
    ) -> Object:
        answer = self._send(verb, method, path, query=query or {}, body=body)
        data = self._read(answer)
        self.said_at = answer.headers.get("Date")
        if not 200 <= answer.status <= 299:
            raise self._fault(answer.status, data, answer.headers)
        try:
            found = msgspec.json.decode(data)
        except msgspec.DecodeError as exc:  # who stands in for it, such as a page of maintenance
            raise unreachable(self.host, exc) from exc
        self.hear()
        return cast("Object", found)

    def _read(self, answer: Any) -> bytes:
        try:
            return bytes(answer.read())
        except (HTTPError, OSError) as exc:
            raise unreachable(self.host, exc) from exc

    def _fault(self, status: int, data: bytes, headers: Mapping[str, str]) -> Exception:
        if status < 500 and status != 429:
            self.hear()
        return fault(status, data, headers)

    def _send(  # noqa: PLR0913 - a request has these parts
        self,
        verb: Verb,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: Object | bytes | None = None,
        timeout: tuple[float, float] = (CONNECT_S, READ_S),
    ) -> Any:
        with self._lock:
            self._requests[verb, _resource(path)] += 1
        headers = {"Accept": "application/json"}
        if body is not None:
            is_apply = isinstance(body, bytes)
            headers["Content-Type"] = (
                "application/apply-patch+yaml" if is_apply else "application/json"
            )
        try:
            request = self._api.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            return self._api.call_api(*request, _request_timeout=timeout)
        except (ApiException, HTTPError, OSError, config.ConfigException) as exc:
            raise unreachable(self.host, exc) from exc  # or our credentials cannot be renewed


def _query(**values: str) -> dict[str, str]:
    """Those that are given."""
    return {name: value for name, value in values.items() if value}


def _resource(path: str) -> str:
    """The resource that a path is about, with its subresource: `deployments`, `pods/status`."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:] if parts[0] == "apis" else parts
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    return "/".join([*rest[:1], *rest[2:]])


def _namespace(file: str | None, context: str | None) -> str:
    """The namespace of a kubeconfig's context."""
    every, active = config.list_kube_config_contexts(file)
    chosen = next((each for each in every if each["name"] == context), active)
    return str((chosen.get("context") or {}).get("namespace") or "default")
