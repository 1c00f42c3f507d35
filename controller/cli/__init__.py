"""The command `understudy`.

app         puts the commands together: `processes`, `files`, `operators`, `records`, `beside`
options     what several of them take
remote      asks a running `serve`; `explained`: shows what it says of a model
rehearsal   simulates and plans; `rehearsed`: shows what came out
doctor      looks at all that `serve` needs
printing    tables for people, JSON and YAML for programs
"""

from __future__ import annotations

from typing import Any

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> Any:
    """Run the command. Who interrupts while it is being loaded, for a second, sees no trace."""
    try:
        from controller.cli.app import main as run  # noqa: PLC0415 - it is what takes a second
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    return run(argv)
