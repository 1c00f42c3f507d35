"""The end of a process, also where something keeps it from ending.

A database that hangs answers nothing, and its driver waits for it without a limit; so a process
that was told to end could do so only when the database goes on. Whatever ends here may end at any
moment (it is killed often enough): what is not yet written is derived again from the log.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 20.0
"""Kubernetes kills after 30 s, and then nobody says why."""
CODE: Final = 1


class Ending:
    """Called for each signal to end: the first asks, the second, or `patience_s`, insists.

    ask    tells the process to end in good order
    leave  ends it at once, with an exit code
    """

    def __init__(
        self,
        ask: Callable[[], None],
        *,
        patience_s: float = PATIENCE_S,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        self._ask, self._leave, self._patience_s = ask, leave, patience_s
        self._is_asked = False

    def __call__(self, *_: object) -> None:
        """A signal came."""
        if self._is_asked:
            return self._insist("told twice to end")
        self._is_asked = True
        why = f"not ended within {self._patience_s:g} s of being told"
        timer = threading.Timer(self._patience_s, self._insist, [why])
        timer.daemon = True
        timer.start()
        return self._ask()

    def _insist(self, why: str) -> None:
        sys.stderr.write(
            f"understudy: {why}: ended at once; what was not written is derived again\n"
        )
        sys.stderr.flush()
        self._leave(CODE)
