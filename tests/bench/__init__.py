"""Benchmarks: ratios measured side by side in one run. Each module has `run() -> list[Row]`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, what came out, what must be reached."""

    name: str
    value: float
    unit: str
    target: str
