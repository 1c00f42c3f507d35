"""Commands that ask a running `serve` over its API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import click
import httpx
import typer

from controller.cli.explained import holding, lift_sentence, objects, print_explanation
from controller.cli.printing import Output, cell, print_rows, print_value
from controller.core.model import Json, Phase
from controller.errors import Permanent, Retryable, UnderstudyError
from controller.settings import SettingsError, span_s

_POLL_S = 0.5
_STANDBY = "urn:understudy:problem:standby"
_ASKED_AGAIN = 15
"""How often a command that met a standby is sent again, a second apart: a failover takes 12 s."""


class RefusedError(UnderstudyError):
    """The controller answered with a problem."""


def status(  # noqa: PLR0913 - a command's options
    api: str,
    model: str | None,
    *,
    watch: bool,
    wait: str | None,
    timeout: str,
    output: Output,
) -> int:
    """Print where models stand; the exit code."""
    if wait is not None:
        return _wait(api, model, wait, timeout, output)
    _print_status(api, model, output)
    try:
        while watch:
            asyncio.run(asyncio.sleep(1.0))
            if output is Output.TABLE:
                click.clear()
            _print_status(api, model, output)
    except KeyboardInterrupt:
        return 0
    return 0


def _wait(api: str, model: str | None, phase: str, timeout: str, output: Output) -> int:
    if model is None:
        raise typer.BadParameter("--wait needs a MODEL")
    if phase not in set(Phase):
        raise typer.BadParameter(f"found {phase!r}, expected one of {', '.join(Phase)}")
    polls = max(1, round(span_s(timeout, "--timeout") / _POLL_S))
    for _ in range(polls):
        if _get(api, f"/v1/models/{model}")["phase"] == phase:
            _print_status(api, model, output)
            return 0
        asyncio.run(asyncio.sleep(_POLL_S))
    _print_status(api, model, output)
    typer.echo(f"understudy: {model} did not reach {phase} within {timeout}", err=True)
    return 1


def _print_status(api: str, model: str | None, output: Output) -> None:
    names, held = ([model], {}) if model else _models(api)
    reports = [_get(api, f"/v1/models/{name}/arms") for name in names]
    if output is not Output.TABLE:
        print_value(reports if model is None else reports[0], output)
        return
    for report in reports:
        _print_report(report)
    for name, why in held.items():
        typer.echo(f"{name}: HOLDING: {why}")
    if not reports and not held:
        typer.echo("no models")


def _models(api: str) -> tuple[list[str], dict[str, Json]]:
    """Names of the models, and why others are held since the start."""
    found = _get(api, "/v1/models")
    held = found.get("held")
    names = [str(model["model"]) for model in objects(found["models"])]
    return names, held if isinstance(held, dict) else {}


def _print_report(report: Mapping[str, Json]) -> None:
    typer.echo(f"{report['model']}: {report['phase']}{_stage(report)}, split {report['epoch']}")
    typer.echo(f"  {report['reason']}")
    health = report.get("health")
    for line in holding(health):
        typer.echo(f"  HOLDING: {line}")
    if isinstance(health, dict) and health.get("split") != "in force":
        typer.echo(f"  split: {health.get('split')}")
    _print_lifts(report)
    columns = (
        "arm",
        "role",
        "weight",
        "weight_in_force",
        "exposures",
        "outcomes",
        "pending",
        "rewards",
        "mean",
        "interval",
    )
    print_rows(objects(report["arms"]), Output.TABLE, columns)
    if isinstance(earlier := report.get("earlier"), dict):
        typer.echo("  and {arms} earlier arms with {outcomes} outcomes".format(**earlier))
    _print_segments(report)
    if isinstance(health, dict):
        _print_partitions(objects(health.get("partitions")))
    if report.get("rejected"):
        typer.echo(f"  rejected: {report['rejected']}")


def _print_partitions(rows: list[dict[str, Json]]) -> None:
    """Who folds each partition, and how far it is behind."""
    if rows:
        print_rows(rows, Output.TABLE, ("partition", "open", "behind_s", "holder"))


def _print_lifts(report: Mapping[str, Json]) -> None:
    """Each candidate that is in against the champion, a line each."""
    lifts, names = report.get("lift"), report.get("candidates")
    if not isinstance(lifts, dict) or not isinstance(names, list):
        return
    for name in names:
        lift = lifts.get(str(name))
        if isinstance(lift, dict):
            typer.echo(f"  {lift_sentence(str(name), str(report['champion']), lift)}")


def _print_segments(report: Mapping[str, Json]) -> None:
    """The split of each segment, where there are any."""
    segments = report.get("segments")
    if not isinstance(segments, dict) or not segments:
        return
    arms = [str(arm["arm"]) for arm in objects(report["arms"])]
    rows: list[dict[str, Json]] = [
        {"segment": name, **{arm: cell("weight", weights.get(arm)) for arm in arms}}
        for name, weights in segments.items()
        if isinstance(weights, dict)
    ]
    print_rows(rows, Output.TABLE, ("segment", *arms))


def _stage(report: Mapping[str, Json]) -> str:
    """The stage in brackets; steps are counted from 1 for people, as in the sentences."""
    if not report["stage"]:
        return ""
    step = report["step"]
    if report["stage"] == "canary" and isinstance(step, int):
        return f" (canary, step {step + 1})"
    return f" ({report['stage']})"


def explain(api: str, model: str, number: int | None, output: Output) -> None:
    """Print why a model moved, or why it does not."""
    query = f"?decision={number}" if number is not None else ""
    document = _get(api, f"/v1/models/{model}/explain{query}")
    if output is not Output.TABLE:
        print_value(document, output)
        return
    print_explanation(document)


def candidates(api: str, model: str, output: Output) -> None:
    """Print a model's arms and what waits in its queue."""
    report = _get(api, f"/v1/models/{model}")
    queue = report.get("queue") or []
    assert isinstance(queue, list)
    rows: list[dict[str, Json]] = [
        {"version": arm["arm"], "role": arm["role"], "weight": arm["weight"]}
        for arm in objects(report["arms"])
        if arm["arm"] not in queue
    ]
    rows += [{"version": name, "role": "queued", "weight": 0} for name in queue]
    print_rows(rows, output, ("version", "role", "weight"))


def post(api: str, model: str, action: str, body: Mapping[str, Json], output: Output) -> None:
    """Send a command and print where the model stands then."""
    report = _call("POST", api, f"/v1/models/{model}/{action}", body)
    if output is not Output.TABLE:
        print_value(report, output)
        return
    _print_report(report)


def _get(api: str, path: str) -> dict[str, Json]:
    return _call("GET", api, path, None)


def _call(method: str, api: str, path: str, body: Mapping[str, Json] | None) -> dict[str, Json]:
    """What the controller answers; a standby is asked until the one that leads is met.

    Each request is a new connection, which an address in front of several controllers may give to
    another of them. A standby has not done what it was asked.
    """
    base = (api if "://" in api else f"http://{api}").rstrip("/")
    response = _sent(method, base, path, body)
    for _ in range(_ASKED_AGAIN):
        if not _is_standby(response):
            break
        asyncio.run(_pause(float(response.headers.get("retry-after", "1"))))
        response = _sent(method, base, path, body)
    document = _document(response)
    if document is None:
        raise Permanent(
            f"something else than a controller answers at {base} (HTTP {response.status_code}): "
            "give the --api of `understudy serve`"
        )
    if _is_standby(response):
        raise RefusedError(_leads_elsewhere(base, str(document.get("leader", ""))))
    if response.is_error:
        raise RefusedError(f"{document.get('title')}: {document.get('detail')}")
    return document


def _sent(method: str, base: str, path: str, body: Mapping[str, Json] | None) -> httpx.Response:
    try:
        return httpx.request(method, base + path, json=body, timeout=30.0)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
        raise SettingsError(
            f"--api: found {base!r} ({exc}), expected HOST:PORT, such as 127.0.0.1:8800"
        ) from exc
    except httpx.HTTPError as exc:
        raise Retryable(
            f"no controller answers at {base} ({exc}): is `understudy serve` running?"
        ) from exc


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _leads_elsewhere(base: str, leader: str) -> str:
    """What to do about an address behind which nobody leads, such as a forwarded port."""
    pod = leader.rpartition("_")[0]
    remedy = f": kubectl port-forward pod/{pod} 8800" if pod else ""
    return f"at {base} answers only a controller that stands by; {leader} leads{remedy}"


def _is_standby(response: httpx.Response) -> bool:
    document = _document(response) if response.status_code == 503 else None
    return document is not None and document.get("type") == _STANDBY


def _document(response: httpx.Response) -> dict[str, Json] | None:
    """The object in an answer; None where there is none, as from another server."""
    try:
        document = response.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
