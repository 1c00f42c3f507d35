"""Commands to a running `serve`, by its API: where a model stands, and what is to become of it."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.cli.options import (
    DEFAULT_API,
    ApiOption,
    CandidateOption,
    ModelArgument,
    OutputOption,
    ReasonOption,
)
from controller.cli.printing import Output
from controller.core.model import Json, Operation

commands = typer.Typer()
candidates = typer.Typer(help="Offer versions of a model, and list them.", no_args_is_help=True)


@commands.command()
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


@commands.command()
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


_Endpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        help="A model server, HOST:PORT; may be repeated. In a cluster they are found.",
    ),
]
_Parent = Annotated[str | None, typer.Option("--parent", help="The version that it was made from.")]
_Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="An offline metric, NAME=VALUE; may be repeated."),
]
_TrainedAt = Annotated[
    str | None, typer.Option("--trained-at", help="When, as 2026-11-20T00:00:00Z.")
]
_Uri = Annotated[
    str | None, typer.Option("--uri", help="Where its artifact is, as s3://models/digits/v2.")
]


@candidates.command(name="add")
def candidate_add(  # noqa: PLR0913 - a command's options
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="The new version's name.")],
    *,
    endpoint: _Endpoints = None,
    parent: _Parent = None,
    metric: _Metrics = None,
    trained_at: _TrainedAt = None,
    uri: _Uri = None,
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


def _metric(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        if equals and name:
            return name, float(value)
    except ValueError:
        pass
    raise typer.BadParameter(f"found {text!r}, expected NAME=VALUE, such as accuracy=0.94")


@candidates.command(name="list")
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
    commands.command(name=operation.value)(command)


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
    commands.command(name=operation.value)(command)


_choice(Operation.PROMOTE, "Promote the candidate now.")
_choice(Operation.ROLLBACK, "Roll the candidate back now; all of them, if none is named.")
_operation(Operation.PAUSE, "Keep the split as it is, until `resume`.")
_operation(Operation.RESUME, "Go on after `pause`.")
_operation(Operation.UNDO, "Bring the champion before this one back; this one is not tried again.")
