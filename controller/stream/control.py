"""Control events <-> lines: splits, versions, capacities, commands and ticks, one by one.

They are few, so they are values rather than columns, and each comes back from its line as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, assert_never

from controller.core.model import (
    CapacityEvent,
    CommandEvent,
    ControlEvent,
    Json,
    Operation,
    Presence,
    Role,
    SplitEvent,
    TalliesEvent,
    Tick,
    Version,
    VersionEvent,
)
from controller.stream.tallies import TalliesLine, tallies_event, tallies_line
from controller.stream.wire import (
    CapacityLine,
    CommandLine,
    SplitLine,
    TickLine,
    VersionLine,
    canonical,
)

ControlLine: TypeAlias = (
    SplitLine | VersionLine | CapacityLine | CommandLine | TalliesLine | TickLine
)


def control_event(offset: int, event: ControlLine) -> ControlEvent:
    """The event of the core that a line is; the log gives its offset."""
    match event:
        case SplitLine():
            return SplitEvent(offset, event.time, event.epoch, event.weights, event.segments)
        case VersionLine():
            return VersionEvent(
                offset=offset,
                time=event.time,
                version=event.version,
                role=event.role,
                parent=event.parent,
                endpoints=event.endpoints,
                trained_at=event.trained_at,
                metrics=event.metrics,
                covariates=event.covariates,
                uri=event.uri,
            )
        case CapacityLine():
            return CapacityEvent(
                offset=offset,
                time=event.time,
                arm=event.arm,
                state=event.state,
                ready=event.ready,
                replicas=event.replicas,
                limit=event.limit,
            )
        case CommandLine():
            by = event.by or ""
            return CommandEvent(offset, event.time, event.command, by, event.reason, event.version)
        case TalliesLine():
            return tallies_event(offset, event)
        case TickLine():
            return Tick(
                offset=offset,
                time=event.time,
                policy=event.policy,
                partitions=event.partitions,
                arms=event.arms,
                epoch=event.epoch,
                segments=event.segments,
                increase=event.increase,
            )
    assert_never(event)


def tick_line(  # noqa: PLR0913 - the event's own fields, by keyword
    time: float,
    *,
    policy: str = "",
    partitions: int = 0,
    arms: Sequence[str] = (),
    epoch: int = 0,
    segments: Sequence[str] = (),
    increase: float | None = None,
) -> bytes:
    """The line of a tick; `time` in epoch seconds, the rest as in `Tick`."""
    return _line(
        type="tick",
        time=time,
        policy=policy or None,
        partitions=partitions or None,
        arms=list(arms) or None,
        epoch=epoch or None,
        segments=list(segments) or None,
        increase=increase,
    )


def split_line(
    model: str,
    *,
    time: float,
    epoch: int,
    weights: Mapping[str, int],
    segments: Mapping[str, Mapping[str, int]] | None = None,
) -> bytes:
    """The line that says that a split is in force; weights in basis points."""
    return _line(
        type="split",
        time=time,
        model=model,
        epoch=epoch,
        weights=dict(weights),
        segments={name: dict(own) for name, own in segments.items()} if segments else None,
    )


def version_line(
    model: str,
    *,
    time: float,
    version: Version,
    role: Role,
    covariates: Mapping[str, float] | None = None,
) -> bytes:
    """The line that says that a version exists; `covariates` by unit."""
    return _line(
        type="version",
        time=time,
        model=model,
        version=version.name,
        role=role.value,
        parent=version.parent,
        endpoints=list(version.endpoints),
        trained_at=version.trained_at,
        metrics=dict(version.metrics),
        covariates=dict(covariates) if covariates else None,
        uri=version.uri,
    )


def capacity_line(  # noqa: PLR0913 - the event's own fields, by keyword
    model: str,
    *,
    time: float,
    arm: str,
    state: Presence,
    ready: int = 0,
    replicas: int = 0,
    limit: int | None = None,
) -> bytes:
    """The line that says how much of an arm runs in the cluster."""
    return _line(
        type="capacity",
        time=time,
        model=model,
        arm=arm,
        state=state,
        ready=ready,
        replicas=replicas,
        limit=limit,
    )


def command_line(  # noqa: PLR0913 - the event's own fields, by keyword
    model: str,
    *,
    time: float,
    command: Operation,
    by: str = "",
    reason: str = "",
    version: str | None = None,
) -> bytes:
    """The line that says what an operator asked for."""
    return _line(
        type="command",
        time=time,
        model=model,
        command=command.value,
        by=by or None,
        reason=reason or None,
        version=version,
    )


def control_line(model: str, event: ControlEvent) -> bytes:
    """The line of a control event, its offset left out: the log gives that."""
    match event:
        case Tick():
            return tick_line(
                event.time,
                policy=event.policy,
                partitions=event.partitions,
                arms=event.arms,
                epoch=event.epoch,
                segments=event.segments,
                increase=event.increase,
            )
        case TalliesEvent():
            return tallies_line(model, event)
        case SplitEvent():
            return split_line(
                model,
                time=event.time,
                epoch=event.epoch,
                weights=event.weights,
                segments=event.segments,
            )
        case VersionEvent():
            version = Version(
                name=event.version,
                endpoints=event.endpoints,
                parent=event.parent,
                trained_at=event.trained_at,
                metrics=event.metrics,
                uri=event.uri,
            )
            return version_line(
                model,
                time=event.time,
                version=version,
                role=event.role,
                covariates=event.covariates,
            )
        case CapacityEvent():
            return capacity_line(
                model,
                time=event.time,
                arm=event.arm,
                state=event.state,
                ready=event.ready,
                replicas=event.replicas,
                limit=event.limit,
            )
        case CommandEvent():
            return command_line(
                model,
                time=event.time,
                command=event.command,
                by=event.by,
                reason=event.reason,
                version=event.version,
            )
    assert_never(event)


def _line(**fields: Json) -> bytes:
    """A canonical line of our own making: held to the same rules as a sender's, by EventError."""
    return canonical(fields).line
