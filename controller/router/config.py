"""The parts of Envoy's configuration that no split changes: clusters, listeners, matchers, log.

What was tuned, and why:

    dynamic_stats off, suppress_envoy_headers, no packed trace reason   each is paid per request
    timeout 0 and idle_timeout = the policy's timeout   a stream of tokens may run as long as it
        speaks; an arm that is silent for the policy's timeout is answered 504
    upstream idle timeout 4 s   application servers close idle connections after 5 s (uvicorn's
        default); whoever closes first wins, and a request on a connection that the server is
        closing would be lost
    circuit breakers far away   an overloaded model is seen in its errors and latency, not hidden
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Any

from envoy.extensions.access_loggers.file.v3 import file_pb2 as _file  # noqa: F401 - registers
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router  # noqa: F401 - registers
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)
from envoy.extensions.request_id.uuid.v3 import uuid_pb2 as _uuid  # noqa: F401 - registers
from envoy.extensions.upstreams.http.v3 import (
    http_protocol_options_pb2 as _upstream,  # noqa: F401 - registers
)
from google.protobuf.message import Message

ARM_HEADER = "x-understudy-arm"
"""Tells callers which arm answered."""

SHADOW_HEADER = "x-understudy-shadow"
"""Names the arm that a mirrored request is for; lives between the two listeners only."""

SHADOW_CLUSTER = "understudy/shadow"
_TYPE = "type.googleapis.com/envoy.extensions."
_ADS = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
_MANY = 1_000_000


def header(name: str, value: str) -> dict[str, Any]:
    """A header that replaces whatever the other side said."""
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def timeouts(silence_s: float) -> dict[str, Any]:
    """No bound on the whole answer, but on how long both sides may be silent."""
    return {"timeout": "0s", "idle_timeout": f"{silence_s:.3f}s"}


# --- clusters ---------------------------------------------------------------------------------


def cluster(name: str, endpoints: Sequence[str]) -> dict[str, Any]:
    """A cluster found by EDS; by DNS where an endpoint is a host name, which EDS cannot carry."""
    common = {"name": name, "connect_timeout": "1s", **_upstream_options()}
    if all(_is_ip(_host_port(each)[0]) for each in endpoints):
        return {"type": "EDS", "eds_cluster_config": {"eds_config": _ADS}, **common}
    return {
        "type": "STRICT_DNS",
        "respect_dns_ttl": True,
        "load_assignment": assignment(name, endpoints),
        **common,
    }


def shadow_cluster(socket: str) -> dict[str, Any]:
    """Leads mirrored requests back into this Envoy, so that their answers are seen and logged."""
    address = {"address": {"pipe": {"path": socket}}}
    return {
        "type": "STATIC",
        "name": SHADOW_CLUSTER,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": SHADOW_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": address}]}],
        },
        **_upstream_options(),
    }


def assignment(name: str, endpoints: Sequence[str]) -> dict[str, Any]:
    """The servers of a cluster; without any, its requests are answered 503."""
    found = []
    for each in endpoints:
        host, port = _host_port(each)
        address = {"socket_address": {"address": host, "port_value": port}}
        found.append({"endpoint": {"address": address}})
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": found}] if found else []}


def _upstream_options() -> dict[str, Any]:
    limits = dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests", "max_retries"), _MANY
    )
    return {
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": "4s"},
                "use_downstream_protocol_config": {
                    "http_protocol_options": {},
                    "http2_protocol_options": {},
                },
            }
        },
    }


def _host_port(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# --- listeners --------------------------------------------------------------------------------


def listener(name: str, address: dict[str, Any], *, log_path: str, log_line: str) -> dict[str, Any]:
    """A listener whose routes come by RDS under its own name; `shadow` is the inner one."""
    manager = _connection_manager(name, log_path=log_path, log_line=log_line)
    return {
        "name": name,
        "address": address,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _connection_manager(name: str, *, log_path: str, log_line: str) -> dict[str, Any]:
    is_public = name != "shadow"
    log = {
        "@type": f"{_TYPE}access_loggers.file.v3.FileAccessLog",
        "path": log_path,
        "log_format": {
            "text_format_source": {"inline_string": log_line},
            "omit_empty_values": True,
        },
    }
    router = {
        "@type": f"{_TYPE}filters.http.router.v3.Router",
        "dynamic_stats": False,
        "suppress_envoy_headers": True,
    }
    uuid = {
        "@type": f"{_TYPE}request_id.uuid.v3.UuidRequestIdConfig",
        "pack_trace_reason": False,
    }
    return {
        "@type": f"{_TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "rds": {"route_config_name": name, "config_source": _ADS},
        "http_filters": [{"name": "router", "typed_config": router}],
        "use_remote_address": is_public,
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": is_public,
        "preserve_external_request_id": not is_public,
        "always_set_request_id_in_response": is_public,
        "request_id_extension": {"typed_config": uuid},
        "access_log": [{"name": "file", "typed_config": log}],
    }


def routes_of(built: Message) -> Iterable[str]:
    """The names of the route tables that a listener asks for."""
    for chain in getattr(built, "filter_chains", ()):
        for each in chain.filters:
            manager = http_connection_manager_pb2.HttpConnectionManager()
            if each.typed_config.Unpack(manager):
                yield manager.rds.route_config_name


# --- routes -----------------------------------------------------------------------------------


def unit_rules(source: str, salt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """For a unit in `header:NAME` or `cookie:NAME`: who carries it, and what is hashed for it.

    The salt stands before the value, in RE2's replacement syntax. Of several cookies of one name
    the first that is not empty counts, here as in the log.
    """
    place, _, name = source.partition(":")
    literal = salt.replace("\\", "\\\\")
    if place == "header":
        is_present = {
            "name": name,
            "string_match": {"exact": ""},
            "invert_match": True,
            "treat_missing_header_as_empty": True,
        }
        return is_present, _hashed(name, "^", literal)
    cookie = re.escape(name)
    pair = rf"(?:.*?;\s*)??{cookie}=([^;]+)(?:;.*)?"
    is_present = {"name": "cookie", "string_match": {"safe_regex": {"regex": pair}}}
    return is_present, _hashed("cookie", f"^{pair}$", literal + r"\1")


def _hashed(name: str, pattern: str, substitution: str) -> dict[str, Any]:
    rewrite = {"pattern": {"regex": pattern}, "substitution": substitution}
    return {"header": {"header_name": name, "regex_rewrite": rewrite}}


def segment_matcher(header: str, segment: str | None) -> dict[str, Any]:
    """Matches requests of this segment; for None, of any segment that there may be.

    Of a header that was sent twice, Envoy compares each value, and one that fits is enough; with
    `match_headers_individually` off, as it was before 1.40, it compares them joined by commas.
    """
    if segment is None:
        return {"name": header, "string_match": {"safe_regex": {"regex": "[^,]+"}}}
    return {"name": header, "string_match": {"exact": segment}}


def mirror(arm_cluster: str, share_bp: int) -> dict[str, Any]:
    """Copies this share of requests to the inner listener, which sends them to the arm."""
    return {
        "cluster": SHADOW_CLUSTER,
        "runtime_fraction": {
            "default_value": {"numerator": share_bp, "denominator": "TEN_THOUSAND"}
        },
        "disable_shadow_host_suffix_append": True,
        "request_headers_mutations": [{"append": header(SHADOW_HEADER, arm_cluster)}],
    }


def shadow_matcher(arm_cluster: str) -> dict[str, Any]:
    """Matches the requests that `mirror` copied for this arm."""
    return {"name": SHADOW_HEADER, "string_match": {"exact": arm_cluster}}
