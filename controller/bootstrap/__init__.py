"""The one place that wires: settings in, a running controller out.

serving  starts everything in order, and ends it in an order that loses nothing
stores   the log and the ledger, opened
company  who is told of each turn, and what does not work there
cluster  what `--kubernetes` adds
routers  our Envoys as the wheel's router, and their access log as its source
workers  what folds partitions: this process, or children of `serve`
patience waits for a store that is away at the start; ending: ends what does not end by itself
machine  what `understudy doctor` looks at here
folder   what a folder has: policies, and the stores of a controller, running or not
"""

from controller.bootstrap.folder import (
    dropped_count,
    ledger_rows,
    log_lines,
    opened,
    read_policies,
    rejected_rows,
    verify,
)
from controller.bootstrap.serving import serve

__all__ = [
    "dropped_count",
    "ledger_rows",
    "log_lines",
    "opened",
    "read_policies",
    "rejected_rows",
    "serve",
    "verify",
]
