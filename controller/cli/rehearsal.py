"""`simulate` and `plan`: read what was asked, call `sim`, show what it says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from controller.cli.printing import Output, print_value
from controller.cli.rehearsed import print_plan, print_simulation
from controller.core.policy import parse
from controller.core.policy.quantities import duration_s
from controller.settings import policy_text
from controller.sim import scenario as scenarios
from controller.sim.outlook import Traffic
from controller.sim.outlook import document as planned
from controller.sim.planner import plan as plan_of
from controller.sim.quantities import QuantityError, parsed, rate_per_s, share
from controller.sim.simulate import simulate as run_simulation
from controller.sim.summary import document

INTERRUPTED = 130
"""The exit code of what Ctrl-C ended."""


def simulate(  # noqa: PLR0913 - a command's options
    file: Path,
    scenario: str,
    *,
    runs: int,
    seed: int,
    jobs: int | None,
    requests: int | None,
    rate: str | None,
    tick: str | None,
    level: Literal["auto", "events", "tallies"],
    output: Output,
) -> int:
    """Rehearse a policy; gives the exit code."""
    policy = parse(policy_text(file), str(file))
    world = scenarios.load(scenario)
    changes: dict[str, Any] = {}
    if requests is not None:
        changes["requests"] = requests
    if rate is not None:
        changes["rate"] = parsed(rate_per_s, rate, "--rate")
    if tick is not None:
        changes["tick"] = _positive_duration(tick, "--tick")
    world = world.model_copy(update=changes)
    try:
        with _bar(runs) as advance:
            made = run_simulation(
                policy, world, runs=runs, seed=seed, jobs=jobs, level=level, progress=advance
            )
    except KeyboardInterrupt:
        return INTERRUPTED
    shown = document(scenario, made)
    if output is Output.TABLE:
        print_simulation(shown)
    else:
        print_value(shown, output)
    return 0


def _positive_duration(text: str, name: str) -> float:
    try:
        seconds = duration_s(text)
    except ValueError as exc:
        raise QuantityError(f"{name}: found {text!r}, expected {exc}") from exc
    if seconds <= 0:
        raise QuantityError(f"{name}: found {text!r}, expected a duration longer than 0")
    return seconds


@contextmanager
def _bar(runs: int) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("rehearsing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("runs", total=runs)
        yield lambda done: progress.update(task, completed=done)


def plan(  # noqa: PLR0913 - a command's options
    file: Path,
    *,
    rate: str,
    base_rate: str,
    delay: str | None,
    errors: str,
    effect: str | None,
    output: Output,
) -> int:
    """How long each stage takes, and what it can detect; gives the exit code."""
    policy = parse(policy_text(file), str(file))
    traffic = Traffic(
        rate=parsed(rate_per_s, rate, "--rate"),
        base_rate=_inside(base_rate, "--base-rate"),
        delay_s=0.1 * policy.spec.reward.window if delay is None else _delay_s(delay),
        errors=parsed(share, errors, "--errors"),
        effect=None if effect is None else _inside(effect, "--effect"),
    )
    try:
        shown = planned(plan_of(policy, traffic))
    except KeyboardInterrupt:
        return INTERRUPTED
    if output is Output.TABLE:
        print_plan(shown)
    else:
        print_value(shown, output)
    return 0


def _inside(text: str, name: str) -> float:
    value = parsed(share, text, name)
    if not 0 < value < 1:
        raise QuantityError(f"{name}: found {text!r}, expected a share above 0% and below 100%")
    return value


def _delay_s(text: str) -> float:
    return _positive_duration(text, "--delay")
