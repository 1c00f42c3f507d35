"""The stream that `columns` measures, in a process of its own: `python -m tests.bench.streaming`.

    FILE [--units] [--batch N] [--no-snapshots]

Lines of the file are appended to the log in SQLite in micro-batches, each with a tick, and folded
by `Fold`, whose ledger keeps decisions and snapshots: what `serve` does, without the routers. Each
append and each snapshot is on the disk before the next begins. Prints one JSON document: events,
seconds on the clock and on the processor, the seconds of each phase, what was found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time

from controller.ledger import open_ledger
from controller.loop import fold as module
from controller.loop.fold import Fold, PolicySource
from controller.stream import codec, open_stream
from controller.stream.wire import WIRE
from tests.bench import flow

LINE_BYTES = 187


def main() -> None:
    """Fold the whole file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--units", action="store_true")
    parser.add_argument("--batch", type=int, default=50_000)
    parser.add_argument("--no-snapshots", action="store_true")
    given = parser.parse_args()
    if given.no_snapshots:
        module.SNAPSHOT_EVENTS, module.SNAPSHOT_IDLE_S, module.SNAPSHOT_S = 10**15, 1e15, 1e15
    with tempfile.TemporaryDirectory(dir=given.file.parent) as folder:
        print(json.dumps(folded(given.file, Path(folder), units=given.units, batch=given.batch)))


def folded(path: Path, folder: Path, *, units: bool, batch: int) -> dict[str, object]:
    """What it took, and what came out."""
    stream = open_stream(f"sqlite:///{folder}/events.db")
    ledger = open_ledger(f"sqlite:///{folder}/ledger.db", clock=time.time)
    text = flow.document(units=units)
    fold = Fold(PolicySource(flow.policy(units=units), text), stream, ledger)
    phases: Counter[str] = Counter()
    began, began_cpu, count = perf_counter(), process_time(), 0
    stream.append({flow.MODEL: flow.head()})
    turned = fold.turn()
    for lines in batches(path, batch * LINE_BYTES):
        tick = codec.tick_line(WIRE.decode(lines[-1]).time)
        with timed(phases, "append"):
            stream.append({flow.MODEL: [*lines, tick]})
        with timed(phases, "fold"):
            turned = fold.turn()
        count += len(lines)
    wall_s, cpu_s = perf_counter() - began, process_time() - began_cpu
    state = turned.state
    assert not state.rejected, state.rejected
    return {
        "events": count,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "phases_cpu_s": phases,
        "exposures": int(state.totals.exposures.sum()),
        "outcomes": int(state.sums[0].outcomes.sum()),
        "value": float(state.sums[0].value.sum()),
        "bytes_log": (folder / "events.db").stat().st_size,
        "bytes_ledger": (folder / "ledger.db").stat().st_size,
        "phase": state.phase.value,
    }


def batches(path: Path, size: int) -> Iterator[list[bytes]]:
    """The lines of a file, about `size` bytes at a time."""
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(size):
            *lines, rest = (rest + chunk).split(b"\n")
            yield lines
    assert not rest, rest


@contextmanager
def timed(phases: Counter[str], name: str) -> Iterator[None]:
    """Adds up what a phase takes of the processor."""
    began = process_time()
    yield
    phases[name] += process_time() - began


if __name__ == "__main__":
    main()
