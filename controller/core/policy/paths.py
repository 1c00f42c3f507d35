"""Paths into records of others: the part of JSONPath (RFC 9535) that names one place.

    $.ctx.rid   $['user id'].name   $.items[0].id   $.items[-1]

Names and indices only, what the RFC calls a singular query: a path gives one value or nothing, so
nobody has to say what several would mean. A member that RFC 9535 does not let stand after a dot
(`user-id`) is quoted, without escapes.

Rejected: the libraries (`jsonpath-ng`, `jsonpath-rfc9535`, `python-jsonpath` take 7, 11 and 26 us
for `$.ctx.rid`; these steps 0.2, and every record needs some four of them). Tests have
`jsonpath-rfc9535` judge what the steps find.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

Scalar: TypeAlias = bool | int | float | str
Step: TypeAlias = str | int

_STEP: Final = (
    r"(\.[A-Za-z_][A-Za-z0-9_]{0,199}|\[(0|-?[1-9][0-9]{0,5})\]"
    r"|\['[^'\\\x00-\x1f]{1,200}'\]|\[\"[^\"\\\x00-\x1f]{1,200}\"\])"
)
PATH_PATTERN: Final = rf"^\${_STEP}+$"
_TEXT_PATTERN: Final = rf"^([^$\x00-\x1f][^\x00-\x1f]*|\${_STEP}+)$"
_STEPS: Final = re.compile(_STEP)
_PATH: Final = re.compile(PATH_PATTERN)
_LONGEST: Final = 300
_GREATEST: Final = 1e15
_MOST_WANTED: Final = 50

A_PATH: Final = "a path such as $.ctx.rid, $['user-id'] or $.items[0].id"
_A_VALUE: Final = "a path such as $.amount, or a number that every record counts"
_WANTED: Final = "a text, a number, true or false, or a list of these"


def steps(path: str) -> tuple[Step, ...]:
    """What to take, one after the other, from a record to come to the place that `path` names."""
    return tuple(_step(match[1]) for match in _STEPS.finditer(path, 1))


def is_path(text: object) -> bool:
    """Whether a text of a policy names a place in a record, and is not what it says."""
    return isinstance(text, str) and text.startswith("$")


def names_a_place(text: str) -> bool:
    """Whether `text` is a path, whole."""
    return len(text) <= _LONGEST and _PATH.fullmatch(text) is not None


def _step(text: str) -> Step:
    if text.startswith("."):
        return text[1:]
    inside = text[1:-1]
    return inside[1:-1] if inside[0] in "'\"" else int(inside)


def _number_or_path(value: object) -> float | str:
    if isinstance(value, str) and names_a_place(value):
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and -_GREATEST <= value <= _GREATEST:  # type: ignore[operator]
        return float(value) + 0.0  # type: ignore[arg-type]
    raise ValueError(_A_VALUE)


def _wanted(value: object) -> tuple[Scalar, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not 1 <= len(values) <= _MOST_WANTED or not all(map(_is_scalar, values)):
        raise ValueError(_WANTED)
    return tuple(values)


def _is_scalar(value: object) -> bool:
    if isinstance(value, (bool, str)):
        return True
    return isinstance(value, (int, float)) and -_GREATEST <= value <= _GREATEST


_SCALARS: Final = [{"type": kind} for kind in ("string", "number", "boolean")]
_WANTED_NODE: Final = {
    "title": _WANTED,
    "anyOf": [
        *_SCALARS,
        {"type": "array", "items": {"anyOf": _SCALARS}, "minItems": 1, "maxItems": _MOST_WANTED},
    ],
}

Path: TypeAlias = Annotated[str, Field(pattern=PATH_PATTERN, max_length=_LONGEST, title=A_PATH)]
TextOrPath: TypeAlias = Annotated[
    str,
    Field(
        pattern=_TEXT_PATTERN,
        max_length=_LONGEST,
        title="a path such as $.event, or a text that does not begin with $, such as click",
    ),
]
NumberOrPath: TypeAlias = Annotated[
    float | str,
    PlainValidator(_number_or_path),
    WithJsonSchema(
        {
            "title": _A_VALUE,
            "anyOf": [
                {"type": "string", "pattern": PATH_PATTERN, "maxLength": _LONGEST},
                {"type": "number", "minimum": -_GREATEST, "maximum": _GREATEST},
            ],
        }
    ),
]
Wanted: TypeAlias = Annotated[
    tuple[Scalar, ...], PlainValidator(_wanted), PlainSerializer(list), WithJsonSchema(_WANTED_NODE)
]
Wishes: TypeAlias = Annotated[
    dict[str, Wanted],
    WithJsonSchema(
        {
            "title": "a mapping of paths to values, such as {$.event: [click, buy]}",
            "type": "object",
            "additionalProperties": _WANTED_NODE,
        }
    ),
]
