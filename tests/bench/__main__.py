"""`python -m tests.bench [NAME,…]`: the benchmarks, one table; missed targets are marked."""

from __future__ import annotations

import importlib
import operator
import sys

from rich.console import Console
from rich.table import Table

from tests.bench import Row

BENCHES = ("router", "idle", "start", "join", "engine")
_RELATIONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}


def main(names: list[str]) -> None:
    """Run the benchmarks named, or all."""
    table = Table("what", "measured", "unit", "target", "", title="understudy bench")
    for name in names or BENCHES:
        for row in importlib.import_module(f"tests.bench.{name}").run():
            table.add_row(row.name, _figure(row.value), row.unit, row.target, _mark(row))
    Console(width=110).print(table)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _mark(row: Row) -> str:
    if not row.target:
        return ""
    relation, bound = row.target.split()[:2]
    return "reached" if _RELATIONS[relation](row.value, float(bound)) else "MISSED"


if __name__ == "__main__":
    main([name for argument in sys.argv[1:] for name in argument.split(",") if name])
