"""Benchmarks: each module has `run() -> list[Row]`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, and what it must reach."""

    name: str
    value: float
    unit: str
    target: str
