"""The page of the command line, made from the commands themselves: their help, read aloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import typer

from controller.cli.app import app
from controller.cli.printing import Output

CLI_PAGE = Path(__file__).parent / "cli.md"

_HEAD = """\
<!-- Made by `make docs` from controller/cli. Do not edit. -->
# Command line

Everything is said by `understudy COMMAND --help` as well. `ledger` and `events` read log and ledger
where they are kept, so that they work when nothing runs; `status`, `explain`, `candidate` and the
operators' commands, from `promote` to `undo`, ask a running `serve`, at `--api`. All others work by
themselves.

Exit codes: 0 fine; 1 the thing asked for is not so (`check` found faults, `status --wait` timed
out, `ledger --verify` found a difference, the demo did not end as hoped, no controller answers);
2 wrong usage, also of a value such as `--retain long`; 130 after Ctrl-C during `demo`, or in
the first second.

`serve -o json` prints one line on standard output when everything answers, such as
`{"ready":true,"api":"http://127.0.0.1:8800","router":"http://127.0.0.1:8080"}`; its log goes to
standard error, as JSON where that is no terminal. `UNDERSTUDY_LOG_LEVEL` (`debug`, `info`, …) says
how much of it.
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, in the order of the help."""
    yield from _below("understudy", typer.main.get_command(app))


def _below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for word, child in children.items():
        yield from _below(f"{name} {word}", child)


def cli_page() -> str:
    """The page `cli.md`, as Markdown."""
    return _HEAD + "".join(_section(name, command) for name, command in commands())


def _section(name: str, command: click.Command) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join([name, *(["[options]"] if options else []), *map(_argument, arguments)])
    rows = "".join(_row(parameter) for parameter in (*arguments, *options))
    table = f"\n| | default | meaning |\n|---|---|---|\n{rows}" if rows else ""
    return f"\n## `{name}`\n\n{command.help}\n\n    {usage}\n{table}"


def _argument(parameter: click.Parameter) -> str:
    word = (parameter.name or "").upper().removesuffix("S") + ("…" if parameter.nargs == -1 else "")
    return word if parameter.required else f"[{word}]"


def _row(parameter: click.Parameter) -> str:
    names = parameter.opts if parameter.param_type_name == "option" else [_argument(parameter)]
    shown = ", ".join(f"`{name}`" for name in names)
    cells = (shown, _default(parameter), _meaning(parameter))
    return f"| {' | '.join(cells)} |\n"


def _default(parameter: click.Parameter) -> str:
    if parameter.required:
        return "**required**"
    default = parameter.default
    if default is None or default is False or default == "":
        return ""
    return f"`{getattr(default, 'value', default)}`"


def _meaning(parameter: click.Parameter) -> str:
    meaning = str(getattr(parameter, "help", None) or "").replace("|", "\\|")
    if isinstance(parameter.default, Output):
        meaning += f" One of {', '.join(f'`{form.value}`' for form in Output)}."
    variable = getattr(parameter, "envvar", None)
    return f"{meaning} Also `{variable}`." if variable else meaning
