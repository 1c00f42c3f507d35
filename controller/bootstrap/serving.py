"""Starts everything in order, and ends it in an order that loses nothing.

Starts, from the ground up: the state folder's lock, log, ledger, control plane, Envoy, wheel, API.
Ends with the router first (it drains), then a last turn of the wheel that reads what the router
wrote, then the API, then the stores.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
import time  # noqa: TID251 - the wall clock is taken here and handed to the loop
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import structlog

from controller.api.app import create_app
from controller.api.serving import Server
from controller.api.serving import server as api_server
from controller.bootstrap.folder import read_policies
from controller.bootstrap.routers import EnvoyRouter, chosen, memory_of, sources_of, url_of
from controller.core.policy import Policy
from controller.errors import InvariantError, Permanent, UnderstudyError
from controller.ledger import Ledger, open_ledger
from controller.loop.actor import Actor
from controller.loop.backend import LoopBackend
from controller.loop.carriers import Carriers
from controller.loop.cluster import Cluster
from controller.loop.fold import Fold, PolicySource, Turned
from controller.loop.standby import StandbyWheel
from controller.loop.wheel import Wheel
from controller.notify import Notifier
from controller.router.envoy import LocalEnvoy
from controller.router.fleet import Fleet
from controller.router.server import ControlPlane
from controller.settings import Address, Settings, StoreUrls, configure_logs
from controller.stream import Stream, open_stream

if TYPE_CHECKING:
    from controller.bootstrap.cluster import ClusterSide

_LOOK_AGAIN_S = 0.05
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

log = structlog.get_logger()


def serve(settings: Settings, *, is_json: bool) -> int:
    """Run until SIGTERM or Ctrl-C; the exit code."""
    configure_logs()
    if settings.namespaces is not None:
        settings.state.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_serve(settings, [], is_json=is_json))
    sources = read_policies(settings.policies)
    for source in sources:
        if source.policy.spec.deploy is not None:
            log.warning("deploy is not carried out without --kubernetes", model=source.policy.model)
    with _locked(settings.state):
        return asyncio.run(_serve(settings, sources, is_json=is_json))


async def _serve(settings: Settings, sources: Sequence[PolicySource], *, is_json: bool) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        stores = _stores(settings, stack)
        envoy = chosen(settings)
        plane = ControlPlane(memory=memory_of(settings.state, envoy))
        router = EnvoyRouter(plane, envoy)
        company = Company(Notifier(previous=stores.ledger.decision, clock=time.time))
        stack.push_async_callback(company.notifier.stop)
        backend = LoopBackend(
            [source.policy.model for source in sources],
            ledger=stores.ledger,
            router=router,
            clock=time.time,
            waits_for_routers=isinstance(envoy, LocalEnvoy),
            worries=company.worries,
        )
        server = _server(settings.api, backend)
        tasks: list[asyncio.Task[None]] = []
        if settings.namespaces is not None:
            from controller.bootstrap.cluster import ClusterSide  # noqa: PLC0415 - takes 0.6 s and 39 MB

            cluster = company.cluster = ClusterSide(settings.namespaces, stores.ledger, backend)
            cluster.start()
            stack.callback(cluster.stop)
        stack.push_async_callback(_end, server, company, tasks)
        if company.cluster is not None:
            cluster = company.cluster
            tasks.append(asyncio.create_task(server.serve()))
            await _stand_by(cluster, stores, backend, tasks, stopping)
            sources = cluster.sources()
        else:
            holder = f"{socket.gethostname()}_{os.getpid()}"
            await asyncio.to_thread(stores.ledger.begin_term, holder)
        if stopping.is_set():
            server.stop()
            await asyncio.gather(*tasks)
            return 0
        wheel = _wheel(sources, stores, router, envoy, backend, company)
        await _start_router(settings.xds, plane, envoy, stores.ledger, stack)
        tasks.append(asyncio.create_task(wheel.run()))
        await _until(lambda: backend.is_complete, tasks, stopping)
        if company.cluster is None:
            tasks.append(asyncio.create_task(server.serve()))
        await _until(lambda: server.started and _is_ready(backend), tasks, stopping)
        if not stopping.is_set():
            _announce(server.url, url_of(envoy), is_json=is_json)
        await _until(lambda: False, tasks, stopping)
        if isinstance(envoy, LocalEnvoy):
            await envoy.stop()
        wheel.stop()
        server.stop()
        await asyncio.gather(*tasks)
    return 0


async def _end(server: Server, company: Company, tasks: Sequence[asyncio.Task[None]]) -> None:
    """End what still turns after one of the tasks has failed; whose fault it was is said elsewhere.

    A task that the end of the event loop cancels would say so with a trace.
    """
    if company.wheel is not None:
        company.wheel.stop()
    server.stop()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _stand_by(
    cluster: ClusterSide,
    stores: Stores,
    backend: LoopBackend,
    tasks: Sequence[asyncio.Task[None]],
    stopping: asyncio.Event,
) -> None:
    """Answer questions until this controller leads and has looked at the cluster."""
    standby = StandbyWheel(
        cluster.sources,
        stream=stores.stream,
        ledger=stores.ledger,
        leader=lambda: cluster.lease.holder,
        told=backend.told,
        worried=backend.worried,
    )
    backend.wheel = standby
    looking = asyncio.create_task(standby.run())
    try:
        parts = [*tasks, looking]
        await _until(lambda: cluster.is_leading and cluster.is_known, parts, stopping)
    finally:
        standby.stop()
        await looking
    if not stopping.is_set():
        term = await asyncio.to_thread(stores.ledger.begin_term, cluster.identity)
        log.info("leading", identity=cluster.identity, term=term)


def _wheel(  # noqa: PLR0913, PLR0917 - where everything meets
    sources: Sequence[PolicySource],
    stores: Stores,
    router: EnvoyRouter,
    envoy: LocalEnvoy | Fleet,
    backend: LoopBackend,
    company: Company,
) -> Wheel:
    """The wheel, which from now on is what the API asks."""
    cluster = company.cluster
    actor = None
    if cluster is not None:
        actor = Actor(
            stores.ledger,
            cluster.target_of,
            worried=backend.worried,
            conflicted=cluster.conflicted,
        )

    def told(model: str, turned: Turned) -> None:
        backend.told(model, turned)
        company.turned(turned)

    company.wheel = wheel = Wheel(
        [Fold(source, stores.stream, stores.ledger) for source in sources],
        stream=stores.stream,
        ledger=stores.ledger,
        router=router if cluster is None else Carriers(router, cluster.routers),
        sources=sources_of(envoy, stores.stream),
        clock=time.time,
        told=told,
        worried=backend.worried,
        cluster=None if cluster is None else Cluster(cluster.discovery),
        actor=actor,
    )
    backend.wheel = wheel
    if cluster is not None:
        cluster.drive(wheel)
    return wheel


@dataclass(slots=True)
class Company:
    """Who is told of each turn beside the API, and what does not work there."""

    notifier: Notifier
    cluster: ClusterSide | None = None
    wheel: Wheel | None = None
    policies: dict[str, Policy] = field(default_factory=dict)

    def turned(self, turned: Turned) -> None:
        """A turn is over."""
        self.policies[turned.report.model] = turned.policy
        self.notifier.told(turned.policy, turned.decisions)
        if self.cluster is not None:
            self.cluster.turned(turned)

    def worries(self, model: str) -> dict[str, str | None]:
        """What does not work for a model, by who should have done it."""
        found = {"notify": self.notifier.trouble(model)}
        if self.wheel is not None:
            found["deploy"] = self.wheel.deploy_trouble(model)
        policy = self.policies.get(model)
        if self.cluster is not None and policy is not None:
            found |= self.cluster.worries(policy)
        return found


@dataclass(frozen=True, slots=True)
class Stores:
    """What is kept: the log of events, and the ledger of decisions."""

    stream: Stream
    ledger: Ledger


def _stores(settings: Settings, stack: AsyncExitStack) -> Stores:
    urls = settings.stores or StoreUrls.of(settings.state)
    stream = open_stream(urls.stream)
    stack.callback(stream.close)
    ledger = _ledger(urls.ledger)
    stack.callback(ledger.close)
    return Stores(stream, ledger)


def _ledger(url: str) -> Ledger:
    """The ledger, whose file an error names when it is one that cannot be used."""
    try:
        return open_ledger(url, clock=time.time)
    except Permanent as exc:
        if not url.startswith("sqlite:///"):
            raise
        file = url.removeprefix("sqlite:///")
        remedy = "move the file away and restore it from a backup"
        raise Permanent(f"{file} cannot be used ({exc}): {remedy}") from exc


def _server(address: Address, backend: LoopBackend) -> Server:
    """The API's server, bound before anything starts, so that a taken port is said at once."""
    is_local = address.host in _LOOPBACK
    app = create_app(backend, hosts=_LOOPBACK if is_local else None)
    try:
        return api_server(app, host=address.host, port=address.port)
    except OSError as exc:
        raise Permanent(f"the API address {address} cannot be bound: {exc}") from exc


async def _start_router(
    xds: Address,
    plane: ControlPlane,
    envoy: LocalEnvoy | Fleet,
    ledger: Ledger,
    stack: AsyncExitStack,
) -> None:
    unix_path = envoy.xds_path if isinstance(envoy, LocalEnvoy) else None
    bound = await plane.start(xds.host, xds.port, unix_path=unix_path)
    stack.push_async_callback(plane.stop)
    log.info("control plane", xds=bound)
    if isinstance(envoy, LocalEnvoy):
        await envoy.start()
        stack.push_async_callback(_end_router, envoy, ledger)


async def _end_router(envoy: LocalEnvoy, ledger: Ledger) -> None:
    """End the Envoy, unless another controller of this state folder leads and has taken it over."""
    with suppress(UnderstudyError):
        if await asyncio.to_thread(ledger.is_current):
            await envoy.stop()


async def _until(
    is_so: Callable[[], bool], tasks: Sequence[asyncio.Task[None]], stopping: asyncio.Event
) -> None:
    """Wait until something is so or the process is to stop; a task that ended is an error."""
    while not is_so() and not stopping.is_set():
        for task in tasks:
            if task.done():
                task.result()
                raise InvariantError("a part of the controller ended by itself")
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _LOOK_AGAIN_S)


def _is_ready(backend: LoopBackend) -> bool:
    return all(value is True for value in backend.ready().values())


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """The state folder, which one controller at a time may use."""
    with _lock_file(state) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise Permanent(
                f"another `understudy serve` uses the state folder {state}: end it, or give --state"
            ) from exc
        yield


def _lock_file(state: Path) -> TextIO:
    try:
        state.mkdir(parents=True, exist_ok=True)
        return (state / "lock").open("w")
    except OSError as exc:
        raise Permanent(f"the state folder {state} cannot be written: {exc}; give --state") from exc


def _announce(api: str, router: str | None, *, is_json: bool) -> None:
    if is_json:
        line = json.dumps({"ready": True, "api": api, "router": router}, separators=(",", ":"))
    else:
        line = f"ready: dashboard and API {api}, router {router or 'elsewhere'}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
