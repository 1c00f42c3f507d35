"""The control plane: gives the present snapshot to every connected Envoy, and knows who has it.

Envoy connects (aggregated discovery, state of the world) and is sent what it lacks of

    CDS, EDS, LDS, RDS of union(old, new)      what is pointed to before what points
    CDS, EDS of new                            what nothing points to any more, at last

CDS with EDS, and each other step after the ACK of the one before, so at no moment does a route lead
to a cluster that is not there: make before break. A push that came while another was
under way begins after it. A type whose content a node has accepted already is not sent again: a new
split is one message, of routes.

Every node is followed by a task of its own, so none waits for another. When is a split in force,
with many of them? When every node that counts routes by it, and more than half of all count. A node
does not count while it

    is left behind    it has not been at the present snapshot for `LAG_S`: it is slow, or it hangs
    refuses           it answered this very snapshot with a NACK, and goes on with the one before

Exposures say themselves which split they were routed by, so a few nodes that are behind cost no
count its truth; they are shown (`behind`), they are pushed to again without an end, and their
counterparts must not wait for them. What they may still route to must not go away under their
users: `stragglers` says who that is (see `roll`). Where half of the nodes or more do not count, it
is in doubt what the traffic gets, and nothing is in force.

Invariants:

    the split in force at a node is that of the last RDS it has ACKed
    a NACK changes no split of the node that sent it: what it had is restored there
    a snapshot that half of the nodes or more refuse is wrong: it is forgotten, the one that was in
        force is restored at every node, and `last_nack` says why
    a node that connects gets the present snapshot at once

The last snapshot that was in force is remembered in a file. After a restart it is what nodes get
until the first `publish`, and the base of the first union: without it, the first push of a new
controller would take away clusters that an Envoy, which outlived the old one, is still using.

Rejected: the incremental protocol, which Envoy speaks too: what changes with a split is one table
of routes, which it could not cut either, and the plain protocol can be read in a debugger. To wait
for every node that is connected: one that hangs would keep a hundred from ever having a split in
force.
"""

from __future__ import annotations

import asyncio
import time  # noqa: TID251 - how long a router is behind: its status is asked from any thread
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from envoy.service.discovery.v3 import discovery_pb2

from controller.errors import Permanent
from controller.router.memory import remember, remembered
from controller.router.node import Node, RefusedError, bring, tidy
from controller.router.roll import Roll, Straggler
from controller.router.snapshot import CDS, EDS, Snapshot, check, cluster_name, union
from controller.router.wire import Wire

LAG_S = 2.0
"""A node that has not been at the present snapshot for so long is left behind."""

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_UNIONS = 4
_GRACE_S = 0.5
"""Streams end by themselves when the server stops; those that do not within this time are cut."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    # A router whose machine is gone sends no farewell: without pings it would count as connected
    # for ever, and no split would be in force at all of them again.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # else a ping, also one of keep-alive, may take a minute
    ("grpc.http2.max_pings_without_data", 0),
    # Routers ping as well, more often than gRPC takes for polite.
    ("grpc.http2.max_ping_strikes", 0),
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Nack:
    """An Envoy refused a snapshot. `number` counts refusals since the start."""

    node: str
    type_url: str
    detail: str
    number: int


class Bell:
    """Wakes all who wait for it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake those who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def heard(self) -> None:
        """Wait for the next ring."""
        await self._event.wait()


class ControlPlane:
    """Serves ADS; all methods belong to one event loop.

    memory    the file that remembers what was in force
    forget_s  how long a router that was lost may still have users
    """

    def __init__(self, *, forget_s: float, memory: Path | None = None) -> None:
        self._memory = memory
        self._roll = Roll(forget_s)
        self._present = self._accepted = remembered(memory)
        self._nodes: list[Node] = []
        self._published, self._progress = Bell(), Bell()
        self._server: grpc.aio.Server | None = None
        self._wire = Wire()
        self._unions: list[tuple[Snapshot, Snapshot, Snapshot]] = []
        self._nack: Nack | None = None
        self._nack_count = 0

    async def start(self, host: str, port: int, *, unix_path: str | None = None) -> str:
        """Listen on TCP, and on a unix socket; gives the bound `host:port`.

        Raises Permanent when the address is taken.
        """
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handler(),))
        name = f"[{host}]" if ":" in host else host
        try:
            bound = server.add_insecure_port(f"{name}:{port}")
            if unix_path is not None:
                server.add_insecure_port(f"unix:{unix_path}")
        except RuntimeError as exc:
            raise Permanent(
                f"the xDS address {name}:{port} cannot be bound: {exc}; give another --xds"
            ) from exc
        await server.start()
        self._roll.begin()
        self._server = server
        return f"{name}:{bound}"

    async def stop(self) -> None:
        """End every stream; nodes keep the split that they have."""
        if self._server is not None:
            for node in self._nodes:
                node.outbox.put_nowait(None)
            await self._server.stop(grace=_GRACE_S)
            self._server = None

    async def publish(self, snapshot: Snapshot) -> None:
        """Make this the present snapshot; raises InvariantError, changing nothing, if not whole."""
        check(snapshot)
        self._present = snapshot
        now = _now()
        for node in self._nodes:
            node.refused.clear()
            if node.behind_since is None and not _routes_by(node, snapshot):
                node.behind_since = now
        self._published.ring()
        self._progress.ring()

    async def acked(self, snapshot: Snapshot, timeout_s: float) -> bool:
        """Whether the snapshot came to be in force in time.

        False as soon as it was refused or another one was published in its place.
        """
        end = _now() + timeout_s
        while self._present is snapshot and not self._is_in_force(snapshot):
            left = self._next_judgement(end) - _now()
            if _now() >= end:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0.001)):
                    await self._progress.heard()
        self._accept()
        return self._present is snapshot

    @property
    def connected(self) -> tuple[str, ...]:
        """The ids of the nodes that are connected, sorted."""
        return tuple(sorted(node.id for node in self._nodes))

    @property
    def behind(self) -> tuple[str, ...]:
        """The ids of connected nodes that do not count: left behind, or refusing; sorted."""
        now = _now()
        return tuple(sorted(n.id for n in self._nodes if not self._counts(n, now)))

    @property
    def last_nack(self) -> Nack | None:
        """The last refusal, if there was one."""
        return self._nack

    @property
    def in_force(self) -> Mapping[str, Mapping[str, int]]:
        """Node -> model -> the epoch that its requests are routed with."""
        return {n.id: dict(n.applied.epochs) if n.applied else {} for n in self._nodes}

    def stragglers(self, model: str, arm: str) -> tuple[Straggler, ...]:
        """The routers that may still send users' requests to an arm. From any thread."""
        return self._roll.stragglers(tuple(self._nodes), cluster_name(model, arm))

    # --- who counts ---------------------------------------------------------------------------

    def _counts(self, node: Node, now: float) -> bool:
        is_left = node.behind_since is not None and now - node.behind_since >= LAG_S
        return not is_left and not node.has_refused(self._present)

    def _is_in_force(self, snapshot: Snapshot) -> bool:
        now = _now()
        counted = [node for node in self._nodes if self._counts(node, now)]
        is_known = 2 * len(counted) > len(self._nodes)
        return is_known and all(_routes_by(node, snapshot) for node in counted)

    def _next_judgement(self, end: float) -> float:
        """When the next node is left behind, at the latest `end`."""
        now = _now()
        since = [n.behind_since for n in self._nodes if n.behind_since is not None]
        return min([end, *(at + LAG_S for at in since if at + LAG_S > now)])

    # --- one node -----------------------------------------------------------------------------

    def _handler(self) -> grpc.GenericRpcHandler:
        """ADS, whose answers are bytes already."""
        stream: Any = grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=discovery_pb2.DiscoveryRequest.FromString
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"StreamAggregatedResources": stream})

    async def _stream(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[bytes]:
        """One Envoy, until it goes away."""
        node = Node()
        tasks = [
            asyncio.create_task(node.listen(requests)),
            asyncio.create_task(self._follow(node)),
        ]
        try:
            while (response := await node.outbox.get()) is not None:
                yield response
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    log.error("a router is cut off", node=node.id, why=repr(ended))

    async def _follow(self, node: Node) -> None:
        """Bring the node to the present snapshot, again whenever that changes."""
        await node.until(lambda: CDS in node.subscriptions or EDS in node.subscriptions)
        node.behind_since = _now()
        self._roll.came(node)
        self._nodes.append(node)
        try:
            while True:
                target = await self._next_target(node)
                try:
                    await self._bring(node, target)
                except RefusedError as refusal:
                    self._refused(node, target, refusal)
                except TimeoutError:
                    continue
        finally:
            node.outbox.put_nowait(None)  # whom nobody follows must connect anew
            self._nodes.remove(node)
            if all(other.id != node.id for other in self._nodes):
                self._roll.left(node)
            self._progress.ring()

    async def _next_target(self, node: Node) -> Snapshot:
        while (target := self._wanted(node)) is None:
            await self._published.heard()
        return target

    def _wanted(self, node: Node) -> Snapshot | None:
        """What the node is to be brought to; None: it may stay as it is."""
        for wanted in (self._present, node.applied):
            if wanted is not None and not node.has_refused(wanted):
                return wanted if node.is_torn or wanted is not node.applied else None
        return None

    async def _bring(self, node: Node, target: Snapshot) -> None:
        base = node.applied or self._accepted
        wide = target if base is None else self._union(base, target)
        if node.led_to is not None:
            node.led_to |= target.led_to
        await bring(node, self._wire, wide)
        node.applied, node.led_to, node.is_torn = target, target.led_to, False
        if _routes_by(node, self._present):
            node.behind_since = None
        self._accept()
        self._progress.ring()
        await tidy(node, self._wire, target)

    def _union(self, base: Snapshot, target: Snapshot) -> Snapshot:
        """The union of the two: the same for a hundred nodes, and made once."""
        for old, new, wide in self._unions:
            if old is base and new is target:
                return wide
        wide = union(base, target)
        self._unions = [*self._unions[1 - _UNIONS :], (base, target, wide)]
        return wide

    def _accept(self) -> None:
        """Remember the present snapshot once it is in force."""
        present = self._present
        if present is None or present is self._accepted or not self._is_in_force(present):
            return
        self._accepted = present
        remember(self._memory, present)

    def _refused(self, node: Node, target: Snapshot, refusal: RefusedError) -> None:
        """Put back what was in force: at this node, or, where half of them refuse, everywhere."""
        self._nack_count += 1
        self._nack = Nack(node.id, refusal.type_url, refusal.detail, self._nack_count)
        node.refused.append(target)
        refusing = sum(each.has_refused(target) for each in self._nodes)
        if self._present is target and 2 * refusing >= len(self._nodes):
            self._present = self._accepted if self._accepted is not target else None
            self._published.ring()
        self._progress.ring()


def _routes_by(node: Node, snapshot: Snapshot | None) -> bool:
    """Whether requests are routed there as this snapshot says."""
    applied = node.applied
    return (
        snapshot is not None
        and applied is not None
        and (applied is snapshot or applied.versions == snapshot.versions)
    )


def _now() -> float:
    return time.monotonic()
