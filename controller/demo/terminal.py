"""What people see of the demo: a live table in a terminal, plain lines elsewhere, or nothing.

    table, on a terminal       one picture that is redrawn, with a bar for each arm's mean
    table, into a pipe, a log  a line whenever phase, step or weights change
    json                       nothing but the one object at the end, which `run` prints

The picture is made by pure functions from a report; nothing here decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from controller.core.model import weights_sentence
from controller.demo.control import Arm, Report
from controller.demo.tally import Tally

BAR_CELLS = 30

_COLOURS = {
    "ramping": "cyan",
    "promoting": "green",
    "promoted": "bold green",
    "rolling_back": "red",
    "rolled_back": "bold red",
    "holding": "yellow",
}


class Screen(Protocol):
    """Somewhere to show how the demo goes."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last picture standing."""
        ...

    def say(self, text: str) -> None:
        """A milestone, in one line."""
        ...

    def show(self, report: Report, tally: Tally, seconds: float) -> None:
        """The model as it stands; called about twice a second."""
        ...


def open_screen(output: str, console: Console) -> Screen:
    """The screen that fits the output wanted, and where it goes."""
    if output == "json":
        return Silent()
    return Picture(console) if console.is_terminal else Lines(console)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to end."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def show(self, report: Report, tally: Tally, seconds: float) -> None:
        """Show nothing."""


@dataclass(slots=True)
class Lines(Silent):
    """A line per change."""

    console: Console
    last: tuple[object, ...] = field(default=())

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def show(self, report: Report, tally: Tally, seconds: float) -> None:
        """A line when phase, step or weights are others than at the last call."""
        weights = {a.arm: a.weight_in_force for a in report.arms if a.weight_in_force}
        now = (report.phase, report.stage, report.step, tuple(weights.items()))
        if now != self.last:
            self.last = now
            shares = weights_sentence(weights)
            self.say(
                f"{seconds:5.1f} s  {report.phase:<12} {shares:<18} "
                f"{tally.sent} requests  {report.reason}"
            )


class Picture:
    """One picture, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last picture standing."""
        self._live.stop()

    def say(self, text: str) -> None:
        """A line above the picture."""
        self._live.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def show(self, report: Report, tally: Tally, seconds: float) -> None:
        """Draw the picture anew."""
        self._live.update(picture(report, tally, seconds), refresh=True)


def picture(report: Report, tally: Tally, seconds: float) -> RenderableType:
    """The phase, the sentence, and a row for each arm."""
    table = Table(expand=False, pad_edge=False)
    table.add_column("arm")
    table.add_column("role")
    for name in ("weight", "exposures", "rewards", "pending", "mean"):
        table.add_column(name, justify="right")
    table.add_column(f"0 {'right answers':^{BAR_CELLS - 4}} 1")
    for arm in report.arms:
        table.add_row(*_row(arm))
    return Group(_headline(report), table, _footline(tally, seconds))


def bar(mean: float | None, interval: tuple[float | None, float | None] | None) -> str:
    """A mean in its interval on a line from 0 to 1, BAR_CELLS characters long."""
    if mean is None:
        return "·" * BAR_CELLS
    low, high = interval or (mean, mean)
    first, last = _cell(0.0 if low is None else low), _cell(1.0 if high is None else high)
    cells = ["━" if first <= i <= last else "·" for i in range(BAR_CELLS)]
    cells[_cell(mean)] = "●"
    return "".join(cells)


def _cell(share: float) -> int:
    return min(BAR_CELLS - 1, max(0, int(share * BAR_CELLS)))


def _row(arm: Arm) -> tuple[str, ...]:
    wanted = arm.weight / 100
    weight = f"{arm.weight_in_force / 100:g} %"
    if arm.weight != arm.weight_in_force:
        weight += f" -> {wanted:g} %"
    counts = (f"{n:,}" for n in (arm.exposures, arm.rewards, arm.pending))
    mean = "" if arm.mean is None else f"{arm.mean:.3f}"
    return (arm.arm, arm.role, weight, *counts, mean, bar(arm.mean, arm.interval))


def _headline(report: Report) -> Text:
    text = Text(report.phase, style=_COLOURS.get(report.phase, "bold"))
    if report.candidate:
        text.append(f"  {report.candidate}", style="bold")
    return text.append(f"  {report.reason}", style="default")


def _footline(tally: Tally, seconds: float) -> Text:
    lost = tally.dropped + tally.unusable
    return Text(
        f"{seconds:.0f} s   {tally.sent:,} requests   {tally.accepted:,} rewards   {lost} lost",
        style="red" if lost else "dim",
    )
