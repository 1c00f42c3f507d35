"""Commands on a policy file: what is wrong with it, and what it would do. Nothing needs to run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.options import OutputOption
from controller.cli.printing import Level, Output, print_value
from controller.core.model import Json
from controller.core.policy import Owners, parse, position, schema, warnings
from controller.errors import PolicyError, UnderstudyError
from controller.settings import policy_text

commands = typer.Typer()

_PolicyFile = Annotated[Path, typer.Argument(help="A policy file.")]


@commands.command()
def check(files: Annotated[list[Path], typer.Argument(help="Policy files.")]) -> None:
    """Lint policies: every fault with file, line and field; then what cannot work."""
    faulty, owners = False, Owners()
    for file in files:
        try:
            text = policy_text(file)
            policy = parse(text, str(file))
        except PolicyError as exc:
            faulty = True
            typer.echo(str(exc))
            continue
        for advice in warnings(policy):
            line, column = position(text, advice.path)
            typer.echo(f"{file}:{line}:{column}: warning: {advice.path}: {advice.sentence}")
        for twin in owners.twins(policy, text, str(file)):
            typer.echo(f"{file}:{twin.line}:{twin.column}: warning: {twin.sentence()}")
        typer.echo(f"{file}: ok, policy of {policy.model}")
    raise typer.Exit(1 if faulty else 0)


@commands.command(name="schema")
def schema_command(
    *,
    is_crd: Annotated[
        bool, typer.Option("--crd", help="The CustomResourceDefinition, for kubectl apply.")
    ] = False,
) -> None:
    """JSON Schema of a policy, or the definition that a cluster needs."""
    if is_crd:
        from controller.core.policy.crd import crd

        print_value(crd(), Output.YAML)
    else:
        print_value(schema(), Output.JSON)


@commands.command()
def replay(
    file: _PolicyFile,
    events: Annotated[Path, typer.Option("--events", help="Recorded events, JSON Lines.")],
    output: OutputOption = Output.TABLE,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            min=0.1,
            help="Seconds between ticks where the log has none; default: 10.",
        ),
    ] = None,
) -> None:
    """The decisions that recorded events lead to."""
    from controller.sim import replay as replaying

    policy = parse(policy_text(file), str(file))
    if not events.is_file():
        raise UnderstudyError(f"{events}: found no file, expected recorded events, one JSON a line")
    period_s = None if replaying.has_ticks(events) else interval or replaying.INTERVAL_S
    for row in replaying.replay(policy, replaying.lines_of(events), interval_s=period_s):
        _print_decision(row, output)


def _print_decision(row: dict[str, Json], output: Output) -> None:
    if output is not Output.TABLE:
        print_value(row, output, compact=True)
        return
    marker = "final" if row.get("final") else row["verdict"]
    typer.echo(f"{row['time']}  {row['phase']:<12}  {marker:<9}  {row['reason']}")


_Rate = Annotated[str, typer.Option("--rate", help="Traffic, such as 50/s, 3000/min or 2/h.")]
_BaseRate = Annotated[
    str, typer.Option("--base-rate", help="The champion's share of requests with a reward: 5%.")
]
_Delay = Annotated[
    str | None,
    typer.Option("--delay", help="Mean time to a reward; default: a tenth of the window."),
]
_Errors = Annotated[str, typer.Option("--errors", help="The champion's share of failed answers.")]
_Effect = Annotated[
    str | None,
    typer.Option("--effect", help="Relative; default: min_effect, else the margin, else 20%."),
]


@commands.command()
def plan(  # noqa: PLR0913 - a command's options
    file: _PolicyFile,
    *,
    rate: _Rate,
    base_rate: _BaseRate,
    delay: _Delay = None,
    errors: _Errors = "0.5%",
    effect: _Effect = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """How long each stage takes at this traffic, and what it can detect."""
    from controller.cli import rehearsal

    code = rehearsal.plan(
        file,
        rate=rate,
        base_rate=base_rate,
        delay=delay,
        errors=errors,
        effect=effect,
        output=output,
    )
    raise typer.Exit(code)


_Scenario = Annotated[
    str,
    typer.Option("--scenario", help="A built-in scenario's name, or a file: docs/simulate.md."),
]
_Runs = Annotated[int, typer.Option("--runs", min=1, help="How many rollouts.")]
_Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same runs.")]
_Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Processes; default: one for each core.")
]
_Requests = Annotated[
    int | None,
    typer.Option("--requests", min=1, help="A run ends after so many; in place of the file's."),
]
_RateInstead = Annotated[
    str | None, typer.Option("--rate", help="Traffic, such as 50/s; in place of the file's.")
]
_Tick = Annotated[
    str | None,
    typer.Option("--tick", help="Time between two looks; default: by policy and traffic."),
]
_Level = Annotated[Level, typer.Option("--level", help="What the world gives to the engine.")]


@commands.command()
def simulate(  # noqa: PLR0913 - a command's options
    file: _PolicyFile,
    *,
    scenario: _Scenario = "flat",
    runs: _Runs = 100,
    seed: _Seed = 0,
    jobs: _Jobs = None,
    requests: _Requests = None,
    rate: _RateInstead = None,
    tick: _Tick = None,
    level: _Level = Level.AUTO,
    output: OutputOption = Output.TABLE,
) -> None:
    """Rehearse a policy in a scenario, many times over, by the engine that decides live."""
    from controller.cli import rehearsal

    code = rehearsal.simulate(
        file,
        scenario,
        runs=runs,
        seed=seed,
        jobs=jobs,
        requests=requests,
        rate=rate,
        tick=tick,
        level=level.value,
        output=output,
    )
    raise typer.Exit(code)
