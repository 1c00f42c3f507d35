"""Benchmarks: ratios measured side by side in one run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, what came out, what must be reached."""

    name: str
    value: str
    target: str = ""
