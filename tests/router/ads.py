"""Routers without Envoy: clients of the control plane that ask and answer as Envoy does.

`python -m tests.router.ads HOST:PORT COUNT` runs so many in a process of its own, each of them with
a connection of its own, which come back 0.1 s after they were cut off.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controller.router.snapshot import CDS, EDS, LDS, RDS

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else all of one process share a connection
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
ACK: Callable[[str], str | None] = lambda _kind: None  # noqa: E731


class Client:
    """One router.

    answer   a type -> None to accept it, or the sentence with which it is refused
    pause_s  before each answer
    hears    whether it answers at all
    got      type -> how often it was sent; `size` the bytes of it; `versions` the accepted ones
    has_now  type -> version that it routes by, over connections; cleared, it is a new process
    """

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name = address, name
        self.answer, self.pause_s, self.hears = ACK, 0.0, True
        self.got: dict[str, int] = {}
        self.size: dict[str, int] = {}
        self.versions: dict[str, str] = {}
        self.has_now: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> Client:
        self._task = asyncio.create_task(self._live())
        return self

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def has(self, version: str, timeout_s: float = 10.0) -> None:
        """Return when these routes were accepted."""
        async with asyncio.timeout(timeout_s):
            while self.versions.get(RDS) != version:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def _live(self) -> None:
        while True:
            async with grpc.aio.insecure_channel(self.address, options=_OPTIONS) as channel:
                with suppress(grpc.aio.AioRpcError):
                    await self._talk(channel)
            await asyncio.sleep(0.1)

    async def _talk(self, channel: Any) -> None:
        stream = channel.stream_stream(
            METHOD, request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString
        )()
        self.versions.clear()
        names: dict[str, list[str]] = {}
        node = base_pb2.Node(id=self.name, cluster="understudy")
        for kind in (CDS, LDS):
            version = self.has_now.get(kind, "")
            ask = discovery_pb2.DiscoveryRequest(node=node, type_url=kind, version_info=version)
            await stream.write(ask)
        async for document in stream:
            got = discovery_pb2.DiscoveryResponse.FromString(document)
            kind = got.type_url
            self.got[kind] = self.got.get(kind, 0) + 1
            self.size[kind] = len(document)
            if not self.hears:
                continue
            await asyncio.sleep(self.pause_s)
            ack = discovery_pb2.DiscoveryRequest(
                type_url=kind, response_nonce=got.nonce, resource_names=names.get(kind, [])
            )
            if (refusal := self.answer(kind)) is not None:
                ack.error_detail.message = refusal
                ack.version_info = self.versions.get(kind, "")
                await stream.write(ack)
                continue
            asks = self._asks_next(kind, got, names)
            if asks == EDS:
                await stream.write(_ask(EDS, names[EDS]))
            self.versions[kind] = self.has_now[kind] = ack.version_info = got.version_info
            await stream.write(ack)
            if asks == RDS:
                await stream.write(_ask(RDS, names[RDS]))

    def _asks_next(self, kind: str, got: Any, names: dict[str, list[str]]) -> str | None:
        """Envoy asks for endpoints before it accepts clusters, and for routes after listeners."""
        if kind == CDS:
            clusters = [cluster_pb2.Cluster.FromString(each.value) for each in got.resources]
            wanted = sorted(c.name for c in clusters if c.type == cluster_pb2.Cluster.EDS)
            if wanted != names.get(EDS, []):
                names[EDS] = wanted
                return EDS
        if kind == LDS and RDS not in names:
            names[RDS] = ["router", "shadow"]
            return RDS
        return None


def _ask(kind: str, names: list[str]) -> Any:
    return discovery_pb2.DiscoveryRequest(type_url=kind, resource_names=names)


async def _main(address: str, count: int) -> None:
    for i in range(count):
        Client(address, f"client-{i}").start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
