"""`python -m tests.bench [NAME,…]`: the benchmarks, one table; missed targets are marked.

`python -m tests.bench quality --write` renews docs/decision-quality.md. `cluster` is run only when
it is named: it needs the test cluster's programs, and ten minutes. `columns` and `contenders` fetch
other stream processors into ~/.cache/understudy/bench-peers and take ten minutes each.
"""

from __future__ import annotations

import importlib
import sys

from rich.console import Console
from rich.table import Table

from tests.bench import mark

BENCHES = (
    *("router", "fleet", "idle", "start", "disk", "join", "topics", "engine", "columns"),
    *("contenders", "partitions", "intake", "flood", "quality", "rollout", "cluster"),
)


def main(names: list[str], options: dict[str, bool]) -> None:
    """Run the benchmarks named, or all; options go to the one that is named."""
    table = Table("what", "measured", "unit", "target", "", title="understudy bench")
    for name in names or BENCHES:
        for row in importlib.import_module(f"tests.bench.{name}").run(**options):
            table.add_row(row.name, _figure(row.value), row.unit, row.target, mark(row))
    Console(width=130).print(table)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    words = [name for argument in sys.argv[1:] for name in argument.split(",") if name]
    main([w for w in words if w[0] != "-"], {"is_written": True} if "--write" in words else {})
