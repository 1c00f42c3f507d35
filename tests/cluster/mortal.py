"""`understudy serve` that kills itself: `python mortal.py K GO serve …`.

From when the file GO is there, moments are counted: just before and just after a decision is
committed, a split is handed to the routers, and an object of the model is changed in the cluster.
At the K-th of them the process ends by SIGKILL, or with K = `stop` it is stopped as it is about to
change the first object, until somebody wakes it. When fewer come, it just serves.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.bootstrap.routers import EnvoyRouter
from controller.cli.app import app
from controller.deploy.client import Connection
from controller.ledger import Ledger

_COUNTED = ("/deployments/", "/services/", "/horizontalpodautoscalers/")


def main(nth: int | None, go: Path, arguments: list[str]) -> None:
    """Serve; die at the K-th moment, or be stopped at the first change."""
    numbers = itertools.count(1)

    def moment(what: str) -> None:
        if go.exists() and next(numbers) == nth:
            os.write(2, f"killed at {nth}: {what}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    apply, commit, publish = Connection.apply, Ledger.commit, EnvoyRouter.publish

    def applied(self: Connection, path: str, body: Any, **given: Any) -> Any:
        def work() -> Any:
            return apply(self, path, body, **given)

        is_counted = any(p in path for p in _COUNTED)
        if is_counted and nth is None and go.exists():
            go.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return around(moment, path, work) if is_counted else work()

    def committed(self: Ledger, model: str, **given: Any) -> Any:
        def work() -> Any:
            return commit(self, model, **given)

        decided = [decision.cause for decision, _ in given["decisions"]]
        return around(moment, f"commit {decided}", work) if decided else work()

    async def published(self: EnvoyRouter, models: Any) -> None:
        moment("before publish")
        await publish(self, models)
        moment("after publish")

    Connection.apply, Ledger.commit = applied, committed  # type: ignore[method-assign]
    EnvoyRouter.publish = published  # type: ignore[method-assign]
    app(arguments)


def around(moment: Callable[[str], None], what: str, work: Callable[[], Any]) -> Any:
    """Do the work between two moments."""
    moment(f"before {what}")
    answer = work()
    moment(f"after {what}")
    return answer


if __name__ == "__main__":
    number = None if sys.argv[1] == "stop" else int(sys.argv[1])
    main(number, Path(sys.argv[2]), sys.argv[3:])
