"""The one place that wires: settings in, a running controller out.

Starts, from the ground up: the state folder's lock, log, ledger, control plane, Envoy, wheel, API.
Ends in an order that loses nothing: the router first (it drains), then a last turn of the wheel
that reads what the router wrote, then the API, then the stores.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import signal
import sys
import time  # noqa: TID251 - the wall clock is taken here and handed to the loop
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

import structlog

from controller.api.app import create_app
from controller.api.serving import Server
from controller.api.serving import server as api_server
from controller.core.model import Decision, Json
from controller.core.policy import parse
from controller.core.record import canonical, decision_document
from controller.errors import InvariantError, Permanent, PolicyError, Problem
from controller.ledger import Ledger, open_ledger
from controller.loop.backend import LoopBackend
from controller.loop.fold import Fold, PolicySource, derive
from controller.loop.wheel import Drained, Wheel
from controller.router.access_log import exposure_lines
from controller.router.envoy import LocalEnvoy
from controller.router.fleet import Fleet
from controller.router.server import ControlPlane
from controller.router.snapshot import RoutedModel, Snapshot, snapshot
from controller.router.tail import Tail
from controller.settings import Address, Settings, configure_logs, policy_text
from controller.stream import Mark, Stream, open_stream

ROTATE_BYTES = 64 << 20
"""The access log is rotated beyond this size, and deleted once it is in the event log."""

ACCESS_LOG = "access_log"

_LOOK_AGAIN_S = 0.05
_LISTED = 100_000
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

log = structlog.get_logger()


def serve(settings: Settings, *, is_json: bool) -> int:
    """Run until SIGTERM or Ctrl-C; the exit code."""
    configure_logs()
    sources = read_policies(settings.policies)
    with _locked(settings.state):
        return asyncio.run(_serve(settings, sources, is_json=is_json))


def read_policies(folder: Path) -> list[PolicySource]:
    """Every policy of a folder, in the order of file names.

    Raises:
        PolicyError: with the faults of all files; also when two files are of one model, or none is.
    """
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if not files:
        fault = Problem("", "no policy", "a folder with at least one *.yaml policy")
        raise PolicyError(str(folder), (fault,))
    found: dict[str, PolicySource] = {}
    for file in files:
        text = policy_text(file)
        policy = parse(text, str(file))
        if policy.model in found:
            fault = Problem("metadata.name", policy.model, "a model that no other policy is of")
            raise PolicyError(str(file), (fault,))
        found[policy.model] = PolicySource(policy, text)
    return list(found.values())


async def _serve(settings: Settings, sources: Sequence[PolicySource], *, is_json: bool) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        stream, ledger = _stores(settings.state, stack)
        envoy = _envoy(settings)
        plane = ControlPlane(memory=_memory(settings.state, envoy))
        backend, wheel = _wired(sources, stream, ledger, EnvoyRouter(plane, envoy), envoy)
        server = _server(settings.api, backend)
        await _start_router(settings.xds, plane, envoy, stack)
        tasks = [asyncio.create_task(wheel.run())]
        await _until(lambda: backend.is_complete, tasks, stopping)
        tasks.append(asyncio.create_task(server.serve()))
        await _until(lambda: server.started and _is_ready(backend), tasks, stopping)
        if not stopping.is_set():
            _announce(server.url, _router_url(envoy), is_json=is_json)
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
        sources=_sources(envoy, stream),
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


def _envoy(settings: Settings) -> LocalEnvoy | Fleet:
    """The local Envoy, or routers elsewhere."""
    if settings.router is None:
        return Fleet()
    return LocalEnvoy(settings.state, host=settings.router.host, port=settings.router.port)


def _memory(state: Path, envoy: LocalEnvoy | Fleet) -> Path:
    return envoy.memory_path if isinstance(envoy, LocalEnvoy) else state / "snapshot.json"


def _sources(envoy: LocalEnvoy | Fleet, stream: Stream) -> list[AccessLog]:
    """The logs that are read here; routers elsewhere ship theirs to the API."""
    if isinstance(envoy, Fleet):
        return []
    return [AccessLog(envoy, stream.mark(ACCESS_LOG))]


def _router_url(envoy: LocalEnvoy | Fleet) -> str | None:
    if isinstance(envoy, Fleet):
        return None
    return f"http://{envoy.listener.host}:{envoy.listener.port}"


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


# --- the router's side ------------------------------------------------------------------------


class EnvoyRouter:
    """The wheel's router: Envoys on our control plane."""

    def __init__(self, plane: ControlPlane, envoy: LocalEnvoy | Fleet) -> None:
        self._plane = plane
        self._envoy = envoy
        self._wanted: Snapshot | None = None

    async def publish(self, models: Sequence[RoutedModel]) -> None:
        """Make these the wanted splits."""
        self._wanted = snapshot(models, self._envoy.listener)
        await self._plane.publish(self._wanted)

    async def confirmed(self, timeout_s: float) -> Mapping[str, int]:
        """The epochs of the wanted splits once every connected Envoy uses them, else none."""
        wanted = self._wanted
        if wanted is None or not await self._plane.acked(wanted, timeout_s):
            return {}
        return wanted.epochs

    def status(self) -> dict[str, Json]:
        """Connected routers, refusals, and how often a local Envoy was started again."""
        nack = self._plane.last_nack
        return {
            "connected": len(self._plane.connected),
            "nacks": nack.number if nack else 0,
            "last_nack": nack.detail if nack else None,
            "restarts": self._envoy.restarts,
        }


class AccessLog:
    """The wheel's source of exposures: the local Envoy's access log.

    Reads go on from what was committed, so lines whose keeping failed are read again.
    """

    def __init__(self, envoy: LocalEnvoy, position: str | None) -> None:
        self._envoy = envoy
        self._path = envoy.log_path
        self._position = position

    def drain(self) -> Drained | None:
        """The next lines as exposures; None when there are none now."""
        lines, position = Tail(self._path, self._position).read()
        if not lines or position is None:
            return None
        decoded = exposure_lines(lines)
        refused = [("malformed", why, line) for line, why in decoded.bad]
        return Drained(decoded.events, refused, Mark(ACCESS_LOG, position))

    async def committed(self, position: str) -> None:
        """Delete files that are wholly in the event log; rotate one that has grown large."""
        self._position = position
        Tail(self._path, position).forget(position)
        with suppress(OSError):
            if self._path.stat().st_size > ROTATE_BYTES:
                await self._envoy.rotate()


# --- commands on a state folder ---------------------------------------------------------------


@contextmanager
def opened(state: Path) -> Iterator[tuple[Stream, Ledger]]:
    """The stores of a state folder, running or not.

    Raises:
        Permanent: there is no state in the folder.
    """
    if not (state / "ledger.db").is_file():
        raise Permanent(f"{state}: found no ledger, expected the --state folder of `serve`")
    stream = open_stream(f"sqlite:///{state.absolute() / 'events.db'}")
    ledger = open_ledger(f"sqlite:///{state.absolute() / 'ledger.db'}", clock=time.time)
    try:
        yield stream, ledger
    finally:
        stream.close()
        ledger.close()


def ledger_rows(state: Path, model: str) -> list[dict[str, Json]]:
    """Every decision of a model as it was written down."""
    with opened(state) as (_, ledger):
        _require(ledger, model)
        return [decision_document(decision) for decision in _all_decisions(ledger, model)]


def verify(state: Path, model: str) -> tuple[list[str], int]:
    """What is wrong with a model's ledger, and how many decisions it has.

    The chain of hashes shows rows that were changed; deriving every decision again from the log
    shows decisions that the log does not lead to.
    """
    with opened(state) as (stream, ledger):
        _require(ledger, model)
        faults = []
        broken = ledger.verify_chain(model)
        if broken is not None:
            faults.append(f"{model}: the chain of hashes is broken at decision {broken}")
        written = list(_all_decisions(ledger, model))
        derived = list(derive(ledger, stream, model))
        for one, other in zip(written, derived, strict=False):
            if canonical(decision_document(one)) != canonical(decision_document(other)):
                faults.append(f"{model}: decision {one.number} is not what the log leads to")
        if len(written) > len(derived):
            extra = len(written) - len(derived)
            faults.append(f"{model}: {extra} decisions are written that the log does not lead to")
        return faults, len(written)


def log_lines(state: Path, model: str) -> Iterator[tuple[bytes, ...]]:
    """The lines of a model's log, block by block."""
    with opened(state) as (stream, ledger):
        _require(ledger, model)
        start = 0
        while True:
            blocks = list(stream.read(model, start))
            if not blocks:
                return
            for block in blocks:
                yield block.lines
                start = block.start + len(block.lines)


def rejected_rows(state: Path, model: str) -> list[dict[str, Json]]:
    """Events that could not be used: the model's, then those refused before they had a model."""
    with opened(state) as (_, ledger):
        _require(ledger, model)
        rows: list[dict[str, Json]] = [
            {"offset": e.offset, "reason": e.reason, "detail": e.detail, "event": e.event}
            for e in ledger.dead_letters(model, limit=_LISTED)
        ]
        rows += [
            {"source": e.source, "reason": e.reason, "detail": e.detail, "event": e.event}
            for e in ledger.rejections(limit=_LISTED)
        ]
        return rows


def _require(ledger: Ledger, model: str) -> None:
    if not ledger.policies(model):
        raise Permanent(f"the ledger knows no model {model!r}")


def _all_decisions(ledger: Ledger, model: str) -> Iterator[Decision]:
    last = 0
    while page := ledger.decisions(model, after=last):
        yield from page
        last = page[-1].number
