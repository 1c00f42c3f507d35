"""Child processes that never outlive the demo, and whose words are kept.

Each child runs on a leash (see `leash`), in a session of its own: Ctrl-C in a terminal reaches the
demo alone, which then ends everything in order. What a child prints goes to `NAME.out` and
`NAME.err`, so there is no pipe that could fill up, and a failure can show the last lines.

Invariant: after `stop`, which takes at most STOP_WITHIN_S, no process of any child's group lives.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from controller.errors import Permanent

STOP_WITHIN_S = 4.0
TAIL_LINES = 15

_LOOK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Child:
    """A running program and where its words go."""

    name: str
    process: asyncio.subprocess.Process
    out: Path
    err: Path

    def tail(self) -> str:
        """The last lines that it said, complaints first."""
        for path in (self.err, self.out):
            if lines := path.read_text(errors="replace").splitlines():
                return "\n".join(f"  {self.name} | {line}" for line in lines[-TAIL_LINES:])
        return f"  {self.name} said nothing"


class Children:
    """All children of one demo. `stop` must be called, whatever happens."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._all: list[Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    async def start(self, name: str, command: Sequence[str]) -> Child:
        """Start `python COMMAND...` under a name that is used in files and messages."""
        out, err = self._logs / f"{name}.out", self._logs / f"{name}.err"
        leash = ("-m", "controller.leash", str(os.getpid()), sys.executable)
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *leash,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            )
        child = Child(name, process, out, err)
        self._all.append(child)
        return child

    async def said(self, child: Child, key: str, timeout_s: float) -> dict[str, Any]:
        """The first line of the child's output that is a JSON object with `key`.

        Raises:
            Permanent: the child ended first, or took longer than the time-out.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (found := _find(child.out, key)) is None:
                    if child.process.returncode is not None:
                        raise _failure(child, f"ended with code {child.process.returncode}")
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError as exc:
            raise _failure(child, f"did not start within {timeout_s:g} s") from exc
        return found

    def check(self) -> None:
        """Raise `Permanent` when a child that should run has ended."""
        for child in self._all:
            if child.process.returncode is not None:
                raise _failure(child, f"ended with code {child.process.returncode}")

    async def finished(self, child: Child, timeout_s: float) -> None:
        """Wait for a child that ends by itself; raises `Permanent` unless it ends well."""
        try:
            code = await asyncio.wait_for(child.process.wait(), timeout_s)
        except TimeoutError as exc:
            raise _failure(child, f"took longer than {timeout_s:g} s") from exc
        if code != 0:
            raise _failure(child, f"ended with code {code}")
        self._all.remove(child)

    async def stop(self) -> None:
        """Ask all to end, wait, and kill those that do not."""
        for child in self._all:
            _signal(child, signal.SIGTERM, group=False)
        ending = [asyncio.ensure_future(child.process.wait()) for child in self._all]
        if ending:
            await asyncio.wait(ending, timeout=STOP_WITHIN_S)
        for child in self._all:
            # Also where the leader has ended well: its own children may not have.
            _signal(child, signal.SIGKILL, group=True)
        await asyncio.gather(*ending)
        self._all.clear()


def _find(path: Path, key: str) -> dict[str, Any] | None:
    for line in path.read_bytes().split(b"\n")[:-1]:
        with suppress(msgspec.DecodeError):
            document = msgspec.json.decode(line)
            if isinstance(document, dict) and key in document:
                return document
    return None


def _failure(child: Child, what: str) -> Permanent:
    return Permanent(f"{child.name} {what}; its last words:\n{child.tail()}")


def _signal(child: Child, number: signal.Signals, *, group: bool) -> None:
    with suppress(ProcessLookupError):
        if group:
            os.killpg(child.process.pid, number)
        elif child.process.returncode is None:
            child.process.send_signal(number)
