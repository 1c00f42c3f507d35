"""What an Envoy must be told before it can ask: who it is, where the control plane is.

Everything else comes over xDS. The first fetch has no timeout: an Envoy that gave up waiting would
declare itself ready with nothing to serve, and in a hot restart take over from one that serves.
"""

from __future__ import annotations

import msgspec

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def document(*, node: str, xds: str, admin: str) -> bytes:
    """The bootstrap of an Envoy; `xds` and `admin` are paths of unix sockets."""
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    endpoint = {"endpoint": {"address": {"pipe": {"path": xds}}}}
    plane = {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            _OPTIONS: {
                "@type": f"type.googleapis.com/{_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "xds",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }
    return msgspec.json.encode(
        {
            "node": {"id": node, "cluster": "understudy"},
            "admin": {"address": {"pipe": {"path": admin, "mode": 0o600}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [
                        {
                            "envoy_grpc": {
                                "cluster_name": "xds",
                                "retry_policy": {
                                    "retry_back_off": {
                                        "base_interval": "0.1s",
                                        "max_interval": "1s",
                                    }
                                },
                            }
                        }
                    ],
                },
                "cds_config": source,
                "lds_config": source,
            },
            "static_resources": {"clusters": [plane]},
        }
    )
