"""How listings are printed: a table for people, JSON or YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum

import typer
import yaml
from rich.console import Console
from rich.table import Table

from controller.core.model import Json

_HEADS = {"weight_in_force": "in force"}
_WIDE = 160
"""Columns of a table that is piped: lines are cut by whoever reads them, not here."""


class Output(StrEnum):
    """The forms of `-o`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Level(StrEnum):
    """The forms of `--level`: events one by one, their tallies, or whichever will do."""

    AUTO = "auto"
    EVENTS = "events"
    TALLIES = "tallies"


def print_value(value: object, output: Output, *, compact: bool = False) -> None:
    """Print a whole value; `compact` JSON is one line."""
    if output is Output.YAML:
        typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip())
        if compact:
            typer.echo("---")
        return
    separators = (",", ":") if compact else None
    typer.echo(json.dumps(value, indent=None if compact else 2, separators=separators))


def print_rows(
    rows: Sequence[Mapping[str, Json]],
    output: Output,
    columns: Sequence[str],
    *,
    width: int = _WIDE,
) -> None:
    """Print rows: all fields for programs, `columns` for people; `width` is that of a pipe."""
    if output is not Output.TABLE:
        print_value(list(rows), output)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(_HEADS.get(column, column).upper(), overflow="fold")
    for row in rows:
        table.add_row(*(cell(column, row.get(column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else width).print(table)


def cell(column: str, value: Json) -> str:
    """One value for people."""
    if value is None:
        return "-"
    if column == "time" and isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if column.startswith("weight") and isinstance(value, int):
        return f"{value / 100:g} %"
    if isinstance(value, dict):
        return " ".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(
            str(each) if not isinstance(each, float) else f"{each:.4g}" for each in value
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verified(model: str, derived: int, before: int, dropped: int) -> str:
    """What `ledger --verify` says of a ledger without a fault."""
    sentence = f"{model}: {derived} decisions derived again from the log, all equal"
    if before:
        sentence += (
            f"; {before} older ones lie before the beginning of the log: "
            "their chain of hashes is unbroken"
        )
    return f"{sentence}; {dropped} still older ones are kept no more" if dropped else sentence
