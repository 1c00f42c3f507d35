"""Routers that are not ours to start: they connect to the control plane, and ship their own logs.

What `serve` asks of its local Envoy, answered for any number of routers elsewhere.
"""

from __future__ import annotations

from controller.router.snapshot import ListenerConfig

PORT = 8080
LOG_PATH = "/var/log/understudy/access.log"
ADMIN_PORT = 9901
PROBE_PORT = 8081


class Fleet:
    """Any number of routers that may come and go.

    listener  where a router listens and logs that does not say it itself
    """

    listener = ListenerConfig(host="0.0.0.0", port=PORT, log_path=LOG_PATH)  # noqa: S104 - a pod's
    restarts = 0
