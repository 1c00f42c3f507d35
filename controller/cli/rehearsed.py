"""What `simulate` and `plan` found, as tables for people."""

from __future__ import annotations

import sys
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from controller.core.decide.situation import for_people

_WIDE = 140


def number(value: float) -> str:
    """A count or an amount: whole from a thousand on, else four digits."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def _table(*heads: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head.upper(), overflow="fold", justify="left" if not number else "right")
    return table


def print_simulation(shown: dict[str, Any]) -> None:
    """A simulation, as `sim.summary.document` tells it."""
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
    champions = ", ".join(f"{version} {count}" for version, count in shown["champions"].items())
    typer.echo(f"serves at the end: {champions}")


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
        numbers = [number(values[field]) for field in ("mean", "p50", "p5", "p95")]
        table.add_row(word, *numbers)
    return table


def _reached(shown: dict[str, Any]) -> Table:
    table = _table("stage", "reached", "median time", "5 %", "95 %")
    for row in shown["stages"]:
        step = f" step {row['step'] + 1}" if row["stage"] == "canary" else ""
        times = [for_people(row["seconds"][key]) for key in ("p50", "p5", "p95")]
        table.add_row(f"{row['stage']}{step}", f"{row['reached']['rate']:.1%}", *times)
    return table


# --- plan -------------------------------------------------------------------------------------


def print_plan(shown: dict[str, Any]) -> None:
    """A plan, as `sim.outlook.document` tells it."""
    console = _console()
    effect = f"{shown['effect']:.3g}"
    typer.echo(
        f"{shown['model']} at {shown['rate_per_s']:.4g} requests/s, of which "
        f"{shown['base_rate']:.3g} earn a reward, after {for_people(shown['delay_s'])} on average; "
        f"effect {effect}\n"
    )
    console.print(_stages(shown))
    typer.echo()
    console.print(_harms(shown))
    typer.echo()
    console.print(_endings(shown))
    if shown["guardrails"]:
        typer.echo()
        console.print(_guardrails(shown))
    for warning in shown["warnings"]:
        typer.echo(f"\nwarning: {warning}")


def _about(value: float) -> str:
    """A forecast, to three digits: more would be pretence."""
    return f"{float(f'{value:.3g}'):,.0f}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else for_people(seconds)


def _share(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.1%}"


def _name(row: dict[str, Any]) -> str:
    return f"canary step {row['step'] + 1}" if row["kind"] == "canary" else str(row["kind"])


def _stages(shown: dict[str, Any]) -> Table:
    """How long each stage takes, by hypothesis, and what an equal candidate waits for."""
    heads = ("stage", "share", "at least", "outcomes in", "equal", "better", "worse", "equal waits")
    table = _table(*heads)
    for row in shown["stages"]:
        waits = sorted(row["waits"].items(), key=lambda item: -item[1])[:2]
        table.add_row(
            _name(row),
            f"{row['share']:.4g}",
            _time(row["dwell_s"]),
            _time(row["min_outcomes_s"]),
            *(_time(row["seconds"][h]) for h in ("equal", "better", "worse")),
            ", ".join(f"{cause} {for_people(seconds)}" for cause, seconds in waits) or "-",
        )
    return table


def _harms(shown: dict[str, Any]) -> Table:
    """What each stage can detect."""
    effect = f"{shown['effect']:.3g}"
    heads = ("stage", "smallest loss found, 1 of 2", "4 of 5", f"requests for -{effect}", "bound")
    table = _table(*heads)
    for row in shown["stages"]:
        found = row["detectable"]
        table.add_row(
            _name(row),
            _share(found["half"]),
            _share(found["four_of_five"]),
            *("-" if row[key] is None else _about(row[key]) for key in ("requests", "bound")),
        )
    return table


def _endings(shown: dict[str, Any]) -> Table:
    table = _table("candidate", "ends", "why", "after", "requests", "on it")
    for name, ending in shown["hypotheses"].items():
        table.add_row(
            name,
            ending["verdict"].replace("_", " "),
            ending["cause"],
            _time(ending["seconds"]),
            _about(ending["requests"]),
            _about(ending["on_candidate"]),
        )
    return table


def _guardrails(shown: dict[str, Any]) -> Table:
    table = _table("guardrail", "may rise by", "proven kept after", "requests at the last share")
    for row in shown["guardrails"]:
        requests = "never" if row["requests"] is None else _about(row["requests"])
        table.add_row(row["name"], f"{row['max_increase']:.3g}", _time(row["seconds"]), requests)
    return table
