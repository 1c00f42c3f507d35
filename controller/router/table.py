"""Tables of routes: how Envoy finds a request's model.

Routes of a list are tried one after the other, and a request pays for every model that stands
before its own: with 1 000 models five times what all the rest of a request costs. So the routes of
more than a few models hang in a tree of prefixes, in which the longest one that fits is found in
the length of the path. Both say the same: of a model's routes the last one takes whatever the
others left, so no request that has found its model ever looks for a shorter prefix.

A list of a few is kept: it costs the same, and can be read in Envoy's config dump.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from google.protobuf.message import Message

FEW = 8
"""So many models make a list."""


def table(name: str, routes: Mapping[str, Sequence[Message]]) -> Message:
    """The table of these routes, by prefix; the longest prefix that fits counts."""
    found = route_pb2.RouteConfiguration(name=name)
    found.validate_clusters.value = False
    host = found.virtual_hosts.add(name=name, domains=["*"])
    if len(routes) <= FEW:
        for prefix in sorted(routes, key=lambda each: (-len(each), each)):
            host.routes.extend(routes[prefix])
    else:
        _grow(host.matcher.matcher_tree, routes)
    made: Message = found
    return made


def _grow(tree: Any, routes: Mapping[str, Sequence[Message]]) -> None:
    tree.input.name = "path"
    tree.input.typed_config.Pack(http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=":path"))
    for prefix, each in routes.items():
        action = tree.prefix_match_map.map[prefix].action
        action.name = "routes"
        listed = route_components_pb2.RouteList(routes=each)
        action.typed_config.Pack(listed, deterministic=True)


def routes_in(found: Message) -> Iterator[Any]:
    """Every route of a table."""
    for host in getattr(found, "virtual_hosts", ()):
        yield from host.routes
        for leaf in host.matcher.matcher_tree.prefix_match_map.map.values():
            listed = route_components_pb2.RouteList()
            leaf.action.typed_config.Unpack(listed)
            yield from listed.routes
