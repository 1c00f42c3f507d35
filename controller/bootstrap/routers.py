"""Our Envoys as the wheel's router, and the local one's access log as its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from controller.core.model import Json
from controller.errors import Retryable
from controller.loop.sources import Drained
from controller.router.access_log import exposure_lines
from controller.router.envoy import LocalEnvoy
from controller.router.fleet import Fleet
from controller.router.server import ControlPlane
from controller.router.snapshot import Parts, RoutedModel, Snapshot, snapshot
from controller.router.tail import Tail
from controller.settings import Address, Settings
from controller.stream import Mark, Stream

ROTATE_BYTES = 64 << 20
"""The access log is rotated beyond this size, and deleted once it is in the event log."""

ACCESS_LOG = "access_log"


def chosen(settings: Settings) -> LocalEnvoy | Fleet:
    """The local Envoy, or routers elsewhere."""
    if settings.router is None:
        return Fleet()
    return LocalEnvoy(settings.state, host=settings.router.host, port=settings.router.port)


def memory_of(state: Path, envoy: LocalEnvoy | Fleet) -> Path:
    """Where the control plane keeps the snapshot that routers accepted last."""
    return envoy.memory_path if isinstance(envoy, LocalEnvoy) else state / "snapshot.json"


def sources_of(envoy: LocalEnvoy | Fleet, stream: Stream) -> list[AccessLog]:
    """The logs that are read here; routers elsewhere ship theirs to the API."""
    if isinstance(envoy, Fleet):
        return []
    return [AccessLog(envoy, stream.mark(ACCESS_LOG))]


def url_of(envoy: LocalEnvoy | Fleet) -> str | None:
    """Where users' requests come in; None where that is elsewhere."""
    if isinstance(envoy, Fleet):
        return None
    return f"http://{Address(envoy.listener.host, envoy.listener.port)}"


class EnvoyRouter:
    """The wheel's router: Envoys on our control plane."""

    def __init__(self, plane: ControlPlane, envoy: LocalEnvoy | Fleet) -> None:
        self._plane = plane
        self._envoy = envoy
        self._wanted: Snapshot | None = None
        self._parts = Parts()

    async def publish(self, models: Sequence[RoutedModel]) -> None:
        """Make these the wanted splits."""
        self._wanted = snapshot(models, self._envoy.listener, self._parts)
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
            "behind": list(self._plane.behind),
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
        mark = Mark(ACCESS_LOG, position)
        return Drained(decoded.events, refused, mark, decoded.requests)

    async def committed(self, position: str) -> None:
        """Delete files that are wholly in the event log; rotate one that has grown large."""
        self._position = position
        Tail(self._path, position).forget(position)
        with suppress(OSError, Retryable):
            if not self._path.exists() or self._path.stat().st_size > ROTATE_BYTES:
                await self._envoy.rotate()
