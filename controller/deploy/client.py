"""The one place that talks to the API server.

Objects are plain mappings, as they came: the typed models of the `kubernetes` package take ten
times their memory, and a server-side apply must say exactly the fields that it means, no defaults.
From the package come the reading of configurations, TLS, credentials that renew themselves, the
pool of connections and the reading of a watch.

Every call has a timeout, and every fault is one of ours:

    out of reach, 429, 5xx              Retryable
    409, somebody changed it meanwhile  Stale (Retryable): read again
    410, the position is too old        Gone (Retryable): list again
    404                                 NotFound (Permanent)
    409, it exists already              Exists (Permanent)
    409, another manager owns a field   FieldConflict (Conflict), which names managers and fields
    401, 403, 400, 422 and the rest     Permanent, in the API server's own words

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration
from kubernetes.watch import Watch
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

from controller.errors import Conflict, Permanent, Retryable

Object: TypeAlias = dict[str, Any]
"""An object of the API, as JSON."""

MANAGER: Final = "understudy"
"""Our field manager."""

CONNECT_S: Final = 3.0
READ_S: Final = 10.0
WATCH_S: Final = 300
"""How long the API server may keep one watch open; it is then resumed."""
SILENCE_S: Final = 150.0
"""Longest silence of a watch: bookmarks come about once a minute."""
PAGE: Final = 500

_UNTYPED: Final = "failed to create typed patch object"
"""What an apply with a field that does not exist is answered with, as a 500 (1.36)."""
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

Verb: TypeAlias = Literal["get", "list", "watch", "create", "apply", "replace", "delete"]
Clock: TypeAlias = Callable[[], float]


class NotFound(Permanent):
    """There is no such object, or no such resource."""


class Exists(Permanent):
    """The object that was to be created is there already."""


class Stale(Retryable):
    """Somebody changed the object since it was read."""


class Gone(Retryable):
    """The position in the history is too old: list again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A field that somebody else manages; `manager` with its operation, as the server says it."""

    field: str
    manager: str


class FieldConflict(Conflict):
    """Other managers own fields that were to be applied."""

    def __init__(self, message: str, claims: tuple[Claim, ...]) -> None:
        self.claims = claims
        super().__init__(message)


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
        if not 200 <= answer.status <= 299:
            raise self._fault(answer.status, data, answer.headers)
        self.hear()
        return cast("Object", msgspec.json.decode(data))

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
        except ApiException as exc:
            raise unreachable(self.host, exc) from exc
        except (HTTPError, OSError) as exc:
            raise unreachable(self.host, exc) from exc


class Watching:
    """One open watch: an iterator of changes. `stop` ends it, from any thread."""

    def __init__(
        self,
        connection: Connection,
        path: str,
        query: Mapping[str, str],
        opened: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._path = path
        self._query = query
        self._opened = opened
        self._answer: HTTPResponse | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """End the iteration, also where it waits for the API server.

        `Watch.stop` would not do: it is forgotten when it comes before the answer does.
        """
        self._is_stopped = True
        if self._answer is not None:
            _hang_up(self._answer)

    def __iter__(self) -> Iterator[Change]:
        """Changes and bookmarks as they come.

        Raises `Gone` when the position is too old, `Retryable` when the connection is lost.
        """
        try:
            for event in Watch().stream(self._open, timeout_seconds=WATCH_S):
                if self._is_stopped:
                    return
                self._connection.hear()
                if event is not None:
                    yield Change(event["type"], event["object"])
        except ApiException as exc:
            raise _of_status(int(exc.status or 0), str(exc.reason)) from exc
        except (HTTPError, OSError) as exc:
            if not self._is_stopped:
                raise unreachable(self._connection.host, exc) from exc

    def _open(self, *, timeout_seconds: int, **_kwargs: object) -> HTTPResponse:
        query = {**self._query, "watch": "true", "timeoutSeconds": str(timeout_seconds)}
        self._answer = self._connection.stream(self._path, query)
        if self._is_stopped:
            _hang_up(self._answer)
        self._opened()
        return self._answer


def _hang_up(answer: HTTPResponse) -> None:
    """Close the socket under an answer, which ends a read that is waiting in another thread."""
    sock = getattr(answer.connection, "sock", None)
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def unreachable(host: str, exc: Exception) -> Retryable:
    """The API server did not answer."""
    why = getattr(exc, "reason", None) or exc
    return Retryable(f"the API server at {host} cannot be reached: {why}")


def fault(status: int, data: bytes, headers: Mapping[str, str]) -> Exception:
    """What an answer that is no success means."""
    body: Object = {}
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        decoded = msgspec.json.decode(data)
        body = decoded if isinstance(decoded, dict) else {}
    message = str(body.get("message") or data[:200].decode(errors="replace") or "no reason given")
    reason = str(body.get("reason", ""))
    claims = tuple(
        Claim(str(cause.get("field", "")), str(cause.get("message", "")))
        for cause in (body.get("details") or {}).get("causes") or []
        if cause.get("reason") == "FieldManagerConflict"
    )
    if status == 409 and claims:
        return FieldConflict(message, claims)
    after = headers.get("Retry-After", "")
    return _of_status(status, message, reason, float(after) if after.isdecimal() else 1.0)


def _of_status(status: int, message: str, reason: str = "", after_s: float = 1.0) -> Exception:
    if status == 404:
        return NotFound(message)
    if status == 410:
        return Gone(message)
    if status == 409:
        return Exists(message) if reason == "AlreadyExists" else Stale(message)
    if status == 429 or (status >= 500 and _UNTYPED not in message):
        return Retryable(f"the API server answers {status}: {message}", after_s=after_s)
    return Permanent(f"the API server answers {status}: {message}")


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
