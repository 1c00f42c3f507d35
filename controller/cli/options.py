"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.printing import Output

DEFAULT_API = "127.0.0.1:8800"
DEFAULT_ROUTER = "127.0.0.1:8080"
DEFAULT_XDS = "127.0.0.1:18000"

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
        help="The event log, sqlite:///PATH, redis://HOST:PORT/DATABASE, redis+sentinel://…, "
        "redis+cluster://… or kafka://HOST:PORT,HOST:PORT/PREFIX; default: events.db in the state "
        "folder.",
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
KafkaOption = Annotated[
    str | None,
    typer.Option(
        "--kafka",
        envvar="UNDERSTUDY_KAFKA",
        help="Topics that policies name, kafka://HOST:PORT,HOST:PORT; default: the event log's.",
        show_default=False,
    ),
]
RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis",
        envvar="UNDERSTUDY_REDIS",
        help="Streams that policies name, redis://HOST:PORT/DATABASE, redis+sentinel://… or "
        "redis+cluster://…; default: the event log's.",
        show_default=False,
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept in the ledger.")]
CandidateOption = Annotated[
    str | None, typer.Option("--candidate", help="Which one, where there are several.")
]
RetainOption = Annotated[
    str,
    typer.Option(
        "--retain",
        envvar="UNDERSTUDY_RETAIN",
        help="Keep at least so much of the event log, such as 1d or 12h; forever: all of it.",
    ),
]
KeepRejectedOption = Annotated[
    int,
    typer.Option(
        "--keep-rejected",
        envvar="UNDERSTUDY_KEEP_REJECTED",
        min=1,
        help="How many events that could not be used are kept, of each model.",
    ),
]
PoliciesOption = Annotated[
    Path,
    typer.Option("--policies", envvar="UNDERSTUDY_POLICIES", help="Folder of policies, *.yaml."),
]
RouterOption = Annotated[
    str,
    typer.Option(
        "--router",
        envvar="UNDERSTUDY_ROUTER",
        help="Where users' requests come in, HOST:PORT; none: routers elsewhere use --xds.",
    ),
]
XdsOption = Annotated[
    str,
    typer.Option(
        "--xds",
        envvar="UNDERSTUDY_XDS",
        help="Where more routers may get their splits, HOST:PORT.",
    ),
]
KubernetesOption = Annotated[
    str | None,
    typer.Option(
        "--kubernetes",
        envvar="UNDERSTUDY_KUBERNETES",
        help="Namespaces whose RolloutPolicy objects are served (a,b or *), not --policies.",
    ),
]
