"""A backend in memory that behaves: it keeps events, refuses what does not fit, tells changes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from controller.core.model import (
    ArmReport,
    HealthKey,
    Json,
    Lift,
    Operation,
    Phase,
    Report,
    Role,
    Verdict,
)
from controller.core.sentences import decision_explanation
from controller.errors import CommandError, EventError, Retryable, Standby
from controller.stream.codec import Canonical
from tests.api.evidence import evidence, explanation

T0 = 1795423600.0


def arm(name: str, role: Role, weight: int, n: int, mean: float | None) -> ArmReport:
    """An arm with `n` exposures, a tenth of them still pending."""
    closed = n - n // 10
    half = 0.8 / math.sqrt(closed) if closed else 1.0
    return ArmReport(
        arm=name,
        role=role,
        weight=weight,
        weight_in_force=weight,
        exposures=n,
        outcomes=closed,
        pending=n // 10,
        rewards=round(closed * (mean or 0)),
        errors=n // 400,
        units=closed,
        mean=mean,
        interval=None if mean is None else (max(0.0, mean - half), min(1.0, mean + half)),
    )


def ramping(model: str, time: float, weight: int, n: int = 4_000) -> Report:
    """`v2` is being tried against `v1` at `weight` basis points."""
    arms = (
        arm("v1", Role.CHAMPION, 10_000 - weight, n, 0.78 + 0.01 * math.sin(n / 900)),
        arm("v2", Role.CANDIDATE, weight, n * weight // 10_000, 0.9 if weight else None),
    )
    return Report(
        model=model,
        time=time,
        phase=Phase.RAMPING,
        stage="canary",
        step=2,
        epoch=17,
        epoch_in_force=17,
        verdict=Verdict.HOLD,
        cause="outcomes",
        reason="v2 holds at 5 %: 212 of 400 outcomes, no harm seen",
        champion="v1",
        candidate="v2",
        candidates=("v2",),
        queue=("v3",),
        arms=arms,
        lift={"v2": Lift(0.042, -0.011, math.inf)},
        segments={},
        health=dict(SOUND),
        rejected={"orphan": 3, "late": 1, "duplicate": 0},
    )


SOUND: dict[HealthKey, Json] = {
    "sample_ratio": "ok",
    "sample_ratio_evidence": math.inf,
    "unattributed": 0,
    "split": "in force",
    "silent_s": 0.4,
}


def exploring(model: str, time: float, n: int = 40_000) -> Report:
    """Three candidates at once under a bandit, with a split of its own for three countries."""
    weights = {"v1": 1_200, "v2": 6_300, "v3": 2_000, "v4": 500}
    means = {"v1": 0.101, "v2": 0.118, "v3": 0.109, "v4": 0.087}
    arms = tuple(
        arm(name, role(name), weight, n * weight // 10_000, means[name])
        for name, weight in weights.items()
    )
    return replace(
        ramping(model, time, 500),
        phase=Phase.EXPLORING,
        stage="thompson",
        step=0,
        cause="not_proven",
        reason="exploring: v2 is best with probability 0.93 on 22,680 outcomes, loss 0.10%, "
        "evidence 12.2 of 100",
        candidates=("v2", "v3", "v4"),
        queue=(),
        arms=arms,
        lift={
            "v2": Lift(0.168, 0.011, 0.352),
            "v3": Lift(0.079, -0.061, 0.244),
            "v4": Lift(-0.139, -0.312, 0.081),
        },
        segments={
            "DE": {"v1": 1_000, "v2": 7_400, "v3": 1_500, "v4": 100},
            "SE": {"v1": 900, "v2": 2_100, "v3": 6_900, "v4": 100},
            "US": {"v1": 2_600, "v2": 5_200, "v3": 1_800, "v4": 400},
        },
    )


def role(name: str) -> Role:
    """`v1` is the champion."""
    return Role.CHAMPION if name == "v1" else Role.CANDIDATE


def ramp(model: str, length: int = 120) -> list[Report]:
    """A history: nothing, then 5 %, 25 % and 50 % for `v2`."""
    weights = (0, 500, 2_500, 5_000)
    return [
        ramping(model, T0 + 5 * i, weights[4 * i // length], 40 + 60 * i) for i in range(length)
    ]


def decision(number: int, model: str, verdict: Verdict, reason: str) -> dict[str, Json]:
    """A decision as the ledger tells it; the first one kept no evidence."""
    weight = (500, 2_500, 5_000)[min(number // 5, 2)]
    rested_on = evidence(ramping(model, T0 + 60 * number, weight, 400 * number))
    return {
        "number": number,
        "time": T0 + 60 * number,
        "offset": 1_000 * number,
        "model": model,
        "rollout": f"{model}-1",
        "candidate": "v2",
        "stage": "canary",
        "step": min(number, 4),
        "phase": "ramping",
        "verdict": verdict.value,
        "cause": "step_passed",
        "reason": reason,
        "epoch": 13 + number,
        "weights": {"v1": 10_000 - weight, "v2": weight},
        "evidence": {} if number == 1 else rested_on,
        "evidence_digest": "5f" * 32,
        "policy_digest": "c0" * 32,
        "seed": 7,
    }


class Fake:
    """Meets `controller.api.backend.Backend`."""

    def __init__(self, *names: str) -> None:
        self.listeners: set[asyncio.Queue[Report]] = set()
        self.reset(*names)

    def reset(self, *names: str) -> None:
        """Begin again; whoever listens goes on listening."""
        self.reports = {name: ramping(name, T0 + 600, 500) for name in names}
        self.past = {name: ramp(name) for name in names}
        self.log: list[Canonical] = []
        self.commands: list[tuple[str, Operation, str, str, str | None]] = []
        self.offered: list[dict[str, Json]] = []
        self.missing: dict[str, bool | str] = {"log": True, "router": True}
        self.router: dict[str, Json] = {"connected": 1, "nacks": 2, "last_nack": None}
        self.is_log_reachable = True
        self.leader = ""
        self.stuck: dict[str, str] = {}
        self.ledger = {
            name: [
                decision(
                    n, name, Verdict.ADVANCE, f"v2 takes step {n}: no harm in {n * 200} outcomes"
                )
                for n in range(1, 13)
            ]
            for name in names
        }

    def models(self) -> tuple[str, ...]:
        return tuple(self.reports)

    def held(self) -> dict[str, str]:
        return dict(self.stuck)

    def report(self, model: str) -> Report:
        return self.reports[model]

    def decisions(
        self, model: str, *, after: int = 0, limit: int = 100, newest_first: bool = True
    ) -> list[dict[str, Json]]:
        found = [row for row in self.ledger[model] if int(str(row["number"])) > after]
        return (found[::-1] if newest_first else found)[:limit]

    def explain(self, model: str, number: int | None) -> dict[str, Json]:
        rows = {row["number"]: row for row in self.ledger[model]}
        if number is not None:
            return decision_explanation(rows[number])
        return explanation(self.reports[model], rows.get(len(rows)))

    def evidence(self, model: str) -> dict[str, Json]:
        return explanation(self.reports[model], None)

    def intake_status(self) -> dict[str, Json]:
        return {"refused": {"malformed": 2}, "unkept": 1, "lag": {"digits": 5}, "turn_s": 0.5}

    def history(self, model: str) -> list[Report]:
        return self.past[model]

    async def ingest(self, events: Sequence[Canonical | EventError]) -> list[str | None]:
        if not self.is_log_reachable:
            raise Retryable("the event log is out of reach", after_s=2.5)
        self.log += [event for event in events if not isinstance(event, EventError)]
        return [str(event) if isinstance(event, EventError) else None for event in events]

    async def command(
        self,
        model: str,
        operation: Operation,
        *,
        by: str,
        reason: str,
        version: str | None = None,
    ) -> Report:
        if self.leader:
            raise Standby("this controller stands by", self.leader)
        report = self.reports[model]
        if operation is Operation.RESUME and report.phase is not Phase.PAUSED:
            raise CommandError(f"{model} is not paused, it is {report.phase.value}")
        if version is not None and version not in report.candidates:
            known = ", ".join(report.candidates)
            raise CommandError(
                f"{operation.value}: {version} is no candidate now; there is {known}"
            )
        if operation is Operation.PROMOTE and version is None and len(report.candidates) > 1:
            which = ", ".join(report.candidates)
            raise CommandError(f"{operation.value}: it does not say which of {which}")
        self.commands.append((model, operation, by, reason, version))
        phases = {Operation.PAUSE: Phase.PAUSED, Operation.RESUME: Phase.RAMPING}
        self.publish(replace(report, phase=phases.get(operation, Phase.PROMOTED)))
        return self.reports[model]

    async def candidate(self, model: str, version: dict[str, Json]) -> Report:
        name = str(version["version"])
        report = self.reports[model]
        if name in {"v1", "v2"}:
            raise CommandError(f"{name} was already tried")
        self.offered.append(version)
        if not report.candidates:
            self.publish(replace(report, candidate=name, candidates=(name,)))
        else:
            self.publish(replace(report, queue=(*report.queue, name)))
        return self.reports[model]

    def assign(
        self, model: str, units: Sequence[str | None], segment: str | None = None
    ) -> list[dict[str, Json]]:
        return [
            {
                "arm": "v1",
                "epoch": 17,
                "propensity": 0.95,
                "request_id": f"own-{index}" if unit is None else None,
                "segment": segment,
            }
            for index, unit in enumerate(units)
        ]

    async def changes(self) -> AsyncIterator[Report]:
        inbox: asyncio.Queue[Report] = asyncio.Queue()
        self.listeners.add(inbox)
        while True:
            yield await inbox.get()

    def ready(self) -> dict[str, bool | str]:
        return self.missing

    def leads(self) -> bool:
        return self.leader == ""

    def router_status(self) -> dict[str, Json]:
        return self.router

    def publish(self, report: Report) -> None:
        """A new report: to be called in the server's loop."""
        self.reports[report.model] = report
        for inbox in self.listeners:
            inbox.put_nowait(report)
