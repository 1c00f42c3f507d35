"""One connected Envoy: what it asks for, what it was sent, how it answered.

    _bring:   CDS, EDS, LDS, RDS of the wide snapshot    what is pointed to before what points
              CDS, EDS of the target                     what nothing points to any more, at last

A type is sent when the node has not accepted just this content of it. Two of them never go alone:
Envoy answers for new clusters only when it has their endpoints, so EDS goes with CDS; and a
listener that was built anew may wait for its routes, so RDS goes with LDS.

Invariant: `has[type]` is what the node accepted last, and nothing from the moment at which it is
sent something else until it accepts that; after a refusal, of which an Envoy may have taken a part,
nothing is sure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from envoy.config.endpoint.v3 import endpoint_pb2

from controller.router.place import of_node
from controller.router.snapshot import (
    CDS,
    EDS,
    LDS,
    RDS,
    ListenerConfig,
    Snapshot,
    of_resources,
)
from controller.router.wire import Wire

ACK_TIMEOUT_S = 10.0


class RefusedError(Exception):
    """A node answered with an error."""

    def __init__(self, type_url: str, detail: str) -> None:
        self.type_url = type_url
        self.detail = detail
        super().__init__(detail)


@dataclass(slots=True)
class Subscription:
    """What one node asked for of one type, and how it answered what it was sent last."""

    names: frozenset[str]
    nonce: str = ""
    version: str = ""
    is_acked: bool = False
    detail: str | None = None


@dataclass(slots=True, eq=False)
class Node:
    """One connection of an Envoy; two of one Envoy may overlap for a moment.

    applied       the snapshot that it routes by
    refused       snapshots that it refused, of those it may still be asked to take
    is_new        it has been given nothing yet, by anybody: a process that has just begun
    led_to        the clusters to which it may route users' requests; None: any
    behind_since  since when it has not been at the present snapshot; None where it is
    is_torn       a push ended half way: types of two snapshots are mixed until the next one
    """

    id: str = ""
    place: ListenerConfig | None = None
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    has: dict[str, str] = field(default_factory=dict)
    outbox: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    applied: Snapshot | None = None
    refused: list[Snapshot] = field(default_factory=list)
    is_new: bool = False
    led_to: frozenset[str] | None = None
    behind_since: float | None = None
    sent: int = 0
    is_torn: bool = False

    def has_refused(self, snapshot: Snapshot | None) -> bool:
        """Whether it refused this very snapshot."""
        return any(each is snapshot for each in self.refused)

    async def listen(self, requests: Any) -> None:
        """Note every request; None in the outbox when the node has gone."""
        try:
            async for request in requests:
                self._note(request)
                self.changed.set()
        finally:
            self.outbox.put_nowait(None)

    def _note(self, request: Any) -> None:
        if not self.id:
            self.id, self.place = request.node.id, of_node(request.node)
        kind, names = request.type_url, frozenset(request.resource_names)
        known = self.subscriptions.get(kind)
        if known is None:
            self.subscriptions[kind] = Subscription(names)
            if kind == CDS:  # one that comes back names the version that it has
                self.is_new = not request.version_info
            return
        known.names = names
        if request.response_nonce != known.nonce:
            return
        if request.HasField("error_detail"):
            known.detail = request.error_detail.message
        else:
            known.is_acked = True
            self.has[kind] = known.version

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait until a request of the node has made it so."""
        while not is_so():
            self.changed.clear()
            await self.changed.wait()


async def bring(node: Node, wire: Wire, wide: Snapshot) -> None:
    """Make `wide` what the node routes by. Raises RefusedError, and TimeoutError."""
    node.is_torn = True
    _withdraw(node)
    if CDS not in node.subscriptions:
        await _unblock(node, wire, wide)
    await tidy(node, wire, wide)
    is_rebuilt = node.has.get(LDS) != wide.versions[LDS]
    await _send(node, wire, wide, LDS)
    if is_rebuilt:
        node.has.pop(RDS, None)
    await _send(node, wire, wide, RDS)


async def tidy(node: Node, wire: Wire, target: Snapshot) -> None:
    """Make the target's clusters and endpoints all that the node has. Raises as `bring`."""
    if node.has.get(CDS) != target.versions[CDS]:
        node.has.pop(EDS, None)
    await _send(node, wire, target, CDS, EDS)


def _withdraw(node: Node) -> None:
    """Take back what a node has not even begun to receive: it would pile up before one that hangs.

    The farewell (None) stays.
    """
    waiting = [node.outbox.get_nowait() for _ in range(node.outbox.qsize())]
    if None in waiting:
        node.outbox.put_nowait(None)


async def _send(node: Node, wire: Wire, built: Snapshot, *kinds: str) -> None:
    """Send those of the types that the node does not have, then wait for the ACK of each.

    Types that a node has no use for are left out. Raises RefusedError on a NACK and TimeoutError
    when no answer comes.
    """
    sent: list[tuple[str, Subscription]] = []
    async with asyncio.timeout(ACK_TIMEOUT_S):
        for kind in kinds:
            wanted = _wanted_names(kind, built)
            if node.has.get(kind) == built.versions[kind] or wanted == frozenset():
                continue
            await node.until(partial(_is_ready, node, kind, wanted, sent))
            if _refusal(sent):
                break
            sent.append((kind, _push(node, wire, kind, built)))
        await node.until(lambda: all(s.is_acked for _, s in sent) or _refusal(sent))
    if refusal := _refusal(sent):
        raise refusal


async def _unblock(node: Node, wire: Wire, built: Snapshot) -> None:
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
        _push(node, wire, EDS, of_resources(resources, built.epochs))
        await node.until(lambda: CDS in node.subscriptions)


def _push(node: Node, wire: Wire, kind: str, built: Snapshot) -> Subscription:
    subscription = node.subscriptions[kind]
    node.sent += 1
    node.has.pop(kind, None)
    subscription.nonce, subscription.version = str(node.sent), built.versions[kind]
    subscription.is_acked, subscription.detail = False, None
    node.outbox.put_nowait(wire.response(kind, built, subscription.nonce, node.place))
    return subscription


def _is_ready(
    node: Node, kind: str, wanted: frozenset[str] | None, sent: list[tuple[str, Subscription]]
) -> bool:
    """Whether the node asks for this type, or has refused what it was sent before."""
    return _asks_for(node, kind, wanted) or _refusal(sent) is not None


def _refusal(sent: list[tuple[str, Subscription]]) -> RefusedError | None:
    refused = [(kind, each.detail) for kind, each in sent if each.detail is not None]
    return RefusedError(*refused[0]) if refused else None


def _wanted_names(kind: str, built: Snapshot) -> frozenset[str] | None:
    """The names that a node must have asked for first; None: it asks for all there are."""
    return built.names[kind] if kind in (EDS, RDS) else None


def _asks_for(node: Node, kind: str, wanted: frozenset[str] | None) -> bool:
    subscription = node.subscriptions.get(kind)
    return subscription is not None and (wanted is None or subscription.names >= wanted)
