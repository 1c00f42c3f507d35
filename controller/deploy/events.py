"""A decision -> Kubernetes Events about it, with its sentence. Pure.

Each decision is told twice: of the policy's object, and of the Deployment of the arm that it is
about, where whoever looks after that arm will see it. An Event's name is made of what it tells, so
the same decision told again, by a controller that was restarted or by the next leader, is the same
Event, and the API server refuses it. Events live an hour or so there: decisions older than
`FRESH_S` are not told any more, else a recovery from an old snapshot would repeat the past.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from controller.core.decide.phases import ACTIVE
from controller.core.model import Decision, Phase, Verdict
from controller.core.policy import API_VERSION, KIND
from controller.deploy.objects import DEPLOYMENTS, Object, Resource
from controller.deploy.status import camel

EVENTS: Final = Resource("events.k8s.io/v1", "events", "Event")
CONTROLLER: Final = "understudy.dev/controller"
FRESH_S: Final = 1_800.0

_LONGEST_NOTE_BYTES: Final = 1_024
_LONGEST_NAME: Final = 200
_ALARMING: Final = frozenset({Phase.HOLDING, Phase.ROLLING_BACK, Phase.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that an Event is about, or a status of; `generation` only of policies."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    generation: int = 0

    @property
    def document(self) -> Object:
        """As Events name objects."""
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
        }


def policy_reference(namespace: str, name: str, uid: str, generation: int) -> Reference:
    """The object of a policy."""
    return Reference(API_VERSION, KIND, namespace, name, uid, generation)


def deployment_reference(namespace: str, name: str, uid: str) -> Reference:
    """A Deployment."""
    return Reference(DEPLOYMENTS.version, DEPLOYMENTS.kind, namespace, name, uid)


def arm_of(decision: Decision, champion: str) -> str:
    """The arm that a decision is about: its candidate, or else the champion."""
    return decision.candidate or champion


def decision_events(
    decision: Decision, about: Reference, arm: Reference | None, *, instance: str
) -> Iterator[Object]:
    """One Event for the policy's object, and one for the Deployment, where there is one.

    instance  which controller says so: the name of its Pod
    """
    mark = f"{decision.model}.{decision.number}"
    action = camel(decision.verdict.value)
    reason, level = _reason(decision), _type(decision)
    for one, other in ((about, arm), (arm, about)):
        if one is not None:
            yield _event(
                one,
                mark=mark,
                time=decision.time,
                action=action,
                reason=reason,
                note=decision.reason,
                level=level,
                instance=instance,
                related=other,
            )


def warning(about: Reference, *, reason: str, note: str, time: float, instance: str) -> Object:
    """An Event about something that needs a human: a conflict, a policy that cannot be used.

    For the same generation and the same note it is the same Event.
    """
    return _event(
        about,
        mark=f"{about.name}.{about.generation}",
        time=time,
        action="Report",
        reason=reason,
        note=note,
        level="Warning",
        instance=instance,
        related=None,
    )


def _reason(decision: Decision) -> str:
    """What happened, in one word: the phase that it led to, or why a rollout waits."""
    if decision.verdict is Verdict.ADVANCE:
        return "Advanced"
    if decision.phase is Phase.HOLDING:
        return "Holding"
    if decision.verdict is Verdict.ROLL_BACK and decision.phase in ACTIVE:
        return "Dropped"  # one of several candidates; the rollout goes on
    if decision.verdict is Verdict.HOLD and decision.phase in ACTIVE:
        return f"Waiting{camel(decision.cause)}"[:128]
    return camel(decision.phase.value)


def _type(decision: Decision) -> Literal["Normal", "Warning"]:
    is_alarming = decision.phase in _ALARMING or decision.verdict is Verdict.ROLL_BACK
    return "Warning" if is_alarming else "Normal"


def _event(  # noqa: PLR0913 - an Event has these parts
    about: Reference,
    *,
    mark: str,
    time: float,
    action: str,
    reason: str,
    note: str,
    level: Literal["Normal", "Warning"],
    instance: str,
    related: Reference | None,
) -> Object:
    what = repr((about.kind, about.uid, mark, reason, note))
    digest = hashlib.sha256(what.encode(errors="replace")).hexdigest()[:16]
    event = EVENTS.head(about.namespace, f"{about.name[:_LONGEST_NAME].rstrip('.-')}.{digest}")
    event |= {
        "eventTime": datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:128],
        "action": action,
        "reason": reason,
        "type": level,
        "note": shortened(note),
        "regarding": about.document,
    }
    if related is not None:
        event["related"] = related.document
    return event


def shortened(note: str) -> str:
    """At most as many bytes as an Event takes, whole characters; `…` says that there was more."""
    data = note.encode(errors="replace")
    if len(data) <= _LONGEST_NOTE_BYTES:
        return data.decode()
    mark = "…"
    kept = data[: _LONGEST_NOTE_BYTES - len(mark.encode())].decode(errors="ignore")
    return kept + mark
