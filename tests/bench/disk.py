"""The disk of a day at 1 000 requests a second, one in ten rewarded: log, ledger and snapshots.

A model's traffic is folded as `serve` does it: each second one append with the exposures that the
router's log had, one for each reward that was posted, and a tick; the log is trimmed once a minute.
Only the clock is another one: five minutes are folded with `retain` of one minute, and what the
files hold then is compared with the bytes of that minute, the quarter that a base may be older, and
what comes between two snapshots and two trims. A day is as many bytes per event, and as many events
as it has. The disk is not waited for: that costs time and no bytes.

Request ids and users are random, as they are in life: they are most of what does not compress.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from random import Random
from uuid import UUID

from controller.core.policy import parse
from controller.ledger import Limits, open_ledger
from controller.ledger.limits import NEWEST, RUNGS
from controller.loop.fold import SNAPSHOT_S, Fold, PolicySource
from controller.loop.wheel import TRIM_S
from controller.router.access_log import exposure_lines, route_name
from controller.stream import codec
from controller.stream.sqlite import SqliteStream
from tests.bench import Row

RATE = 1_000
REWARDED = 10
SECONDS = 300
RETAIN_S = 60.0
DAY_S = 86_400
GIB = 1 << 30
START_S = 1_795_423_600

DOCUMENT = """
apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: ranking}
spec:
  route: {prefix: /v2/models/ranking/, unit: {header: x-user-id}}
  champion: {version: v1}
  reward: {event: click, window: 30s}
  stages:
    - canary: {steps: [5%], min_duration: 1d}
"""


def run() -> list[Row]:
    """Bytes per event, the files after five minutes, and a day."""
    exposure, alone, together = (_bytes_per(kind) for kind in ("exposure", "alone", "together"))
    log, ledger, snapshot = _files()
    per_s = RATE * exposure + RATE / REWARDED * alone
    kept_s, day_s = (span_s * (1 + 1 / RUNGS) + SNAPSHOT_S + TRIM_S for span_s in (RETAIN_S, DAY_S))
    return [
        Row("disk, log: an exposure", exposure, "bytes", ""),
        Row("disk, log: a reward, posted alone", alone, "bytes", ""),
        Row("disk, log: a reward, posted with 99 others", together, "bytes", ""),
        Row(
            "disk, log: file after trims / what was to be kept",
            log / per_s / kept_s,
            "ratio",
            "<= 1.2",
        ),
        Row("disk, ledger: one snapshot, 90 s pending", snapshot / 1e6, "MB", ""),
        Row("disk, ledger: file after five minutes", ledger / 1e6, "MB", ""),
        Row("disk, log of a day, retain=1d", per_s * day_s / GIB, "GiB", ""),
        Row("disk, ledger of a day, retain=1d", (RUNGS + 1 + NEWEST) * snapshot / GIB, "GiB", ""),
    ]


def _bytes_per(kind: str) -> float:
    """What one event adds to the log's file."""
    rng = Random(3)
    with _folder() as folder, closing(SqliteStream(folder / "events.db")) as stream:
        stream._writer.execute("PRAGMA synchronous = OFF")
        sizes, count = [], 0
        for second in range(30):
            exposures, rewards = traffic(second, rng)
            blocks = {"exposure": [exposures], "together": [rewards]}.get(
                kind, [[r] for r in rewards]
            )
            for block in blocks:
                stream.append({"ranking": block})
            sizes.append(_size(stream))
            count = sum(map(len, blocks))
        return (sizes[-1] - sizes[9]) / (count * 20)


def _files() -> tuple[int, int, int]:
    """Bytes of the log and of the ledger at the end, and of one snapshot."""
    rng = Random(5)
    source = PolicySource(parse(DOCUMENT, "ranking.yaml"), DOCUMENT)
    with (
        _folder() as folder,
        closing(SqliteStream(folder / "events.db")) as stream,
        closing(
            open_ledger(f"sqlite:///{folder}/ledger.db", clock=lambda: 0.0, limits=Limits(RETAIN_S))
        ) as ledger,
    ):
        stream._writer.execute("PRAGMA synchronous = OFF")
        fold = Fold(source, stream, ledger)
        for second in range(SECONDS):
            exposures, rewards = traffic(second, rng)
            stream.append({"ranking": exposures})
            for reward in rewards:
                stream.append({"ranking": [reward]})
            stream.append({"ranking": [codec.tick_line(START_S + second + 1.0)]})
            fold.turn()
            if second % TRIM_S == TRIM_S - 1:
                stream.append({}, trim=ledger.log_needs())
        found = ledger.snapshot("ranking")
        assert found is not None
        return _size(stream), (folder / "ledger.db").stat().st_size, len(found[1])


def traffic(second: int, rng: Random) -> tuple[list[bytes], list[bytes]]:
    """One second's exposures, as the router's log has them, and the rewards posted in it."""
    route = route_name("ranking", 1, "header:x-user-id")
    raw, rewards = [], []
    for i in range(RATE):
        time = START_S + second + i / RATE
        request = UUID(int=rng.getrandbits(128), version=4)
        latency = str(int(rng.lognormvariate(8, 0.5)))
        fields = (
            f"{time:.6f}", "exposure", route, "ranking/v1", "200", latency,
            "-", "", str(request), f"x-user-id=user-{rng.randrange(10**6)}",
        )  # fmt: skip
        raw.append("\x1f".join(fields).encode())
        if i % REWARDED == 0:
            rewards.append(
                b'{"type":"reward","time":%.3f,"model":"ranking","id":"%s","request_id":"%s",'
                b'"name":"click","value":1}'
                % (
                    time,
                    str(UUID(int=rng.getrandbits(128), version=4)).encode(),
                    str(request).encode(),
                )
            )
    decoded = exposure_lines(raw)
    assert not decoded.bad
    return decoded.events["ranking"], rewards


def _size(stream: SqliteStream) -> int:
    """Bytes of the file, with what stands in the write-ahead log by now."""
    stream._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return stream._path.stat().st_size


class _folder:  # noqa: N801 - a context, used as one
    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="understudy-disk-"))
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:60} {row.value:14,.2f} {row.unit:8} {row.target}")
