"""What an Envoy must be told before it can ask: who it is, where the control plane is.

Everything else comes over xDS. The first fetch has no timeout: an Envoy that gave up waiting would
declare itself ready with nothing to serve, and in a hot restart take over from one that serves.

A router that is not local also says where it listens and logs (`place`), because several of them
may share one control plane and each knows its own machine best. Its control plane is a name with
one address or several, at most one of which answers: the one that leads. A connection that is
refused, or that does not answer pings, is tried again at the next address within a second or so.

Envoy makes a table of all headers of a message when one is looked for whose name it does not know.
That is dearer than all else that a split costs (docs/router-performance.md), so it is told the name
of the arm's header and of those in which units usually stand. The values of a header that it knows
are joined, by commas, cookies by semicolons: so a unit is hashed as it is logged. The names are
fixed rather than those of the policies, because Envoy learns them at its start only, and with some
that a policy may name (`host`) it does not start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from controller.router.config import ARM_HEADER
from controller.router.place import as_metadata
from controller.router.snapshot import ListenerConfig

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TYPE = "type.googleapis.com/envoy.extensions."
_PINGS = {"connection_keepalive": {"interval": "5s", "timeout": "3s"}}
"""Without them an Envoy stays with a controller that hangs while another one leads."""

_PROBED = ("/ready", "/stats/prometheus")

_UNIT_HEADERS = ("cookie", "x-customer-id", "x-device-id", "x-session-id", "x-user-id")
"""Where units usually stand; a request whose unit stands elsewhere costs 2 % more."""


def document(*, node: str, xds: str, admin: str) -> bytes:
    """The bootstrap of a local Envoy; `xds` and `admin` are paths of unix sockets."""
    plane = {"type": "STATIC", **_plane([{"pipe": {"path": xds}}], http2=_PINGS)}
    return msgspec.json.encode(
        {
            "node": {"id": node, "cluster": "understudy"},
            "admin": {"address": {"pipe": {"path": admin, "mode": 0o600}}},
            "dynamic_resources": _dynamic(),
            "static_resources": {"clusters": [plane]},
            "inline_headers": _known(),
        }
    )


def remote(
    *,
    node: str,
    xds: Sequence[tuple[str, int]],
    place: ListenerConfig,
    admin: tuple[str, int],
    probe: tuple[str, int] | None,
) -> dict[str, Any]:
    """The bootstrap of an Envoy that is not local.

    xds    where a control plane may be: host or name, and port
    place  where it listens and logs
    admin  its admin interface, which must be on loopback: it has no login
    probe  where it answers GET /ready and GET /stats/prometheus to others, and nothing else
    """
    plane = {"cluster_type": _by_name(), **_plane([_address(*each) for each in xds], http2=_PINGS)}
    resources: dict[str, Any] = {"clusters": [plane]}
    if probe is not None:
        resources["clusters"].append(_admin_cluster(admin))
        resources["listeners"] = [_probe_listener(probe)]
    return {
        "node": {"id": node, "cluster": "understudy", "metadata": as_metadata(place)},
        "admin": {"address": _address(*admin)},
        "dynamic_resources": _dynamic(),
        "static_resources": resources,
        "inline_headers": _known(),
    }


def _known() -> list[dict[str, str]]:
    """The headers that Envoy finds without a table."""
    units = [(name, "REQUEST_HEADER") for name in _UNIT_HEADERS]
    return [
        {"inline_header_name": name, "inline_header_type": kind}
        for name, kind in [(ARM_HEADER, "RESPONSE_HEADER"), *units]
    ]


def _dynamic() -> dict[str, Any]:
    retries = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
    service = {"envoy_grpc": {"cluster_name": "xds", "retry_policy": retries}}
    return {
        "ads_config": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            # Who a router is takes 60 kB, most of it a list of what Envoy can do.
            "set_node_on_first_message_only": True,
            "grpc_services": [service],
        },
        "cds_config": _source(),
        "lds_config": _source(),
    }


def _source() -> dict[str, Any]:
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def _by_name() -> dict[str, Any]:
    """Every address of a name, asked for often: controllers come and go."""
    kind = {"@type": f"{_TYPE}clusters.dns.v3.DnsCluster", "dns_refresh_rate": "2s"}
    return {"name": "dns", "typed_config": {**kind, "dns_lookup_family": "ALL"}}


def _plane(addresses: Sequence[Mapping[str, Any]], *, http2: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "xds",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            _OPTIONS: {
                "@type": f"type.googleapis.com/{_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": _assignment("xds", addresses),
    }


def _assignment(name: str, addresses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = [{"endpoint": {"address": address}} for address in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": found}]}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


# --- what others may ask of the admin interface -----------------------------------------------


def _admin_cluster(admin: tuple[str, int]) -> dict[str, Any]:
    return {
        "name": "admin",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _assignment("admin", [_address(*admin)]),
    }


def _is_get() -> dict[str, Any]:
    return {"name": ":method", "string_match": {"exact": "GET"}}


def _probe_listener(probe: tuple[str, int]) -> dict[str, Any]:
    routes = [
        {"match": {"path": path, "headers": [_is_get()]}, "route": {"cluster": "admin"}}
        for path in _PROBED
    ]
    router = {
        "name": "router",
        "typed_config": {"@type": f"{_TYPE}filters.http.router.v3.Router"},
    }
    manager = {
        "@type": f"{_TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "probe",
        "route_config": {
            "name": "probe",
            "virtual_hosts": [{"name": "probe", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [router],
    }
    return {
        "name": "probe",
        "address": _address(*probe),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
