"""A short scene, the same each time; and that a difference would have been found."""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.__main__ import run, table
from tests.chaos.faults import draw
from tests.chaos.recount import Asked, Joiner, Raw, Rule, by_time
from tests.chaos.scene import Plan
from tests.chaos.verdict import PER_ARM, Log, _counted, _delivered, _Findings, _note

RULE = Rule("ok", window_s=10, grace_s=5)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where PostgreSQL's user may look, too, which is not so below `tmp_path`."""
    made = Path(tempfile.mkdtemp(prefix="understudy-chaos-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.timeout(300)
def test_what_is_counted_is_what_happened_whatever_broke(folder: Path) -> None:
    plan = Plan(
        folder=str(folder),
        seconds=12,
        rate_hz=200,
        seed=1035,
        stream="redis",
        ledger="postgresql",
        every_s=0.7,
        longest_s=1.5,
        window_s=3,
        grace_s=9,
        rotate_mib=1,
    )
    found = run(plan)
    assert found["differences"] == [], table(plan, found)
    assert found["logged"] > 1000
    assert found["joined"] > 100
    assert found["refused"] > 0  # dated by a clock that was an hour ahead
    assert found["misdated_late"] > 0  # and by one that was an hour behind
    assert {each["kind"] for each in found["faults"]} == {"kill", "stop", "cut", "full", "clock"}


def test_faults_are_drawn_from_the_seed_and_spare_nobody() -> None:
    targets = {"kill": ["a", "b"], "stop": ["a", "b"], "cut": ["a-b"]}
    times = {"begin_s": 5.0, "end_s": 605.0, "every_s": 4.0, "longest_s": 6.0}
    one, two = (draw(random.Random(7), targets, **times) for _ in range(2))
    assert one == two != draw(random.Random(8), targets, **times)
    assert {(each.kind, each.target) for each in one} == {
        (kind, name) for kind, names in targets.items() for name in names
    }
    assert 60 < len(one) < 200  # 150 on average, less those that a target was not free for
    for name in ("a", "b"):
        mine = [each for each in one if each.target == name]
        assert all(a.at_s + a.lasts_s < b.at_s for a, b in itertools.pairwise(mine))


def raw_line(i: int, time: float, arm: str, status: int = 200, unit: str = "u1") -> bytes:
    route = "m\x1e3\x1eheader:x-user-id"
    fields = [f"{time:.6f}", "exposure", route, f"m/{arm}", str(status), "900", "-", "", f"q{i}"]
    return "\x1f".join([*fields, f"x-user-id={unit}"]).encode()


def reward(i: int, time: float, of: int, **rest: Any) -> dict[str, Any]:
    event = {"type": "reward", "time": time, "id": f"r{i}", "request_id": f"q{of}"}
    return event | {"name": "ok", "value": 1} | rest


def test_raw_lines_are_told_apart_from_what_a_killed_router_left() -> None:
    raw = Raw()
    half = raw_line(2, 1795438602.5, "v1")[:-6]
    lines = [raw_line(1, 1795438601, "v1"), half + raw_line(3, 1795438603, "v2", 503), b""]
    raw.read(b"\n".join([*lines, b"1795438604.0"]))
    assert raw.asked == {
        "q1": Asked(1795438601.0, "v1", 200, 3),
        "q3": Asked(1795438603.0, "v2", 503, 3),
    }
    assert raw.half == [half, b"1795438604.0"]


REWARDS = [
    reward(1, 101, of=1),
    reward(1, 101, of=1),
    reward(2, 111.5, of=1),
    reward(3, 103, of=2, value=7),
    reward(4, 103, of=9),
    reward(5, 103, of=2, name="other"),
    reward(6, 96, of=2),
]
ASKED = {"q1": Asked(100.0, "v1", 200, 3), "q2": Asked(100.5, "v2", 503, 3)}


def test_rewards_are_joined_by_the_documented_rules() -> None:
    """By hand: r1 counts once, r2 is beyond the window, r6 is early by less than the grace."""
    count = by_time(ASKED, REWARDS, RULE)
    assert (count.exposures, count.errors) == ({"v1": 1, "v2": 1}, {"v1": 0, "v2": 1})
    assert count.rewards == {"v1": 1, "v2": 1}
    assert count.refused == {"late": 1, "out_of_range": 1, "orphan": 1, "unknown_name": 1}

    joiner = Joiner(RULE)
    for name, one in ASKED.items():
        joiner.read(exposure(name, one))
    for event in REWARDS:
        joiner.read(event)
    joiner.read({"type": "tick", "time": 108.0})
    assert joiner.count.rewards == {"v1": 1, "v2": 1}
    assert joiner.count.refused["orphan"] == 1
    assert joiner.pending == 2
    joiner.read(exposure("q1", ASKED["q1"]))
    joiner.read(exposure("q7", Asked(102.0, "v1", 200, 3)))
    joiner.read({"type": "tick", "time": 116.0})
    joiner.read(reward(8, 104, of=1))
    joiner.read({"type": "tick", "time": 117.0})
    again = Joiner(RULE)
    for event in (exposure("q1", ASKED["q1"]), REWARDS[0], {"type": "tick", "time": 108.0}):
        again.read(event)
    again.read({"type": "tick", "time": 117.0})
    again.read(REWARDS[0])  # its id is forgotten
    again.read({"type": "tick", "time": 118.0})
    assert (again.count.refused["late"], again.overdue) == (1, set())
    assert joiner.late == {"q7"}
    assert joiner.overdue == {"r4", "r8"}  # no exposure within the grace; a closed one
    assert joiner.count.outcomes == {"v1": 1, "v2": 1}
    assert joiner.count.refused == count.refused | {"duplicate": 2, "late": 3}


def test_rewards_that_came_too_late_are_told_apart_from_those_that_are_wrong_at_any_time() -> None:
    overdue = {"r1", "r2", "r4"}
    count = by_time(ASKED, REWARDS, RULE, overdue=overdue)
    assert count.rewards == {"v2": 1}
    refused = {"overdue": 1, "late": 1, "out_of_range": 1, "orphan": 1, "unknown_name": 1}
    assert count.refused == refused


def test_what_two_workers_tell_of_one_stretch_counts_once() -> None:
    joiner = Joiner(RULE)
    for partition, start, part in ((0, 0, 0), (0, 0, 1), (1, 0, 0), (0, 9, 0), (0, 0, 0)):
        told = {"type": "tallies", "partition": partition, "start": start, "part": part}
        joiner.read(told)
    assert joiner.count.refused == {"repeated": 1}


def exposure(name: str, one: Asked) -> dict[str, Any]:
    fields = {"time": one.time, "arm": one.arm, "status": one.status, "epoch": one.epoch}
    return {"type": "exposure", "request_id": name} | fields


def test_a_difference_is_found_wherever_it_is() -> None:
    count = by_time(ASKED, REWARDS, RULE)
    arms: list[dict[str, Any]] = [
        {"arm": arm, "exposures": 1, "errors": errors, "rewards": 1, "outcomes": 1}
        for arm, errors in (("v1", 0), ("v2", 1))
    ]
    report: dict[str, Any] = {"arms": arms, "rejected": dict(count.refused)}

    def differences(report: dict[str, Any]) -> list[str]:
        found = _Findings()
        _counted(found, "x", count, report, reasons=sorted(report["rejected"]))
        return found.sentences

    assert differences(report) == []
    for name in PER_ARM:
        wrong = [arms[0] | {name: arms[0][name] + 1}, arms[1]]
        assert len(differences(report | {"arms": wrong})) == 1
    assert len(differences(report | {"arms": arms[:1]})) == 4
    assert len(differences(report | {"rejected": report["rejected"] | {"late": 2}})) == 1


def test_what_was_lost_doubled_or_invented_on_the_way_is_found() -> None:
    def differences(names: str, ids: list[str], dropped: int = 0) -> list[str]:
        log = Log()
        for name in names:
            _note(log, exposure(f"q{name}", ASKED.get(f"q{name}", ASKED["q1"])))
        for each in ids:
            _note(log, reward(0, 101, of=1, id=each))
        found, raw = _Findings(), Raw(asked=dict(ASKED))
        _delivered(found, raw, log, [reward(1, 101, of=1), reward(1, 101, of=1)], dropped)
        return found.sentences

    assert differences("12", ["r1", "r1"]) == []
    assert differences("1122", ["r1", "r1", "r1"]) == []
    assert differences("1", ["r1", "r1"], dropped=1) == []
    assert len(differences("1", ["r1", "r1"])) == 1
    assert len(differences("123", ["r1", "r1"])) == 1
    assert len(differences("12", ["r1"])) == 1
    assert len(differences("12", ["r1", "r1", "r2"])) == 1
