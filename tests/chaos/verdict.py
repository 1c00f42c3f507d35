"""Whether what Understudy says is what happened: every comparison, and every difference found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.recount import Count, Joiner, Raw, by_time

if TYPE_CHECKING:
    from tests.chaos.scene import Scene

PER_ARM = ("exposures", "errors", "rewards", "outcomes")
BY_TIME = ("orphan", "late", "out_of_range")
"""Reasons that do not depend on when an event came, as long as none came too late that was dated
rightly."""

AHEAD = "ahead of our clock"
"""Why a line is refused at the door that a clock has dated an hour ahead."""

_SHOWN = 5


@dataclass
class Log:
    """What the event log has: that of the model, and those of its partitions.

    count  of all logs, each joined by itself
    """

    count: Count = field(default_factory=Count)
    late: set[str] = field(default_factory=set)
    late_times: int = 0
    overdue: set[str] = field(default_factory=set)
    clock: float = 0.0
    exposures: dict[str, dict[str, Any]] = field(default_factory=dict)
    copies: int = 0
    rewards: Counter[str] = field(default_factory=Counter)
    weights: dict[int, dict[str, int]] = field(default_factory=dict)
    events: int = 0


def compare(scene: Scene) -> dict[str, Any]:
    """All figures, and the differences as sentences; there should be none."""
    found = _Findings()
    report = scene.controller.ask("/v1/models/m/arms")
    dropped = sum(each.dropped for each in scene.shippers)
    scene.controller.end()
    raw = Raw()
    for keeper in scene.keepers:
        for content in keeper.files():
            raw.read(content)
    posted = list(_documents(scene.folder / "rewards.jsonl"))
    log = _logged(scene, found)
    refused, unkept = _refused(scene, found, raw)
    misdated = {i for i, one in raw.asked.items() if not scene.began <= one.time <= scene.ended}
    found.none("lines refused as dated ahead that were not", sorted(refused - misdated))
    _delivered(found, raw, log, posted, dropped, refused, unkept)
    timely = {i: one for i, one in raw.asked.items() if i in log.exposures and i not in log.late}
    _counted(found, "the log", log.count, report, reasons=sorted(report["rejected"]))
    counted = by_time(timely, posted, scene.plan.rule, log.clock, log.overdue)
    is_timely = log.late <= misdated and not dropped and not counted.refused["overdue"]
    counted.refused["late"] += log.late_times
    _counted(found, "the raw logs", counted, report, reasons=BY_TIME if is_timely else ())
    _routed(found, raw, log)
    unlogged = _seen(found, raw, scene.folder / "answers.log")
    decisions = _decided(scene, found)
    users = json.loads((scene.folder / "users.json").read_text())
    return {
        "users": users,
        "logged": len(raw.asked),
        "log_copies": log.copies,
        "half_lines": len(raw.half),
        "dropped": dropped,
        "refused": len(refused),
        "late_exposures": len(log.late - misdated),
        "misdated_late": len(log.late & misdated),
        "overdue": counted.refused["overdue"],
        "unlogged": unlogged,
        "acknowledged": len(posted),
        "joined": sum(counted.rewards.values()),
        "events": log.events,
        "rejected": report["rejected"],
        "epochs": len(log.weights),
        "decisions": decisions,
        "arms": {arm["arm"]: {name: arm[name] for name in PER_ARM} for arm in report["arms"]},
        "health": report["health"],
        "restarts": {each.name: each.starts - 1 for each in scene.breakable},
        "ended_by_themselves": {each.name: each.deaths for each in scene.breakable if each.deaths},
        "differences": found.sentences,
    }


class _Findings:
    """Differences, as sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def equal(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.sentences.append(f"{what}: found {found}, expected {expected}")

    def none(self, what: str, strange: list[Any]) -> None:
        if strange:
            some = ", ".join(map(str, strange[:_SHOWN]))
            self.sentences.append(f"{what}: {len(strange)}, such as {some}")


def _note(log: Log, event: dict[str, Any]) -> None:
    log.events += 1
    match event["type"]:
        case "exposure":
            log.copies += event["request_id"] in log.exposures
            log.exposures[event["request_id"]] = event
        case "reward":
            log.rewards[event["id"]] += 1
        case "split":
            log.weights[event["epoch"]] = event["weights"]


def _delivered(  # noqa: PLR0917 - what was sent, and what became of it
    found: _Findings,
    raw: Raw,
    log: Log,
    posted: list[dict[str, Any]],
    dropped: int,
    refused: Collection[str] = (),
    unkept: Collection[bytes] = (),
) -> None:
    """Nothing was lost on the way, nothing was invented.

    refused  requests that were refused, and kept as such
    unkept   half lines that were not kept
    """
    found.none("requests that stand twice in the access logs", raw.twice)
    missing = [i for i in raw.asked if i not in log.exposures and i not in refused]
    if len(missing) + len(unkept) != dropped:
        lost = [*missing, *unkept]
        found.none(f"lines that are not in the event log, {dropped} of them dropped", lost)
    found.none("exposures of no line", [i for i in log.exposures if i not in raw.asked])
    unlike = [
        (one, event)
        for i, event in log.exposures.items()
        if (one := raw.asked.get(i)) is not None
        and (one.time, one.arm, one.status, one.epoch)
        != (event["time"], event["arm"], event["status"], event["epoch"])
    ]
    found.none("exposures unlike their lines", unlike)
    sent = Counter(event["id"] for event in posted)
    found.none("acknowledged rewards that are not in the event log", list(sent - log.rewards))
    found.none("rewards that nobody posted", [i for i in log.rewards if i not in sent])


def _counted(
    found: _Findings, by: str, count: Count, report: Mapping[str, Any], *, reasons: Any
) -> None:
    arms = {arm["arm"]: arm for arm in report["arms"]}
    for name in PER_ARM:
        counts = getattr(count, name)
        expected = {arm: counts[arm] for arm in sorted(counts.keys() | arms)}
        said = {arm: arms[arm][name] if arm in arms else 0 for arm in expected}
        unlike = {arm: (said[arm], expected[arm]) for arm in said if said[arm] != expected[arm]}
        found.none(f"{name} of arms (said, recounted from {by})", list(unlike.items()))
    for reason in reasons:
        said_ = report["rejected"].get(reason, 0)
        found.equal(f"rejected as {reason}, by {by}", said_, count.refused[reason])


def _routed(found: _Findings, raw: Raw, log: Log) -> None:
    """No request went to an arm that had no share in the split that its line names."""
    astray = [
        (i, one)
        for i, one in raw.asked.items()
        if one.epoch in log.weights and not log.weights[one.epoch].get(one.arm)
    ]
    found.none("requests to an arm of no share", astray)


def _seen(found: _Findings, raw: Raw, answers: Path) -> dict[str, int]:
    """By router: answers that users got and that stand in no access log."""
    unlogged: Counter[str] = Counter()
    unlike = []
    with answers.open() as file:
        for row in file:
            request_id, arm, status, router = row.rstrip("\n").split(" ")
            one = raw.asked.get(request_id)
            if one is None:
                unlogged[router] += 1
            elif (one.arm, one.status) != (arm, int(status)):
                unlike.append((row, one))
    found.none("answers unlike their lines", unlike)
    return dict(unlogged)


def _refused(scene: Scene, found: _Findings, raw: Raw) -> tuple[set[str], list[bytes]]:
    """Requests whose lines were refused for their time; half lines that were not kept.

    Both are among the events that could not be used.
    """
    code, said = scene.cli("events", "m", "--rejected", to="rejected.out")
    found.equal("exit code of events --rejected", code, 0)
    rows = [json.loads(row) for row in said.splitlines()]
    kept = {_letters(row["event"]) for row in rows}
    refused = {json.loads(row["event"])["request_id"] for row in rows if AHEAD in row["detail"]}
    return refused, [half for half in raw.half if _letters(half.decode()) not in kept]


def _letters(text: str) -> str:
    return "".join(each for each in text if each.isalnum())


def _decided(scene: Scene, found: _Findings) -> int:
    """Decisions stand as they are derived again, by `--verify` and by a replay."""
    code, said = scene.cli("ledger", "m", "--verify", to="verify.out")
    found.none("faults found by ledger --verify", [said] if code else [])
    _, written = scene.cli("ledger", "m", "-o", "json", to="ledger.out")
    rows = [json.dumps(row, sort_keys=True) for row in json.loads(written)]
    policy, events = scene.folder / "policies" / "m.yaml", scene.folder / "events-m.out"
    options = ("--events", events, "-o", "json")
    code, replayed = scene.cli("replay", policy, *options, to="replay.out")
    found.equal("exit code of replay", code, 0)
    again = [json.dumps(json.loads(row), sort_keys=True) for row in replayed.splitlines()][:-1]
    pairs = zip(rows, again, strict=False)
    found.none("decisions unlike those of the replay", [pair for pair in pairs if len({*pair}) > 1])
    found.equal("decisions of the replay", len(again), len(rows))
    return len(rows)


def _logged(scene: Scene, found: _Findings) -> Log:
    log = Log()
    for name in ("m", *(f"m/{i}" for i in range(scene.plan.partitions))):
        joiner, file = Joiner(scene.plan.rule), f"events-{name.replace('/', '-')}.out"
        code, _ = scene.cli("events", name, to=file)
        found.equal(f"exit code of events {name}", code, 0)
        for event in _documents(scene.folder / file):
            joiner.read(event)
            _note(log, event)
        log.count.add(joiner.count)
        log.late |= joiner.late
        log.late_times += joiner.late_times
        log.overdue |= joiner.overdue
        log.clock = max(log.clock, joiner.clock)
    return log


def _documents(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as rows:
        for row in rows:
            yield json.loads(row)
