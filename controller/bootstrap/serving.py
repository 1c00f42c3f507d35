"""Starts everything in order, and ends it in an order that loses nothing.

Starts, from the ground up: the state folder's lock, log, ledger, control plane, Envoy, wheel, API.
Ends with the router first (it drains), then a last turn of the wheel that reads what the router
wrote, then the API, then the stores.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time  # noqa: TID251 - the wall clock is taken here and handed to the loop
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import structlog

from controller.api.app import create_app
from controller.api.serving import Server
from controller.api.serving import server as api_server
from controller.bootstrap.company import Company
from controller.bootstrap.ending import Ending
from controller.bootstrap.folder import read_policies
from controller.bootstrap.patience import patiently
from controller.bootstrap.routers import EnvoyRouter, chosen, memory_of, sources_of, url_of
from controller.bootstrap.stores import Stores, locked, open_stores
from controller.bootstrap.workers import Children, wanted
from controller.errors import InvariantError, Permanent, UnderstudyError
from controller.loop.actor import Actor
from controller.loop.backend import LoopBackend
from controller.loop.carriers import Carriers
from controller.loop.cluster import Cluster
from controller.loop.feeds import Feeds
from controller.loop.fold import Fold, PolicySource, Turned
from controller.loop.reach import Reach
from controller.loop.standby import StandbyWheel
from controller.loop.wheel import Wheel
from controller.notify import Notifier
from controller.router.envoy import LocalEnvoy
from controller.router.server import ControlPlane
from controller.settings import Address, Settings, StoreUrls, configure_logs

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
    require_addresses(settings, sources)
    with locked(settings.state):
        return asyncio.run(_serve(settings, sources, is_json=is_json))


def require_addresses(settings: Settings, sources: Sequence[PolicySource]) -> None:
    """Of policies in files somebody is there to read at once what is missing."""
    for source in sources:
        for each in source.policy.spec.sources:
            if settings.topics.get(each.kind) is None:
                raise Permanent(
                    f"the policy of {source.policy.model} reads {each.name}: give --{each.kind} "
                    f"{each.kind}://HOST:PORT, or UNDERSTUDY_{each.kind.upper()}"
                )


async def _serve(settings: Settings, sources: Sequence[PolicySource], *, is_json: bool) -> int:
    stopping = asyncio.Event()
    loop, ending = asyncio.get_running_loop(), Ending(stopping.set)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending)
    async with AsyncExitStack() as stack:
        stores = await open_stores(settings, stack, stopping)
        serving = _Serving(settings, sources, stores, stack, stopping)
        serving.prepare()
        await serving.lead()
        if not stopping.is_set():
            await serving.turn()
            await serving.answer(is_json=is_json)
        await serving.end()
    return 0


class _Serving:
    """One run of the controller; what it starts, `stack` ends, the last first, also on a failure.

    sources   the policies; in a cluster they are known once this controller leads
    stopping  set when the process is to end: every wait ends by it
    """

    def __init__(
        self,
        settings: Settings,
        sources: Sequence[PolicySource],
        stores: Stores,
        stack: AsyncExitStack,
        stopping: asyncio.Event,
    ) -> None:
        self._settings, self._sources, self._stores = settings, sources, stores
        self._stack, self._stopping = stack, stopping
        self._tasks: list[asyncio.Task[None]] = []
        forget_s = settings.forget_routers_s
        self._envoy = chosen(settings)
        self._plane = ControlPlane(forget_s=forget_s, memory=memory_of(settings.state, self._envoy))
        self._router = EnvoyRouter(self._plane, self._envoy)
        self._company = Company(
            Notifier(previous=stores.ledger.decision, clock=time.time),
            Reach(self._plane.stragglers, forget_s=forget_s, clock=time.monotonic),
        )
        stack.push_async_callback(self._company.notifier.stop)
        self._backend = self._made_backend()
        stack.push_async_callback(self._backend.refusals.close)
        self._server = _server(settings.api, self._backend)

    def _made_backend(self) -> LoopBackend:
        return LoopBackend(
            [source.policy.model for source in self._sources],
            ledger=self._stores.ledger,
            router=self._router,
            clock=time.time,
            waits_for_routers=isinstance(self._envoy, LocalEnvoy),
            worries=self._company.worries,
            latest=self._company.timekeeper.latest,
        )

    def prepare(self) -> None:
        """Start what does not wait until this controller leads: workers, eyes on the cluster."""
        self._start_workers()
        if self._settings.namespaces is not None:
            from controller.bootstrap.cluster import ClusterSide  # noqa: PLC0415 - takes 0.6 s and 39 MB

            namespaces, ledger = self._settings.namespaces, self._stores.ledger
            self._company.cluster = ClusterSide(namespaces, ledger, self._backend)
            self._company.cluster.start()
            self._stack.callback(self._company.cluster.stop)
        self._stack.push_async_callback(self._end_all)

    def _start_workers(self) -> None:
        """Start the processes that fold partitions, where there are any on this machine.

        They end after the wheel.
        """
        settings = self._settings
        is_elsewhere = settings.namespaces is not None and settings.workers is None
        policies = [each.policy for each in self._sources]
        count = 0 if is_elsewhere else wanted(policies, settings.workers)
        if not count:
            return
        urls = settings.stores or StoreUrls.of(settings.state)
        children = Children(urls, settings.state, settings.retention, count)
        self._stack.push_async_callback(children.stop)
        self._stack.callback(asyncio.create_task(children.keep()).cancel)

    async def lead(self) -> None:
        """Begin a term: at once, or in a cluster when this controller is the one that leads."""
        ledger, cluster = self._stores.ledger, self._company.cluster
        if cluster is None:
            holder = f"{socket.gethostname()}_{os.getpid()}"
            await patiently(lambda: ledger.begin_term(holder), self._stopping)
            return
        self._start(self._server.serve())
        await self._stand_by(cluster)
        if not self._stopping.is_set():
            term = await asyncio.to_thread(ledger.begin_term, cluster.identity)
            log.info("leading", identity=cluster.identity, term=term)
        self._sources = cluster.sources()

    async def _stand_by(self, cluster: ClusterSide) -> None:
        """Answer questions until this controller leads and has looked at the cluster."""
        standby = StandbyWheel(
            cluster.sources,
            stream=self._stores.stream,
            ledger=self._stores.ledger,
            leader=lambda: cluster.lease.holder,
            told=self._backend.told,
            worried=self._backend.worried,
        )
        self._backend.wheel = standby
        looking = asyncio.create_task(standby.run())
        try:
            await self._until(lambda: cluster.is_leading and cluster.is_known, looking)
        finally:
            standby.stop()
            await looking

    async def turn(self) -> None:
        """Start the router and the wheel."""
        feeds = Feeds(self._settings.topics, stream=self._stores.stream)
        self._stack.callback(feeds.close)
        self._company.wheel = wheel = self._made_wheel(feeds)
        self._backend.wheel = wheel
        if self._company.cluster is not None:
            self._company.cluster.drive(wheel)
        await self._start_router()
        self._start(wheel.run())

    def _made_wheel(self, feeds: Feeds) -> Wheel:
        stores, cluster, envoys = self._stores, self._company.cluster, self._router
        return Wheel(
            [Fold(source, stores.stream, stores.ledger) for source in self._sources],
            stream=stores.stream,
            ledger=stores.ledger,
            router=envoys if cluster is None else Carriers(envoys, cluster.routers),
            sources=sources_of(self._envoy, stores.stream),
            clock=self._company.timekeeper,
            told=self._told,
            worried=self._backend.worried,
            feeds=feeds,
            cluster=None if cluster is None else Cluster(cluster.discovery),
            actor=None if cluster is None else self._made_actor(cluster),
        )

    def _made_actor(self, cluster: ClusterSide) -> Actor:
        return Actor(
            self._stores.ledger,
            cluster.target_of,
            worried=self._backend.worried,
            conflicted=cluster.conflicted,
            keeps=self._company.reach.kept,
        )

    def _told(self, model: str, turned: Turned) -> None:
        self._backend.told(model, turned)
        self._company.turned(turned)

    async def _start_router(self) -> None:
        envoy, xds = self._envoy, self._settings.xds
        unix_path = envoy.xds_path if isinstance(envoy, LocalEnvoy) else None
        bound = await self._plane.start(xds.host, xds.port, unix_path=unix_path)
        self._stack.push_async_callback(self._plane.stop)
        log.info("control plane", xds=bound)
        if isinstance(envoy, LocalEnvoy):
            await envoy.start()
            self._stack.push_async_callback(self._end_router, envoy)

    async def _end_router(self, envoy: LocalEnvoy) -> None:
        """End the Envoy, unless another controller leads by now and has taken it over."""
        with suppress(UnderstudyError):
            if await asyncio.to_thread(self._stores.ledger.is_current):
                await envoy.stop()

    async def answer(self, *, is_json: bool) -> None:
        """Open the API, say so when everything works, and go on until the process is to end."""
        await self._until(lambda: self._backend.is_answering)
        if self._company.cluster is None:
            self._start(self._server.serve())
        await self._until(lambda: self._server.started and _is_ready(self._backend))
        if not self._stopping.is_set():
            _announce(self._server.url, url_of(self._envoy), is_json=is_json)
        await self._until(lambda: False)

    async def end(self) -> None:
        """End in good order, and say what failed."""
        if self._company.wheel is not None:
            if isinstance(self._envoy, LocalEnvoy):
                await self._envoy.stop()
            self._company.wheel.stop()
        self._server.stop()
        await asyncio.gather(*self._tasks)

    async def _end_all(self) -> None:
        """End what still turns after one task has failed; whose fault it was is said elsewhere.

        A task that the end of the event loop cancels would say so with a trace.
        """
        if self._company.wheel is not None:
            self._company.wheel.stop()
        self._server.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _until(self, is_so: Callable[[], bool], *more: asyncio.Task[None]) -> None:
        """Wait until something is so or the process is to end; a task that ended is an error."""
        while not is_so() and not self._stopping.is_set():
            for task in (*self._tasks, *more):
                if task.done():
                    task.result()
                    raise InvariantError("a part of the controller ended by itself")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _LOOK_AGAIN_S)


def _server(address: Address, backend: LoopBackend) -> Server:
    """The API's server, bound before anything starts, so that a taken port is said at once."""
    is_local = address.host in _LOOPBACK
    app = create_app(backend, hosts=_LOOPBACK if is_local else None)
    try:
        return api_server(app, host=address.host, port=address.port)
    except OSError as exc:
        raise Permanent(
            f"the API address {address} cannot be bound: {exc}; give another --api"
        ) from exc


def _is_ready(backend: LoopBackend) -> bool:
    return all(value is True for value in backend.ready().values())


def _announce(api: str, router: str | None, *, is_json: bool) -> None:
    if is_json:
        line = json.dumps({"ready": True, "api": api, "router": router}, separators=(",", ":"))
    else:
        line = f"ready: dashboard and API {api}, router {router or 'elsewhere'}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
