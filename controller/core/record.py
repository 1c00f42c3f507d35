"""What a decision looks like when it is written down: the same bytes, wherever they are made.

The ledger hashes decisions, `replay -o json` prints them, and a digest of the evidence stands in
each of them. All three must agree to the byte on every machine, so the form is fixed here once:

    canonical JSON  =  keys sorted by code point, no white space, UTF-8 without escapes,
                       floats in the shortest form that reads back as the same float64,
                       NaN and infinities as null
    digest          =  SHA-256 of it, in lower-case hexadecimal

Invariant: canonical(json.loads(canonical(x))) == canonical(x), for every x that is accepted.

Not RFC 8785 (JCS): it writes 1.0 as 1, so a float column that happens to be whole would come back
as an integer; and it refuses NaN, which an estimate without data honestly is. NumPy's integers and
arrays are refused rather than converted: evidence is made of Python's numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping

from controller.core.model import Decision, Json
from controller.errors import InvariantError


def canonical(value: object) -> str:
    """The canonical JSON of a value made of None, bool, int, float, str, lists and mappings.

    Tuples count as lists; lone surrogates become `?`, for no store takes them.

    Raises:
        InvariantError: for anything else, such as a NumPy array or a key that is no text.
    """
    return json.dumps(
        plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: object) -> str:
    """SHA-256 of the value's canonical JSON, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def plain(value: object) -> Json:
    """The same value in plain JSON types, NaN and infinities as None.

    Raises:
        InvariantError: as `canonical`.
    """
    match value:
        case None | bool():
            return value
        case str():
            return _text(value)
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {_key(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            raise InvariantError(f"{type(value).__name__} has no canonical JSON: {value!r:.80}")


def decision_document(decision: Decision) -> dict[str, Json]:
    """A decision as one JSON object: a line of `replay -o json`, and what the ledger's hash covers.

    Keys stand in the order in which people read them; `canonical` sorts them.
    """
    return {
        "time": plain(decision.time),
        "model": _text(decision.model),
        "number": decision.number,
        "offset": decision.offset,
        "rollout": _text(decision.rollout),
        "candidate": _text(decision.candidate),
        "stage": _text(decision.stage),
        "step": decision.step,
        "phase": decision.phase.value,
        "verdict": decision.verdict.value,
        "weights": plain(decision.weights),
        "cause": _text(decision.cause),
        "reason": _text(decision.reason),
        "epoch": decision.epoch,
        "evidence": plain(decision.evidence),
        "evidence_digest": decision.evidence_digest,
        "policy_digest": decision.policy_digest,
        "seed": decision.seed,
    }


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise InvariantError(f"a key of canonical JSON is text, not {key!r:.80}")
    return _text(key)


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
