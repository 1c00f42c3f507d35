"""A Kubernetes control plane on this machine: etcd, API server, controllers, scheduler, KWOK.

All are child processes on loopback ports; TLS everywhere, RBAC on, audit log on. What there is not:
kubelets (KWOK says what they would say, see `stages.yaml`, and `kubelet.py` runs real model servers
for chosen pods), a network between pods, kube-proxy, DNS, leader election of the components.

The controllers are those that a rollout of a Deployment needs. The one that taints nodes is left
out, and so is the admission plugin that makes it necessary: no heartbeats, no evictions.
"""

from __future__ import annotations

import base64
import functools
import itertools
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import yaml

from tests.cluster import build
from tests.cluster.audit import Audit
from tests.cluster.certificates import Authority
from tests.cluster.client import Client, Document, User, documents, path, write_kubeconfig
from tests.processes import Child, free_port, until

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
)
POD_RANGE = "10.233.{}.0/24"
SERVICE_RANGE = "10.232.0.0/24"

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
_START_WITHIN_S = 60


class ControlPlane:
    """One control plane; all its files lie in `folder`. `start` and `stop`, or `with`."""

    def __init__(self, folder: Path, tools: build.Tools | None = None) -> None:
        found = tools or build.find()
        assert found is not None, "the control plane's programs are not built; run `make cluster`"
        self.tools, self.folder = found, folder
        for name in ("logs", "kubeconfigs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._authority = Authority(folder / "certificates")
        self.port, self._etcd_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.authority = self._authority.certificate
        self.audit = Audit(folder / "logs" / "audit.jsonl")
        self._clients: dict[User, Client] = {}
        self._etcd_client: Client | None = None
        self._api_clients: list[ApiClient] = []
        self.admin = self.client(self.user("admin", ("system:masters",)))
        self._etcd = self._child("etcd", *self._etcd_flags())
        self._api_server = self._child("kube-apiserver", *self._api_server_flags())
        self._kwoks = itertools.count()
        self._others = [
            self._child("kube-controller-manager", *self._manager_flags()),
            self._child("kube-scheduler", *self._scheduler_flags()),
            self._kwok(),
        ]
        self._was_away = False

    # Life

    def start(self, nodes: int = 2) -> Self:
        """Start everything; returns when pods can run."""
        try:
            self._etcd.start()
            self._wait("etcd is healthy", self._is_etcd_healthy)
            self.start_api()
            for child in self._others:
                child.start()
            for number in range(nodes):
                self.add_node(f"node-{number + 1}")
            self._wait("nodes are ready", self._are_nodes_ready)
            self._wait("there is a service account", lambda: self._has_account("default"))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End everything. May be called twice."""
        for api in self._api_clients:
            api.close()  # type: ignore[no-untyped-call]
            api.rest_client.pool_manager.clear()
        for client in (*self._clients.values(), self._etcd_client):
            if client is not None:
                client.close()
        for child in (*self._others, self._api_server, self._etcd):
            child.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        """Fail with its last words if a process has ended."""
        for child in (self._etcd, self._api_server, *self._others):
            child.check()

    # Faults

    def stop_api(self) -> None:
        """The API server is gone: connections are reset, new ones refused. The rest lives on."""
        self._was_away = True
        self._api_server.stop()

    def start_api(self) -> None:
        """The API server is there (again), on the same port with the same data."""
        self._api_server.start()
        self._wait("the API server is ready", self._is_api_ready, self._api_server)

    def restart_controllers(self) -> None:
        """Start the controllers, the scheduler and KWOK anew.

        After an API server that was away for long they look at it again only once a minute. A KWOK
        that has just begun does not know which addresses pods have, so each has its own range.
        """
        for child in self._others:
            child.stop()
        self._others[-1] = self._kwok()
        for child in self._others:
            child.start()
        self._was_away = False

    def wake_controllers(self) -> None:
        """`restart_controllers`, if the API server was away since they were started."""
        if self._was_away:
            self.restart_controllers()

    def pause_api(self) -> None:
        """The API server hangs: connections stay open and nothing answers."""
        self._was_away = True
        self._api_server.signal(signal.SIGSTOP)

    def resume_api(self) -> None:
        """The API server goes on where it was paused."""
        self._api_server.signal(signal.SIGCONT)

    def compact(self) -> int:
        """Drop etcd's history; returns the revision that it begins with now.

        The API server answers most watches and pages from its own memory, which knows the past
        still: see `expire_watches`.
        """
        revision = int(self._ask_etcd("kv/range", {"key": _text("x")})["header"]["revision"])
        self._ask_etcd("kv/compaction", {"revision": revision, "physical": True})
        return revision

    def expire_watches(self) -> None:
        """After this, a watch or page from any older resourceVersion is answered with 410 Gone.

        Restarts the API server: its memory of recent events begins anew, at a revision of now.
        """
        stamp = {"metadata": {"annotations": {"test.understudy.dev/at": str(time.time_ns())}}}
        self.admin.patch(path("namespaces", name="default"), stamp)
        self.compact()
        self.stop_api()
        self.start_api()

    # Users

    def user(self, name: str, groups: tuple[str, ...] = ()) -> User:
        """A user with a client certificate; without groups, RBAC lets it do next to nothing."""
        return User(name, pair=self._authority.client(name, groups))

    def service_account(self, namespace: str, name: str, seconds: int = 3600) -> User:
        """A ServiceAccount, made if it is missing, with a fresh token (at least 600 s)."""
        accounts = path("serviceaccounts", namespace)
        self.admin.call("POST", accounts, {"metadata": {"name": name}})
        request = {"spec": {"expirationSeconds": seconds}}
        answer = self.admin.create(f"{accounts}/{name}/token", request)
        token = answer["status"]["token"]
        return User(f"system:serviceaccount:{namespace}:{name}", token=token)

    def grant(self, user: User, *rules: Document, namespace: str = "") -> None:
        """RBAC rules for a user, in one namespace or (default) everywhere.

        `grant(user, {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]})`
        """
        kind = "Role" if namespace else "ClusterRole"
        name = f"test-{time.time_ns()}"
        group = "rbac.authorization.k8s.io"
        meta = {"metadata": {"name": name}}
        self.admin.create(path(f"{kind.lower()}s", namespace), meta | {"rules": list(rules)})
        self.admin.create(
            path(f"{kind.lower()}bindings", namespace),
            meta
            | {
                "roleRef": {"apiGroup": group, "kind": kind, "name": name},
                "subjects": [{"apiGroup": group, "kind": "User", "name": user.name}],
            },
        )

    def client(self, user: User) -> Client:
        """A user's requests, one client per user."""
        if user not in self._clients:
            self._clients[user] = Client(self.url, self.authority, user)
        return self._clients[user]

    def api(self, user: User | None = None, agent: str = "understudy-tests") -> ApiClient:
        """The Kubernetes library's client for a user (admin by default); closed by `stop`."""
        # Its import takes a second, which tests that do without it should not pay.
        from kubernetes.client import ApiClient, Configuration  # noqa: PLC0415

        who = user or self.admin.user
        given: dict[str, Any] = {}
        if who.token:
            given["api_key"] = {"authorization": f"Bearer {who.token}"}
        if who.pair:
            given |= {"cert_file": str(who.pair.certificate), "key_file": str(who.pair.key)}
        configuration = Configuration(host=self.url, ssl_ca_cert=str(self.authority), **given)
        client = ApiClient(configuration)
        client.user_agent = agent
        self._api_clients.append(client)
        return client

    def kubeconfig(self, into: Path, user: User | None = None, namespace: str = "default") -> Path:
        """A kubeconfig file for a user (admin by default); gives the path back."""
        return write_kubeconfig(into, self.url, self.authority, user or self.admin.user, namespace)

    # Programs

    def kubectl(self, *arguments: object, user: User | None = None, given: str = "") -> str:
        """What kubectl prints; `given` is its standard input."""
        return self._run("kubectl", arguments, user, given)

    def helm(self, *arguments: object, user: User | None = None) -> str:
        """What helm prints."""
        return self._run("helm", arguments, user, "")

    # Things

    def add_node(self, name: str) -> None:
        """A simulated node; ready within a second or so."""
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
        self.admin.create(path("nodes"), {"metadata": {"name": name, "labels": labels}})

    def install_crds(self, family: str) -> None:
        """The definitions of `gateway` (Gateway API) or `kserve`; without effect if installed."""
        where = path("customresourcedefinitions")
        for file in self.tools.definitions(family):
            group, _, plural = file.stem.partition("_")
            name = f"{where}/{plural}.{group}"
            # One of them is a megabyte of YAML, which takes a second to read.
            if self.admin.call("GET", name)[0] == 404:
                for document in documents(file):
                    self.admin.create(where, document)
            until(f"{name} is established", functools.partial(self._is_established, name), 30, 0.2)

    # Inside

    def _run(
        self, program: str, arguments: tuple[object, ...], user: User | None, given: str
    ) -> str:
        who = user or self.admin.user
        file = self.folder / "kubeconfigs" / f"{who.name.replace(':', '-')}.yaml"
        done = subprocess.run(
            [self.tools[program], *map(str, arguments)],
            env={
                "KUBECONFIG": str(self.kubeconfig(file, who)),
                "HOME": str(self.folder),
                "PATH": "/usr/bin:/bin",
            },
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stderr}"
        return done.stdout

    def _wait(self, what: str, is_so: Any, *children: Child) -> None:
        def checked() -> bool:
            for child in children or (self._etcd,):
                child.check()
            try:
                return bool(is_so())
            except httpx.TransportError:
                return False

        try:
            until(what, checked, _START_WITHIN_S, 0.03)
        except AssertionError as exc:
            logs = sorted((self.folder / "logs").glob("*.log"))
            tails = (f"{log.name}:\n" + "\n".join(_tail(log)) for log in logs)
            raise AssertionError(f"{exc}\n" + "\n".join(tails)) from exc

    def _is_etcd_healthy(self) -> bool:
        return bool(self._ask_etcd("maintenance/status", {})["leader"] != "0")

    def _is_api_ready(self) -> bool:
        return self.admin.call("GET", "/readyz")[0] == 200

    def _are_nodes_ready(self) -> bool:
        nodes = self.admin.items(path("nodes"))
        return all(has_condition(node, "Ready") for node in nodes)

    def _has_account(self, namespace: str) -> bool:
        return self.admin.call("GET", path("serviceaccounts", namespace, "default"))[0] == 200

    def _is_established(self, where: str) -> bool:
        return has_condition(self.admin.get(where), "Established")

    def _ask_etcd(self, what: str, body: Document) -> Document:
        if self._etcd_client is None:
            user = User("tests", pair=self._authority.client("etcd-client"))
            url = f"https://127.0.0.1:{self._etcd_port}"
            self._etcd_client = Client(url, self.authority, user)
        return self._etcd_client.create(f"/v3/{what}", body)

    def _child(self, name: str, *flags: str) -> Child:
        log = self.folder / "logs" / f"{name}.log"
        return Child(name, (self.tools[name], *flags), log)

    def _component(self, user: str, groups: tuple[str, ...] = ()) -> str:
        file = self.folder / "kubeconfigs" / f"{user.replace(':', '-')}.yaml"
        return f"--kubeconfig={self.kubeconfig(file, self.user(user, groups))}"

    def _etcd_flags(self) -> list[str]:
        pair = self._authority.server("etcd", ("127.0.0.1", "localhost"))
        own, peer = f"https://127.0.0.1:{self._etcd_port}", f"https://127.0.0.1:{free_port()}"
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={own}",
            f"--advertise-client-urls={own}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            *(
                f"--{prefix}{name}={value}"
                for prefix in ("", "peer-")
                for name, value in (
                    ("cert-file", pair.certificate),
                    ("key-file", pair.key),
                    ("trusted-ca-file", self.authority),
                    ("client-cert-auth", "true"),
                )
            ),
            "--unsafe-no-fsync",  # a crash of the machine ends the tests as well
            "--log-level=warn",
        ]

    def _api_server_flags(self) -> list[str]:
        pair = self._authority.server(
            "kube-apiserver", ("127.0.0.1", "localhost", "kubernetes.default.svc", "10.232.0.1")
        )
        etcd = self._authority.client("kube-apiserver-etcd-client")
        accounts = self._authority.key("service-accounts")
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(_AUDIT_POLICY))
        return [
            "--bind-address=127.0.0.1",
            # A loopback address may not be an endpoint, so `kubernetes` gets none.
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self.port}",
            f"--tls-cert-file={pair.certificate}",
            f"--tls-private-key-file={pair.key}",
            f"--client-ca-file={self.authority}",
            f"--etcd-servers=https://127.0.0.1:{self._etcd_port}",
            f"--etcd-cafile={self.authority}",
            f"--etcd-certfile={etcd.certificate}",
            f"--etcd-keyfile={etcd.key}",
            "--etcd-compaction-interval=0",  # tests compact when they mean to
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=TaintNodesByCondition",
            f"--service-account-issuer={self.url}",
            f"--service-account-key-file={accounts}",
            f"--service-account-signing-key-file={accounts}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.folder / 'logs' / 'audit.jsonl'}",
            "--audit-log-maxsize=0",
            "--profiling=false",
        ]

    def _manager_flags(self) -> list[str]:
        return [
            # One user for all controllers needs the rights of all of them.
            self._component("system:kube-controller-manager", ("system:masters",)),
            f"--controllers={','.join(CONTROLLERS)}",
            f"--root-ca-file={self.authority}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--profiling=false",
        ]

    def _scheduler_flags(self) -> list[str]:
        return [
            self._component("system:kube-scheduler"),
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--profiling=false",
        ]

    def _kwok(self) -> Child:
        return self._child(
            "kwok",
            self._component("kwok", ("system:masters",)),
            f"--config={Path(__file__).parent / 'stages.yaml'}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=0",
            f"--cidr={POD_RANGE.format(next(self._kwoks))}",
            "--node-ip=10.231.255.1",
        )


def has_condition(document: Document, name: str, status: str = "True") -> bool:
    """Whether a condition of an object's status is so."""
    conditions = document.get("status", {}).get("conditions") or []
    return any(c["type"] == name and c["status"] == status for c in conditions)


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-10:]


def _text(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
