"""Benchmarks: ratios measured side by side in one run. Each module has `run() -> list[Row]`."""

from __future__ import annotations

import operator
from dataclasses import dataclass

_RELATIONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, what came out, what must be reached."""

    name: str
    value: float
    unit: str
    target: str


def mark(row: Row) -> str:
    """Whether the row's target is reached; nothing where it has none."""
    if not row.target:
        return ""
    relation, bound = row.target.split()[:2]
    return "reached" if _RELATIONS[relation](row.value, float(bound)) else "MISSED"
