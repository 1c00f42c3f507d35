"""`simulate` and `plan`: read what was asked, call `sim`, show what it says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from controller.cli.printing import Output, print_value
from controller.core.decide.situation import for_people
from controller.core.policy import parse
from controller.core.policy.quantities import duration_s
from controller.settings import policy_text
from controller.sim import scenario as scenarios
from controller.sim.quantities import QuantityError, parsed, rate_per_s
from controller.sim.simulate import simulate as run_simulation
from controller.sim.summary import document

INTERRUPTED = 130
"""The exit code of what Ctrl-C ended."""

_WIDE = 120


def simulate(  # noqa: PLR0913 - a command's options
    file: Path,
    scenario: str,
    *,
    runs: int,
    seed: int,
    jobs: int | None,
    requests: int | None,
    rate: str | None,
    tick: str | None,
    level: Literal["auto", "events", "tallies"],
    output: Output,
) -> int:
    """Rehearse a policy; gives the exit code."""
    policy = parse(policy_text(file), str(file))
    world = scenarios.load(scenario)
    changes: dict[str, Any] = {}
    if requests is not None:
        changes["requests"] = requests
    if rate is not None:
        changes["rate"] = parsed(rate_per_s, rate, "--rate")
    if tick is not None:
        changes["tick"] = _positive_duration(tick, "--tick")
    world = world.model_copy(update=changes)
    try:
        with _bar(runs) as advance:
            made = run_simulation(
                policy, world, runs=runs, seed=seed, jobs=jobs, level=level, progress=advance
            )
    except KeyboardInterrupt:
        return INTERRUPTED
    shown = document(scenario, made)
    if output is Output.TABLE:
        _print_simulation(shown)
    else:
        print_value(shown, output)
    return 0


def _positive_duration(text: str, name: str) -> float:
    try:
        seconds = duration_s(text)
    except ValueError as exc:
        raise QuantityError(f"{name}: found {text!r}, expected {exc}") from exc
    if seconds <= 0:
        raise QuantityError(f"{name}: found {text!r}, expected a duration longer than 0")
    return seconds


@contextmanager
def _bar(runs: int) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("rehearsing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("runs", total=runs)
        yield lambda done: progress.update(task, completed=done)


# --- for people -------------------------------------------------------------------------------


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def _table(*heads: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head.upper(), overflow="fold", justify="left" if not number else "right")
    return table


def _print_simulation(shown: dict[str, Any]) -> None:
    console = _console()
    typer.echo(f"{shown['model']} in {shown['scenario']}: {shown['description']}")
    typer.echo(
        f"{shown['runs']} runs of at most {for_people(shown['horizon_s'])}, "
        f"a look each {for_people(shown['tick_s'])}, {shown['level']}, seed {shown['seed']}\n"
    )
    console.print(_verdicts(shown))
    typer.echo()
    for promise in shown["promises"]:
        kept = "BROKEN" if promise["broken"] else "kept"
        typer.echo(
            f"{promise['what']}: promised at most {promise['at_most']:.3g}, {_found(promise)}: "
            f"{kept}"
        )
    if shown["promises"]:
        typer.echo()
    console.print(_per_run(shown))
    typer.echo()
    console.print(_reached(shown))
    typer.echo()
    causes = ", ".join(f"{cause} {count}" for cause, count in shown["causes"].items())
    typer.echo(f"why: {causes}")


def _found(rate: dict[str, Any]) -> str:
    low, high = rate["interval"]
    return f"found {rate['rate']:.2%} [{low:.2%}, {high:.2%}]"


def _verdicts(shown: dict[str, Any]) -> Table:
    table = _table("verdict", "runs", "rate", "95 % interval", "median time", "5 %", "95 %")
    for word, found in shown["verdicts"].items():
        low, high = found["interval"]
        times = shown["duration_s"].get(word)
        quantiles = [for_people(times[key]) for key in ("p50", "p5", "p95")] if times else ["-"] * 3
        table.add_row(
            word.replace("_", " "),
            str(found["count"]),
            f"{found['rate']:.2%}",
            f"{low:.2%} .. {high:.2%}",
            *quantiles,
        )
    return table


def _per_run(shown: dict[str, Any]) -> Table:
    table = _table("per run", "mean", "median", "5 %", "95 %")
    words = {
        "requests": "requests",
        "on_candidate": "on the candidate",
        "harmed": "harmed",
        "lost_reward": "reward lost",
        "decisions": "decisions",
    }
    for key, word in words.items():
        values = shown[key]
        numbers = [f"{values[field]:,.6g}" for field in ("mean", "p50", "p5", "p95")]
        table.add_row(word, *numbers)
    return table


def _reached(shown: dict[str, Any]) -> Table:
    table = _table("stage", "reached", "median time", "5 %", "95 %")
    for row in shown["stages"]:
        step = f" step {row['step'] + 1}" if row["stage"] == "canary" else ""
        times = [for_people(row["seconds"][key]) for key in ("p50", "p5", "p95")]
        table.add_row(f"{row['stage']}{step}", f"{row['reached']['rate']:.1%}", *times)
    return table
