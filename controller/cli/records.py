"""Commands that read the log and the ledger where they are kept, also when nothing runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from controller.cli.options import (
    LedgerOption,
    ModelArgument,
    OutputOption,
    StateOption,
    StreamOption,
)
from controller.cli.printing import Output, print_rows, print_value, verified
from controller.settings import StoreUrls, default_state

commands = typer.Typer()


@commands.command(name="ledger")
def ledger_command(  # noqa: PLR0913 - a command's options
    model: ModelArgument,
    *,
    state: StateOption = None,
    stream: StreamOption = None,
    ledger: LedgerOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Derive every decision again from the log.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """The decisions of a model, read where they are kept: nothing needs to run."""
    from controller import bootstrap

    stores = StoreUrls.of(state or default_state(), stream=stream, ledger=ledger)
    if verify:
        found = bootstrap.verify(stores, model)
        for fault in found.faults:
            typer.echo(fault)
        if not found.faults:
            typer.echo(verified(model, found.derived, found.before, found.dropped))
        raise typer.Exit(1 if found.faults else 0)
    rows = bootstrap.ledger_rows(stores, model)
    print_rows(rows, output, ("number", "time", "phase", "verdict", "weights", "reason"))


@commands.command()
def events(
    model: ModelArgument,
    *,
    state: StateOption = None,
    stream: StreamOption = None,
    ledger: LedgerOption = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Only the events that could not be used, and why.")
    ] = False,
) -> None:
    """The event log of a model, as JSON Lines: what `replay --events` reads."""
    from controller import bootstrap

    stores = StoreUrls.of(state or default_state(), stream=stream, ledger=ledger)
    if rejected:
        for row in bootstrap.rejected_rows(stores, model):
            print_value(row, Output.JSON, compact=True)
        if gone := bootstrap.dropped_count(stores, model):
            typer.echo(f"{gone} older ones are kept no more: see --keep-rejected", err=True)
        return
    for lines in bootstrap.log_lines(stores, model):
        sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
