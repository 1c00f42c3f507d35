"""A split -> the rules of an HTTPRoute, and whether the gateway carries them. Pure.

A rule belongs to a model when it sends to the model's own Service or to its arms' Services. Of
such a rule only the backends are rewritten; of all other rules, nothing:

    as its owner wrote it    backendRefs: [digits]
    with a split             backendRefs: [arm-digits-v1 9500, arm-digits-v2 500]

Each backend says by headers, to the model and to the caller, which arm answers and with which
epoch, so that whoever reports exposures knows both. They also tell our backends from others: a
backend is ours when its name is that of the arm that its header names. Filters that the owner's
backend had (another header, a rewrite) are kept for every arm.

An arm without weight is no backend at all: some gateways have rounded 0 to something else. Shadow
traffic is a RequestMirror filter of the rule for each arm that is mirrored to; every mirror to a
Service named `arm-…` is taken for ours.

What is refused: a rule that also sends to a backend that is none of the model's, for then weights
would be shares of a share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controller.core.model import Split, weights_sentence
from controller.deploy.claims import dotted, head, takes, writers
from controller.deploy.fields import Field, named, value
from controller.deploy.found import Key
from controller.deploy.objects import Object
from controller.deploy.plan import Patch
from controller.deploy.target import Standing
from controller.deploy.words import FIELDS, service_name
from controller.errors import Permanent
from controller.router.snapshot import RoutedModel

ARM_HEADER: Final = "x-understudy-arm"
EPOCH_HEADER: Final = "x-understudy-epoch"

RULES: Final[Field] = ("spec", "rules")

_BASIS: Final = 10_000
_STAMPED: Final = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
}
_CONDITIONS: Final = {"Accepted": "True", "ResolvedRefs": "True", "PartiallyInvalid": "False"}
_OURS: Final = frozenset({ARM_HEADER, EPOCH_HEADER})
_REMEDY: Final = (
    "Let it apply the route without these rules, or give the model a route of its own that only "
    "kubectl creates (docs/gateway-api.md)"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a route is to say of one model.

    key        namespace and name of the HTTPRoute
    service    the model's own Service, which its owner's rule names at first
    namespace  of the Services, where it is not the route's
    """

    model: str
    key: Key
    service: str
    port: int
    namespace: str | None
    split: Split
    arms: tuple[str, ...]


def wanted(model: RoutedModel) -> Wanted:
    """What a model's policy and split ask for. The policy has `deploy.gateway`."""
    deploy = model.deploy
    assert deploy is not None
    assert deploy.gateway is not None
    assert deploy.kubernetes is not None
    namespace = deploy.gateway.namespace or model.namespace
    return Wanted(
        model=model.name,
        key=(namespace, deploy.gateway.route),
        service=deploy.kubernetes.service,
        port=deploy.gateway.service_port or deploy.kubernetes.port,
        namespace=model.namespace if model.namespace != namespace else None,
        split=model.split,
        arms=model.arms(),
    )


def patch(found: Object, want: Wanted) -> Patch | None:
    """What makes the route carry the split; None where its rules say so already.

    Raises `Conflict` where the rules are somebody else's, `Permanent` where none is the model's.
    """
    rules = _rules(found, want)
    if rules == found["spec"].get("rules"):
        return None
    sentence = weights_sentence(want.split.weights)
    is_forced = takes(found, RULES, f"{want.model}: {sentence}", _REMEDY)
    body = head(found)
    body["metadata"]["annotations"] = {FIELDS: dotted(RULES)}
    body["spec"] = {"rules": rules}
    return Patch(body, is_forced)


def standing(found: Object | None, want: Wanted) -> Standing:
    """Whether the route says what is wanted, and all its parents have accepted that."""
    where = f"HTTPRoute {want.key[0]}/{want.key[1]}"
    if found is None:
        return Standing("changed", f"{where} is not there")
    try:
        is_so = _rules(found, want) == found["spec"].get("rules")
    except Permanent as exc:
        return Standing("changed", str(exc))
    if not is_so:
        return Standing(
            "changed",
            f"{where}: spec.rules does not say {weights_sentence(want.split.weights)} of epoch "
            f"{want.split.epoch}; it was written by {writers(found, RULES)}",
        )
    return _accepted(found)


# --- rules --------------------------------------------------------------------------------------


def _rules(found: Object, want: Wanted) -> list[Object]:
    rules: list[Object] = found["spec"].get("rules") or []
    own = [_belongs(rule, want, f"{named(found)}, rule {i}") for i, rule in enumerate(rules)]
    if not any(own):
        raise Permanent(
            f"{named(found)} has no rule for {want.model}: write one whose only backend is the "
            f"Service {want.service}"
        )
    return [
        _rewritten(rule, want) if is_own else rule for rule, is_own in zip(rules, own, strict=True)
    ]


def _belongs(rule: Object, want: Wanted, where: str) -> bool:
    backends = rule.get("backendRefs") or []
    own = [_is_own(each, want) for each in backends]
    if any(own) and not all(own):
        others = [each["name"] for each, is_own in zip(backends, own, strict=True) if not is_own]
        raise Permanent(
            f"{where} sends to {', '.join(others)} beside the Services of {want.model}: weights "
            "would be shares of a share. Give the model a rule of its own"
        )
    return any(own)


def _is_own(backend: Object, want: Wanted) -> bool:
    if backend.get("kind", "Service") != "Service" or backend.get("group"):
        return False
    arms = {*want.arms, *_stamped_arms(backend)}
    names = {want.service} | {service_name(want.model, arm) for arm in arms}
    return backend["name"] in names


def _stamped_arms(backend: Object) -> Iterable[str]:
    for each in backend.get("filters") or []:
        for header in each.get("requestHeaderModifier", {}).get("set") or []:
            if header["name"] == ARM_HEADER:
                yield header["value"]


def _rewritten(rule: Object, want: Wanted) -> Object:
    theirs = _theirs(rule["backendRefs"][0].get("filters") or [])
    backends = [
        {
            **_reference(want, arm),
            "weight": weight,
            "filters": _stamped(theirs, {ARM_HEADER: arm, EPOCH_HEADER: str(want.split.epoch)}),
        }
        for arm, weight in sorted(want.split.weights.items())
        if weight > 0
    ]
    filters = [each for each in rule.get("filters") or [] if not _is_our_mirror(each)]
    filters += [
        {
            "type": "RequestMirror",
            "requestMirror": {
                "backendRef": _reference(want, arm),
                "fraction": {"numerator": share, "denominator": _BASIS},
            },
        }
        for arm, share in sorted(want.split.mirror.items())
        if share > 0
    ]
    rest = {name: v for name, v in rule.items() if name not in {"backendRefs", "filters"}}
    return rest | {"backendRefs": backends} | ({"filters": filters} if filters else {})


def _reference(want: Wanted, arm: str) -> Object:
    """An arm's Service, with everything that the API server would add."""
    reference = {
        "group": "",
        "kind": "Service",
        "name": service_name(want.model, arm),
        "port": want.port,
    }
    return reference | ({"namespace": want.namespace} if want.namespace else {})


def _is_our_mirror(given: Object) -> bool:
    backend = given.get("requestMirror", {}).get("backendRef", {})
    return str(backend.get("name", "")).startswith("arm-")


def _theirs(filters: Sequence[Object]) -> list[Object]:
    """A backend's filters without our headers; a modifier that holds nothing else is dropped."""
    kept = []
    for each in filters:
        key = _STAMPED.get(each["type"])
        if key is None:
            kept.append(each)
            continue
        headers = [h for h in each[key].get("set") or [] if h["name"].lower() not in _OURS]
        rest = {name: v for name, v in each[key].items() if name != "set"}
        modifier = rest | ({"set": headers} if headers else {})
        if modifier:
            kept.append({**each, key: modifier})
    return kept


def _stamped(theirs: Sequence[Object], headers: Mapping[str, str]) -> list[Object]:
    """Filters that also set our headers; a kind of modifier may stand there only once."""
    ours = [{"name": name, "value": v} for name, v in headers.items()]
    by_type: dict[str, Any] = {each["type"]: each for each in theirs}
    stamped = []
    for kind, key in _STAMPED.items():
        modifier = by_type.get(kind, {}).get(key, {})
        stamped.append(
            {"type": kind, key: {**modifier, "set": [*(modifier.get("set") or []), *ours]}}
        )
    return [each for each in theirs if each["type"] not in _STAMPED] + stamped


# --- parents ------------------------------------------------------------------------------------


def _accepted(found: Object) -> Standing:
    """What the controllers of the route's parents say of this generation of it.

    Refused by one is refused. Every parent must have spoken: a gateway whose controller is not
    there routes nothing, or what it was told before.
    """
    parents = value(found, ("spec", "parentRefs")) or []
    said = value(found, ("status", "parents")) or []
    if not parents:
        return Standing("refused", f"{named(found)} has no parentRefs: no gateway carries it")
    verdicts = [_parent(found, each, said) for each in parents]
    for state in ("refused", "waiting"):
        for each in verdicts:
            if each.state == state:
                return each
    return verdicts[0]


def _parent(found: Object, parent: Object, said: Sequence[Object]) -> Standing:
    name = f"{parent.get('kind', 'Gateway')} {parent['name']}"
    entries = [each for each in said if _reference_key(each["parentRef"]) == _reference_key(parent)]
    if not entries:
        return Standing(
            "waiting",
            f"{named(found)}: no controller has said anything of it for {name}; is there one?",
        )
    generation = int(found["metadata"]["generation"])
    verdicts = [_said(found, name, each, generation) for each in entries]
    return next((each for each in verdicts if each.state != "in force"), verdicts[0])


def _said(found: Object, name: str, entry: Object, generation: int) -> Standing:
    """What one controller says.

    A refusal counts as soon as it is about this generation; so does a part that it left out.
    """
    conditions = {each["type"]: each for each in entry.get("conditions") or []}
    for kind, good in _CONDITIONS.items():
        each = conditions.get(kind)
        is_about_it = each is not None and int(each.get("observedGeneration", 0)) >= generation
        if each is not None and is_about_it and each["status"] not in {good, "Unknown"}:
            return Standing(
                "refused",
                f"{named(found)}: {name} refuses it: {kind} is {each['status']}, "
                f"{each.get('reason')}: {each.get('message')}",
            )
        if kind != "PartiallyInvalid" and not (is_about_it and each and each["status"] == good):
            return Standing(
                "waiting", f"{named(found)}: {name} has not yet said {kind} of its newest rules"
            )
    return Standing("in force")


def _reference_key(parent: Object) -> tuple[object, ...]:
    names = ("kind", "namespace", "name", "sectionName", "port")
    return tuple(parent.get(name) or ("Gateway" if name == "kind" else None) for name in names)
