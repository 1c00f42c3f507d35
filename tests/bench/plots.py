"""The pictures of docs/decision-quality.md: small SVG files that change only when figures do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench import information, scenes
from tests.bench.ours import Trace, threshold
from tests.bench.quality import LAI_ROBBINS, TRAFFIC, Board, false_verdicts
from tests.bench.rivals import RULES

FOLDER = Path(__file__).parents[2] / "docs" / "images"
# Okabe and Ito's palette, which people with any colour vision can tell apart.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
STYLES: dict[str, dict[str, Any]] = {
    "Argo Rollouts": {"color": ORANGE, "linestyle": "-"},
    "Argo, PromQL on rewards": {"color": ORANGE, "linestyle": "--"},
    "Flagger": {"color": SKY, "linestyle": "-"},
    "Flagger, metric on rewards": {"color": SKY, "linestyle": "--"},
    "SageMaker": {"color": PINK, "linestyle": "-"},
    "Kayenta": {"color": BLUE, "linestyle": "-"},
    "z-test at 5 %, each look": {"color": RED, "linestyle": "-"},
    "P(best) >= 95 %, hourly": {"color": RED, "linestyle": "--"},
    "TensorZero": {"color": GREEN, "linestyle": "-"},
    "GrowthBook safe rollout": {"color": GREEN, "linestyle": "--"},
    "Vowpal Wabbit": {"color": BLUE, "linestyle": ":"},
}
_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "understudy",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "path.simplify_threshold": 1.0,
}


def draw(board: Board) -> None:
    """All four, into docs/images."""
    with mpl.rc_context(_SETTINGS):
        _save(against_traffic(board), "false-verdicts-by-traffic.svg")
        _save(over_bound(board), "samples-over-bound.svg")
        _save(regret(board), "regret.svg")
        _save(late_labels(board), "late-labels.svg")


def _save(figure: Figure, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / name, format="svg", bbox_inches="tight", metadata={"Date": None})


def _axes(columns: int, *, width: float = 9.0, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def against_traffic(board: Board) -> Figure:
    """False rollbacks and false promotions in the flat scene, by requests a day."""
    figure, axes = _axes(2, height=4.2)
    titles = (
        ("equal", "An equal candidate is rolled back"),
        ("harmful", "A candidate that is 12 % worse is promoted"),
    )
    for ax, (kind, title) in zip(axes, titles, strict=True):
        for index, rule in enumerate(RULES):
            field = "rolled_back" if kind == "equal" else "promoted"
            tallies = [board.found["peer at", index, d, kind][0] for d in TRAFFIC]
            shares = [getattr(t, field) / t.runs for t in tallies]
            ax.plot(TRAFFIC, shares, marker="o", markersize=2.5, label=rule.name,
                    **STYLES[rule.name])  # fmt: skip
        found = [false_verdicts(board.found["ours at", d, kind], kind) for d in TRAFFIC]
        ax.plot(TRAFFIC, found, color=BLACK, linewidth=2.6, marker="s", label="Understudy")
        ax.set(xscale="log", ylim=(-0.02, 1.02), title=title, xlabel="requests per day")
        ax.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    axes[0].set_ylabel("share of rollouts")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def over_bound(board: Board) -> Figure:
    """Mean samples to detect, in information bounds, by what is not known."""
    figure, (ax,) = _axes(1, height=3.9)
    ladders = board.ladders()
    place = np.arange(len(ladders))[::-1]
    steps = (
        ("oracle", "knows both means (overshoot)", SKY),
        ("mixture", "+ does not know the effect", ORANGE),
        ("estimators", "+ champion learnt, restarts, batches: the product", BLUE),
    )
    for offset, (field, label, color) in zip((0.2, 0.0, -0.2), steps, strict=True):
        found = [(p, getattr(one, field)) for p, one in zip(place, ladders, strict=True)]
        found = [(p, step) for p, step in found if step is not None]
        ax.errorbar([s.ratio for _, s in found], [p + offset for p, _ in found],
                    xerr=[2 * s.error for _, s in found], color=color, label=label,
                    linestyle="", marker="o", markersize=6, elinewidth=1.2)  # fmt: skip
    ax.axvline(1.0, color=BLACK, linewidth=1.0)
    names = [f"{one.problem.name}\nbound {one.problem.bound():,.0f}" for one in ladders]
    ax.set_yticks(place, names)
    ax.set(xlabel="mean requests to 1/alpha = 100, in information bounds", xlim=(0.95, 1.6))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    ax.grid(visible=False, axis="y")
    return figure


def regret(board: Board) -> Figure:
    """Lost rewards of the bandits, rewards at once and late."""
    figure, axes = _axes(2)
    requests = np.linspace(0, 100_000, 101)
    bound = LAI_ROBBINS / np.log(100_000) * np.log(np.maximum(requests, 1))
    titles = ((0, "Rewards at once"), (1000, "Rewards 1 000 requests late, in the mean"))
    for ax, (delay, title) in zip(axes, titles, strict=True):
        ax.plot(requests, bound, color=BLACK, linestyle=":", label="Lai and Robbins")
        ax.plot(requests, 0.4 * bound, color=BLACK, linestyle="--", linewidth=0.9,
                label="0.4 of it: our target")  # fmt: skip
        ax.plot(requests, board.regret("their bandit", delay), color=GREEN, label="GrowthBook")
        ax.plot(requests, board.regret("our bandit", delay), color=BLUE, linewidth=2.2,
                label="Understudy")  # fmt: skip
        ax.set(title=title, xlabel="requests", ylim=(0, 130))
    axes[0].set_ylabel("rewards lost, mean of runs")
    axes[0].legend(fontsize=8)
    return figure


def late_labels(board: Board) -> Figure:
    """One ramp with late labels: what a counter shows, and what the e-values say."""
    figure, axes = _axes(3, width=10.5)
    equal, worse = board.ramps(0.0), board.ramps(-0.2)
    naive, minutes = _median(equal, "naive")
    low, high = (_quantile(equal, "naive", q) for q in (0.05, 0.95))
    axes[0].fill_between(minutes, low, high, color=ORANGE, alpha=0.25, linewidth=0)
    axes[0].plot(minutes, naive, color=ORANGE, label="rewards / requests so far")
    axes[0].axhline(0.0, color=BLACK, linewidth=1.0)
    axes[0].set(title="Equal candidate: the naive lift", ylim=(-0.6, 0.2))
    axes[0].yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    for ax, traces, title in (
        (axes[1], equal, "Equal candidate: evidence of harm"),
        (axes[2], worse, "20 % worse: evidence of harm"),
    ):
        for field, label, color in (
            ("fast", "as rewards come in", BLUE),
            ("closed", "on final outcomes", GREEN),
        ):
            middle, minutes = _median(traces, field)
            band = [_quantile(traces, field, q) for q in (0.05, 0.95)]
            ax.fill_between(minutes, *band, color=color, alpha=0.2, linewidth=0)
            ax.plot(minutes, middle, color=color, label=label)
        ax.axhline(threshold("reward_fast"), color=BLACK, linestyle="--", linewidth=0.9)
        ax.set(title=title, ylim=(-4, 20))
    axes[1].set_ylabel("log e-value (dashed: rolls back)")
    axes[1].legend(loc="upper left", fontsize=8)
    for ax in axes:
        ax.set_xlabel("minutes since the rollout began")
    return figure


def _stack(traces: list[Trace], field: str) -> np.ndarray:
    """(runs, ticks); a ramp that ended keeps its last value."""
    length = max(len(t.minutes) for t in traces)
    columns = (getattr(t, field) for t in traces)
    return np.stack([np.pad(c, (0, length - len(c)), mode="edge") for c in columns])


def _median(traces: list[Trace], field: str) -> tuple[np.ndarray, np.ndarray]:
    longest = max((t.minutes for t in traces), key=len)
    return _quantile(traces, field, 0.5), longest


def _quantile(traces: list[Trace], field: str, q: float) -> np.ndarray:
    values = _stack(traces, field)
    seen = np.isfinite(values).any(axis=0)
    found = np.full(values.shape[1], np.nan)
    found[seen] = np.nanquantile(values[:, seen], q, axis=0)
    return found


assert information.ALPHA == scenes.ALPHA
