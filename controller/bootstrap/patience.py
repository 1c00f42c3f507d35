"""Waiting for a store that is away when the controller starts.

Whatever runs the controller starts one that ended again, but waits longer each time, for minutes in
the end; and a start takes seconds. A store that fails over is back sooner than that. But a wrong
address looks the same, so the patience has an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import structlog

from controller.errors import Retryable

PATIENCE_S = 60.0
AGAIN_S = 1.0

Opened = TypeVar("Opened")

log = structlog.get_logger()


async def patiently(
    opening: Callable[[], Opened], stopping: asyncio.Event, *, patience_s: float = PATIENCE_S
) -> Opened:
    """What `opening` gives, as soon as it does.

    Raises `Retryable`, the last one, when the patience is at its end or the process is to stop.
    """
    clock = asyncio.get_running_loop().time
    end, said = clock() + patience_s, ""
    while True:
        try:
            return opening()
        except Retryable as exc:
            if clock() >= end or stopping.is_set():
                raise
            if str(exc) != said:
                said = str(exc)
                log.warning("waiting", why=said)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), AGAIN_S)
