"""What an InferenceService says: its revisions, what they get, and which arms they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from controller.core.model import Version
from controller.deploy.fields import Field, named, value
from controller.deploy.objects import Object
from controller.deploy.target import FoundArm
from controller.errors import Permanent

STAGED: Final = "understudy.dev/staged"
"""Annotation: which arm the storageUri is, and which one served before it, as JSON."""

STORAGE: Final[Field] = ("spec", "predictor", "model", "storageUri")
PERCENT: Final[Field] = ("spec", "predictor", "canaryTrafficPercent")


class Staged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Our annotation.

    latest, uri         the arm that the spec's storageUri is
    before, before_uri  the arm that served when it was written
    after               the revision that was the latest then
    """

    latest: str
    uri: str
    before: str
    before_uri: str
    after: str


@dataclass(frozen=True, slots=True)
class Serving:
    """What matters of an InferenceService.

    traffic  percent by revision
    """

    uri: str | None
    percent: int | None
    staged: Staged | None
    created: str
    ready: str
    rolled_out: str
    traffic: Mapping[str, int]
    mode: str
    failure: str | None

    @property
    def is_seen(self) -> bool:
        """Whether the newest revision is one of the present URI."""
        return bool(self.created) and (self.staged is None or self.created != self.staged.after)

    @property
    def is_ready(self) -> bool:
        """Whether that revision answers."""
        return self.is_seen and self.created == self.ready

    @property
    def is_restoring(self) -> bool:
        """Whether the URI is that of the champion again, and not settled yet."""
        staged = self.staged
        return self.percent is not None and staged is not None and staged.latest == staged.before

    def latest(self, champion: str) -> str:
        """The arm of the present URI; what was never touched by us is the champion."""
        return champion if self.staged is None else self.staged.latest

    def share(self, revision: str) -> int:
        """The percent of traffic that a revision gets."""
        return self.traffic.get(revision, 0)


def serving(found: Object) -> Serving:
    """An InferenceService, read."""
    predictor = value(found, ("status", "components", "predictor")) or {}
    traffic: Counter[str] = Counter()
    for each in predictor.get("traffic") or []:
        traffic[each.get("revisionName", "")] += int(each.get("percent") or 0)
    percent = value(found, PERCENT)
    return Serving(
        uri=value(found, STORAGE),
        percent=None if percent is None else int(percent),
        staged=_staged(found),
        created=predictor.get("latestCreatedRevision", ""),
        ready=predictor.get("latestReadyRevision", ""),
        rolled_out=predictor.get("latestRolledoutRevision", ""),
        traffic=dict(traffic),
        mode=value(found, ("status", "deploymentMode")) or "",
        failure=_failure(value(found, ("status", "modelStatus")) or {}),
    )


def _staged(found: Object) -> Staged | None:
    text = value(found, ("metadata", "annotations", STAGED))
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Staged)
    except (msgspec.DecodeError, msgspec.ValidationError) as exc:
        raise Permanent(
            f"{named(found)}: the annotation {STAGED} was changed and cannot be read ({exc}): "
            "write it back"
        ) from exc


def _failure(status: Object) -> str | None:
    state = status.get("transitionStatus")
    if state not in {"BlockedByFailedLoad", "InvalidSpec"}:
        return None
    info = status.get("lastFailureInfo") or {}
    return f"{state}: {info.get('reason', '')} {info.get('message', '')}".strip()


def arms(now: Serving, champion: str, versions: Mapping[str, Version]) -> dict[str, FoundArm]:
    """The arms as KServe has them. It scales by itself: an arm is there, one of one, or not."""
    names = {champion, *versions}
    found = {
        name: _arm(name, uri=versions[name].uri if name in versions else None) for name in names
    }
    latest = now.latest(champion)
    if now.staged is not None and now.percent is not None:
        before = now.staged.before
        answers = bool(now.rolled_out) or now.is_ready
        found[before] = _arm(before, is_wanted=True, is_ready=answers, uri=now.staged.before_uri)
        if now.is_restoring:
            return found
        found[latest] = _arm(latest, is_wanted=True, is_ready=now.is_ready, uri=now.uri)
        return found
    found[latest] = _arm(latest, is_wanted=True, is_ready=bool(now.ready), uri=now.uri)
    return found


def _arm(
    name: str, *, is_wanted: bool = False, is_ready: bool = False, uri: str | None
) -> FoundArm:
    return FoundArm(name, "known", int(is_ready), int(is_wanted), limit=1, uri=uri)
