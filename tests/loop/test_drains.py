"""What topics bring goes into the log and the ledger once, whichever of them is away."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path

import pytest

from controller.errors import Retryable
from controller.ledger import open_ledger
from controller.loop.drains import Drains
from controller.loop.feeds import Batch, Feed, Progress
from controller.loop.layout import Layout
from controller.stream import open_stream
from controller.stream.wire import canonical


class Away:
    """A log that cannot be written to for a while."""

    def __init__(self, stream, times):
        self.stream, self.times = stream, times

    def append(self, lines, **more):
        if self.times:
            self.times -= 1
            raise Retryable("the log is away", after_s=1.0)
        return self.stream.append(lines, **more)


def test_refused_records_are_kept_once_however_often_the_log_was_tried(tmp_path: Path) -> None:
    event = {"type": "reward", "time": 5, "model": "m", "name": "ok", "value": 1, "request_id": "r"}
    with (
        closing(open_stream(f"sqlite:///{tmp_path}/events.db")) as stream,
        closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: 5.0)) as ledger,
    ):
        drains = Drains(
            [],
            stream=Away(stream, 3),
            ledger=ledger,
            layout=Layout(ledger),
            models={"m"},
            stir=lambda _: None,
            hurry=lambda: None,
        )
        feed = Feed("kafka:clicks", {}, stream=stream)
        feed._is_closing = True  # nothing is read: there is no broker
        feed._waiting = Batch(
            [canonical(json.dumps(event).encode())],
            [("kafka:clicks/0@1", "malformed", "no JSON", b"{")],
            Progress(at={"0": 2}, read=2),
            5.0,
            0,
        )
        for _ in range(3):
            with pytest.raises(Retryable):
                asyncio.run(drains.feed(feed, 5.0))
        asyncio.run(drains.feed(feed, 5.0))
        assert [each.detail for each in ledger.rejections()] == ["no JSON"]
        assert stream.end("m") == 1
        assert json.loads(stream.mark("kafka:clicks"))["read"] == 2
