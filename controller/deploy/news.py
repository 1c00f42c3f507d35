"""What follows from what was found: events for the log. Pure.

The log is told of an arm when its counts, its limit or its state differ from what it was told last;
never of pods that come and go behind equal counts. A version that is new becomes a `version` event
first, because a capacity of an arm that nobody knows means nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from controller.core.model import Role, Version
from controller.deploy.target import FoundArm
from controller.errors import EventError
from controller.stream.codec import capacity_line, version_line

_OVER: Final = frozenset({"rejected", "retained", "retired"})
"""Roles of arms that have had their turn: found again by a new log, they are no candidates."""


def news(  # noqa: PLR0913, PLR0917 - two worlds, and whose they are
    model: str,
    before: Mapping[str, FoundArm],
    found: Mapping[str, FoundArm],
    versions: Collection[str],
    champion: str,
    now: float,
) -> list[bytes]:
    """The lines that the model's log lacks.

    before    what the log says of each arm's capacity
    found     what the cluster has
    versions  those that the log knows
    now       epoch seconds
    """
    lines = []
    for name in sorted(found):
        arm = found[name]
        if name not in versions:
            if arm.state != "known" or (arm.role in _OVER and name != champion):
                continue
            lines.append(_introduction(model, arm, champion, now))
        told = before.get(name)
        if (tell := _told(told, arm)) is not None:
            lines.append(
                capacity_line(
                    model,
                    time=now,
                    arm=name,
                    state=tell.state,
                    ready=tell.ready,
                    replicas=tell.replicas,
                    limit=tell.limit,
                )
            )
    return lines


def _told(before: FoundArm | None, found: FoundArm) -> FoundArm | None:
    """What is to be told of an arm; None: nothing new.

    An arm that was never there is not gone: it has no replicas yet. While nothing is known, the
    last numbers stand.
    """
    if found.state == "gone" and (before is None or _was_never_there(before)):
        found = FoundArm(found.version, "known", 0, 0)
    elif found.state == "unknown" and before is not None:
        state = "gone" if before.state == "gone" else found.state
        found = replace(before, state=state)
    if before is not None and _capacity(before) == _capacity(found):
        return None
    return found


def _was_never_there(before: FoundArm) -> bool:
    return before.state != "gone" and before.replicas == 0 and before.ready == 0


def _capacity(arm: FoundArm) -> tuple[str, int, int, int | None]:
    return arm.state, arm.ready, arm.replicas, arm.limit


def _introduction(model: str, arm: FoundArm, champion: str, now: float) -> bytes:
    """The version event of an arm; without what somebody wrote that no event may hold."""
    role = Role.CHAMPION if arm.version == champion else Role.CANDIDATE
    full = Version(
        name=arm.version,
        parent=arm.parent,
        trained_at=arm.trained_at,
        metrics=arm.metrics,
        uri=arm.uri,
    )
    try:
        return version_line(model, time=now, version=full, role=role)
    except EventError:
        return version_line(model, time=now, version=Version(arm.version), role=role)
