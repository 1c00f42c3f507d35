"""What it costs to let events in: canonical lines, and `POST /v1/events` of a real `serve`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from urllib.parse import urlsplit

from controller.stream import open_stream
from tests.bench import flow
from tests.bench.start import PORTS
from tests.bench.streaming import batches

BODY = 5_000
POSTED = 200_000
APPENDED = 1_000_000
LINE_BYTES = 187


def canonical_per_s(path: Path) -> tuple[float, str]:
    """Lines that need no judgement, as the access log's: from memory into the log on the disk."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        stream = open_stream(f"sqlite:///{folder}/events.db")
        taken, spent = 0, 0.0
        for lines in islice(batches(path, 50_000 * LINE_BYTES), APPENDED // 50_000):
            began = process_time()
            stream.append({flow.MODEL: lines})
            spent += process_time() - began
            taken += len(lines)
        stream.close()
    return taken / spent, "events/s"


def posted_per_s(path: Path) -> float:
    """Events a second by the clock, from one client, each answered when it is on the disk."""
    with tempfile.TemporaryDirectory() as folder, _Served(Path(folder)) as (child, address):
        connection = HTTPConnection(address.hostname or "", address.port or 0, timeout=60)
        taken, spent = 0, 0.0
        for lines in islice(batches(path, BODY * LINE_BYTES), POSTED // BODY):
            body = b"\n".join(lines)
            began = perf_counter()
            connection.request("POST", "/v1/events", body, {"content-type": "application/x-ndjson"})
            answer = json.loads(connection.getresponse().read())
            spent += perf_counter() - began
            assert answer["accepted"] == len(lines), answer
            taken += len(lines)
        child.send_signal(signal.SIGTERM)
    return taken / spent


class _Served:
    """A `serve` of the file's policy, without a router."""

    def __init__(self, folder: Path) -> None:
        policies = folder / "policies"
        policies.mkdir()
        (policies / "digits.yaml").write_text(flow.document())
        command = [sys.executable, "-m", "controller.cli", "serve", "--policies", str(policies)]
        command += ["--state", str(folder / "state"), *PORTS]
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self):
        assert self.child.stdout is not None
        ready = json.loads(self.child.stdout.readline())
        return self.child, urlsplit(ready["api"])

    def __exit__(self, *_: object) -> None:
        self.child.terminate()
        self.child.wait(60)
