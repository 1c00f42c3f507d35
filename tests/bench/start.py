"""How soon `understudy serve` is ready, on an empty state folder and on one that it left."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from tests.bench import Row

POLICIES = Path(__file__).parents[2] / "policies"
PORTS = ("--api", "127.0.0.1:0", "--router", "127.0.0.1:0", "--xds", "127.0.0.1:0", "-o", "json")


def run() -> list[Row]:
    """Two starts, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        first, again = (ready_s(Path(folder)) for _ in range(2))
    return [
        Row("serve: to ready, first start", first, "s", "<= 3"),
        Row("serve: to ready, second start", again, "s", "<= 3"),
    ]


def ready_s(state: Path) -> float:
    """Seconds from the start of the process to its ready line."""
    command = [sys.executable, "-m", "controller.cli", "serve"]
    began = perf_counter()
    with subprocess.Popen(
        [*command, "--policies", str(POLICIES), "--state", str(state), *PORTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        took = perf_counter() - began
        child.send_signal(signal.SIGTERM)
    assert b'"ready":true' in line, line
    return took
