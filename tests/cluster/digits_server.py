"""The demo's real model on a pod's address: `digits_server.py ADDRESS PORT VERSION MODEL_FILE`.

`controller.demo.server` listens on loopback only, which no endpoint of a cluster may be.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from controller.demo.models import load, skip_checks
from controller.demo.server import KEEP_ALIVE_S, Server


def main(address: str, port: int, version: str, model: Path) -> None:
    """Serve until SIGTERM."""
    app = Server(version, load(model)).app()
    skip_checks()
    uvicorn.run(
        app,
        host=address,
        port=port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
