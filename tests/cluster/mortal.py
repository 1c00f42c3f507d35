"""`understudy serve` that kills itself: `python mortal.py K GO serve …`.

From when the file GO is there, moments are counted: just before and just after a decision is
committed, a split is handed to the routers, and an object of the model is changed in the cluster.
At the K-th of them the process ends by SIGKILL. When fewer come, it just serves.
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


def main(nth: int, go: Path, arguments: list[str]) -> None:
    """Serve; die at the K-th moment."""
    numbers = itertools.count(1)

    def moment(what: str) -> None:
        if go.exists() and next(numbers) == nth:
            os.write(2, f"killed at {nth}: {what}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    apply, commit, publish = Connection.apply, Ledger.commit, EnvoyRouter.publish

    def applied(self: Connection, path: str, body: Any, **given: Any) -> Any:
        def work() -> Any:
            return apply(self, path, body, **given)

        return around(moment, path, work) if any(p in path for p in _COUNTED) else work()

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
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
