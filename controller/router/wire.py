"""What goes over the wire to a router: a snapshot's resources of one type, as bytes.

A hundred routers are sent the same megabyte. So the resources are serialised once per content, and
each answer is put together from bytes: protobuf reads fields that were written one part after the
other as one message. Only what differs from router to router (its nonce; two listeners and one
cluster, see `place`) is made for each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import Message

from controller.router.config import SHADOW_CLUSTER
from controller.router.place import placed
from controller.router.snapshot import CDS, LDS, ListenerConfig, Snapshot

_KEPT = 12
"""Contents that are kept: three snapshots of four types."""


class Wire:
    """Makes answers, and remembers the last contents."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def response(
        self, kind: str, built: Snapshot, nonce: str, place: ListenerConfig | None
    ) -> bytes:
        """A `DiscoveryResponse` with all resources of this type, for a router at `place`."""
        own = (
            placed(message, place)
            for name, message in built.resources[kind].items()
            if _is_placed(kind, name)
        )
        last = discovery_pb2.DiscoveryResponse(nonce=nonce)
        return self._shared(kind, built) + _packed(last, own)

    def _shared(self, kind: str, built: Snapshot) -> bytes:
        key = (kind, built.versions[kind])
        if key not in self._kept:
            first = discovery_pb2.DiscoveryResponse(
                version_info=built.versions[kind], type_url=kind
            )
            resources = built.resources[kind].items()
            self._kept[key] = _packed(first, (m for n, m in resources if not _is_placed(kind, n)))
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _is_placed(kind: str, name: str) -> bool:
    return kind == LDS or (kind == CDS and name == SHADOW_CLUSTER)


def _packed(response: discovery_pb2.DiscoveryResponse, resources: Iterable[Message]) -> bytes:
    for message in resources:
        response.resources.add().Pack(message)
    found: bytes = response.SerializeToString()
    return found
