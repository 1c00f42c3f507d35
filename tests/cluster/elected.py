"""A process that stands for election until SIGTERM, and says what becomes of it.

A line is a word, `gained` or `lost`, and when it was, in monotonic seconds (one clock for all
processes of a machine).
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from controller.deploy.client import Connection
from controller.deploy.lease import Lease


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main(kubeconfig: str, identity: str) -> None:
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    lease = Lease(
        Connection.from_settings(kubeconfig=Path(kubeconfig), clock=time.monotonic),
        identity=identity,
        clock=time.monotonic,
        wall=time.time,
        gained=lambda: say("gained", time.monotonic()),
        lost=lambda why: say("lost", time.monotonic(), why),
    )
    lease.start()
    say("stands", time.monotonic())
    ending.wait()
    lease.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
