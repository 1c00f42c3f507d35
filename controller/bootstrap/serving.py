"""Starts everything in order, and ends it in an order that loses nothing.

Starts, from the ground up: the state folder's lock, log, ledger, control plane, Envoy, wheel, API.
Ends with the router first (it drains), then a last turn of the wheel that reads what the router
wrote, then the API, then the stores.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import signal
import sys
import time  # noqa: TID251 - the wall clock is taken here and handed to the loop
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

import structlog

from controller.api.app import create_app
from controller.api.serving import Server
from controller.api.serving import server as api_server
from controller.bootstrap.folder import read_policies
from controller.bootstrap.routers import EnvoyRouter, chosen, memory_of, sources_of, url_of
from controller.errors import InvariantError, Permanent
from controller.ledger import Ledger, open_ledger
from controller.loop.backend import LoopBackend
from controller.loop.fold import Fold, PolicySource
from controller.loop.wheel import Wheel
from controller.router.envoy import LocalEnvoy
from controller.router.fleet import Fleet
from controller.router.server import ControlPlane
from controller.settings import Address, Settings, configure_logs
from controller.stream import Stream, open_stream

_LOOK_AGAIN_S = 0.05
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

log = structlog.get_logger()


def serve(settings: Settings, *, is_json: bool) -> int:
    """Run until SIGTERM or Ctrl-C; the exit code."""
    configure_logs()
    sources = read_policies(settings.policies)
    with _locked(settings.state):
        return asyncio.run(_serve(settings, sources, is_json=is_json))


async def _serve(settings: Settings, sources: Sequence[PolicySource], *, is_json: bool) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        stream, ledger = _stores(settings.state, stack)
        envoy = chosen(settings)
        plane = ControlPlane(memory=memory_of(settings.state, envoy))
        backend, wheel = _wired(sources, stream, ledger, EnvoyRouter(plane, envoy), envoy)
        server = _server(settings.api, backend)
        await _start_router(settings.xds, plane, envoy, stack)
        tasks = [asyncio.create_task(wheel.run())]
        await _until(lambda: backend.is_complete, tasks, stopping)
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


def _wired(
    sources: Sequence[PolicySource],
    stream: Stream,
    ledger: Ledger,
    router: EnvoyRouter,
    envoy: LocalEnvoy | Fleet,
) -> tuple[LoopBackend, Wheel]:
    models = [source.policy.model for source in sources]
    is_local = isinstance(envoy, LocalEnvoy)
    backend = LoopBackend(
        models, ledger=ledger, router=router, clock=time.time, waits_for_routers=is_local
    )
    wheel = Wheel(
        [Fold(source, stream, ledger) for source in sources],
        stream=stream,
        ledger=ledger,
        router=router,
        sources=sources_of(envoy, stream),
        clock=time.time,
        told=backend.told,
        worried=backend.worried,
    )
    backend.wheel = wheel
    return backend, wheel


def _stores(state: Path, stack: AsyncExitStack) -> tuple[Stream, Ledger]:
    stream = open_stream(f"sqlite:///{state.absolute() / 'events.db'}")
    stack.callback(stream.close)
    ledger = _ledger(state.absolute() / "ledger.db")
    stack.callback(ledger.close)
    return stream, ledger


def _ledger(file: Path) -> Ledger:
    """The ledger in a file, which the error names when it cannot be used."""
    try:
        return open_ledger(f"sqlite:///{file}", clock=time.time)
    except Permanent as exc:
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
    xds: Address, plane: ControlPlane, envoy: LocalEnvoy | Fleet, stack: AsyncExitStack
) -> None:
    unix_path = envoy.xds_path if isinstance(envoy, LocalEnvoy) else None
    bound = await plane.start(xds.host, xds.port, unix_path=unix_path)
    stack.push_async_callback(plane.stop)
    log.info("control plane", xds=bound)
    if isinstance(envoy, LocalEnvoy):
        await envoy.start()
        stack.push_async_callback(envoy.stop)


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
