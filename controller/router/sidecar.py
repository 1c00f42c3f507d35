"""The process beside a router: ships its log until it is told to end, and says how that goes.

At the end of a pod all its containers are told to end at once. So whoever ships asks the router to
drain, goes on shipping what it still writes, and goes when the router has gone.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

import structlog
from prometheus_client import start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from controller.errors import Permanent, Retryable
from controller.router.admin import Admin
from controller.router.ship import Counts, Limits, Shipper
from controller.router.sink import HttpSink

log = structlog.get_logger()

_TEXTS = {
    "shipped": "exposures that the controller has taken",
    "malformed": "lines of the log that are no exposures; the controller keeps them",
    "unmatched": "requests that were of no model",
    "refused": "of those shipped, what the controller would not use",
    "dropped": "lines that are lost: the disk was full, or nobody will take them",
    "failures": "attempts to send that failed",
    "unwritten": "attempts of the router to write its log that failed: exposures that are lost",
}


@dataclass(frozen=True, slots=True)
class Shipping:
    """The settings of `understudy ship`.

    admin          URL of the router's admin interface; None: no rotation
    listen         host and port of /metrics and /healthz; None: neither
    drains_router  ask the router to drain when told to end, and wait until it has gone
    drain_s        how long shipping may go on after it was told to end
    """

    log: Path
    to: str
    state: Path
    admin: str | None = None
    listen: tuple[str, int] | None = None
    drains_router: bool = False
    drain_s: float = 20.0
    limits: Limits = field(default_factory=Limits)


def ship(settings: Shipping) -> int:
    """Ship until SIGTERM or Ctrl-C; the exit code: 1 when something was left behind."""
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Permanent(f"the folder {settings.state} cannot be written: {exc}") from exc
    return asyncio.run(_ship(settings))


async def _ship(settings: Shipping) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    sink = HttpSink(settings.to)
    admin = Admin(settings.admin) if settings.admin else None
    shipper = Shipper(settings.log, settings.state, sink, admin=admin, limits=settings.limits)
    drains = settings.drains_router
    with ExitStack() as stack:
        if settings.listen is not None:
            stack.enter_context(_metrics(shipper, *settings.listen))
        log.info("shipping", log=str(settings.log), to=settings.to)
        if not settings.log.exists():
            log.warning("no log yet", log=str(settings.log), why="a router makes it when it starts")
        work = asyncio.create_task(shipper.run(until_router_is_gone=drains))
        tidying = asyncio.create_task(shipper.tidy())
        await _either(stopping, work, tidying)
        shipper.stop()
        if drains and admin is not None:
            with suppress(Retryable):
                await admin.drain()
        done, _ = await asyncio.wait({work}, timeout=settings.drain_s)
        for task in (work, tidying):
            task.cancel()
        await asyncio.gather(work, tidying, return_exceptions=True)
        if not done:
            shipper.abandon()
        await sink.close()
        if admin is not None:
            await admin.close()
    return 0 if done else 1


async def _either(stopping: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Wait until the process is to stop; a task that ended before is an error, and raised."""
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in tasks:
        if task.done():
            task.result()


# --- /metrics ---------------------------------------------------------------------------------


@contextmanager
def _metrics(shipper: Shipper, host: str, port: int) -> Iterator[None]:
    """Answer every path with the figures: they say as much as /healthz could."""
    registry = CollectorRegistry()
    registry.register(_Figures(shipper))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as exc:
        raise Permanent(f"the address {host}:{port} cannot be bound: {exc}") from exc
    with closing(server.socket):
        yield
        server.shutdown()
        thread.join()


class _Figures(Collector):
    """The counts of a shipper as Prometheus families."""

    def __init__(self, shipper: Shipper) -> None:
        self._shipper = shipper

    def describe(self) -> list[Metric]:
        """Nothing is known before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every count, and what waits."""
        for each in fields(Counts):
            value = getattr(self._shipper.counts, each.name)
            yield CounterMetricFamily(
                f"understudy_ship_{each.name}", _TEXTS[each.name], value=value
            )
        yield GaugeMetricFamily(
            "understudy_ship_waiting_bytes",
            "bytes of the log that the controller has not taken",
            value=self._shipper.waiting_bytes,
        )
        yield GaugeMetricFamily(
            "understudy_ship_up",
            "whether the last attempt to send went well",
            value=self._shipper.trouble is None,
        )
