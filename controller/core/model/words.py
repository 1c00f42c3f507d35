"""The words of closed sets, the types of columns, and the key under which a column has a text."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

BASIS = 10_000
"""Basis points in a whole."""

NO_EPOCH = -1
"""The epoch of an exposure that does not say which split it was routed with."""

Int: TypeAlias = NDArray[np.int64]
Key: TypeAlias = NDArray[np.uint64]
Float: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]
if TYPE_CHECKING:
    Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
else:
    Json = Any  # msgspec, which decodes snapshots by these annotations, has no recursive types


class Role(StrEnum):
    """What an arm is to the rollout."""

    CHAMPION = "champion"
    CANDIDATE = "candidate"


class ArmRole(StrEnum):
    """What an arm is in the cluster: the label by which people and tools tell arms apart.

    retained  the champion before this one; it still runs, so that `undo` is quick
    retired   it was the champion once, and is scaled down
    rejected  a candidate that was rolled back, and is scaled down
    """

    CHAMPION = "champion"
    CANDIDATE = "candidate"
    RETAINED = "retained"
    RETIRED = "retired"
    REJECTED = "rejected"


Presence: TypeAlias = Literal["known", "unknown", "gone"]
"""What the controller knows of an arm in the cluster: how much runs; nothing, because the API
server is out of reach; that there is no such arm any more."""


class Phase(StrEnum):
    """Where a rollout is. The transitions stand in `core.decide.phases`."""

    IDLE = "idle"
    SHADOWING = "shadowing"
    RAMPING = "ramping"
    TESTING = "testing"
    EXPLORING = "exploring"
    HOLDING = "holding"
    PROMOTING = "promoting"
    PROMOTED = "promoted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    PAUSED = "paused"


class Verdict(StrEnum):
    """What a decision says."""

    ADVANCE = "advance"
    HOLD = "hold"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class Operation(StrEnum):
    """What an operator may ask for."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    UNDO = "undo"


class Reason(StrEnum):
    """Why an event could not be used: the words under which events are counted."""

    DUPLICATE = "duplicate"
    LATE = "late"
    ORPHAN = "orphan"
    OUT_OF_RANGE = "out_of_range"
    MALFORMED = "malformed"
    UNKNOWN_NAME = "unknown_name"
    REPEATED = "repeated"
    UNKNOWN_ARM = "unknown_arm"
    TOO_MANY_VERSIONS = "too_many_versions"
    TOO_MANY_UNITS = "too_many_units"


def key(text: str) -> int:
    """The uint64 under which columns carry a text: its xxh64 (seed 0), 0 for no text."""
    return (xxh64_intdigest(text.encode()) or 1) if text else 0
