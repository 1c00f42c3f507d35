"""Serves the fake: `python -m tests.api.serve_fake PORT MODEL...`; `--live` keeps it moving."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import replace

from controller.api.app import create_app
from controller.api.serving import server
from tests.api.fake import T0, Fake, ramping


async def move(fake: Fake) -> None:
    """A report a second of each model."""
    for second in range(10_000):
        await asyncio.sleep(1)
        for name in fake.models():
            report = ramping(name, T0 + 600 + second, 5_000, 7_200 + 50 * second)
            fake.publish(replace(report, reason=f"second {second}"))


async def main(port: int, names: list[str]) -> None:
    """Run until a signal comes; print the address once it answers."""
    fake = Fake(*(name for name in names if name != "--live"))
    running = server(create_app(fake), port=port)
    task = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110 - uvicorn has a flag, no event
        await asyncio.sleep(0.01)
    print(running.servers[0].sockets[0].getsockname()[1], flush=True)
    mover = asyncio.create_task(move(fake)) if "--live" in names else None
    await task
    if mover is not None:
        mover.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await mover


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
