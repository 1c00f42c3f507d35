"""The tables of docs/decision-quality.md, between its marks; the words around them are by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.bench import Row, mark, plots, quality
from tests.bench.quality import ALL_SCENES, Board
from tests.bench.rivals import RULES

PAGE = Path(__file__).parents[2] / "docs" / "decision-quality.md"


def write(board: Board) -> None:
    """Renew tables and pictures."""
    plots.draw(board)
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = _between_marks(text, name, table(board))
    PAGE.write_text(text, encoding="utf-8")


def _between_marks(text: str, name: str, table: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{PAGE} has no marks {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


def scoreboard(board: Board) -> str:
    """Every figure with its target."""
    rows = [row for row in quality.rows(board) if row.target]
    lines = ["| what | measured | target | |", "|---|---:|---|---|"]
    lines += [
        f"| {row.name.strip()} | {_figure(row)} | {_target(row)} | {mark(row)} |" for row in rows
    ]
    return "\n".join(lines)


def _figure(row: Row) -> str:
    return f"{row.value:.1%}" if row.unit in {"of runs", "of logs"} else f"{row.value:.3g}"


def _target(row: Row) -> str:
    return row.target.replace("<=", "≤").replace(">=", "≥")


def _matrix(board: Board, kind: str) -> str:
    head = "| |" + "|".join(name.replace("_", " ") for name in ALL_SCENES) + "|"
    lines = [head, "|---" * (1 + len(ALL_SCENES)) + "|"]
    ours = [quality.false_verdicts(board.ends(name, kind), kind) for name in ALL_SCENES]
    lines.append("| **Understudy** |" + "|".join(f"**{_percent(x)}**" for x in ours) + "|")
    field = "rolled_back" if kind == "equal" else "promoted"
    for index, rule in enumerate(RULES):
        tallies = [board.tally(index, name, kind) for name in ALL_SCENES]
        cells = "|".join(_percent(getattr(t, field) / t.runs) for t in tallies)
        lines.append(f"| {rule.name} |{cells}|")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.0995 or share == 0 else f"{100 * share:.1f}"


def power(board: Board) -> str:
    """What became of the others: nobody gains a low error by never moving."""
    lines = [
        "| scene | equal: promoted | undecided | asked | worse: rolled back | undecided | on it |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in ALL_SCENES:
        equal, worse = board.ends(name, "equal"), board.ends(name, "harmful")
        cells = [
            f"{np.mean([e.verdict == 'promoted' for e in equal]):.0%}",
            f"{np.mean([e.verdict == 'undecided' for e in equal]):.0%}",
            f"{np.mean([e.requests for e in equal]):,.0f}",
            f"{np.mean([e.verdict == 'rolled_back' for e in worse]):.0%}",
            f"{np.mean([e.verdict == 'undecided' for e in worse]):.0%}",
            f"{np.mean([e.on_candidate for e in worse]):,.0f}",
        ]
        lines.append(f"| {name.replace('_', ' ')} |" + "|".join(cells) + "|")
    return "\n".join(lines)


def ladder(board: Board) -> str:
    """Where the samples over the bound go."""
    lines = [
        "| problem | bound | nats per 1 000 | overshoot | + effect unknown | the product |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in board.ladders():
        mixture = (
            "" if one.mixture is None else f"{one.mixture.ratio:.2f} ± {one.mixture.error:.2f}"
        )
        p = one.problem
        lines.append(
            f"| {p.name} | {p.bound():,.0f} | {1e3 * p.growth():.3f} | {one.oracle.ratio:.2f} | "
            f"{mixture} | {one.estimators.ratio:.2f} ± {one.estimators.error:.2f} |"
        )
    return "\n".join(lines)


def sizes(board: Board) -> str:
    """How many runs each figure rests on."""
    s = board.sizes
    return (
        f"Seed {quality.SEED}. Runs: {s.counts} per scene and candidate ({s.events} where events "
        f"are taken one by one, and for the bandit), {s.peers} per peer, {s.ladder} per problem of "
        f"the bound, {s.coverage} days per interval, {s.ramps} ramps, {2 * s.regrets} bandits per "
        f"delay, {s.late} late regressions, {2 * s.logs} logs, {s.traffic} per point of the "
        f"traffic picture ({s.peers_traffic} per peer)."
    )


TABLES: dict[str, Callable[[Board], str]] = {
    "scoreboard": scoreboard,
    "false-rollback": lambda board: _matrix(board, "equal"),
    "false-promotion": lambda board: _matrix(board, "harmful"),
    "power": power,
    "ladder": ladder,
    "sizes": sizes,
}
