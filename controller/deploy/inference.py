"""What an InferenceService of KServe says and is to say. Pure.

KServe (0.19) with Knative serves one InferenceService from at most two revisions:

    latest      made of the spec as it is, so of `predictor.model.storageUri`
    rolled out  the last one that had all the traffic (`latestRolledoutRevision`)

`canaryTrafficPercent` P is the share of the latest; the rolled out one gets the rest. Its states,
with the champion v1 and the candidate v2, and what moves it from one to the next:

    state      storageUri  P       traffic          comes from
    resting    v1          none    v1 100           the beginning; settling; PointService
    staging    v2          0       v1 100           Scale(v2, n): the revision is not ready yet
    staged     v2          0       v1 100           its revision is ready
    splitting  v2          p       v1 100-p, v2 p   SetSplit
    full       v2          100     v2 100           SetSplit; now v2 is the rolled out one
    resting    v2          none    v2 100           PointService(v2)
    restoring  v1          0       v1 100           Scale(v2, 0) after the split went back to v1
    resting    v1          none    v1 100           its new revision is ready: settled

What KServe does, and what follows for us:

- Without P, and also with it while nothing was ever rolled out, the latest *ready* revision gets
  everything. So a URI is only ever written together with P = 0, never before something was rolled
  out, and P is only removed when the newest revision is ready: in `restoring`, before that, the
  latest ready one is the rejected candidate.
- Every label and annotation of an InferenceService is copied into the revision's template, so that
  writing one starts new pods. Roles are therefore not written at all. Our one annotation, `STAGED`,
  is written with each new URI, which makes a revision anyway, and says which arms there are.
- `status.observedGeneration` is that of the Knative Service below, not of the InferenceService:
  it proves nothing. A revision is of the present URI when it is not `after`, which was the latest
  when the URI was written, and nothing is written anew before such a revision was seen.
- After P = 100 KServe takes the candidate for the rolled out one. Going back takes it two passes:
  in the first, both entries of `traffic` name the candidate. So shares are summed by revision.
- In Standard (RawDeployment) mode P is ignored, and traffic follows the URI at once: refused.

What it cannot do at all, the policy's schema refuses: two candidates, parts of a percent, shadow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from controller.core.model import Split, Version, weights_sentence
from controller.deploy.carrying import Standing
from controller.deploy.claims import dotted, field_taken, head, takes, writers
from controller.deploy.client import Object
from controller.deploy.plan import Field, Patch, named, value
from controller.deploy.target import FoundArm
from controller.deploy.words import FIELDS
from controller.errors import Conflict, Permanent, Retryable

STAGED: Final = "understudy.dev/staged"
"""Annotation: which arm the storageUri is, and which one served before it, as JSON."""

STORAGE: Final[Field] = ("spec", "predictor", "model", "storageUri")
PERCENT: Final[Field] = ("spec", "predictor", "canaryTrafficPercent")

_FIELDS: Final = (STORAGE, PERCENT)
_REMEDY: Final = (
    "Take the field out of what it applies (docs/kserve.md), or let Understudy have the "
    "InferenceService"
)
_SPLITTING: Final = frozenset({"Knative", "Serverless", ""})
"""Deployment modes that know canaryTrafficPercent; "": KServe has not said which it is."""

_BASIS: Final = 10_000


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


# --- splits -------------------------------------------------------------------------------------


def percent_patch(found: Object, model: str, split: Split) -> Patch | None:
    """What gives each arm its share; None where the spec says so already."""
    now = serving(found)
    wanted = wanted_percent(found, now, model, split)
    if wanted == now.percent:
        return None
    assert now.staged is not None
    sentence = f"{model}: {weights_sentence(split.weights)}"
    is_forced = takes(found, PERCENT, sentence, _REMEDY)
    return Patch(_body(found, now.staged, wanted, strict=is_forced), is_forced)


def wanted_percent(found: Object, now: Serving, model: str, split: Split) -> int | None:
    """The P that carries a split.

    Raises `Retryable` while an arm with weight is none of the two that are there, `Permanent` for a
    share that is no whole percent.
    """
    given = {arm: weight for arm, weight in split.weights.items() if weight > 0}
    latest = now.latest(split.champion)
    _check(found, now)
    if now.percent is None or now.staged is None or now.is_restoring:
        if now.percent is not None and now.staged is None:
            raise Conflict(
                f"{named(found)}: {dotted(PERCENT)} is {now.percent} and was written by "
                f"{writers(found, PERCENT)}: end that rollout first, or remove the field"
            )
        here = {latest}
        wanted = now.percent
    else:
        here = {latest, now.staged.before}
        weight = given.get(latest, 0)
        if weight % 100:
            raise Permanent(
                f"{model}: KServe carries whole percents, and {latest} is to get {weight / 100:g} %"
            )
        wanted = weight // 100
    if absent := sorted(set(given) - here):
        raise Retryable(
            f"{named(found)} serves {' and '.join(sorted(here))} and not yet {', '.join(absent)}"
        )
    return wanted


def _check(found: Object, now: Serving) -> None:
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


def standing(found: Object | None, where: str, model: str, split: Split) -> Standing:
    """Whether the split is what the spec says and what KServe does."""
    if found is None:
        return Standing("changed", f"{where} is not there")
    try:
        now = serving(found)
        wanted = wanted_percent(found, now, model, split)
    except Retryable as exc:
        return Standing("waiting", str(exc))
    except Permanent as exc:
        return Standing("changed", str(exc))
    if wanted != now.percent:
        return Standing(
            "changed",
            f"{where}: {dotted(PERCENT)} is {now.percent} and not {wanted}; it was written by "
            f"{writers(found, PERCENT)}",
        )
    return _said(now, where)


def _said(now: Serving, where: str) -> Standing:
    """What KServe does of what its spec says."""
    if _is_in_force(now):
        return Standing("in force")
    if now.failure:
        return Standing("refused", f"{where}: KServe says {now.failure}")
    seen = ", ".join(f"{name} {share} %" for name, share in sorted(now.traffic.items()))
    return Standing("waiting", f"{where}: KServe has not yet moved the traffic: {seen or 'none'}")


def _is_in_force(now: Serving) -> bool:
    if sum(now.traffic.values()) != 100:
        return False
    if now.percent is None:
        return now.is_ready and now.share(now.created) == 100
    assert now.staged is not None
    if now.is_restoring:
        return now.share(now.staged.after) == 0
    return now.is_seen and now.share(now.created) == now.percent


# --- orders -------------------------------------------------------------------------------------


def stage(found: Object, arm: str, champion: str, versions: Mapping[str, Version]) -> Patch | None:
    """What brings a version in beside the one that serves, without traffic."""
    now = serving(found)
    _check(found, now)
    latest = now.latest(champion)
    if arm == latest and not now.is_restoring:
        return None
    before = _before(found, now, champion)
    if arm == before[0]:
        return None
    uri = _uri(found, arm, now, versions)
    if now.percent and now.share(now.created):
        raise Retryable(f"{named(found)}: {latest} still gets {now.share(now.created)} %")
    return _written(found, now, latest=(arm, uri), before=before)


def restore(found: Object, arm: str, champion: str) -> Patch | None:
    """What takes a version out again; in two steps, the second when the champion's is ready."""
    now = serving(found)
    if now.staged is None or now.percent is None:
        return None
    _check(found, now)
    if now.is_restoring:
        return _settled(found, now)
    if now.staged.latest != arm:
        return None
    if arm == champion:
        raise Permanent(f"{arm} is the champion: it is not taken out")
    before = now.staged.before, now.staged.before_uri
    if now.is_seen and (now.percent or now.share(now.created)):
        raise Retryable(f"{named(found)}: {arm} still gets {now.share(now.created)} %")
    return _written(found, now, latest=before, before=before)


def promote(found: Object, arm: str, champion: str) -> Patch | None:
    """What makes a version the only one: P goes."""
    now = serving(found)
    _check(found, now)
    latest = now.latest(champion)
    if latest != arm:
        raise Permanent(f"{named(found)} serves {latest}: {arm} cannot become the only version")
    return None if now.percent is None else _settled(found, now)


def _settled(found: Object, now: Serving) -> Patch:
    assert now.staged is not None
    if not now.is_ready:
        raise Retryable(
            f"{named(found)}: the revision of {now.staged.latest} is not ready; it gets "
            f"{now.percent} % until then"
        )
    if not now.is_restoring and now.share(now.created) != 100:
        raise Retryable(
            f"{named(found)}: {now.staged.latest} gets {now.share(now.created)} %, not yet 100 %"
        )
    is_forced = takes(found, PERCENT, "none", _REMEDY)
    return Patch(_body(found, now.staged, None, strict=is_forced), is_forced)


def _before(found: Object, now: Serving, champion: str) -> tuple[str, str]:
    """The arm that goes on serving beside a new one, and its URI."""
    assert now.uri is not None
    if now.percent is not None and now.staged is None:
        raise Conflict(
            f"{named(found)}: {dotted(PERCENT)} is {now.percent} and was written by "
            f"{writers(found, PERCENT)}: end that rollout first, or remove the field"
        )
    if now.percent is None:
        if not (now.is_ready and now.rolled_out == now.created):
            raise Retryable(
                f"{named(found)}: its newest revision {now.created!r} is not rolled out yet; "
                "beside it, a new version would get everything"
            )
        return now.latest(champion), now.uri
    assert now.staged is not None
    if not now.is_seen:
        raise Retryable(f"{named(found)}: KServe has not yet taken up {now.staged.latest}")
    return now.staged.before, now.staged.before_uri


def _uri(found: Object, arm: str, now: Serving, versions: Mapping[str, Version]) -> str:
    known = versions[arm].uri if arm in versions else None
    if known is None and now.staged is not None and now.staged.before == arm:
        known = now.staged.before_uri
    if known is None:
        raise Permanent(
            f"{named(found)}: {arm} has no uri: register it with one, KServe loads nothing else"
        )
    return known


def _written(
    found: Object, now: Serving, *, latest: tuple[str, str], before: tuple[str, str]
) -> Patch:
    if not now.is_seen:
        raise Retryable(f"{named(found)}: KServe has not yet taken up {now.uri}")
    made = Staged(*latest, *before, after=now.created)
    wants = f"{latest[0]} at {latest[1]}"
    forced = [takes(found, field, wants, _REMEDY) for field in _FIELDS]
    return Patch(_body(found, made, 0, strict=True, noted=_FIELDS), any(forced))


def _body(
    found: Object,
    staged: Staged,
    percent: int | None,
    *,
    strict: bool,
    noted: Sequence[Field] = (),
) -> Object:
    """All that we own of an InferenceService: what is left out of an apply is removed."""
    noted = noted or [field for field in _FIELDS if field_taken(found, field)]
    notes = {STAGED: msgspec.json.encode(staged).decode()}
    if noted:
        notes[FIELDS] = ",".join(sorted(dotted(field) for field in noted))
    body = head(found, strict=strict)
    body["metadata"]["annotations"] = notes
    predictor: Object = {"model": {"storageUri": staged.uri}}
    if percent is not None:
        predictor["canaryTrafficPercent"] = percent
    body["spec"] = {"predictor": predictor}
    return body


# --- arms ---------------------------------------------------------------------------------------


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
