"""The end of a process, also where something keeps it from ending.

A database that hangs answers nothing, and its driver waits for it without a limit; so a process
that was told to end could do so only when the database goes on. Whatever ends here may end at any
moment (it is killed often enough): what is not yet written is derived again from the log.
"""

from __future__ import annotations

import os
import sys
import threading
import time  # noqa: TID251 - tells two wishes to end from one
from collections.abc import Callable
from typing import Final

ECHO_S: Final = 0.5
"""One wish may come as two signals: `timeout` sends one to the process, and one to its group."""
PATIENCE_S: Final = 20.0
"""Kubernetes kills after 30 s, and then nobody says why."""
CODE: Final = 1


class Ending:
    """Called for each signal to end: the first asks, the second, or `patience_s`, insists.

    A signal within `echo_s` of the first is the same wish.

    ask    tells the process to end in good order
    leave  ends it at once, with an exit code
    """

    def __init__(
        self,
        ask: Callable[[], None],
        *,
        patience_s: float = PATIENCE_S,
        echo_s: float = ECHO_S,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        self._ask, self._leave = ask, leave
        self._patience_s, self._echo_s = patience_s, echo_s
        self._asked_at: float | None = None

    def __call__(self, *_: object) -> None:
        """A signal came."""
        now = time.monotonic()
        if self._asked_at is not None:
            if now - self._asked_at >= self._echo_s:
                self._insist("told twice to end")
            return
        self._asked_at = now
        why = f"not ended within {self._patience_s:g} s of being told"
        timer = threading.Timer(self._patience_s, self._insist, [why])
        timer.daemon = True
        timer.start()
        self._ask()

    def _insist(self, why: str) -> None:
        sys.stderr.write(
            f"understudy: {why}: ended at once; what was not written is derived again\n"
        )
        sys.stderr.flush()
        self._leave(CODE)
