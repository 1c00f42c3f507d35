"""Where one router listens and logs, said by itself: the metadata of its node.

The control plane builds one snapshot for all routers. The few resources that depend on the machine
(two listeners, and the cluster that leads to the inner one) are filled in for each router that has
said its place when it connected; for the others they are what the snapshot says.

Invariant: what is filled in changes no route and no weight, so a split is in force at every router
in the same sense.
"""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from controller.router.config import SHADOW_CLUSTER
from controller.router.snapshot import ListenerConfig

KEY = "understudy"


def as_metadata(place: ListenerConfig) -> dict[str, Any]:
    """A place as the metadata of a node."""
    fields = {
        "host": place.host,
        "port": place.port,
        "log": place.log_path,
        "shadow": place.shadow_socket,
    }
    return {KEY: fields}


def of_node(node: Any) -> ListenerConfig | None:
    """The place that a node says it has; None when it says none, or none that can be used."""
    said = MessageToDict(node.metadata).get(KEY)
    match said:
        case {"host": str(host), "port": float(port), "log": str(log), "shadow": str(shadow)}:
            return ListenerConfig(host, int(port), log, shadow)
        case _:
            return None


def placed(message: Message, place: ListenerConfig | None) -> Message:
    """A resource as it is for a router at `place`."""
    if place is None:
        return message
    own = type(message)()
    own.CopyFrom(message)
    if isinstance(own, listener_pb2.Listener):
        _move(own, place)
    elif isinstance(own, cluster_pb2.Cluster) and own.name == SHADOW_CLUSTER:
        endpoint = own.load_assignment.endpoints[0].lb_endpoints[0].endpoint
        endpoint.address.pipe.path = place.shadow_socket
    return own


def _move(listener: Any, place: ListenerConfig) -> None:
    if listener.address.HasField("pipe"):
        listener.address.pipe.path = place.shadow_socket
    else:
        listener.address.socket_address.address = place.host
        listener.address.socket_address.port_value = place.port
    for chain in listener.filter_chains:
        for each in chain.filters:
            manager = http_connection_manager_pb2.HttpConnectionManager()
            if each.typed_config.Unpack(manager):
                for log in manager.access_log:
                    _log_to(log.typed_config, place.log_path)
                each.typed_config.Pack(manager)


def _log_to(config: Any, path: str) -> None:
    log = file_pb2.FileAccessLog()
    if config.Unpack(log):
        log.path = path
        config.Pack(log)
