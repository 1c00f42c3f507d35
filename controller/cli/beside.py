"""Commands for routers that are not local: what tells one its place, and what ships its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.options import OutputOption
from controller.cli.printing import Output, print_value
from controller.settings import Address, configure_logs, default_state

commands = typer.Typer()

_LOG = Path("/var/log/understudy/access.log")
_MIB = 1 << 20

_To = Annotated[
    str,
    typer.Option("--to", envvar="UNDERSTUDY_SHIP_TO", help="URL of the controller's API."),
]
_ShippedLog = Annotated[
    Path, typer.Option("--log", envvar="UNDERSTUDY_SHIP_LOG", help="The router's access log.")
]
_ShippedUntil = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="UNDERSTUDY_SHIP_STATE",
        help="Folder that remembers what was shipped; default: ship in the state folder.",
    ),
]
_ShipAdmin = Annotated[
    str | None,
    typer.Option(
        "--admin",
        envvar="UNDERSTUDY_SHIP_ADMIN",
        help="The router's admin interface, HOST:PORT; without it, the log is not rotated.",
    ),
]
_Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        envvar="UNDERSTUDY_SHIP_METRICS",
        help="Where /metrics and /healthz answer, HOST:PORT; default: nowhere.",
    ),
]
_Disk = Annotated[
    int,
    typer.Option(
        "--disk",
        envvar="UNDERSTUDY_SHIP_DISK",
        min=2,
        help="MiB of log that may wait; beyond it, the oldest lines are dropped and counted.",
    ),
]
_Rotate = Annotated[
    int,
    typer.Option(
        "--rotate",
        envvar="UNDERSTUDY_SHIP_ROTATE",
        min=1,
        help="MiB of a log that is rotated.",
    ),
]
_Drain = Annotated[
    float,
    typer.Option(
        "--drain",
        envvar="UNDERSTUDY_SHIP_DRAIN",
        min=0.0,
        help="Seconds to go on after SIGTERM, at most.",
    ),
]
_DrainRouter = Annotated[
    bool,
    typer.Option(
        "--drain-router",
        envvar="UNDERSTUDY_SHIP_DRAIN_ROUTER",
        help="On SIGTERM, have the router drain, and go on until it has gone; needs --admin.",
    ),
]


@commands.command()
def ship(  # noqa: PLR0913 - a command's options
    *,
    to: _To,
    log: _ShippedLog = _LOG,
    state: _ShippedUntil = None,
    admin: _ShipAdmin = None,
    metrics: _Metrics = None,
    disk: _Disk = 1024,
    rotate: _Rotate = 64,
    drain: _Drain = 20.0,
    drain_router: _DrainRouter = False,
) -> None:
    """Ship the access log of the router beside it to a controller, each line at least once."""
    from controller.router.ship import Limits
    from controller.router.sidecar import Shipping
    from controller.router.sidecar import ship as run

    if drain_router and admin is None:
        raise typer.BadParameter("--drain-router needs --admin")
    if not to.startswith(("http://", "https://")):
        raise typer.BadParameter(f"--to: found {to!r}, expected http://HOST:PORT")
    listen = Address.parse(metrics, "--metrics") if metrics else None
    settings = Shipping(
        log=log,
        to=to,
        state=default_state() / "ship" if state is None else state,
        admin=f"http://{Address.parse(admin, '--admin')}" if admin else None,
        listen=(listen.host, listen.port) if listen else None,
        drains_router=drain_router,
        drain_s=drain,
        limits=Limits(rotate=rotate * _MIB, disk=disk * _MIB),
    )
    configure_logs()
    raise typer.Exit(run(settings))


_Planes = Annotated[
    list[str],
    typer.Option(
        "--xds",
        help="Where a controller gives splits, HOST:PORT; a name may have several addresses; "
        "may be repeated.",
    ),
]
_Node = Annotated[
    str, typer.Option("--node", help="The router's name; Envoy's --service-node overrides it.")
]
_Listen = Annotated[str, typer.Option("--listen", help="Where users' requests come in, HOST:PORT.")]
_WrittenLog = Annotated[Path, typer.Option("--log", help="The access log, which `ship` reads.")]
_Admin = Annotated[
    str, typer.Option("--admin", help="Envoy's admin interface, HOST:PORT, on loopback.")
]
_Probe = Annotated[
    str,
    typer.Option("--probe", help="Where GET /ready is answered, HOST:PORT; none: nowhere."),
]
_Shadow = Annotated[
    str,
    typer.Option("--shadow", help="A unix socket for mirrored requests; @: abstract."),
]


@commands.command(name="router-bootstrap")
def router_bootstrap(  # noqa: PLR0913 - a command's options
    *,
    xds: _Planes,
    node: _Node = "router",
    listen: _Listen = "0.0.0.0:8080",
    log: _WrittenLog = _LOG,
    admin: _Admin = "127.0.0.1:9901",
    probe: _Probe = "none",
    shadow: _Shadow = "@understudy-shadow",
    output: OutputOption = Output.YAML,
) -> None:
    """The bootstrap file of an Envoy that is not local: `envoy -c FILE`."""
    from controller.router.bootstrap import remote
    from controller.router.snapshot import ListenerConfig

    public, inner = Address.parse(listen, "--listen"), Address.parse(admin, "--admin")
    probed = None if probe == "none" else Address.parse(probe, "--probe")
    planes = [Address.parse(each, "--xds") for each in xds]
    document = remote(
        node=node,
        xds=[(each.host, each.port) for each in planes],
        place=ListenerConfig(public.host, public.port, str(log), shadow),
        admin=(inner.host, inner.port),
        probe=(probed.host, probed.port) if probed else None,
    )
    print_value(document, Output.YAML if output is Output.TABLE else output)
