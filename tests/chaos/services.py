"""What runs: each is started, killed, stopped and woken in the same way.

To add a service, write a class that gives `command`, and hand it to the scene; `faults` learns what
can be done to it from here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from controller.router.envoy import binary
from tests.chaos.hosts import Disk, Host
from tests.processes import Child

ROOT = Path(__file__).parents[2]
CLI = (sys.executable, "-m", "controller.cli")
API, XDS, USERS, ADMIN, METRICS, MODELS = 8800, 18_000, 8080, 9901, 9100, 9000
"""Ports; every host has its own."""

FLUSH_MS = 100
"""How often an Envoy writes its access log."""


class Service:
    """One program on a host, which is started again when it has ended.

    command    asked for at each start
    variables  of its environment
    as_user    the beginning of a command that runs it as somebody else
    """

    def __init__(
        self,
        name: str,
        host: Host,
        folder: Path,
        command: Callable[[], Sequence[object]],
        *,
        variables: dict[str, str] | None = None,
        as_user: Sequence[str] = (),
    ) -> None:
        self.name, self.host, self.folder = name, host, folder
        self.disk: Disk | None = None
        self.starts = self.deaths = 0
        self.is_wanted = False
        self._command, self._as_user = command, as_user
        given = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(variables or {})}
        self._variables = [f"{name}={value}" for name, value in given.items()]
        self._child: Child | None = None

    def start(self) -> None:
        """Start it; it is kept running from now on."""
        self.is_wanted = True
        prefix = (*self.host.inside, "env", *self._variables, *self._as_user)
        log = self.folder / f"{self.name}.err"
        self._child = Child(self.name, tuple(self._command()), log, prefix)
        self._child.start()
        self.starts += 1

    def kill(self) -> None:
        """SIGKILL, to it and to its children; it stays dead until `start`."""
        self.is_wanted = False
        self.signal(signal.SIGKILL)
        if self._child is not None:
            self._child.stop()

    def end(self, grace_s: float = 20) -> None:
        """SIGTERM."""
        self.is_wanted = False
        if self._child is not None:
            self._child.stop(grace_s)

    def signal(self, number: signal.Signals) -> None:
        """A signal to it and to its children."""
        if self._child is not None and self._child.is_running:
            for pid in _family(self._child.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def watch(self) -> None:
        """Start it again if it has ended by itself, as whatever runs it in earnest does."""
        if self.is_wanted and self._child is not None and not self._child.is_running:
            self.deaths += 1
            self._child.stop()
            self.start()

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        return self._child.pid if self._child is not None and self._child.is_running else None

    @property
    def said(self) -> str:
        """All that it wrote."""
        return (self.folder / f"{self.name}.err").read_text(errors="replace")


class Controller(Service):
    """`understudy serve` without a router of its own."""

    def __init__(
        self, host: Host, folder: Path, policies: Path, state: Path, stores: dict[str, str]
    ) -> None:
        self.stores, self.state = stores, state
        options = ("--policies", policies, "--state", state, "--router", "none", "--workers", 0)
        at = ("--api", f"{host.address}:{API}", "--xds", f"{host.address}:{XDS}", "-o", "json")
        command = (*CLI, "serve", *options, *at)
        super().__init__("controller", host, folder, lambda: command, variables=stores)
        self.url = f"http://{host.address}:{API}"

    def ask(self, path: str, body: object = None) -> Any:
        """The answer to a question; None where there is none."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, {"content-type": "application/json"})
        try:
            with urlopen(request, timeout=5) as answer:
                return json.loads(answer.read())
        except (OSError, URLError, ValueError):
            return None


class Worker(Service):
    """`understudy worker`, which folds partitions."""

    def __init__(
        self, name: str, host: Host, folder: Path, state: Path, stores: dict[str, str]
    ) -> None:
        command = (*CLI, "worker", "--state", state)
        super().__init__(name, host, folder, lambda: command, variables=stores)


class Router(Service):
    """An Envoy; its disk holds its access log."""

    def __init__(self, name: str, host: Host, folder: Path, controller: Host, disk: Disk) -> None:
        self.log = disk.folder / "access.log"
        self._document = folder / f"{name}.yaml"
        self._options = ("--xds", f"{controller.address}:{XDS}", "--node", name)
        super().__init__(name, host, folder, self._envoy)
        self.disk = disk

    def prepare(self) -> None:
        """Write its bootstrap file."""
        at = ("--listen", f"{self.host.address}:{USERS}", "--admin", f"127.0.0.1:{ADMIN}")
        shadow = ("--shadow", f"@{self.name}")
        options = (*CLI, "router-bootstrap", *self._options, *at, *shadow, "--log", self.log)
        made = subprocess.run(
            [*map(str, options)],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self._document.write_bytes(made.stdout)

    def _envoy(self) -> Sequence[object]:
        options = ("--concurrency", 1, "--log-level", "warning", "--use-dynamic-base-id")
        return (binary(), "-c", self._document, *options, "--file-flush-interval-msec", FLUSH_MS)


class Shipper(Service):
    """`understudy ship` beside a router."""

    def __init__(self, router: Router, to: str, *, rotate_mib: int, disk_mib: int) -> None:
        sizes = ("--rotate", rotate_mib, "--disk", disk_mib)
        places = ("--log", router.log, "--state", router.folder / f"{router.name}-ship")
        at = ("--admin", f"127.0.0.1:{ADMIN}", "--metrics", f"{router.host.address}:{METRICS}")
        command = (*CLI, "ship", "--to", to, *places, *at, *sizes)
        super().__init__(f"ship-{router.name}", router.host, router.folder, lambda: command)

    def figures(self) -> dict[str, float]:
        """What it says of itself; empty while it does not answer."""
        try:
            with urlopen(f"http://{self.host.address}:{METRICS}/metrics", timeout=5) as answer:
                rows = [row.split() for row in answer.read().decode().splitlines()]
        except OSError:
            return {}
        prefix = "understudy_ship_"
        return {n.removeprefix(prefix): float(v) for n, v in (r for r in rows if r[0] != "#")}

    @property
    def dropped(self) -> int:
        """Lines that it says are lost, over all its lives."""
        rows = [json.loads(row) for row in self.said.splitlines() if row.startswith("{")]
        said = [row for row in rows if row["event"].startswith(("lines are dropped", "a line is"))]
        return sum(row.get("lines", 1) for row in said)


def model_servers(host: Host, folder: Path, errors: Sequence[float]) -> Service:
    """An Envoy that answers on a port each, with this share of errors."""
    listeners = [_answering(host.address, MODELS + i, share) for i, share in enumerate(errors)]
    document = folder / "models.json"
    document.write_text(json.dumps({"static_resources": {"listeners": listeners}}))
    options = ("--concurrency", 1, "--log-level", "error", "--use-dynamic-base-id")
    return Service("models", host, folder, lambda: (binary(), "-c", document, *options))


def _answering(address: str, port: int, errors: float) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters"
    share = {"numerator": round(errors * 10_000), "denominator": "TEN_THOUSAND"}
    some = {"prefix": "/", "runtime_fraction": {"default_value": share}}
    routes = [
        {"match": some, "direct_response": {"status": 503, "body": {"inline_string": "no"}}},
        {
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": "yes"}},
        },
    ]
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"m{port}",
        "route_config": {"virtual_hosts": [{"name": "m", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{kind}.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": f"m{port}",
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _family(pid: int) -> list[int]:
    """A process and all that came from it, children last."""
    parents: dict[int, list[int]] = {}
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = each.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(each.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found
