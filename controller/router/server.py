"""The control plane: gives the present snapshot to every connected Envoy, and knows who has it.

Envoy connects (aggregated discovery, state of the world) and is sent a snapshot in the order

    CDS, EDS, LDS, RDS of union(old, new)      what is pointed to before what points
    CDS, EDS of new                            what nothing points to any more, at last

CDS with EDS, and each other step after the ACK of the one before, so at no moment does a route lead
to a cluster that is not there: make before break. A push that came while another was
under way begins after it.

Invariants:

    the split in force at a node is that of the last RDS it has ACKed
    a NACK changes no split: the snapshot that was in force is restored at every node, the rejected
        one is forgotten, and `last_nack` says why
    a node that connects gets the present snapshot at once

The last snapshot that a node accepted is remembered in a file. After a restart it is what nodes get
until the first `publish`, and the base of the first union: without it, the first push of a new
controller would take away clusters that an Envoy, which outlived the old one, is still using.

Rejected: the incremental protocol, which Envoy speaks too: the whole state is small here, and the
plain protocol can be read in a debugger.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from controller.errors import Permanent
from controller.router.memory import remember, remembered
from controller.router.place import of_node, placed
from controller.router.snapshot import (
    CDS,
    EDS,
    LDS,
    RDS,
    ListenerConfig,
    Snapshot,
    check,
    eds_names,
    of_resources,
    union,
)

ACK_TIMEOUT_S = 10.0

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


@dataclass(frozen=True, slots=True)
class Nack:
    """An Envoy refused a snapshot. `number` counts refusals since the start."""

    node: str
    type_url: str
    detail: str
    number: int


@dataclass(slots=True)
class _Subscription:
    """What one node asked for of one type, and how it answered what it was sent last."""

    names: frozenset[str]
    nonce: str = ""
    is_acked: bool = False
    detail: str | None = None


@dataclass(slots=True)
class _Node:
    """One connected Envoy."""

    id: str = ""
    place: ListenerConfig | None = None
    subscriptions: dict[str, _Subscription] = field(default_factory=dict)
    outbox: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    applied: Snapshot | None = None
    sent: int = 0
    is_torn: bool = False
    """A push ended half way: types of two snapshots are mixed until the next one."""


class ControlPlane:
    """Serves ADS; all methods belong to one event loop."""

    def __init__(self, *, memory: Path | None = None) -> None:
        self._memory = memory
        self._present = self._accepted = remembered(memory)
        self._nodes: set[_NodeKey] = set()
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None
        self._nacks: list[Nack] = []
        self._nack_count = 0

    async def start(self, host: str, port: int, *, unix_path: str | None = None) -> str:
        """Listen on TCP, and on a unix socket; gives the bound `host:port`.

        Raises Permanent when the address is taken.
        """
        server = grpc.aio.server(options=_OPTIONS)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(_Servicer(self), server)
        try:
            bound = server.add_insecure_port(f"{host}:{port}")
            if unix_path is not None:
                server.add_insecure_port(f"unix:{unix_path}")
        except RuntimeError as exc:
            raise Permanent(f"the xDS address {host}:{port} cannot be bound: {exc}") from exc
        await server.start()
        self._server = server
        return f"{host}:{bound}"

    async def stop(self) -> None:
        """End every stream; nodes keep the split that they have."""
        if self._server is not None:
            await self._server.stop(grace=0)
            self._server = None

    async def publish(self, snapshot: Snapshot) -> None:
        """Make this the present snapshot; raises InvariantError, changing nothing, if not whole."""
        check(snapshot)
        async with self._changed:
            self._present = snapshot
            self._changed.notify_all()

    async def acked(self, snapshot: Snapshot, timeout_s: float) -> bool:
        """Whether every connected node, and at least one, came to use the snapshot in time.

        False as soon as it was refused or another one was published in its place.
        """
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(
                    lambda: self._present is not snapshot or self._is_in_force(snapshot)
                )
        except TimeoutError:
            return False
        return self._present is snapshot

    @property
    def connected(self) -> tuple[str, ...]:
        """The ids of the nodes that are connected, sorted."""
        return tuple(sorted(key.node.id for key in self._nodes))

    @property
    def last_nack(self) -> Nack | None:
        """The last refusal, if there was one."""
        return self._nacks[-1] if self._nacks else None

    @property
    def in_force(self) -> Mapping[str, Mapping[str, int]]:
        """Node -> model -> the epoch that its requests are routed with."""
        return {
            key.node.id: dict(key.node.applied.epochs) if key.node.applied else {}
            for key in self._nodes
        }

    def _is_in_force(self, snapshot: Snapshot) -> bool:
        applied = [key.node.applied for key in self._nodes]
        return bool(applied) and all(
            each is not None and each.versions == snapshot.versions for each in applied
        )

    # --- one node -----------------------------------------------------------------------------

    async def _follow(self, node: _Node) -> None:
        """Bring the node to the present snapshot, again whenever that changes."""
        await _until(node, lambda: CDS in node.subscriptions or EDS in node.subscriptions)
        key = _NodeKey(node)
        self._nodes.add(key)
        try:
            while True:
                target = await self._next_target(node)
                try:
                    await self._bring(node, target)
                except _RefusedError as refusal:
                    await self._refused(node, target, refusal)
                except TimeoutError:
                    continue
        finally:
            self._nodes.discard(key)
            await self._notify()

    async def _next_target(self, node: _Node) -> Snapshot:
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    self._present is not None
                    and (node.is_torn or self._present is not node.applied)
                )
            )
            assert self._present is not None
            return self._present

    async def _bring(self, node: _Node, target: Snapshot) -> None:
        base = node.applied or self._accepted
        wide = union(base, target) if base is not None else target
        node.is_torn = True
        if CDS not in node.subscriptions:
            await _unblock(node, wide)
        for kinds in ((CDS, EDS), (LDS,), (RDS,)):
            await _send(node, wide, *kinds)
        node.applied, node.is_torn = target, False
        await self._accept(target)
        if wide.versions[CDS] != target.versions[CDS]:
            await _send(node, target, CDS, EDS)

    async def _accept(self, target: Snapshot) -> None:
        if self._present is target and self._accepted is not target:
            self._accepted = target
            remember(self._memory, target)
        await self._notify()

    async def _refused(self, node: _Node, target: Snapshot, refusal: _RefusedError) -> None:
        """Put back what was in force, everywhere."""
        self._nack_count += 1
        self._nacks = [Nack(node.id, refusal.type_url, refusal.detail, self._nack_count)]
        async with self._changed:
            if self._present is target:
                self._present = self._accepted if self._accepted is not target else None
            self._changed.notify_all()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@dataclass(frozen=True, slots=True, eq=False)
class _NodeKey:
    """A node by identity: two connections of one Envoy may overlap for a moment."""

    node: _Node


class _RefusedError(Exception):
    """A node answered with an error."""

    def __init__(self, type_url: str, detail: str) -> None:
        self.type_url = type_url
        self.detail = detail
        super().__init__(detail)


class _Servicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Connects gRPC's streams to the control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def StreamAggregatedResources(  # noqa: N802 - gRPC's spelling
        self, requests: AsyncIterator[Any], _context: Any
    ) -> AsyncIterator[Any]:
        """One Envoy, until it goes away."""
        node = _Node()
        tasks = [
            asyncio.create_task(_listen(node, requests)),
            asyncio.create_task(self._plane._follow(node)),  # noqa: SLF001 - one unit
        ]
        try:
            while (response := await node.outbox.get()) is not None:
                yield response
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(node: _Node, requests: AsyncIterator[Any]) -> None:
    """Note every request of the node; None in its outbox when it has gone."""
    try:
        async for request in requests:
            _note(node, request)
            node.changed.set()
    finally:
        node.outbox.put_nowait(None)


def _note(node: _Node, request: Any) -> None:
    if not node.id:
        node.id, node.place = request.node.id, of_node(request.node)
    kind, names = request.type_url, frozenset(request.resource_names)
    known = node.subscriptions.get(kind)
    if known is None:
        node.subscriptions[kind] = _Subscription(names)
        return
    known.names = names
    if request.response_nonce != known.nonce:
        return
    if request.HasField("error_detail"):
        known.detail = request.error_detail.message
    else:
        known.is_acked = True


async def _send(node: _Node, built: Snapshot, *kinds: str) -> None:
    """Send these types in order, then wait for the ACK of each.

    Clusters and their endpoints must be sent together: Envoy answers for new clusters only when
    it has their endpoints. Types that a node has no use for are left out. Raises _RefusedError on
    a NACK and TimeoutError when no answer comes.
    """
    sent: list[tuple[str, _Subscription]] = []
    async with asyncio.timeout(ACK_TIMEOUT_S):
        for kind in kinds:
            wanted = _wanted_names(kind, built)
            if wanted is not None and not wanted:
                continue
            await _until(node, lambda k=kind, w=wanted: _asks_for(node, k, w) or _refusal(sent))
            if _refusal(sent):
                break
            sent.append((kind, _push(node, kind, built)))
        await _until(node, lambda: all(s.is_acked for _, s in sent) or _refusal(sent))
    if refusal := _refusal(sent):
        raise refusal


async def _unblock(node: _Node, built: Snapshot) -> None:
    """Give endpoints to a node that asks for them before it asks for clusters.

    That is an Envoy whose last connection broke between the two: it asks for clusters only once it
    has the endpoints of those that it has got, and waits for them without an end. For a cluster
    that there is no more, it gets none. Raises TimeoutError when it still does not ask.
    """
    names = sorted(node.subscriptions[EDS].names)
    known = built.resources[EDS]
    assignments = {
        name: known.get(name, endpoint_pb2.ClusterLoadAssignment(cluster_name=name))
        for name in names
    }
    resources = {**built.resources, EDS: assignments}
    async with asyncio.timeout(ACK_TIMEOUT_S):
        _push(node, EDS, of_resources(resources, built.epochs))
        await _until(node, lambda: CDS in node.subscriptions)


def _push(node: _Node, kind: str, built: Snapshot) -> _Subscription:
    subscription = node.subscriptions[kind]
    node.sent += 1
    subscription.nonce, subscription.is_acked, subscription.detail = str(node.sent), False, None
    node.outbox.put_nowait(_response(kind, built, subscription.nonce, node.place))
    return subscription


def _refusal(sent: list[tuple[str, _Subscription]]) -> _RefusedError | None:
    refused = [(kind, each.detail) for kind, each in sent if each.detail is not None]
    return _RefusedError(*refused[0]) if refused else None


def _wanted_names(kind: str, built: Snapshot) -> frozenset[str] | None:
    """The names that a node must have asked for first; None: it asks for all there are."""
    if kind == EDS:
        return frozenset(eds_names(built))
    return frozenset(built.resources[RDS]) if kind == RDS else None


def _asks_for(node: _Node, kind: str, wanted: frozenset[str] | None) -> bool:
    subscription = node.subscriptions.get(kind)
    return subscription is not None and (wanted is None or subscription.names >= wanted)


def _response(kind: str, built: Snapshot, nonce: str, place: ListenerConfig | None) -> Any:
    response = discovery_pb2.DiscoveryResponse(
        version_info=built.versions[kind], type_url=kind, nonce=nonce
    )
    for message in built.resources[kind].values():
        response.resources.add().Pack(placed(message, place))
    return response


async def _until(node: _Node, is_so: Any) -> None:
    """Wait until a request of the node has made it so."""
    while not is_so():
        node.changed.clear()
        await node.changed.wait()
