"""What brings a version in beside the one that serves, takes it out, or makes it the only one."""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.model import Version
from controller.deploy.fields import named
from controller.deploy.inference.seen import Serving, Staged, serving
from controller.deploy.inference.wishes import beside, require_usable, with_percent, with_uri
from controller.deploy.objects import Object
from controller.deploy.plan import Patch
from controller.errors import Permanent, Retryable


def stage(found: Object, arm: str, champion: str, versions: Mapping[str, Version]) -> Patch | None:
    """What brings a version in beside the one that serves, without traffic."""
    now = serving(found)
    require_usable(found, now)
    latest = now.latest(champion)
    if arm == latest and not now.is_restoring:
        return None
    before = _before(found, now, champion)
    if arm == before[0]:
        return None
    uri = _uri(found, arm, now, versions)
    if now.percent and now.share(now.created):
        raise Retryable(f"{named(found)}: {latest} still gets {now.share(now.created)} %")
    return with_uri(found, now, latest=(arm, uri), before=before)


def restore(found: Object, arm: str, champion: str) -> Patch | None:
    """What takes a version out again; in two steps, the second when the champion's is ready."""
    now = serving(found)
    if now.staged is None or now.percent is None:
        return None
    require_usable(found, now)
    if now.is_restoring:
        return _settled(found, now, now.staged)
    if now.staged.latest != arm:
        return None
    if arm == champion:
        raise Permanent(f"{arm} is the champion: it is not taken out")
    before = now.staged.before, now.staged.before_uri
    if now.is_seen and (now.percent or now.share(now.created)):
        raise Retryable(f"{named(found)}: {arm} still gets {now.share(now.created)} %")
    return with_uri(found, now, latest=before, before=before)


def promote(found: Object, arm: str, champion: str) -> Patch | None:
    """What makes a version the only one: P goes."""
    now = serving(found)
    require_usable(found, now)
    latest = now.latest(champion)
    if latest != arm:
        raise Permanent(f"{named(found)} serves {latest}: {arm} cannot become the only version")
    staged = beside(found, now)
    return None if staged is None else _settled(found, now, staged)


def _settled(found: Object, now: Serving, staged: Staged) -> Patch:
    """What removes P, once the newest revision can have everything."""
    if not now.is_ready:
        raise Retryable(
            f"{named(found)}: the revision of {staged.latest} is not ready; it gets "
            f"{now.percent} % until then"
        )
    if not now.is_restoring and now.share(now.created) != 100:
        raise Retryable(
            f"{named(found)}: {staged.latest} gets {now.share(now.created)} %, not yet 100 %"
        )
    return with_percent(found, staged, None, "none")


def _before(found: Object, now: Serving, champion: str) -> tuple[str, str]:
    """The arm that goes on serving beside a new one, and its URI."""
    staged = beside(found, now)
    if staged is None:
        assert now.uri is not None
        if not (now.is_ready and now.rolled_out == now.created):
            raise Retryable(
                f"{named(found)}: its newest revision {now.created!r} is not rolled out yet; "
                "beside it, a new version would get everything"
            )
        return now.latest(champion), now.uri
    if not now.is_seen:
        raise Retryable(f"{named(found)}: KServe has not yet taken up {staged.latest}")
    return staged.before, staged.before_uri


def _uri(found: Object, arm: str, now: Serving, versions: Mapping[str, Version]) -> str:
    known = versions[arm].uri if arm in versions else None
    if known is None and now.staged is not None and now.staged.before == arm:
        known = now.staged.before_uri
    if known is None:
        raise Permanent(
            f"{named(found)}: {arm} has no uri: register it with one, KServe loads nothing else"
        )
    return known
