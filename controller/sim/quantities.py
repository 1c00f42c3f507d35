"""The small types of a scenario, each with the phrase that errors show; as in `core.policy`.

A *moment* is a duration, or a share of something that only the policy or the run knows (the length
of the run, the attribution window, the grace), so that one scenario fits policies with windows of
seconds and of weeks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from controller.core.policy.quantities import duration_s
from controller.errors import UnderstudyError

_DECIMAL: Final = r"[0-9]{1,12}(?:\.[0-9]{1,12})?"
_RATE: Final = re.compile(rf"({_DECIMAL})/(s|min|h|d)")
_SIGNED: Final = re.compile(rf"([+-]?{_DECIMAL})%")
_SHARE: Final = re.compile(rf"({_DECIMAL})%")
_PER_S: Final = {"s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}

RATE_PHRASE: Final = "a number of requests per time above 0, such as 50/s, 3000/min or 2/h"
RELATIVE_PHRASE: Final = "a relative change of at least -100%, such as -20%, +5% or 0.05"
SHARE_PHRASE: Final = "a share from 0% to 100%, such as 5% or 0.05"
CURVE_PHRASE: Final = (
    "a share such as 5%, or a list of [moment, share] whose moments rise, such as "
    "[[0s, 6%], [2h, 3%]]"
)


class QuantityError(UnderstudyError):
    """A value on the command line that cannot be read."""


Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds, or a share of a whole that is known later."""

    seconds: float = 0.0
    share: float | None = None

    def of(self, whole_s: float) -> float:
        """The moment in seconds; `whole_s` is the whole of which it may be a share."""
        return self.seconds if self.share is None else self.share * whole_s


def rate_per_s(value: object) -> float:
    """Requests per second, written `50/s`, `3000/min` or as a number of them; raises ValueError."""
    if isinstance(value, str) and (match := _RATE.fullmatch(value.strip())):
        rate = float(match[1]) / _PER_S[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        rate = float(value)
    else:
        raise ValueError(RATE_PHRASE)
    if not 0.0 < rate < math.inf:
        raise ValueError(RATE_PHRASE)
    return rate


def share(value: object) -> float:
    """A share as a fraction, written `5%` or `0.05`; raises ValueError."""
    if isinstance(value, str) and (match := _SHARE.fullmatch(value.strip())):
        value = float(match[1]) / 100.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise ValueError(SHARE_PHRASE)
    return float(value)


def relative(value: object) -> float:
    """A relative change as a fraction, written `-20%` or `-0.2`; raises ValueError."""
    if isinstance(value, str) and (match := _SIGNED.fullmatch(value.strip())):
        value = float(match[1]) / 100.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1.0 <= value < 1e6:
        raise ValueError(RELATIVE_PHRASE)
    return float(value)


def curve(value: object) -> tuple[tuple[Moment, float], ...]:
    """Points of a piecewise linear curve; raises ValueError."""
    if not isinstance(value, list):
        return ((Moment(), _or(CURVE_PHRASE, share, value)),)
    points = []
    for item in value:
        if not isinstance(item, list) or len(item) != 2:
            raise ValueError(CURVE_PHRASE)
        points.append((_or(CURVE_PHRASE, _moment, item[0]), _or(CURVE_PHRASE, share, item[1])))
    if not points or len({moment.share is None for moment, _ in points}) > 1:
        raise ValueError(f"{CURVE_PHRASE}; all moments durations, or all shares of the run")
    places = [(moment.share or 0.0, moment.seconds) for moment, _ in points]
    if places != sorted(set(places)):
        raise ValueError(CURVE_PHRASE)
    return tuple(points)


def _moment(value: object) -> Moment:
    if isinstance(value, str) and _SHARE.fullmatch(value):
        return Moment(share=share(value))
    return Moment(seconds=duration_s(value))


def _or(phrase: str, read: Callable[[object], Value], value: object) -> Value:
    try:
        return read(value)
    except ValueError as exc:
        raise ValueError(phrase) from exc


def _moment_phrase(whole: str) -> str:
    return f"a duration such as 10m, or a share of {whole}, such as 30%"


def moment_of(whole: str) -> BeforeValidator:
    """Reads a moment that may be a share of `whole`."""
    phrase = _moment_phrase(whole)

    def read(value: object) -> object:
        return value if isinstance(value, Moment) else _or(phrase, _moment, value)

    return BeforeValidator(read)


def parsed(read: Callable[[object], float], text: str, name: str) -> float:
    """The value of an option of the command line.

    Raises:
        QuantityError: with the option's `name`, what was found and what was expected.
    """
    try:
        return read(_number_or_text(text))
    except ValueError as exc:
        raise QuantityError(f"{name}: found {text!r}, expected {exc}") from exc


def _number_or_text(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _titled(phrase: str) -> WithJsonSchema:
    """What may stand there, for the reference page and for errors."""
    return WithJsonSchema({"title": phrase})


Rate: TypeAlias = Annotated[float, BeforeValidator(rate_per_s), _titled(RATE_PHRASE)]
Relative: TypeAlias = Annotated[float, BeforeValidator(relative), _titled(RELATIVE_PHRASE)]
Curve: TypeAlias = Annotated[
    tuple[tuple[Moment, float], ...],
    BeforeValidator(lambda value: value if isinstance(value, tuple) else curve(value)),
    _titled(CURVE_PHRASE),
]
_RUN, _WINDOW, _GRACE = "the run", "the attribution window", "the grace"
OfRun: TypeAlias = Annotated[Moment, moment_of(_RUN), _titled(_moment_phrase(_RUN))]
OfWindow: TypeAlias = Annotated[Moment, moment_of(_WINDOW), _titled(_moment_phrase(_WINDOW))]
OfGrace: TypeAlias = Annotated[Moment, moment_of(_GRACE), _titled(_moment_phrase(_GRACE))]
PositiveNumber: TypeAlias = Annotated[
    float, Field(strict=True, gt=0, allow_inf_nan=False, title="a number above 0")
]
