"""The command `understudy`: contract 4.3. Parses, calls, prints; decides nothing.

    processes  demo, serve, worker, doctor: what starts something here, or would need to
    files      check, schema, replay, plan, simulate: on a policy file; nothing needs to run
    operators  status, explain, promote, …, candidate: to the API of a running `serve` (`--api`)
    records    ledger, events: where they are kept, so that they work when nothing runs
    beside     ship, router-bootstrap: for routers that `serve` does not start

What is heavy to import is imported by the command that needs it: a question to the API takes under
a second, not two.

Exit codes: 0 fine, 1 the thing asked for is not so, 2 usage: also an option's value that is none.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from controller.cli import beside, files, operators, processes, records
from controller.errors import UnderstudyError
from controller.settings import SettingsError

app = typer.Typer(
    name="understudy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for room in (processes, files, operators, records, beside):
    app.add_typer(room.commands)
app.add_typer(operators.candidates, name="candidate")


def _say_version(is_asked: bool) -> None:  # noqa: FBT001 - click's signature
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"understudy {version('understudy')}")
        raise typer.Exit


@app.callback()
def understudy(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_say_version, help="Say the version."),
    ] = False,
) -> None:
    """Online model evaluation and rollout controller."""


def main(argv: list[str] | None = None) -> Any:
    """Run the command; errors of ours are one sentence on stderr and exit code 1 or 2."""
    try:
        return app(argv)
    except UnderstudyError as exc:
        typer.echo(f"understudy: {exc}", err=True)
        raise SystemExit(2 if isinstance(exc, SettingsError) else 1) from exc
    except OSError as exc:  # click takes a closed pipe; left are full disks and missing rights
        typer.echo(f"understudy: {exc}", err=True)
        sys.stdout = None  # what it still holds cannot be written
        raise SystemExit(1) from exc
