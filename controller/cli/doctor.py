"""`understudy doctor`: everything that `serve` would need, looked at before it is needed.

Each room knows what to look at where its client lives; here is only the order, from the ground up,
and how it is printed. Nothing that exists is changed: what must be tried is tried with scratch
files, keys and tables, which are removed.
"""

from __future__ import annotations

import time  # noqa: TID251 - clocks are compared
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import typer

from controller.bootstrap.machine import check_files, check_policies, check_ports, check_state
from controller.cli.printing import Output, print_value
from controller.core.model.checks import Finding, Status, failed, fine, skew
from controller.ledger.checks import check_ledger
from controller.router.checks import check_router
from controller.settings import Address, StoreUrls
from controller.stream.checks import check_source, check_stream

_WAIT_S = 5.0
_MARKS = {Status.OK: "ok", Status.WARNING: "warning", Status.FAILED: "FAILED"}


@dataclass(frozen=True, slots=True)
class Examined:
    """What is looked at.

    policies    None: they are the cluster's
    others      users' own streams that policies may read: Kafka, Redis
    api         of a controller that should run; None: none is asked
    ports       where `serve` is to listen, with the option that says so
    namespaces  of the cluster, none: all; None: there is no cluster
    """

    state: Path
    stores: StoreUrls
    policies: Path | None
    others: Sequence[str] = ()
    api: Address | None = None
    ports: Sequence[tuple[str, Address]] = ()
    namespaces: Sequence[str] | None = None


def doctor(examined: Examined, output: Output) -> int:
    """Print one line per check as it is made; the exit code: 1 if one failed."""
    has_failed = False
    rows = []
    for finding in findings(examined):
        has_failed |= finding.status is Status.FAILED
        if output is Output.TABLE:
            _print(finding)
        else:
            rows.append({**asdict(finding), "status": finding.status.value})
    if output is not Output.TABLE:
        print_value(rows, output)
    return 1 if has_failed else 0


def findings(examined: Examined) -> Iterator[Finding]:
    """Every check, from the ground up."""
    yield from check_state(examined.state)
    yield check_files()
    yield from check_router()
    yield from check_stream(examined.stores.stream, time.time)
    yield from check_ledger(examined.stores.ledger, time.time)
    for url in examined.others:
        yield from check_source(url, time.time)
    if examined.policies is not None:
        yield from check_policies(examined.policies)
    if examined.namespaces is not None:
        from controller.deploy.checks import check_cluster  # noqa: PLC0415 - takes 0.6 s

        yield from check_cluster(examined.namespaces, time.time)
    yield from check_ports(examined.ports)
    if examined.api is not None:
        yield from check_api(examined.api)


def check_api(address: Address) -> Iterator[Finding]:
    """What a controller that runs says of itself."""
    check, before = "controller", time.time()
    try:
        answer = httpx.get(f"http://{address}/readyz", timeout=_WAIT_S, trust_env=False)
        document = answer.json()
    except (httpx.HTTPError, ValueError) as exc:
        found = f"{address} does not answer: {type(exc).__name__} {exc}"
        yield failed(check, found, "start understudy serve, or give another --api")
        return
    if answer.status_code == 200:
        yield fine(check, f"{address} is {document.get('status')}")
    else:
        remedy = "understudy status says which model is held, and why"
        yield failed(check, f"{address}: {document.get('detail')}", remedy)
    if date := answer.headers.get("date"):
        # A date has whole seconds: it lies up to one behind.
        ours = (before + time.time()) / 2 - 0.5
        theirs = parsedate_to_datetime(date).timestamp()
        yield skew(f"{check}: clock", theirs=theirs, ours=ours, whose="the controller")


def _print(finding: Finding) -> None:
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    typer.echo(f"{_MARKS[finding.status]:<8} {finding.check}: {finding.found}{remedy}")
