"""An explanation and a lift for people, within 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import typer

from controller.cli.printing import Output, cell, print_rows
from controller.core.model import Json, worries
from controller.core.sentences import change, ends

WIDTH = 80

TITLES = {
    "promote": "Would promote, when all are reached",
    "roll_back": "Would roll back, when one is reached",
    "hold": "Would hold, when one is reached",
}
"""What conditions are for, in the order in which people ask."""


def print_explanation(document: Mapping[str, Json]) -> None:
    """The verdict and its sentence; then arms, conditions and guardrails, a table each."""
    stage = f" ({document['stage']})" if document["stage"] else ""
    typer.echo(f"{document['model']}: {document['phase']}, {document['verdict']}{stage}")
    _paragraph(f"because {document['reason']}")
    if document.get("number") is not None:
        when = cell("time", document["time"])
        typer.echo(f"  decision {document['number']} of {when}, split {document['epoch']}")
    for line in holding(document.get("health")):
        _paragraph(f"HOLDING: {line}")
    _table(_arms(document), ("arm", "outcomes", "mean", "interval", "lift", "best with"))
    _conditions(objects(document.get("conditions")))
    _table(
        [_guardrail(row) for row in objects(document.get("guardrails"))],
        ("candidate", "guardrail", "seen", "champion", "more allowed"),
        "Guardrails saw",
    )


def holding(health: Json) -> list[str]:
    """What is wrong with the data or with what carries splits out, a sentence each."""
    return [each.sentence for each in worries(health)] if isinstance(health, dict) else []


def lift_sentence(candidate: str, champion: str, lift: Mapping[str, Json]) -> str:
    """A candidate against the champion: `v2 against v1: +4.20% (-1.10% to +9.80%)`."""
    return f"{candidate} against {champion}: {_lift(lift)}"


def objects(value: Json) -> list[dict[str, Json]]:
    """The objects of a list."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _arms(document: Mapping[str, Json]) -> list[dict[str, Json]]:
    return [
        {
            "arm": arm.get("arm"),
            "outcomes": arm.get("n"),
            "mean": arm.get("mean"),
            "interval": arm.get("interval"),
            "lift": _lift(lift) if isinstance(lift := arm.get("lift"), dict) else None,
            "best with": arm.get("p_best"),
        }
        for arm in (*objects([document.get("champion")]), *objects(document.get("candidates")))
    ]


def _lift(lift: Mapping[str, Json]) -> str:
    if lift.get("estimate") is None:
        return "not known yet"
    return f"{change(lift['estimate'])} ({ends(lift.get('interval'))})"


def _conditions(conditions: list[dict[str, Json]]) -> None:
    for then, title in TITLES.items():
        rows = [row for row in conditions if row.get("then") == then]
        columns = ["what", "evidence", "threshold", "reached", "requests left"]
        if len({str(row.get("candidate")) for row in rows}) > 1:
            columns.insert(0, "candidate")
        _table([_condition(row) for row in rows], columns, title)
        if any(row.get("holds") for row in rows):
            typer.echo("  * the rollout waits for this")


def _condition(row: Mapping[str, Json]) -> dict[str, Json]:
    left = row.get("requests_left")
    is_of_now = row.get("then") == "promote" and "holds" in row
    unknown = ("not in sight" if row.get("seen", True) else "unknown yet") if is_of_now else None
    return {
        "candidate": row.get("candidate"),
        "what": f"{row.get('name')}{' *' if row.get('holds') else ''}",
        "evidence": _short(row.get("evidence")),
        "threshold": _short(row.get("threshold")),
        "reached": "yes" if row.get("reached") else "no",
        "requests left": f"{left:,}" if isinstance(left, int) else unknown,
    }


def _short(value: Json) -> str:
    """Enough of an e-value: three digits, or its order of magnitude where that says it all."""
    if not isinstance(value, float | int):
        return "-"
    if value >= 1e6 or 0 < value < 1e-3:
        return f"{value:.0e}"
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def _guardrail(row: Mapping[str, Json]) -> dict[str, Json]:
    metric, detail, more = row.get("metric"), row.get("detail"), row.get("max_increase")
    if metric == "reward":
        seen, champion, allowed = row.get("candidate"), row.get("champion"), cell("", more)
    else:
        seen, champion, allowed = (
            _share(row.get("candidate")),
            _share(row.get("champion")),
            _share(more),
        )
    name = {"error_rate": f"errors {detail}", "latency": f"latency {detail}"}
    if metric == "latency":
        seen = f"{seen} took > {cell('', row.get('limit_ms'))} ms"
        champion = f"{champion} took > its {detail}"
    return {
        "candidate": row.get("arm"),
        "guardrail": name.get(str(metric), str(detail)).strip(),
        "seen": seen,
        "champion": champion,
        "more allowed": allowed,
    }


def _share(value: Json) -> str:
    return f"{100 * value:.3g}%" if isinstance(value, float | int) else "-"


def _table(rows: list[dict[str, Json]], columns: Sequence[str], title: str = "") -> None:
    """A table below an empty line and its title; without the columns that say nothing."""
    said = [name for name in columns if any(row.get(name) is not None for row in rows)]
    if rows:
        typer.echo(f"\n{title}" if title else "")
        print_rows(rows, Output.TABLE, said, width=WIDTH)


def _paragraph(text: str) -> None:
    typer.echo(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  "))
