"""The same stream-stream join by stream processors: `python -m tests.bench contenders`.

Each reads the same file on the same core (`streams/`), in its best documented way; how fast it is
without its start-up is compared with us on that file. What each guarantees, docs/performance.md
says. Takes ten minutes: Bytewax makes some thousand events a second, and reads a tenth of the file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from tests.bench import Row, flow, rivals_env
from tests.bench.columns import STREAMS, on_one_core

EXPOSURES = 1_000_000
FEW = 100_000
FILE_LINES = 50_000


def run(*, exposures: int = EXPOSURES) -> list[Row]:
    """Ours, Spark with several sizes of trigger, Bytewax with several joins."""
    python = rivals_env.python()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, few, parts = folder / "flow.jsonl", folder / "few.jsonl", folder / "parts"
        flow.write(path, exposures)
        cut(path, parts, few)
        ours = on_one_core([sys.executable, "-m", "tests.bench.streaming", str(path)])
        rows = [_row("ours, log and snapshots on the disk", ours)]
        spark = [python, str(STREAMS / "spark_join.py"), str(parts)]
        for files, store in (("2", "hdfs"), ("2", "rocksdb"), ("100", "hdfs"), ("100", "rocksdb")):
            work = _work(folder)
            size = "all at once" if files == "100" else f"triggers of {int(files) * FILE_LINES:,}"
            rows += _beside(f"Spark, {store}, {size}", [*spark, work, files, store], ours)
        bytewax = [python, str(STREAMS / "bytewax_join.py"), str(few)]
        for join, options in (
            ("join_window", []),
            ("join_window, recovery", ["--recovery"]),
            ("join, never forgets", ["--unbounded"]),
        ):
            rows += _beside(f"Bytewax, {join}", [*bytewax, _work(folder), *options], ours)
    return rows


def cut(path: Path, parts: Path, few: Path) -> None:
    """The file as a folder of files, which is what Spark reads, and the beginning of it."""
    parts.mkdir()
    with path.open("rb") as file:
        few.write_bytes(b"".join(islice(file, FEW)))
        file.seek(0)
        for number in range(10_000):
            lines = b"".join(islice(file, FILE_LINES))
            if not lines:
                return
            (parts / f"{number:04d}.json").write_bytes(lines)


def _work(folder: Path) -> str:
    return tempfile.mkdtemp(dir=folder)


def _beside(name: str, command: list[str], ours: dict[str, Any]) -> list[Row]:
    try:
        theirs = on_one_core(command, timeout_s=900)
    except subprocess.TimeoutExpired:
        return [Row(f"the join: {name}: not done in 15 minutes", float("nan"), "events/s", "")]
    ratio = _speed(ours) / _speed(theirs)
    return [_row(name, theirs), Row(f"the join: ours / {name}", ratio, "ratio", ">= 3")]


def _row(name: str, result: dict[str, Any]) -> Row:
    return Row(f"the join: {name}", _speed(result), "events/s", "")


def _speed(result: dict[str, Any]) -> float:
    """Events per second of the processor."""
    return float(result["events"] / result["cpu_s"])
