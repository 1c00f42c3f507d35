"""Serves the fake: `python -m tests.api.serve_fake PORT MODEL...`; `--live` keeps it moving."""

from __future__ import annotations

import asyncio
import signal
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
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.stop)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(running.serve())
        await running.listening.wait()
        print(running.url, flush=True)
        mover = tasks.create_task(move(fake)) if "--live" in names else None
        await serving
        if mover is not None:
            mover.cancel()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
