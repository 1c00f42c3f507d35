"""A RolloutPolicy as the API server keeps it -> the policy, as `parse` reads it from a file. Pure.

The object's spec is written out as YAML again and parsed like any file, so that the same document
has the same digest on a laptop and in a cluster, and the ledger keeps a text that people can read.
Not as JSON: `1e-07` is a number in JSON and text in YAML. Of the metadata only name and namespace
are taken; the rest is Kubernetes' own.

The API server drops fields that its schema does not know. `kubectl apply` asks it to refuse them
instead, and so does whoever sends `fieldValidation=Strict`; who does not gets a warning at most.
So what `kubectl apply` has noted of the document is compared with what was kept of it: a field that
got lost on the way is a fault, as it is in a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import yaml

from controller.core.model import Json
from controller.core.policy import API_VERSION, KIND, Policy, parse, validated
from controller.core.policy.crd import as_meant
from controller.deploy.objects import Object
from controller.errors import PolicyError

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

_WIDTH: Final = 100
_DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""In C where it is there: a tenth of the time."""


def source(namespace: str, name: str) -> str:
    """How errors and logs name the object."""
    return f"{KIND} {namespace}/{name}"


def text_of(found: Object) -> str:
    """The document of an object, as a policy file says it."""
    return _written(_document(found["metadata"], found.get("spec")))


def policy_of(found: Object) -> Policy:
    """The policy of an object.

    Raises:
        PolicyError: with every fault, each named by its field; positions would mean nothing.
    """
    meta = found["metadata"]
    document = _document(meta, found.get("spec"))
    name = source(meta["namespace"], meta["name"])
    policy = validated(document) or _parsed(document, name)
    lost = lost_fields(found)
    if lost:
        _parsed(_document(meta, _last_applied(found)), name, only=frozenset(lost))
    return policy


def lost_fields(found: Object) -> list[str]:
    """Fields that were applied and that the API server dropped, as paths.

    None when somebody has changed the object since: then what was applied is not what counts.
    """
    applied = _last_applied(found)
    if not isinstance(applied, dict):
        return []
    differences = list(_differences(applied, found.get("spec"), "spec"))
    return (
        [path for path, is_lost in differences if is_lost]
        if all(is_lost for _, is_lost in differences)
        else []
    )


def _document(meta: Object, spec: Json) -> dict[str, Json]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {key: meta[key] for key in ("name", "namespace") if key in meta},
        "spec": as_meant(spec),
    }


def _written(document: Json) -> str:
    text: str = yaml.dump(
        document, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=_WIDTH
    )
    return text


def _parsed(document: Json, name: str, *, only: frozenset[str] = frozenset()) -> Policy:
    try:
        return parse(_written(document), name)
    except PolicyError as exc:
        problems = tuple(
            replace(problem, line=None, column=None)
            for problem in exc.problems
            if not only or problem.path in only
        )
        raise PolicyError(name, problems or exc.problems) from exc


def _last_applied(found: Object) -> Json:
    text = (found["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    try:
        document = json.loads(text) if text else None
    except (ValueError, RecursionError):  # nested without end: anybody may annotate
        return None
    return document.get("spec") if isinstance(document, dict) else None


def _differences(applied: Json, kept: Json, path: str) -> Iterator[tuple[str, bool]]:
    """Where the two differ, and whether it is only that a field was lost."""
    if isinstance(applied, dict) and isinstance(kept, dict):
        for key in sorted(applied.keys() | kept.keys()):
            below = f"{path}.{key}"
            if key not in kept:
                if applied[key] is not None:  # the API server drops null: as if left out
                    yield below, True
            elif key not in applied:
                yield below, False
            else:
                yield from _differences(applied[key], kept[key], below)
    elif isinstance(applied, list) and isinstance(kept, list) and len(applied) == len(kept):
        for index, (one, other) in enumerate(zip(applied, kept, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif applied != kept:
        yield path, False
