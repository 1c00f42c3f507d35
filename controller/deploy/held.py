"""One RolloutPolicy object as it was read: what it claims, and what can be said of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from controller.core.model import Json
from controller.core.policy import Policy
from controller.deploy.events import Reference, policy_reference
from controller.deploy.found import Key, key_of
from controller.deploy.manifests import policy_of, source, text_of
from controller.deploy.objects import Object
from controller.deploy.status import Validity
from controller.errors import PolicyError

Claim: TypeAlias = tuple[str, str]
"""What only one policy can have: ("model", its name) or ("prefix", its route's)."""

INVALID: Final = "Invalid"
DUPLICATE_MODEL: Final = "DuplicateModel"
DUPLICATE_ROUTE: Final = "DuplicateRoute"


@dataclass(frozen=True, slots=True)
class AppliedPolicy:
    """A policy that is in force, and the document that it was read from."""

    policy: Policy
    document: str
    reference: Reference


@dataclass(slots=True)
class Held:
    """One object. `document`, `policy` are None where the text cannot be used."""

    key: Key
    seen: tuple[object, ...]
    reference: Reference
    created: str
    was_valid: bool
    status: dict[str, Json]
    policy: Policy | None = None
    document: str | None = None
    fault: Validity | None = None
    in_force: AppliedPolicy | None = None
    told: tuple[Validity, int] | None = None
    claims: frozenset[Claim] = frozenset()

    @property
    def said(self) -> Validity | None:
        """What was said of it last."""
        return self.told[0] if self.told is not None else None


def claims_of(policy: Policy) -> frozenset[Claim]:
    """What the policy would have for itself."""
    return frozenset({("model", policy.model), ("prefix", policy.spec.route.prefix)})


def read(found: Object, seen: tuple[object, ...]) -> Held:
    """An object as it came; `seen` tells it from an earlier state of it."""
    meta = found["metadata"]
    key = key_of(found)
    status = found.get("status") or {}
    held = Held(
        key=key,
        seen=seen,
        reference=policy_reference(*key, str(meta["uid"]), int(meta["generation"])),
        created=str(meta["creationTimestamp"]),
        was_valid=_was_valid(status),
        status=status,
    )
    try:
        held.policy, held.document = policy_of(found), text_of(found)
    except PolicyError as exc:
        said = "; ".join(problem.sentence() for problem in exc.problems)
        held.fault = Validity(is_valid=False, reason=INVALID, message=said)
    return held


def _was_valid(status: Object) -> bool:
    """Whether the object's policy was in force, by what its status says."""
    return any(
        row.get("type") == "Valid" and row.get("status") == "True"
        for row in status.get("conditions") or []
    )


def second(claim: Claim, owner: Key) -> Validity:
    """What is wrong where another object has the claim."""
    what, value = claim
    if what == "model":
        text = f"metadata.name: the model {value} is that of {source(*owner)} already"
        return Validity(is_valid=False, reason=DUPLICATE_MODEL, message=text)
    text = f"spec.route.prefix: {value} is that of {source(*owner)} already"
    return Validity(is_valid=False, reason=DUPLICATE_ROUTE, message=text)


def with_before(fault: Validity, in_force: AppliedPolicy | None) -> Validity:
    """The same, with what goes on meanwhile."""
    kept = "no policy of this object is in force"
    if in_force is not None:
        kept = "the policy of before stays in force"
    return replace(fault, message=f"{fault.message}; {kept}")
