"""The policy of a model: what it may say, and how a document becomes one. No file access.

    text -> document -> manifest -> Policy
             |           |
             places      faults, unsupported -> PolicyError

A document is at the same time a Kubernetes manifest of the kind `RolloutPolicy`. Unknown fields are
errors, and so is what has no effect yet: nothing that an author writes is silently ignored. The
invariant: `parse` gives a policy of which every field is in force, or raises one `PolicyError` with
*every* fault of the text, each with its place; it raises nothing else, whatever the text.

Rejected: stopping at the first fault (an author fixes a file in one go, or not at all), and a
loader that drops positions (an error without its line is a search through the file).
"""

from __future__ import annotations

import json
from hashlib import sha256

from pydantic import ValidationError

from controller.core.model import Json
from controller.core.policy import document as _document
from controller.core.policy.advice import Advice, warnings
from controller.core.policy.deploy import (
    Deploy,
    GatewayTarget,
    KServeTarget,
    KubernetesTarget,
    Pace,
)
from controller.core.policy.faults import problems
from controller.core.policy.json_schema import schema
from controller.core.policy.manifest import (
    API_VERSION,
    KIND,
    Candidates,
    Champion,
    DataHealth,
    Freeze,
    Gates,
    Metadata,
    Notification,
    OfflineGate,
    Policy,
    Route,
    Spec,
    Unit,
)
from controller.core.policy.quantities import (
    Arm,
    Duration,
    Endpoint,
    Name,
    OpenShare,
    PositiveDuration,
    Share,
)
from controller.core.policy.rewards import Guardrail, Reward
from controller.core.policy.sources import KafkaSource, Map, RedisSource, Source
from controller.core.policy.stages import Ab, Canary, Segments, Shadow, Stage, Thompson
from controller.core.policy.twins import Owners
from controller.core.policy.unsupported import UNSUPPORTED, Unsupported, refused
from controller.errors import PolicyError, Problem

__all__ = [
    "API_VERSION",
    "KIND",
    "UNSUPPORTED",
    "Ab",
    "Advice",
    "Arm",
    "Canary",
    "Candidates",
    "Champion",
    "DataHealth",
    "Deploy",
    "Duration",
    "Endpoint",
    "Freeze",
    "Gates",
    "GatewayTarget",
    "Guardrail",
    "KServeTarget",
    "KafkaSource",
    "KubernetesTarget",
    "Map",
    "Metadata",
    "Name",
    "Notification",
    "OfflineGate",
    "OpenShare",
    "Owners",
    "Pace",
    "Policy",
    "PositiveDuration",
    "RedisSource",
    "Reward",
    "Route",
    "Segments",
    "Shadow",
    "Share",
    "Source",
    "Spec",
    "Stage",
    "Thompson",
    "Unit",
    "Unsupported",
    "digest",
    "parse",
    "position",
    "schema",
    "validated",
    "warnings",
]


def parse(text: str, source: str) -> Policy:
    """The policy that a YAML document describes; `source` names it in errors.

    Raises:
        PolicyError: with every fault found, each with its line.
    """
    document = _document.read(text)
    if document.faults and document.value is None:
        raise PolicyError(source, document.faults)
    found = [*document.faults, *refused(document)]
    try:
        policy = Policy.model_validate(document.value)
    except ValidationError as exc:
        raise PolicyError(source, _in_order([*found, *problems(document, exc)])) from exc
    if found:
        raise PolicyError(source, _in_order(found))
    return policy


def validated(value: Json) -> Policy | None:
    """The policy that plain values describe; None where `parse` of their text says why not.

    A tenth of the time of `parse`, which looks at every character for the sake of its words.
    """
    if any(refused(_document.Document("", value))):
        return None
    try:
        return Policy.model_validate(value)
    except ValidationError:
        return None


def _in_order(found: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(found, key=lambda p: (p.line or 0, p.column or 0, p.path)))


def digest(policy: Policy) -> str:
    """SHA-256, in hexadecimal, of what the policy means.

    Layout, the order of fields, the way in which a value is written, a default that is spelt out
    and Kubernetes' own metadata do not count. Nor do fields that came later, at their default: a
    policy keeps the digest that decisions were written down with.
    """
    meaning = policy.model_dump(
        mode="json", exclude={"metadata": {"namespace", "labels", "annotations"}}
    )
    if not policy.spec.sources:
        del meaning["spec"]["sources"]  # policies that were decided by before there were any
    if meaning["spec"]["partitions"] == 1:
        del meaning["spec"]["partitions"]
    canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(canonical.encode("ascii")).hexdigest()


def position(text: str, path: str) -> tuple[int, int]:
    """Line and column, from 1, of a path such as `spec.stages[1].canary` in a policy's text.

    A field that was not written stands where the closest parent that was does.
    """
    document = _document.read(text)
    places = {_document.render(place): place for place in document.values}
    while path and path not in places:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return document.at(places.get(path, ()))
