"""Commands that start something on this machine, and `doctor`, which looks at what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.options import (
    DEFAULT_API,
    DEFAULT_ROUTER,
    DEFAULT_XDS,
    ApiOption,
    KafkaOption,
    KeepRejectedOption,
    KubernetesOption,
    LedgerOption,
    OutputOption,
    PoliciesOption,
    RedisOption,
    RetainOption,
    RouterOption,
    StateOption,
    StreamOption,
    XdsOption,
)
from controller.cli.printing import Output
from controller.settings import (
    FORGET_ROUTERS,
    KEEP_DECISIONS,
    KEEP_REJECTED,
    RETAIN,
    Address,
    Retention,
    Settings,
    StoreUrls,
    default_state,
    router_address,
    source_urls,
    span_s,
    watched_namespaces,
)

commands = typer.Typer()

_Keep = Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")]
_DemoState = Annotated[
    Path | None,
    typer.Option("--state", help="An empty folder that keeps models, policy, logs and state."),
]
_KeepDecisions = Annotated[
    str,
    typer.Option(
        "--keep-decisions",
        envvar="UNDERSTUDY_KEEP_DECISIONS",
        help="Keep decisions for so long, such as 365d; forever: all of them.",
    ),
]
_Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        envvar="UNDERSTUDY_WORKERS",
        min=0,
        max=256,
        help="Processes that fold partitions; default: one for each partition, at most one for "
        "each core; none in a cluster.",
        show_default=False,
    ),
]
_ForgetRouters = Annotated[
    str,
    typer.Option(
        "--forget-routers",
        envvar="UNDERSTUDY_FORGET_ROUTERS",
        help="How long a router that is away keeps versions that it may still route to from "
        "being scaled down.",
    ),
]
_Slots = Annotated[
    int,
    typer.Option(
        "--slots",
        envvar="UNDERSTUDY_SLOTS",
        min=1,
        help="Partitions that this worker folds at most.",
    ),
]
_AnyApi = Annotated[
    str | None,
    typer.Option(
        "--api", envvar="UNDERSTUDY_API", help="Where a controller should answer, HOST:PORT."
    ),
]


@commands.command()
def demo(
    *,
    output: OutputOption = Output.TABLE,
    keep: _Keep = False,
    state: _DemoState = None,
    rate: Annotated[float, typer.Option("--rate", min=1.0, help="Requests a second.")] = 300.0,
) -> None:
    """The whole loop on this machine: real models, a roll-back and a promotion."""
    from controller.demo.run import demo as run_demo

    kind = "json" if output is Output.JSON else "table"
    raise typer.Exit(run_demo(keep=keep, output=kind, state=state, rate=rate))


@commands.command()
def serve(  # noqa: PLR0913 - a command's options
    *,
    policies: PoliciesOption = Path("policies"),
    state: StateOption = None,
    stream: StreamOption = None,
    ledger: LedgerOption = None,
    api: ApiOption = DEFAULT_API,
    router: RouterOption = DEFAULT_ROUTER,
    xds: XdsOption = DEFAULT_XDS,
    kubernetes: KubernetesOption = None,
    retain: RetainOption = RETAIN,
    keep_rejected: KeepRejectedOption = KEEP_REJECTED,
    keep_decisions: _KeepDecisions = KEEP_DECISIONS,
    kafka: KafkaOption = None,
    redis: RedisOption = None,
    workers: _Workers = None,
    forget_routers: _ForgetRouters = FORGET_ROUTERS,
    output: OutputOption = Output.TABLE,
) -> None:
    """Controller, API, dashboard, and one local Envoy."""
    from controller import bootstrap

    settings = Settings(
        policies=policies,
        state=state or default_state(),
        api=Address.parse(api, "--api"),
        router=router_address(router),
        xds=Address.parse(xds, "--xds"),
        namespaces=watched_namespaces(kubernetes),
        stores=StoreUrls.of(state or default_state(), stream=stream, ledger=ledger),
        retention=Retention.of(retain, keep_rejected, keep_decisions),
        topics=source_urls(kafka=kafka, redis=redis, stream=stream),
        workers=workers,
        forget_routers_s=span_s(forget_routers, "--forget-routers"),
    )
    raise typer.Exit(bootstrap.serve(settings, is_json=output is Output.JSON))


@commands.command()
def worker(  # noqa: PLR0913 - a command's options
    *,
    state: StateOption = None,
    stream: StreamOption = None,
    ledger: LedgerOption = None,
    slots: _Slots = 64,
    retain: RetainOption = RETAIN,
    keep_rejected: KeepRejectedOption = KEEP_REJECTED,
) -> None:
    """Fold partitions of hot models: shares them with the other workers of the same ledger."""
    from controller.bootstrap.workers import work

    stores = StoreUrls.of(state or default_state(), stream=stream, ledger=ledger)
    keep = Retention.of(retain, keep_rejected, "forever")
    raise typer.Exit(work(stores, keep, slots=slots))


@commands.command()
def doctor(  # noqa: PLR0913 - a command's options
    *,
    policies: PoliciesOption = Path("policies"),
    state: StateOption = None,
    stream: StreamOption = None,
    ledger: LedgerOption = None,
    kafka: KafkaOption = None,
    redis: RedisOption = None,
    api: _AnyApi = None,
    router: RouterOption = DEFAULT_ROUTER,
    xds: XdsOption = DEFAULT_XDS,
    kubernetes: KubernetesOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look at everything that serve needs, and say what to do; exit code 1 if something failed."""
    from controller.cli.doctor import Examined
    from controller.cli.doctor import doctor as examine

    folder, ports = state or default_state(), _ports(router, xds)
    examined = Examined(
        state=folder,
        stores=StoreUrls.of(folder, stream=stream, ledger=ledger),
        policies=policies if kubernetes is None else None,
        others=[url for url in (kafka, redis) if url is not None],
        api=None if api is None else Address.parse(api, "--api"),
        ports=ports if api is None else (),
        namespaces=watched_namespaces(kubernetes),
    )
    raise typer.Exit(examine(examined, output))


def _ports(router: str, xds: str) -> list[tuple[str, Address]]:
    """Where `serve` is to listen, with the option that says so."""
    local = router_address(router)
    return [
        ("--api", Address.parse(DEFAULT_API, "--api")),
        *([("--router", local)] if local is not None else []),
        ("--xds", Address.parse(xds, "--xds")),
    ]
