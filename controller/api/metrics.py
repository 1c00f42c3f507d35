"""`GET /metrics`: the reports as Prometheus families, collected when somebody scrapes.

The totals of a report are those of the log, which makes them honest counters: one of this process
would begin at 0 after each restart and differ from it. Only what never reached the log is counted
by the process: requests that were sent away, and events that were refused at the door.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Request
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.responses import Response

from controller.api.backend import Backend
from controller.api.explanations import Explanation
from controller.api.pressure import Budget
from controller.api.reports import finite
from controller.core.model import BASIS, ArmReport, Json, Lift, Phase, Reason, Report

_COUNTERS = {
    "exposures": "requests that were answered by the arm",
    "outcomes": "exposures whose attribution window has closed",
    "rewards": "rewards joined to an exposure of the arm",
    "errors": "exposures that were answered with an error",
}
_INTAKE = (
    (
        "intake_unkept",
        CounterMetricFamily,
        "unkept",
        "refused events that were only counted, since the start",
    ),
    (
        "turn_seconds",
        GaugeMetricFamily,
        "turn_s",
        "how long the present turn has taken: it grows while log or ledger hang",
    ),
)
_SHARES = {
    "weight": "share of the traffic that is wanted",
    "weight_in_force": "share of the traffic that the routers have accepted",
}


class Reports(Collector):
    """Makes families of the present reports of a backend."""

    def __init__(self, backend: Backend, budget: Budget) -> None:
        self._backend = backend
        self._budget = budget

    def describe(self) -> list[Metric]:
        """Nothing is known before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family, from one look at each model."""
        models = self._backend.models()
        reports = [self._backend.report(model) for model in models]
        arms = [(report.model, arm) for report in reports for arm in report.arms]
        yield from _totals(arms)
        yield from _gauges(arms)
        yield from _models(reports)
        yield from _health(reports)
        yield from _sources(reports)
        yield from _partitions(reports)
        yield from _lifts([(r.model, arm, lift) for r in reports for arm, lift in r.lift.items()])
        explained = [
            Explanation.model_validate(finite(self._backend.evidence(model))) for model in models
        ]
        yield from _evidence(explained)
        yield from _router(self._backend.router_status())
        yield from _intake(self._backend.intake_status(), self._budget)
        text = "1 where this controller leads, 0 where it stands by"
        yield GaugeMetricFamily("understudy_leader", text, value=float(self._backend.leads()))


def _totals(arms: Sequence[tuple[str, ArmReport]]) -> Iterator[Metric]:
    for name, text in _COUNTERS.items():
        family = CounterMetricFamily(f"understudy_{name}", text, labels=("model", "arm"))
        for model, arm in arms:
            family.add_metric((model, arm.arm), getattr(arm, name))
        yield family


def _gauges(arms: Sequence[tuple[str, ArmReport]]) -> Iterator[Metric]:
    pending = _gauge("pending", "exposures whose attribution window is open")
    shares = {name: _gauge(f"{name}_ratio", text) for name, text in _SHARES.items()}
    mean = _gauge("mean", "mean reward of the analysed units; absent while nothing was seen")
    lower = _gauge("mean_lower", "lower end of the confidence sequence of the mean")
    upper = _gauge("mean_upper", "upper end of the confidence sequence of the mean")
    for model, arm in arms:
        labels = (model, arm.arm)
        pending.add_metric(labels, arm.pending)
        for name, family in shares.items():
            family.add_metric(labels, getattr(arm, name) / BASIS)
        if arm.mean is not None:
            mean.add_metric(labels, arm.mean)
        if arm.interval is not None:
            lower.add_metric(labels, arm.interval[0])
            upper.add_metric(labels, arm.interval[1])
    yield from (pending, *shares.values(), mean, lower, upper)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"understudy_{name}", text, labels=("model", "arm"))


def _models(reports: Sequence[Report]) -> Iterator[Metric]:
    phase = StateSetMetricFamily("understudy_phase", "phase of the rollout", labels=("model",))
    epoch = GaugeMetricFamily("understudy_epoch", "number of the split wanted", labels=("model",))
    in_force = GaugeMetricFamily(
        "understudy_epoch_in_force", "number of the split that the routers have", labels=("model",)
    )
    rejected = CounterMetricFamily(
        "understudy_rejected", "events that could not be used", labels=("model", "reason")
    )
    dropped = CounterMetricFamily(
        "understudy_rejected_dropped",
        "events that could not be used, and are not kept any more",
        labels=("model", "reason"),
    )
    for report in reports:
        phase.add_metric((report.model,), {p.value: p is report.phase for p in Phase})
        epoch.add_metric((report.model,), report.epoch)
        in_force.add_metric((report.model,), report.epoch_in_force)
        counts = {**dict.fromkeys((r.value for r in Reason), 0), **report.rejected}
        for reason, count in counts.items():
            rejected.add_metric((report.model, reason), count)
            dropped.add_metric((report.model, reason), report.dropped.get(reason, 0))
    yield from (phase, epoch, in_force, rejected, dropped)


def _health(reports: Sequence[Report]) -> Iterator[Metric]:
    silent = GaugeMetricFamily(
        "understudy_silent_seconds", "time since a request was answered", labels=("model",)
    )
    rate = GaugeMetricFamily(
        "understudy_join_rate",
        "share of outcomes with a reward, now and before; only while it has fallen too far",
        labels=("model", "when"),
    )
    kept = GaugeMetricFamily(
        "understudy_scale_down_held",
        "1 while an arm is not scaled down because a router may still send it users, else 0",
        labels=("model",),
    )
    for report in reports:
        is_kept = any(report.health.get(name) for name in ("left_behind", "kept"))
        kept.add_metric((report.model,), float(is_kept))
        if isinstance(seconds := report.health.get("silent_s"), int | float):
            silent.add_metric((report.model,), seconds)
        if isinstance(rates := report.health.get("join_rate"), dict):
            for when, share in rates.items():
                if isinstance(share, int | float):
                    rate.add_metric((report.model, when), share)
    yield from (silent, rate, kept)


def _sources(reports: Sequence[Report]) -> Iterator[Metric]:
    """Of a topic that several models read, `read`, `lost` and the lag are the same for each."""
    records = CounterMetricFamily(
        "understudy_source_records",
        "records of a topic by what became of them",
        labels=("model", "source", "outcome"),
    )
    behind = GaugeMetricFamily(
        "understudy_source_behind", "records that wait in a topic", labels=("model", "source")
    )
    for report in reports:
        sources = report.health.get("sources")
        for name, counts in sources.items() if isinstance(sources, dict) else ():
            for outcome, count in counts.items() if isinstance(counts, dict) else ():
                if not isinstance(count, int):
                    continue
                if outcome == "behind":
                    behind.add_metric((report.model, name), count)
                else:
                    records.add_metric((report.model, name, outcome), count)
    yield from (records, behind)


def _partitions(reports: Sequence[Report]) -> Iterator[Metric]:
    labels = ("model", "partition")
    behind = GaugeMetricFamily(
        "understudy_partition_behind_seconds",
        "how long the oldest tick that a partition has not told has been waited for",
        labels=labels,
    )
    waiting = GaugeMetricFamily(
        "understudy_partition_open", "exposures and rewards that are not settled", labels=labels
    )
    held = GaugeMetricFamily(
        "understudy_partition_held", "1 where a worker folds the partition, else 0", labels=labels
    )
    for report in reports:
        rows = report.health.get("partitions")
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, dict):
                continue
            own = (report.model, str(row["partition"]))
            for family, value in ((behind, row["behind_s"]), (waiting, row["open"])):
                if isinstance(value, int | float):
                    family.add_metric(own, value)
            held.add_metric(own, float(bool(row.get("holder"))))
    yield from (behind, waiting, held)


def _lifts(lifts: Sequence[tuple[str, str, Lift]]) -> Iterator[Metric]:
    labels = ("model", "candidate")
    names = {
        "estimate": ("lift", "relative lift of the mean reward over the champion's"),
        "lower": ("lift_lower", "lower end of the confidence sequence of the lift"),
        "upper": ("lift_upper", "upper end of the confidence sequence of the lift"),
    }
    for field, (name, text) in names.items():
        family = GaugeMetricFamily(f"understudy_{name}", text, labels=labels)
        for model, candidate, lift in lifts:
            if (value := getattr(lift, field)) is not None:
                family.add_metric((model, candidate), value)
        yield family


def _evidence(explained: Sequence[Explanation]) -> Iterator[Metric]:
    best = GaugeMetricFamily(
        "understudy_p_best", "probability to be the best arm", labels=("model", "candidate")
    )
    surplus = GaugeMetricFamily(
        "understudy_evidence_surplus",
        "natural logarithm of evidence over threshold; 0 or more when the condition is met",
        labels=("model", "candidate", "condition", "then"),
    )
    for one in explained:
        for seen in one.candidates:
            if seen.p_best is not None:
                best.add_metric((one.model, seen.arm), seen.p_best)
        for row in one.conditions:
            if row.evidence is not None and row.threshold:
                log = math.log(row.evidence / row.threshold) if row.evidence > 0 else -math.inf
                surplus.add_metric((one.model, row.candidate, row.name, row.then), log)
    yield from (best, surplus)


def _router(status: dict[str, Json]) -> Iterator[Metric]:
    connected, nacks, behind = (status.get(name) for name in ("connected", "nacks", "behind"))
    if isinstance(connected, int | float):
        text = "routers that are connected"
        yield GaugeMetricFamily("understudy_router_connected", text, value=float(connected))
    if isinstance(behind, list):
        text = "connected routers that do not have the present splits, and are not waited for"
        yield GaugeMetricFamily("understudy_router_behind", text, value=float(len(behind)))
    if isinstance(nacks, int | float):
        text = "configurations that a router refused"
        yield CounterMetricFamily("understudy_router_nacks", text, value=float(nacks))


def _intake(status: dict[str, Json], budget: Budget) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "understudy_intake_refused",
        "events refused at the door, since the start",
        labels=("reason",),
    )
    lag = GaugeMetricFamily(
        "understudy_lag_events", "events in the log that were not folded yet", labels=("model",)
    )
    withheld = CounterMetricFamily(
        "understudy_dead_letters_unkept",
        "events of the log that could not be used and were only counted, since the start",
        labels=("model",),
    )
    for family, name in ((refused, "refused"), (lag, "lag"), (withheld, "withheld")):
        found = status.get(name)
        for label, value in (found if isinstance(found, dict) else {}).items():
            if isinstance(value, int | float):
                family.add_metric((label,), value)
    yield from (refused, lag, withheld)
    for name, kind, key, text in _INTAKE:
        if isinstance(value := status.get(key), int | float):
            yield kind(f"understudy_{name}", text, value=float(value))
    text = "requests answered with 429, since the start"
    yield CounterMetricFamily("understudy_intake_busy", text, value=float(budget.refused))
    text = "bytes of the bodies that are being taken in"
    yield GaugeMetricFamily("understudy_intake_bytes", text, value=float(budget.bytes))


def registry(backend: Backend, budget: Budget) -> CollectorRegistry:
    """A registry of its own, so that two apps in one process do not meet."""
    own = CollectorRegistry(auto_describe=False)
    own.register(Reports(backend, budget))
    return own


router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Prometheus text, or OpenMetrics where the scraper asks for it."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.registry), headers={"Content-Type": media_type})
