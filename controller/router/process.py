"""A process that may outlive the one that started it: identity, death, signals.

A pid alone is no identity, because the kernel gives it to others later; together with the time at
which the process began it is one. Death is seen through a pidfd, which becomes readable when the
process ends, be it a child or not; children are reaped then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec


class Process(msgspec.Struct, frozen=True):
    """A process by pid and by the time at which it began, in clock ticks since boot."""

    pid: int
    began: int

    def is_alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        return _began(self.pid) == self.began

    def signal(self, sign: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sign)

    async def ended(self) -> None:
        """Return when the process has ended."""
        if not self.is_alive():
            _reap(self.pid)
            return
        try:
            watch = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(watch, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(watch)
            os.close(watch)
        _reap(self.pid)


_ORPHAN = '(while kill -0 $$ 2>&-; do sleep 0.01; done; exec "$@") </dev/null >>"$0" 2>&1 & echo $!'


def spawn(program: Path, arguments: Sequence[str], *, output: Path) -> Process:
    """Start a program in a session of its own, its output appended to a file.

    It is started by a shell that has ended before it begins, so it is nobody's child: Envoy asks
    the kernel for a SIGTERM at the death of its parent (PR_SET_PDEATHSIG), which the controller
    must not be.
    """
    command = ["/bin/sh", "-c", _ORPHAN, str(output), str(program), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, start_new_session=True)
    pid = int(done.stdout)
    return Process(pid, _began(pid) or 0)


def _began(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None when there is no such living process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
