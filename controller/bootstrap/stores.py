"""What is kept, opened: the log of events, the ledger of decisions, and the state folder's lock."""

from __future__ import annotations

import asyncio
import fcntl
import time  # noqa: TID251 - the wall clock is taken here and handed to the ledger
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from controller.bootstrap.patience import patiently
from controller.bootstrap.workers import limits_of
from controller.errors import Permanent
from controller.ledger import Ledger, open_ledger
from controller.settings import Retention, Settings, StoreUrls
from controller.stream import Stream, open_stream


@dataclass(frozen=True, slots=True)
class Stores:
    """What is kept: the log of events, and the ledger of decisions."""

    stream: Stream
    ledger: Ledger


async def open_stores(settings: Settings, stack: AsyncExitStack, stopping: asyncio.Event) -> Stores:
    """The stores of the settings, which `stack` closes; one that is away is waited for."""
    urls = settings.stores or StoreUrls.of(settings.state)
    stream = await patiently(lambda: open_stream(urls.stream), stopping)
    stack.callback(stream.close)
    ledger = await patiently(lambda: _ledger(urls.ledger, settings.retention), stopping)
    stack.callback(ledger.close)
    return Stores(stream, ledger)


def _ledger(url: str, keep: Retention) -> Ledger:
    """The ledger, whose file an error names when it is one that cannot be used."""
    try:
        return open_ledger(url, clock=time.time, limits=limits_of(keep))
    except Permanent as exc:
        if not url.startswith("sqlite:///"):
            raise
        file = url.removeprefix("sqlite:///")
        remedy = "move the file away and restore it from a backup"
        raise Permanent(f"{file} cannot be used ({exc}): {remedy}") from exc


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """The state folder, which one controller at a time may use."""
    with _lock_file(state) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise Permanent(
                f"another `understudy serve` uses the state folder {state}: end it, or give --state"
            ) from exc
        yield


def _lock_file(state: Path) -> TextIO:
    try:
        state.mkdir(parents=True, exist_ok=True)
        return (state / "lock").open("w")
    except OSError as exc:
        raise Permanent(f"the state folder {state} cannot be written: {exc}; give --state") from exc
