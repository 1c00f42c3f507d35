"""A pool of processes for tasks that share nothing; results do not depend on how many there are."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """A function's call whose result (a list, or a value) belongs to `key`, at `place`."""

    key: tuple[Any, ...]
    place: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def chunks(
    key: tuple[Any, ...],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    runs: int,
    size: int,
    **options: Any,
) -> list[Task]:
    """`runs` runs of a function whose last argument is the range of their numbers."""
    starts = range(0, runs, size)
    return [
        Task(key, i, function, (*arguments, range(s, min(s + size, runs))), options)
        for i, s in enumerate(starts)
    ]


def results(tasks: Sequence[Task], *, jobs: int | None = None) -> dict[tuple[Any, ...], list[Any]]:
    """Key -> the results of its tasks in order of their places; lists are joined."""
    context = multiprocessing.get_context("spawn")
    began, found = time.monotonic(), dict[tuple[Any, ...], dict[int, Any]]()
    spent_on = dict[str, float]()
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=context) as pool:
        waiting = {pool.submit(_timed, t): t for t in tasks}
        try:
            for number, done in enumerate(as_completed(waiting), start=1):
                task, (value, seconds) = waiting[done], done.result()
                found.setdefault(task.key, {})[task.place] = value
                spent_on[task.key[0]] = spent_on.get(task.key[0], 0.0) + seconds
                if sys.stderr.isatty() or number % 25 == 0 or number == len(tasks):
                    so_far = f"{number} of {len(tasks)} tasks, {time.monotonic() - began:.0f} s"
                    print(f"\r{so_far}", end="", file=sys.stderr)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent_on.items())
    print(f"\nprocessor time: {parts}", file=sys.stderr)
    return {key: _joined([parts[i] for i in sorted(parts)]) for key, parts in found.items()}


def _joined(parts: list[Any]) -> list[Any]:
    joined: list[Any] = []
    for part in parts:
        if isinstance(part, list):
            joined += part
        else:
            joined.append(part)
    return joined


def _timed(task: Task) -> tuple[Any, float]:
    began = time.process_time()
    return task.function(*task.arguments, **task.options), time.process_time() - began
