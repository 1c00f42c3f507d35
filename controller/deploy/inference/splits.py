"""What carries a split by an InferenceService, and how the one that is wanted stands."""

from __future__ import annotations

from controller.core.model import Split, weights_sentence
from controller.deploy.claims import dotted, writers
from controller.deploy.fields import named
from controller.deploy.inference.seen import PERCENT, Serving, serving
from controller.deploy.inference.wishes import beside, require_usable, with_percent
from controller.deploy.objects import Object
from controller.deploy.plan import Patch
from controller.deploy.target import Standing
from controller.errors import Permanent, Retryable


def percent_patch(found: Object, model: str, split: Split) -> Patch | None:
    """What gives each arm its share; None where the spec says so already."""
    now = serving(found)
    wanted = wanted_percent(found, now, model, split)
    if wanted == now.percent:
        return None
    assert now.staged is not None
    sentence = f"{model}: {weights_sentence(split.weights)}"
    return with_percent(found, now.staged, wanted, sentence)


def wanted_percent(found: Object, now: Serving, model: str, split: Split) -> int | None:
    """The P that carries a split.

    Raises `Retryable` while an arm with weight is none of the two that are there, `Permanent` for a
    share that is no whole percent.
    """
    given = {arm: weight for arm, weight in split.weights.items() if weight > 0}
    latest = now.latest(split.champion)
    require_usable(found, now)
    staged = beside(found, now)
    if staged is None or now.is_restoring:
        here, wanted = {latest}, now.percent
    else:
        here, wanted = {latest, staged.before}, _whole(model, latest, given.get(latest, 0))
    if absent := sorted(set(given) - here):
        raise Retryable(
            f"{named(found)} serves {' and '.join(sorted(here))} and not yet {', '.join(absent)}"
        )
    return wanted


def _whole(model: str, arm: str, weight: int) -> int:
    """A weight as a percent."""
    if weight % 100:
        raise Permanent(
            f"{model}: KServe carries whole percents, and {arm} is to get {weight / 100:g} %"
        )
    return weight // 100


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
