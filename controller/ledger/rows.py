"""Between values and rows: decisions with their hash chain, effects with their kind.

A decision's hash covers canonical JSON of every other column, the hash before it included. So a
row is intact when three things hold, and `is_intact` asks for all three:

    row.previous_hash == hash of the row before
    row.hash == digest(everything else in the row)
    row == row_of(values read from the row)      (same values in other spelling count as tampering)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from controller.core.model import (
    ClusterEffect,
    Decision,
    Effect,
    KeepRejected,
    Phase,
    PointService,
    Scale,
    SetRole,
    SetSplit,
    Verdict,
)
from controller.core.record import canonical, decision_document, digest
from controller.errors import InvariantError

Row: TypeAlias = dict[str, Any]

GENESIS = "0" * 64
"""The hash before a model's first decision."""

TEXT_LIMIT = 4096
"""How many bytes of a refused event's text are kept."""

_KINDS: dict[str, type[SetSplit | ClusterEffect]] = {
    "set_split": SetSplit,
    "scale": Scale,
    "set_role": SetRole,
    "point_service": PointService,
}
_KIND_OF = {kind: name for name, kind in _KINDS.items()}


def decision_row(decision: Decision, *, code_version: str, previous_hash: str) -> Row:
    """The row that keeps a decision, with its hash."""
    content = {
        name: storable(value) if isinstance(value, str) else value
        for name, value in decision_document(decision).items()
    }
    content |= {"code_version": code_version, "previous_hash": previous_hash}
    return content | {
        "weights": canonical(content["weights"]),
        "evidence": canonical(content["evidence"]),
        "seed": str(decision.seed),
        "hash": digest(content),
    }


def decision_of(row: Mapping[str, Any]) -> Decision:
    """The decision that a row keeps. NaN in its evidence comes back as None.

    Raises:
        ValueError, TypeError: when the row was changed by someone else.
    """
    columns = {name: row[name] for name in Decision.__dataclass_fields__}
    return Decision(
        **columns
        | {
            "phase": Phase(row["phase"]),
            "verdict": Verdict(row["verdict"]),
            "weights": json.loads(row["weights"]),
            "evidence": json.loads(row["evidence"]),
            "seed": int(row["seed"]),
        }
    )


def is_intact(row: Mapping[str, Any], *, previous_hash: str) -> bool:
    """Whether a row is as it was written, and follows the row whose hash is given."""
    try:
        written = decision_row(
            decision_of(row), code_version=row["code_version"], previous_hash=previous_hash
        )
    except (ValueError, TypeError, AttributeError, InvariantError):
        return False
    return written == dict(row)


def differing(stored: Mapping[str, Any], derived: Mapping[str, Any]) -> list[str]:
    """Columns in which a stored decision and the same decision, derived again, differ.

    The code version may differ: a newer Understudy that derives the same decision agrees.
    """
    aside = {"code_version", "previous_hash", "hash"}
    return [name for name in derived if name not in aside and stored[name] != derived[name]]


def effect_row(effect: Effect) -> tuple[str, str]:
    """Kind and body of an effect.

    Raises:
        InvariantError: for rejected events, which are dead letters and no effect to carry out.
    """
    if isinstance(effect, KeepRejected):
        raise InvariantError("rejected events are committed as dead letters, not as effects")
    return _KIND_OF[type(effect)], msgspec.json.encode(effect).decode()


def effect_of(kind: str, body: str) -> Effect:
    """The effect that a row keeps.

    Raises:
        InvariantError: when the row holds no effect that this version knows.
    """
    if kind not in _KINDS:
        raise InvariantError(f"unknown kind of effect {kind!r}; known: {', '.join(_KINDS)}")
    try:
        return msgspec.json.decode(body, type=_KINDS[kind])
    except msgspec.MsgspecError as exc:
        raise InvariantError(f"not the body of {kind}: {body:.200}") from exc


def storable(text: str | bytes, *, limit: int | None = None) -> str:
    """Text that every database takes: valid UTF-8 without NUL, cut to `limit` bytes."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    valid = raw[:limit].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return valid if limit is None else valid.encode()[:limit].decode("utf-8", "ignore")
