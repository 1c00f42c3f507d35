"""What every object of a policy is: frozen, without unknown fields, and complete in its complaints.

Rules between the fields of one object are checked on what was written, next to the fields
themselves, and added to what pydantic found: pydantic runs a model's own validator only once all
its fields are fine, and an author would meet the faults of a file one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

BROKEN_RULE: Final = "broken_rule"
"""The error type of a rule between fields; its context carries what was `expected`."""


def written(default: object) -> Any:
    """A default in the form in which users write it. `Any`: pydantic turns it into the type."""
    return Field(default=default, validate_default=True)


class Object(BaseModel):
    """One mapping of a policy."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:  # noqa: ARG003
        """What was expected, for each rule between fields that `values`, as written, break."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_faults(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        rules = cls._broken_rules(data) if isinstance(data, dict) else ()
        faults = [broken(expected, data) for expected in rules]
        try:
            model = handler(data)
        except ValidationError as exc:
            raise ValidationError.from_exception_data(
                cls.__name__, [*_again(exc), *faults]
            ) from exc
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return model


def _again(exc: ValidationError) -> Iterator[InitErrorDetails]:
    """The faults of `exc`, in the form from which pydantic makes a new exception."""
    for fault in exc.errors(include_url=False):
        details = InitErrorDetails(type=fault["type"], loc=fault["loc"], input=fault["input"])
        context = fault.get("ctx", {})
        if fault["type"] == BROKEN_RULE:
            details["type"] = PydanticCustomError(BROKEN_RULE, "{expected}", context)
        else:
            details["ctx"] = context
        yield details


def broken(expected: str, value: object, *path: str | int) -> InitErrorDetails:
    """The fault that `value`, at `path` below the field that is validated, breaks a rule."""
    return InitErrorDetails(
        type=PydanticCustomError(BROKEN_RULE, "{expected}", {"expected": expected}),
        loc=path,
        input=value,
    )


def given(values: Mapping[str, object], *names: str) -> int:
    """How many of the fields were written with a value."""
    return sum(values.get(name) is not None for name in names)
