"""Whose a field is, for targets that write few fields and always the same ones. Pure.

The rules are those of `plan.py`: what somebody `apply`s is theirs; what was only written once is
taken over, once; what is taken back after that is theirs again. Whoever loses is told, in words.
Only the note, `understudy.dev/fields`, is made with the first write, whether or not the field was
anybody's: a split that somebody changes in mid-ramp is never changed back.
"""

from __future__ import annotations

from controller.deploy.fields import Field, is_us, named, value
from controller.deploy.fields import owners as owners_of
from controller.deploy.objects import Object
from controller.deploy.words import FIELDS
from controller.errors import Conflict


def takes(found: Object, field: Field, wanted: str, remedy: str) -> bool:
    """Whether the field is to be taken from others.

    wanted  the value, for people
    remedy  what whoever applies the field may do about it

    Raises `Conflict` where it is not ours to take.
    """
    owners = list(owners_of(found, field))
    others = [each for each in owners if not is_us(each)]
    held = [each["manager"] for each in others if each.get("operation") == "Apply"]
    if held:
        raise Conflict(
            f"{named(found)}: {dotted(field)} is applied by {held[0]!r}; Understudy wants "
            f"{wanted}. {remedy}"
        )
    if others and len(others) == len(owners) and field_taken(found, field):
        raise Conflict(
            f"{named(found)}: {dotted(field)} was changed by {others[0]['manager']!r} after "
            f"Understudy had it; Understudy wants {wanted}. Remove the annotation "
            f"{FIELDS} to hand it over again"
        )
    # Of what nobody is noted to own, the API server makes a writer "before-first-apply".
    return bool(others) or (not owners and value(found, field) is not None)


def writers(found: Object, field: Field) -> str:
    """Who else wrote a field, for people."""
    names = sorted({each["manager"] for each in owners_of(found, field) if not is_us(each)})
    return ", ".join(repr(name) for name in names) or "somebody"


def field_taken(found: Object, field: Field) -> bool:
    """Whether the field is noted as ours."""
    note = value(found, ("metadata", "annotations", FIELDS))
    return dotted(field) in str(note or "").split(",")


def dotted(field: Field) -> str:
    """A field for people: `spec.rules`."""
    return ".".join(field)


def head(found: Object) -> Object:
    """The beginning of an apply to this very object, and only as it was seen."""
    names = ("name", "namespace", "uid", "resourceVersion")
    meta = {name: found["metadata"][name] for name in names}
    return {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": meta}
