"""The one place that wires: settings in, a running controller out.

serving  starts everything in order, and ends it in an order that loses nothing
routers  our Envoys as the wheel's router, and their access log as its source
folder   what a folder has: policies, and the stores of a controller, running or not
"""

from controller.bootstrap.folder import (
    ledger_rows,
    log_lines,
    opened,
    read_policies,
    rejected_rows,
    verify,
)
from controller.bootstrap.serving import serve

__all__ = [
    "ledger_rows",
    "log_lines",
    "opened",
    "read_policies",
    "rejected_rows",
    "serve",
    "verify",
]
