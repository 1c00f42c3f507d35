"""The small types of a policy: what one value may be, and how to say so to people.

Each type has one phrase, its `title` in JSON Schema: errors, editors and the reference page all
show that same phrase. Durations are written with a unit and become seconds, shares are written
`5%` or `0.05` and become fractions; both go through `Decimal`, so that `0.3%` and `0.003` are the
same float and two ways to write one policy have one digest. A bare number as a duration was
rejected: nobody agrees on whether it means seconds or milliseconds.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

_UNITS_S: Final = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3_600),
    "d": Decimal(86_400),
    "w": Decimal(604_800),
}
# Twelve digits are 31 000 years; a bound keeps every value finite.
_DECIMAL: Final = r"[0-9]{1,12}(\.[0-9]{1,12})?"
DURATION_PATTERN: Final = rf"^{_DECIMAL}(ms|s|m|h|d|w)$"
SHARE_PATTERN: Final = rf"^{_DECIMAL}%$"
_WHOLE: Final = r"^0{0,11}(100(\.0{1,12})?|[0-9]{1,2}(\.[0-9]{1,12})?)%$"
_PART: Final = r"^0{0,11}[0-9]{1,2}(\.[0-9]{1,12})?%$"
_DURATION: Final = re.compile(rf"({_DECIMAL})(ms|s|m|h|d|w)")
_SHARE: Final = re.compile(rf"({_DECIMAL})%")

_DURATION_PHRASE: Final = "a duration with its unit, such as 30s, 10m, 36h or 7d"
_SHARE_PHRASE: Final = "a share such as 5% or 0.05"
_AMOUNT_PHRASE: Final = "a share such as 5% or 0.05, or an amount of the reward such as 2.5"
_GREATEST_AMOUNT: Final = 1e12


def duration_s(value: object) -> float:
    """A duration as it is written, in seconds; raises ValueError."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(Decimal(match[1]) * _UNITS_S[match[3]])
    raise ValueError(_DURATION_PHRASE)


def _fraction(value: object) -> float:
    if isinstance(value, str) and (match := _SHARE.fullmatch(value)):
        return float(Decimal(match[1]) / 100)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(_SHARE_PHRASE)  # noqa: TRY004 - pydantic takes ValueError as a fault
    if not 0 <= value <= 1:
        raise ValueError(f"{_SHARE_PHRASE}, from 0% to 100%")
    return _positive_zero(float(value))


def _amount(value: object) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and 0 <= value <= _GREATEST_AMOUNT:  # type: ignore[operator]
        return _positive_zero(float(value))  # type: ignore[arg-type]
    if isinstance(value, str) and _SHARE.fullmatch(value):
        return _fraction(value)
    raise ValueError(_AMOUNT_PHRASE)


def _positive_zero(value: float) -> float:
    """The same number, never -0.0: the two are equal and must have one digest."""
    return value + 0.0


def _duration_schema(phrase: str) -> WithJsonSchema:
    return WithJsonSchema({"title": phrase, "type": "string", "pattern": DURATION_PATTERN})


def _share_schema(phrase: str, pattern: str = _WHOLE, **bounds: float) -> WithJsonSchema:
    text = {"type": "string", "pattern": pattern}
    number = {"type": "number", "minimum": 0, "maximum": 1} | bounds
    return WithJsonSchema({"title": phrase, "anyOf": [text, number]})


def _amount_schema(phrase: str, **bounds: float) -> WithJsonSchema:
    text = {"type": "string", "pattern": SHARE_PATTERN}
    number = {"type": "number", "minimum": 0, "maximum": _GREATEST_AMOUNT} | bounds
    return WithJsonSchema({"title": phrase, "anyOf": [text, number]})


Duration: TypeAlias = Annotated[
    float, BeforeValidator(duration_s), Field(ge=0), _duration_schema(_DURATION_PHRASE)
]
PositiveDuration: TypeAlias = Annotated[
    float,
    BeforeValidator(duration_s),
    Field(gt=0),
    _duration_schema("a duration longer than 0 with its unit, such as 30s, 10m, 36h or 7d"),
]
Share: TypeAlias = Annotated[
    float,
    BeforeValidator(_fraction),
    Field(ge=0, le=1),
    _share_schema("a share from 0% to 100%, such as 5% or 0.05"),
]
PositiveShare: TypeAlias = Annotated[
    float,
    BeforeValidator(_fraction),
    Field(gt=0, le=1),
    _share_schema("a share above 0%, such as 5% or 0.05", exclusiveMinimum=0),
]
OpenShare: TypeAlias = Annotated[
    float,
    BeforeValidator(_fraction),
    Field(gt=0, lt=1),
    _share_schema(
        "a share above 0% and below 100%, such as 5% or 0.05",
        _PART,
        exclusiveMinimum=0,
        exclusiveMaximum=1,
    ),
]
Amount: TypeAlias = Annotated[
    float, BeforeValidator(_amount), Field(ge=0), _amount_schema(_AMOUNT_PHRASE)
]
PositiveAmount: TypeAlias = Annotated[
    float,
    BeforeValidator(_amount),
    Field(gt=0),
    _amount_schema(
        "a share above 0% such as 5% or 0.05, or an amount of the reward such as 2.5",
        exclusiveMinimum=0,
    ),
]
Number: TypeAlias = Annotated[
    float,
    Field(strict=True, allow_inf_nan=False, title="a number"),
    AfterValidator(_positive_zero),
]
Quantile: TypeAlias = Annotated[
    float, Field(strict=True, gt=0, lt=1, title="a number between 0 and 1, such as 0.99")
]
Count: TypeAlias = Annotated[
    int, Field(strict=True, ge=1, le=10**15, title="a whole number of at least 1")
]
Port: TypeAlias = Annotated[
    int, Field(strict=True, ge=1, le=65_535, title="a port from 1 to 65535")
]
Text: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        title="text that is not empty, in quotes if it looks like a number",
    ),
]
Name: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        max_length=63,
        title="a name of at most 63 lower-case letters, digits, '-' and '.'",
    ),
]
Namespace: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        max_length=63,
        title="a namespace of at most 63 lower-case letters, digits and '-'",
    ),
]
Arm: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        max_length=63,
        title="a version of at most 63 letters, digits, '-', '_' and '.', such as v1 or \"1.0\"",
    ),
]
ENDPOINT: Final = (
    r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):"
    r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$"
)
"""A host and a port from 1 to 65535: one endpoint that Envoy refuses would hold every model."""

Endpoint: TypeAlias = Annotated[
    str,
    Field(
        pattern=ENDPOINT,
        max_length=300,
        title="an address with its port, such as 127.0.0.1:9001",
    ),
]
Prefix: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^/",
        max_length=1_000,
        title="a path that begins with /, such as /v2/models/digits/",
    ),
]
HeaderName: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9-]+$",
        max_length=200,
        title="the name of a header, such as x-user-id",
    ),
]
CookieName: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_.-]+$",
        max_length=200,
        title="the name of a cookie, such as session",
    ),
]
WebAddress: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^https?://",
        max_length=2_000,
        title="an address that begins with http:// or https://",
    ),
]
