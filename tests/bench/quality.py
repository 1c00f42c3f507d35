"""The scoreboard of decisions: what is promised, what comes out, and what the peers do.

`python -m tests.bench quality` runs a short version, some minutes; `--write` the long one, and
renews the tables and pictures of docs/decision-quality.md. Every figure follows from SEED.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from tests.bench import Row, information, ours, past, rivals, same, scenes
from tests.bench.information import PROBLEMS, Ladder
from tests.bench.ours import End
from tests.bench.pool import Task, chunks, results
from tests.bench.rivals import RULES, Tally

SEED = 20_261_124
ALL_SCENES = (*scenes.NULLS, "common_drift")
TRAFFIC = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
"""Requests per day."""
COVERED = (("flat", 0.0), ("flat", -0.1), ("baseline_falls", 0.0), ("daily_swing", 0.1))
BANDITS = tuple((effect, delay) for effect in (0.2, -1 / 6) for delay in (0, 1000))
LAI_ROBBINS = 0.01 / float(information.kl(0.05, 0.06)) * np.log(100_000)
"""Rewards: the regret that no bandit of its kind can do without, log n (p* - p) / KL(p, p*)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many runs each part makes."""

    counts: int
    events: int
    peers: int
    ladder: int
    coverage: int
    ramps: int
    regrets: int
    late: int
    logs: int
    traffic: int
    peers_traffic: int


FULL = Sizes(120, 60, 300, 500, 30, 60, 12, 60, 6, 30, 300)
QUICK = Sizes(20, 10, 60, 30, 5, 10, 2, 10, 2, 0, 0)


@dataclass(frozen=True, slots=True)
class Board:
    """All that was measured, by (part, …)."""

    sizes: Sizes
    found: dict[tuple[Any, ...], list[Any]]

    def ends(self, name: str, kind: str) -> list[End]:
        """Our rollouts of a scene."""
        return self.found["ours", name, kind]

    def tally(self, index: int, name: str, kind: str) -> Tally:
        """A peer's rollouts of a scene."""
        (one,) = self.found["peer", index, name, kind]
        return one

    def ladders(self) -> list[Ladder]:
        """From the bound to the estimators."""
        return [one for p in PROBLEMS for one in self.found["ladder", p.name]]

    def ramps(self, effect: float) -> list[ours.Trace]:
        """The ramps with late labels."""
        return self.found["ramp", effect]

    def regret(self, who: str, delay: int) -> np.ndarray:
        """(101,): mean over runs and over which arm is better."""
        paths = [np.array(self.found[who, e, delay]) for e, d in BANDITS if d == delay]
        return np.mean([p.reshape(-1, 101).mean(axis=0) for p in paths], axis=0)


def measure(sizes: Sizes, *, jobs: int | None = None) -> Board:
    """The whole scoreboard; the longest tasks first."""
    tasks = [*_ours(sizes), *_parts(sizes), *_peers(sizes)]
    return Board(sizes, results(tasks, jobs=jobs))


def _ours(sizes: Sizes) -> list[Task]:
    found: list[Task] = []
    slow_first = sorted(
        ALL_SCENES, key=lambda name: name not in (*scenes.EVENT_LEVEL, "common_drift")
    )
    for name in slow_first:
        runs = sizes.events if name in (*scenes.EVENT_LEVEL, "common_drift") else sizes.counts
        for kind in ("equal", "harmful"):
            key = ("ours", name, kind)
            found += chunks(key, ours.ends, (name, kind), runs, 10, seed=SEED)
    for per_day in TRAFFIC:
        for kind in ("equal", "harmful"):
            key = ("ours at", per_day, kind)
            options = {"seed": SEED + 1, "per_day": per_day}
            found += chunks(key, ours.ends, ("flat", kind), sizes.traffic, 15, **options)
    return found


def _parts(sizes: Sizes) -> list[Task]:
    found: list[Task] = []
    for effect, delay in BANDITS:
        key, arguments = ("our bandit", effect, delay), (effect, delay)
        found += chunks(key, ours.regrets, arguments, sizes.regrets, 2, seed=SEED)
        options = {"runs": 10 * sizes.regrets, "seed": SEED}
        found.append(Task(("their bandit", effect, delay), 0, rivals.regrets, arguments, options))
    for name, effect in COVERED:
        key = ("covered", name, effect)
        found += chunks(key, ours.covered, (name, effect), sizes.coverage, 5, seed=SEED)
    for effect in (0.0, -0.2):
        found += chunks(("ramp", effect), ours.ramps, (effect,), sizes.ramps, 10, seed=SEED)
    for problem in PROBLEMS:
        options = {"runs": sizes.ladder, "seed": SEED}
        found.append(Task(("ladder", problem.name), 0, information.ladder, (problem,), options))
    found += chunks(("late",), ours.late, (), sizes.late, 10, seed=SEED)
    found += chunks(("late, estimators",), past.restarted, (), sizes.late, 20, seed=SEED)
    options = {"runs": 10 * sizes.late, "seed": SEED}
    found.append(Task(("late, without restarts",), 0, past.never_restarted, (), options))
    for kind in ("equal", "harmful"):
        found += chunks(("same", kind), same.agree, (kind,), sizes.logs, 2, seed=SEED)
    return found


def _peers(sizes: Sizes) -> list[Task]:
    found: list[Task] = []
    for index in range(len(RULES)):
        for kind in ("equal", "harmful"):
            for name in ALL_SCENES:
                runs = max(sizes.peers // 4, 50) if name == "sticky_users" else sizes.peers
                options = {"runs": runs, "seed": SEED}
                key = ("peer", index, name, kind)
                found.append(Task(key, 0, rivals.tally, (index, name, kind), options))
            for per_day in TRAFFIC if sizes.peers_traffic else ():
                options = {"runs": sizes.peers_traffic, "seed": SEED + 1, "per_day": per_day}
                key = ("peer at", index, per_day, kind)
                found.append(Task(key, 0, rivals.tally, (index, "flat", kind), options))
    return found


# --- rows ---------------------------------------------------------------------------------------


def most(runs: int, alpha: float) -> float:
    """The share that a true level of alpha exceeds once in a thousand times."""
    return float(binom.isf(1e-3, runs, alpha)) / runs


def least(runs: int, share: float) -> float:
    """The share below which a true one falls once in a thousand times."""
    return float(binom.ppf(1e-3, runs, share)) / runs


def false_verdicts(found: Sequence[End], kind: str) -> float:
    """The share of equal candidates rolled back for harm, or of worse ones promoted."""
    wrong = "rolled_back" if kind == "equal" else "promoted"
    return sum(end.verdict == wrong for end in found) / len(found)


def rows(board: Board) -> list[Row]:
    """Each figure with what it must reach."""
    return [
        *_null_rows(board),
        *_ladder_rows(board),
        *_coverage_rows(board),
        *_ramp_rows(board),
        *_regret_rows(board),
        *_late_rows(board),
        *_same_rows(board),
        *_peer_rows(board),
    ]


def _null_rows(board: Board) -> list[Row]:
    found = []
    for kind, what in (("equal", "false rollback"), ("harmful", "false promotion")):
        for name in ALL_SCENES:
            ends = board.ends(name, kind)
            bound = most(len(ends), scenes.ALPHA)
            target = f"<= {bound:.3g} (1 % and chance in {len(ends)})"
            row = Row(f"{what}: {name}", false_verdicts(ends, kind), "of runs", target)
            found.append(row)
    return found


TARGETS = {
    "harm of a fifth, default": "<= 1.30",
    "harm of a fifth, min_effect 20 %": "<= 1.15",
    "errors 1 % to 4 %, at 50 % share": "<= 1.35",
    "errors 1 % to 4 %, at 5 % share": "<= 1.35",
}


def _ladder_rows(board: Board) -> list[Row]:
    found = []
    for one in board.ladders():
        name, target = one.problem.name, TARGETS.get(one.problem.name, "")
        unit = f"x {one.problem.bound():,.0f}"
        found.append(Row(f"samples over bound: {name}", one.estimators.ratio, unit, target))
    return found


def _coverage_rows(board: Board) -> list[Row]:
    found = []
    for name, effect in COVERED:
        held = board.found["covered", name, effect]
        bound = least(len(held), 0.95)
        target = f">= {bound:.3g} (95 % and chance)"
        what = f"interval covers all day: {name}, {effect:+.0%}"
        found.append(Row(what, float(np.mean(held)), "of runs", target))
    return found


def caught(traces: Sequence[ours.Trace], *ways: str) -> float:
    """The share of ramps that would have been rolled back by minute 240 in one of these ways."""
    return float(np.mean([any(t.caught(way, by=240.0) for way in ways) for t in traces]))


def _ramp_rows(board: Board) -> list[Row]:
    worse, equal = board.ramps(-0.2), board.ramps(0.0)
    bound = most(len(equal), scenes.ALPHA)
    chance = f"<= {bound:.3g} (1 % and chance in {len(equal)})"
    both = ("fast", "closed")
    return [
        Row("late labels, -20 %: caught by 240 min", caught(worse, *both), "of runs", ">= 0.9"),
        Row("  on the fast path alone", caught(worse, "fast"), "of runs", ""),
        Row("  on final outcomes alone", caught(worse, "closed"), "of runs", ""),
        Row("late labels, equal: rolled back", caught(equal, *both), "of runs", chance),
    ]


def _regret_rows(board: Board) -> list[Row]:
    at_once, late = (board.regret("our bandit", delay)[-1] for delay in (0, 1000))
    theirs, theirs_late = (board.regret("their bandit", delay)[-1] for delay in (0, 1000))
    return [
        Row("Thompson: regret / Lai-Robbins", at_once / LAI_ROBBINS, "ratio", "<= 0.4"),
        Row("Thompson: regret with late labels / at once", late / at_once, "ratio", "<= 1.25"),
        Row("GrowthBook bandit: regret / Lai-Robbins", theirs / LAI_ROBBINS, "ratio", ""),
        Row("GrowthBook bandit: late labels / at once", theirs_late / theirs, "ratio", ""),
    ]


def soon(ends: Sequence[End]) -> float:
    """The share caught within 120 000 requests after the regression."""
    last = scenes.GOOD + past.WITHIN
    return float(np.mean([e.verdict == "rolled_back" and e.requests <= last for e in ends]))


def _late_rows(board: Board) -> list[Row]:
    bound = least(board.sizes.late, 0.99)
    target = f">= {bound:.3g} (99 % and chance)"
    name = "late regression caught within 120 000"
    return [
        Row(f"{name}: engine", soon(board.found["late",]), "of runs", target),
        Row(
            f"{name}: e-value alone",
            float(np.mean(board.found["late, estimators",])),
            "of runs",
            target,
        ),
        Row(
            f"{name}: without restarts",
            float(np.mean(board.found["late, without restarts",])),
            "of runs",
            "",
        ),
    ]


def _same_rows(board: Board) -> list[Row]:
    equal = [one for kind in ("equal", "harmful") for one in board.found["same", kind]]
    name = "duplicated, permuted logs with the same decisions"
    return [Row(name, float(np.mean(equal)), "of logs", ">= 1")]


def worst(board: Board, index: int, kind: str) -> tuple[float, str]:
    """The scene in which a peer errs most, and how often."""
    field = "rolled_back" if kind == "equal" else "promoted"
    tallies = [(board.tally(index, name, kind), name) for name in ALL_SCENES]
    return max((getattr(t, field) / t.runs, name) for t, name in tallies)


def _peer_rows(board: Board) -> list[Row]:
    found = []
    for kind, what in (("equal", "false rollback"), ("harmful", "false promotion")):
        for index, rule in enumerate(RULES):
            share, name = worst(board, index, kind)
            found.append(Row(f"{rule.name}: {what}, at worst ({name})", share, "of runs", ""))
    return found


def run(*, is_written: bool = False) -> list[Row]:
    """The short scoreboard; written: the long one, and the page with it."""
    board = measure(FULL if is_written else QUICK)
    if is_written:
        from tests.bench import page  # noqa: PLC0415 - plots take a library that nothing else needs

        page.write(board)
    return rows(board)
