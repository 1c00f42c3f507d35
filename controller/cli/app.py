"""The command `understudy`: contract 4.3. Parses, calls, prints; decides nothing.

`serve`, `demo`, `check`, `schema`, `plan`, `simulate` and `replay` work here; the others are
clients of the API of a running `serve` (`--api`, or `UNDERSTUDY_API`), except `ledger`, which reads
the state folder, so that it works when nothing runs. What is heavy to import is imported by the
command that needs it: a question to the API takes under a second, not two.

Exit codes: 0 fine, 1 the thing asked for is not so, 2 usage.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.beside import add_beside
from controller.cli.printing import Level, Output, print_rows, print_value
from controller.core.model import Json, Operation
from controller.core.policy import parse, position, schema, warnings
from controller.errors import PolicyError, UnderstudyError
from controller.settings import (
    Address,
    Settings,
    StoreUrls,
    default_state,
    policy_text,
    router_address,
    watched_namespaces,
)

app = typer.Typer(
    name="understudy",
    help="Online model evaluation and rollout controller.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
candidate_app = typer.Typer(help="Offer versions of a model, and list them.", no_args_is_help=True)
app.add_typer(candidate_app, name="candidate")

ModelArgument = Annotated[str, typer.Argument(help="A model: the name in its policy.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]
ApiOption = Annotated[
    str, typer.Option("--api", envvar="UNDERSTUDY_API", help="Where `serve` answers, HOST:PORT.")
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="UNDERSTUDY_STATE",
        help="Folder of the log and the ledger; default: understudy in the XDG state folder.",
    ),
]
StreamOption = Annotated[
    str | None,
    typer.Option(
        "--stream",
        envvar="UNDERSTUDY_STREAM",
        help="The event log, sqlite:///PATH or redis://HOST:PORT/DATABASE; "
        "default: events.db in the state folder.",
        show_default=False,
    ),
]
LedgerOption = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        envvar="UNDERSTUDY_LEDGER",
        help="The ledger, sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE; "
        "default: ledger.db in the state folder.",
        show_default=False,
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept in the ledger.")]
CandidateOption = Annotated[
    str | None, typer.Option("--candidate", help="Which one, where there are several.")
]
DEFAULT_API = "127.0.0.1:8800"


@app.command()
def demo(
    *,
    output: OutputOption = Output.TABLE,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running at the end.")
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="An empty folder that keeps models, policy, logs and state."),
    ] = None,
    rate: Annotated[float, typer.Option("--rate", min=1.0, help="Requests a second.")] = 300.0,
) -> None:
    """The whole loop on this machine: real models, a roll-back and a promotion."""
    from controller.demo.run import demo as run_demo

    kind = "json" if output is Output.JSON else "table"
    raise typer.Exit(run_demo(keep=keep, output=kind, state=state, rate=rate))


@app.command()
def serve(  # noqa: PLR0913 - a command's options
    *,
    policies: Annotated[
        Path,
        typer.Option(
            "--policies", envvar="UNDERSTUDY_POLICIES", help="Folder of policies, *.yaml."
        ),
    ] = Path("policies"),
    state: StateOption = None,
    stream: StreamOption = None,
    ledger: LedgerOption = None,
    api: ApiOption = DEFAULT_API,
    router: Annotated[
        str,
        typer.Option(
            "--router",
            envvar="UNDERSTUDY_ROUTER",
            help="Where users' requests come in, HOST:PORT; none: routers elsewhere use --xds.",
        ),
    ] = "127.0.0.1:8080",
    xds: Annotated[
        str,
        typer.Option(
            "--xds",
            envvar="UNDERSTUDY_XDS",
            help="Where more routers may get their splits, HOST:PORT.",
        ),
    ] = "127.0.0.1:18000",
    kubernetes: Annotated[
        str | None,
        typer.Option(
            "--kubernetes",
            envvar="UNDERSTUDY_KUBERNETES",
            help="Namespaces whose RolloutPolicy objects are served (a,b or *), not --policies.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Controller, API, dashboard, and one local Envoy."""
    from controller import bootstrap

    settings = Settings(
        policies=policies,
        state=_state(state),
        api=Address.parse(api, "--api"),
        router=router_address(router),
        xds=Address.parse(xds, "--xds"),
        namespaces=watched_namespaces(kubernetes),
        stores=StoreUrls.of(_state(state), stream=stream, ledger=ledger),
    )
    raise typer.Exit(bootstrap.serve(settings, is_json=output is Output.JSON))


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="Policy files.")]) -> None:
    """Lint policies: every fault with file, line and field; then what cannot work."""
    faulty = False
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
        typer.echo(f"{file}: ok, policy of {policy.model}")
    raise typer.Exit(1 if faulty else 0)


@app.command(name="schema")
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


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A policy file.")],
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


@app.command()
def plan(  # noqa: PLR0913 - a command's options
    file: Annotated[Path, typer.Argument(help="A policy file.")],
    *,
    rate: Annotated[str, typer.Option("--rate", help="Traffic, such as 50/s, 3000/min or 2/h.")],
    base_rate: Annotated[
        str, typer.Option("--base-rate", help="The champion's share of requests with a reward: 5%.")
    ],
    delay: Annotated[
        str | None,
        typer.Option("--delay", help="Mean time to a reward; default: a tenth of the window."),
    ] = None,
    errors: Annotated[
        str, typer.Option("--errors", help="The champion's share of failed answers.")
    ] = "0.5%",
    effect: Annotated[
        str | None,
        typer.Option("--effect", help="Relative; default: min_effect, else the margin, else 20%."),
    ] = None,
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


@app.command()
def simulate(  # noqa: PLR0913 - a command's options
    file: Annotated[Path, typer.Argument(help="A policy file.")],
    *,
    scenario: Annotated[
        str,
        typer.Option("--scenario", help="A built-in scenario's name, or a file: docs/simulate.md."),
    ] = "flat",
    runs: Annotated[int, typer.Option("--runs", min=1, help="How many rollouts.")] = 100,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="The same seed gives the same runs.")
    ] = 0,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes; default: one for each core.")
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option("--requests", min=1, help="A run ends after so many; in place of the file's."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Traffic, such as 50/s; in place of the file's.")
    ] = None,
    tick: Annotated[
        str | None,
        typer.Option("--tick", help="Time between two looks; default: by policy and traffic."),
    ] = None,
    level: Annotated[
        Level, typer.Option("--level", help="What the world gives to the engine.")
    ] = Level.AUTO,
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


@app.command()
def status(  # noqa: PLR0913 - a command's options
    model: Annotated[str | None, typer.Argument(help="One model; all without it.")] = None,
    *,
    api: ApiOption = DEFAULT_API,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print again every second, until Ctrl-C.")
    ] = False,
    wait: Annotated[
        str | None,
        typer.Option("--wait", help="Wait for this phase, such as promoted; needs MODEL."),
    ] = None,
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long to wait; then the exit code is 1.")
    ] = "10m",
    output: OutputOption = Output.TABLE,
) -> None:
    """Where each model stands, or one: phase, split, rewards."""
    from controller.cli import remote

    raise typer.Exit(
        remote.status(api, model, watch=watch, wait=wait, timeout=timeout, output=output)
    )


@app.command()
def explain(
    model: ModelArgument,
    *,
    api: ApiOption = DEFAULT_API,
    decision: Annotated[
        int | None, typer.Option("--decision", help="A decision's number, as in `ledger`.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Why it moved, or why it did not, with the numbers."""
    from controller.cli import remote

    remote.explain(api, model, decision, output)


@candidate_app.command(name="add")
def candidate_add(  # noqa: PLR0913 - a command's options
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="The new version's name.")],
    *,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            help="A model server, HOST:PORT; may be repeated. In a cluster they are found.",
        ),
    ] = None,
    parent: Annotated[
        str | None, typer.Option("--parent", help="The version that it was made from.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="An offline metric, NAME=VALUE; may be repeated."),
    ] = None,
    trained_at: Annotated[
        str | None, typer.Option("--trained-at", help="When, as 2026-11-20T00:00:00Z.")
    ] = None,
    uri: Annotated[
        str | None, typer.Option("--uri", help="Where its artifact is, as s3://models/digits/v2.")
    ] = None,
    api: ApiOption = DEFAULT_API,
    output: OutputOption = Output.TABLE,
) -> None:
    """Offer a version as a candidate."""
    from controller.cli import remote

    body: dict[str, Json] = {"version": version, "endpoints": list(endpoint or ())}
    if parent:
        body["parent"] = parent
    if trained_at:
        body["trained_at"] = trained_at
    if uri:
        body["uri"] = uri
    if metric:
        body["metrics"] = dict(_metric(text) for text in metric)
    remote.post(api, model, "candidates", body, output)


@candidate_app.command(name="list")
def candidate_list(
    model: ModelArgument, *, api: ApiOption = DEFAULT_API, output: OutputOption = Output.TABLE
) -> None:
    """The arms of a model, and the queue."""
    from controller.cli import remote

    remote.candidates(api, model, output)


def _operation(operation: Operation, text: str) -> None:
    def command(
        model: ModelArgument,
        *,
        reason: ReasonOption = "",
        api: ApiOption = DEFAULT_API,
        output: OutputOption = Output.TABLE,
    ) -> None:
        from controller.cli import remote

        remote.post(api, model, operation.value, {"reason": reason} if reason else {}, output)

    command.__doc__ = text
    app.command(name=operation.value)(command)


def _choice(operation: Operation, text: str) -> None:
    """An operation on one candidate, which must be named where there are several."""

    def command(
        model: ModelArgument,
        *,
        candidate: CandidateOption = None,
        reason: ReasonOption = "",
        api: ApiOption = DEFAULT_API,
        output: OutputOption = Output.TABLE,
    ) -> None:
        from controller.cli import remote

        given = {"reason": reason, "version": candidate}
        body: dict[str, Json] = {key: value for key, value in given.items() if value}
        remote.post(api, model, operation.value, body, output)

    command.__doc__ = text
    app.command(name=operation.value)(command)


_choice(Operation.PROMOTE, "Promote the candidate now.")
_choice(Operation.ROLLBACK, "Roll the candidate back now; all of them, if none is named.")
_operation(Operation.PAUSE, "Keep the split as it is, until `resume`.")
_operation(Operation.RESUME, "Go on after `pause`.")
_operation(Operation.UNDO, "Bring the champion before this one back; this one is not tried again.")


@app.command(name="ledger")
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

    stores = StoreUrls.of(_state(state), stream=stream, ledger=ledger)
    if verify:
        faults, count = bootstrap.verify(stores, model)
        for fault in faults:
            typer.echo(fault)
        if not faults:
            typer.echo(f"{model}: {count} decisions derived again from the log, all equal")
        raise typer.Exit(1 if faults else 0)
    rows = bootstrap.ledger_rows(stores, model)
    print_rows(rows, output, ("number", "time", "phase", "verdict", "weights", "reason"))


@app.command()
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

    stores = StoreUrls.of(_state(state), stream=stream, ledger=ledger)
    if rejected:
        for row in bootstrap.rejected_rows(stores, model):
            print_value(row, Output.JSON, compact=True)
        return
    for lines in bootstrap.log_lines(stores, model):
        sys.stdout.buffer.write(b"\n".join(lines) + b"\n")


def _print_decision(row: dict[str, Json], output: Output) -> None:
    if output is not Output.TABLE:
        print_value(row, output, compact=True)
        return
    marker = "final" if row.get("final") else row["verdict"]
    typer.echo(f"{row['time']}  {row['phase']:<12}  {marker:<9}  {row['reason']}")


def _metric(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        if equals and name:
            return name, float(value)
    except ValueError:
        pass
    raise typer.BadParameter(f"found {text!r}, expected NAME=VALUE, such as accuracy=0.94")


def _state(given: Path | None) -> Path:
    return default_state() if given is None else given


add_beside(app)


def main(argv: list[str] | None = None) -> Any:
    """Run the command; errors of ours are one sentence on stderr and exit code 1."""
    try:
        return app(argv)
    except UnderstudyError as exc:
        typer.echo(f"understudy: {exc}", err=True)
        raise SystemExit(1) from exc
