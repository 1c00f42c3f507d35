"""A child on a leash: `python -m controller.leash PARENT_PID PROGRAM ARGUMENT...`.

Sets the kernel's parent-death signal to SIGTERM and becomes the program, so a demo or a controller
that is killed (even with SIGKILL) leaves no process behind. The setting survives `exec`, so one way
works for every program, the controller included, and none of them has to know.

Rejected: `preexec_fn`, which may deadlock in a process with threads; a pipe that the child watches,
which only our own programs would do. Where the kernel has no such signal (it is Linux' own) the
parent ends its children itself, which covers everything but SIGKILL.

This module imports next to nothing because it stands before every child's start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the program."""
    parent, program, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have died before the signal was asked for; then nobody would ever send it.
    if os.getppid() != int(parent):
        raise SystemExit(1)
    os.execv(program, [program, *arguments])  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
