"""What may be written of an InferenceService, and what is: all that we own, by one apply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from controller.deploy.claims import dotted, field_taken, head, takes, writers
from controller.deploy.fields import Field, named
from controller.deploy.inference.seen import PERCENT, STAGED, STORAGE, Serving, Staged
from controller.deploy.objects import Object
from controller.deploy.plan import Patch
from controller.deploy.words import FIELDS
from controller.errors import Conflict, Permanent, Retryable

_FIELDS: Final = (STORAGE, PERCENT)
_REMEDY: Final = (
    "Take the field out of what it applies (docs/kserve.md), or let Understudy have the "
    "InferenceService"
)
_SPLITTING: Final = frozenset({"Knative", "Serverless", ""})
"""Deployment modes that know canaryTrafficPercent; "": KServe has not said which it is."""


def require_usable(found: Object, now: Serving) -> None:
    """Raises `Permanent` where P means nothing, `Conflict` where the URI is not the one staged."""
    if now.mode not in _SPLITTING:
        raise Permanent(
            f"{named(found)} runs in {now.mode} mode, in which KServe ignores {dotted(PERCENT)}: "
            "annotate it with serving.kserve.io/deploymentMode: Knative, or use deploy.kubernetes"
        )
    if now.uri is None:
        raise Permanent(f"{named(found)} has no {dotted(STORAGE)}: versions are told apart by it")
    if now.staged is not None and now.uri != now.staged.uri:
        raise Conflict(
            f"{named(found)}: {dotted(STORAGE)} was changed to {now.uri} by "
            f"{writers(found, STORAGE)}; Understudy wants {now.staged.uri}, which is "
            f"{now.staged.latest}"
        )


def beside(found: Object, now: Serving) -> Staged | None:
    """Which arms there are while there is a P; None where the latest is the only one.

    Raises `Conflict` where somebody else wrote P.
    """
    if now.percent is None:
        return None
    if now.staged is None:
        raise Conflict(
            f"{named(found)}: {dotted(PERCENT)} is {now.percent} and was written by "
            f"{writers(found, PERCENT)}: end that rollout first, or remove the field"
        )
    return now.staged


def with_uri(
    found: Object, now: Serving, *, latest: tuple[str, str], before: tuple[str, str]
) -> Patch:
    """What makes an arm, with its URI, the latest, without traffic; `before` goes on serving."""
    if not now.is_seen:
        raise Retryable(f"{named(found)}: KServe has not yet taken up {now.uri}")
    made = Staged(*latest, *before, after=now.created)
    wants = f"{latest[0]} at {latest[1]}"
    forced = [takes(found, field, wants, _REMEDY) for field in _FIELDS]
    return Patch(_body(found, made, 0, noted=_FIELDS), any(forced))


def with_percent(found: Object, staged: Staged, percent: int | None, wants: str) -> Patch:
    """What writes P, or removes it. `wants` says what for, should somebody else have written it."""
    is_forced = takes(found, PERCENT, wants, _REMEDY)
    return Patch(_body(found, staged, percent), is_forced)


def _body(
    found: Object,
    staged: Staged,
    percent: int | None,
    *,
    noted: Sequence[Field] = (),
) -> Object:
    """All that we own of an InferenceService: what is left out of an apply is removed."""
    noted = noted or [field for field in _FIELDS if field_taken(found, field)]
    notes = {STAGED: msgspec.json.encode(staged).decode()}
    if noted:
        notes[FIELDS] = ",".join(sorted(dotted(field) for field in noted))
    body = head(found)
    body["metadata"]["annotations"] = notes
    predictor: Object = {"model": {"storageUri": staged.uri}}
    if percent is not None:
        predictor["canaryTrafficPercent"] = percent
    body["spec"] = {"predictor": predictor}
    return body
