"""What an idle `understudy serve` costs: CPU of the controller, and of its Envoy, over 20 s."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import monotonic, sleep

from tests.bench import Row
from tests.service.conftest import Serve, policy_text

SETTLE_S = 5.0
MEASURED_S = 20.0


def run() -> list[Row]:
    """Shares of one core, in percent, with one model, no traffic and no rollout."""
    with tempfile.TemporaryDirectory() as folder:
        serve = Serve(Path(folder), {"m": policy_text(9)})
        try:
            serve.start(60)
            assert serve.process is not None
            return _measured(serve.process.pid, serve.envoy_pid)
        finally:
            serve.end()


def _measured(controller: int, envoy: int) -> list[Row]:
    sleep(SETTLE_S)
    begin = monotonic()
    before = cpu_s(controller), cpu_s(envoy)
    sleep(MEASURED_S)
    elapsed = monotonic() - begin
    used = [
        100 * (cpu_s(pid) - was) / elapsed
        for pid, was in zip((controller, envoy), before, strict=True)
    ]
    return [
        Row("idle serve: controller", used[0], "% of a core", "< 2"),
        Row("idle serve: Envoy", used[1], "% of a core", ""),
    ]


def cpu_s(pid: int) -> float:
    """User and system time of a process: fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:45} {row.value:14,.2f} {row.unit:16} {row.target}")
