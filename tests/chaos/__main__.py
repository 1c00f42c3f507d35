"""`python -m tests.chaos`: the scene, for as long as wanted; a table at the end."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.hosts import enclosed
from tests.chaos.scene import Plan
from tests.chaos.services import ROOT
from tests.chaos.stores import LEDGERS, STREAMS


def run(plan: Plan) -> dict[str, Any]:
    """The verdict on a scene; its folder stays."""
    command = enclosed((sys.executable, "-m", "tests.chaos.scene", json.dumps(asdict(plan))))
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout, f"the scene ended with {done.returncode}; see {plan.folder}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where there is a difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second")
    parser.add_argument("--seed", type=int, default=None, help="of faults and users")
    parser.add_argument("--stream", choices=STREAMS, default="sqlite")
    parser.add_argument("--ledger", choices=LEDGERS, default="sqlite")
    parser.add_argument("--workers", type=int, default=0, help="of the model's partitions")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between faults")
    parser.add_argument("--longest", type=float, default=6.0, help="seconds of a fault")
    parser.add_argument("--grace", type=float, default=45.0, help="of the policy, in seconds")
    parser.add_argument("--window", type=float, default=15.0, help="of the policy, in seconds")
    parser.add_argument("--rotate", type=int, default=8, help="MiB, of `ship`")
    parser.add_argument("--disk", type=int, default=96, help="MiB, of `ship`: its limit")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="understudy-chaos-"))
    folder.chmod(0o755)
    plan = Plan(
        folder=str(folder),
        seconds=60 * given.minutes,
        rate_hz=given.rate,
        seed=secrets.randbelow(1 << 31) if given.seed is None else given.seed,
        stream=given.stream,
        ledger=given.ledger,
        workers=given.workers,
        every_s=given.every,
        longest_s=given.longest,
        window_s=given.window,
        grace_s=given.grace,
        rotate_mib=given.rotate,
        disk_mib=given.disk,
    )
    print(f"seed {plan.seed}, folder {folder}", file=sys.stderr, flush=True)
    found = run(plan)
    print(table(plan, found))
    if found["differences"] or given.keep:
        print(f"the scene's files: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if found["differences"] else 0


def table(plan: Plan, found: dict[str, Any]) -> str:
    """The verdict for people."""
    faults: dict[str, list[str]] = {}
    for each in found["faults"]:
        faults.setdefault(each["kind"], []).append(f"{each['target']} {each['times']}")
    users = found["users"]
    rows = [
        ("stores", f"{plan.stream} + {plan.ledger}, {plan.workers} workers, seed {plan.seed}"),
        *((f"fault: {kind}", ", ".join(names)) for kind, names in faults.items()),
        ("ended by themselves", found["ended_by_themselves"]),
        (
            "requests sent",
            f"{users['asked']} ({users['asked'] / users['seconds']:.0f}/s of {plan.rate_hz:g}/s)",
        ),
        (
            "cores taken",
            ", ".join(
                f"{name} {took_s / plan.seconds:.2f}"
                for name, took_s in sorted(found["spent"].items(), key=lambda row: -row[1])
            ),
        ),
        ("requests without an answer", users["broken"]),
        ("answers", users["answered"]),
        ("lines in the access logs", found["logged"]),
        ("answers that no log ever had", found["unlogged"]),
        ("half lines", found["half_lines"]),
        ("lines dropped by the disk limit", found["dropped"]),
        ("exposures sent again", found["log_copies"]),
        ("lines dated an hour ahead, refused", found["refused"]),
        ("lines dated an hour back, late", found["misdated_late"]),
        ("exposures that came too late", found["late_exposures"]),
        ("rewards that came too late", found["overdue"]),
        ("rewards acknowledged", found["acknowledged"]),
        ("posts that were sent again", users["attempts_failed"]),
        ("rewards joined", found["joined"]),
        ("rejected", found["rejected"]),
        ("splits, decisions", f"{found['epochs']}, {found['decisions']}"),
        ("differences", len(found["differences"])),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join([*lines, *(f"  - {each}" for each in found["differences"])])


if __name__ == "__main__":
    sys.exit(main())
