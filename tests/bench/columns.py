"""The join in columns: what a stream of events costs, and how that grows.

    one shot     decode + join + estimate of one file, streaming and durable (see `streaming`),
                 beside Polars, which reads it once and keeps nothing; on one core, in turns
    the door     what lines cost that are canonical already, and over HTTP
    growth       cost per event by what is pending (with snapshots), rate, arms and models
    recovery     10^7 pending exposures from a snapshot

On a machine that others use as well, seconds of the processor say more than those of the clock:
ratios are of the processor's, and the clock's are beside them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import Row, flow, growth, recovery, rivals_env
from tests.bench.door import canonical_per_s, posted_per_s

EXPOSURES = 2_000_000
ROUNDS = 3
CORE = max(os.sched_getaffinity(0))
STREAMS = Path(__file__).parent / "streams"


def run(*, exposures: int = EXPOSURES) -> list[Row]:
    """Everything, in about ten minutes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flow.jsonl"
        flow.write(path, exposures)
        rows = one_shot(path)
        rows += [
            Row("intake: lines that are canonical already", *canonical_per_s(path), ""),
            Row("POST /v1/events, NDJSON of 5 000", posted_per_s(path), "events/s", ""),
        ]
    return rows + growth.run() + recovery.run()


def one_shot(path: Path) -> list[Row]:
    """Ours and Polars on the same file and core, in turns."""
    python = rivals_env.python()
    contenders: dict[str, list[str]] = {
        "ours": [sys.executable, "-m", "tests.bench.streaming", str(path)],
        "units": [sys.executable, "-m", "tests.bench.streaming", str(path), "--units"],
        "polars": [python, str(STREAMS / "polars_once.py"), str(path)],
        "narrow": [python, str(STREAMS / "polars_once.py"), str(path), "--narrow"],
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, command in contenders.items():
            found[name].append(on_one_core(command))
    for mine, other in zip(found["ours"], found["polars"], strict=True):
        assert mine["events"] == other["events"], (mine, other)
    speed = {name: _speed(results, "cpu_s") for name, results in found.items()}
    clock = {name: _speed(results, "wall_s") for name, results in found.items()}
    log = found["ours"][0]
    name = "stream to evidence"
    return [
        Row(f"{name}: ours", speed["ours"], "events/s", ""),
        Row(f"{name}: ours, each unit once", speed["units"], "events/s", ""),
        Row("the file once: Polars, all columns", speed["polars"], "events/s", ""),
        Row("the file once: Polars, five columns", speed["narrow"], "events/s", ""),
        Row(f"{name} / Polars", speed["ours"] / speed["polars"], "ratio", ">= 0.4"),
        Row(f"{name} / Polars, five columns", speed["ours"] / speed["narrow"], "ratio", ""),
        Row(f"{name} / Polars, by the clock", clock["ours"] / clock["polars"], "ratio", ""),
        Row("log in SQLite", log["bytes_log"] / log["events"], "bytes/event", ""),
    ]


def _speed(results: Sequence[dict[str, Any]], of: str) -> float:
    return median(result["events"] / result[of] for result in results)


def on_one_core(command: Sequence[str], *, timeout_s: float = 1_200) -> dict[str, Any]:
    """What a contender says, pinned to the last core."""
    done = subprocess.run(
        ["taskset", "-c", str(CORE), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=timeout_s,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
