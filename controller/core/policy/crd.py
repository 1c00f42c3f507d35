"""The CustomResourceDefinition of `RolloutPolicy`, made from the models that `parse` uses.

    JSON Schema of a policy -> structural schema of OpenAPI v3 -> CRD

Invariant: what `parse` accepts the API server accepts, and keeps as it was meant; what `parse`
refuses, the API server refuses, too, or keeps whole, so that the controller's `parse` refuses it
and says so in a condition. Hence:

- No defaults. The API server would write them into the object on the day on which it was created,
  and a later release's default would mean one thing on a laptop and another in a cluster.
- A share is text or a number, for which a structural schema has no type. It is kept whatever it is
  (`x-kubernetes-preserve-unknown-fields`); bounds on text bind text, and bounds on numbers numbers.
  CEL cannot see such fields.
- `null` is dropped by the API server where a field is not nullable. That is right where `null`
  means "as if left out", and nowhere else: a field with another default is nullable, so that its
  `null` is kept for `parse` to refuse.
- `on` without quotes is `true` to the YAML that kubectl and most tools for clusters read. A field
  of that name is there under both; `as_meant` takes the one for the other.
- Rules between fields are CEL, with the words that `parse` has for them. Lists and texts have
  bounds, else the API server takes a rule's cost for infinite. A pattern has a rule beside it for
  the sake of its words: the API server's own complaint only quotes the expression.

Rejected: a CRD written by hand beside the models (two truths), and one that takes anything below
`spec` (a fault would only show after the object is in).
"""

from __future__ import annotations

import json
from typing import Final, cast

from controller.core.model import Json
from controller.core.policy.crd_rules import ANY_OF, RISING_PAIR, RULES
from controller.core.policy.json_schema import Node, resolve, root
from controller.core.policy.manifest import API_VERSION, KIND, Metadata
from controller.core.policy.status import status_schema
from controller.errors import InvariantError

GROUP, VERSION = API_VERSION.split("/")
PLURAL: Final = "rolloutpolicies"
NAME: Final = f"{PLURAL}.{GROUP}"

_LONGEST_DURATION: Final = 27
_LONGEST_SHARE: Final = 26
_KEPT: Final = (
    *("type", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength"),
    *("minItems", "maxItems"),
)

_ON: Final = "on"
_READ_AS: Final = "true"


_COLUMNS: Final = (
    ("Model", ".status.model", "The model that this policy rolls out, once it is in force."),
    ("Phase", ".status.phase", "Where the rollout is."),
    ("Champion", ".status.champion", "The version that serves when nothing else is decided."),
    ("Candidate", ".status.candidate", "The versions that are in the rollout."),
    ("Step", ".status.step", "The stage, and the step of a canary."),
    ("Weight", ".status.weight", "The candidates' share of the requests."),
    ("Lift", ".status.lift", "The candidate's relative lift over the champion."),
)


def crd() -> dict[str, Json]:
    """The CustomResourceDefinition, as the API server takes it."""
    columns = [
        {"name": name, "type": "string", "jsonPath": path, "description": text}
        for name, path, text in _COLUMNS
    ]
    columns.append({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _document()},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    }
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["rop"],
                "categories": ["understudy"],
            },
            "versions": [version],
        },
    }
    return cast("dict[str, Json]", body)


def as_meant(value: Json) -> Json:
    """A spec as the API server has it, with the names of fields that its author meant.

    Where both names were written both are left, and `parse` refuses the wrong one.
    """
    if isinstance(value, list):
        return [as_meant(item) for item in value]
    if not isinstance(value, dict):
        return value
    is_misread = _READ_AS in value and _ON not in value
    return {
        _ON if is_misread and name == _READ_AS else name: as_meant(item)
        for name, item in value.items()
    }


def _document() -> Node:
    whole = root()
    fields = whole["properties"]
    name = resolve(Metadata.model_json_schema()["properties"]["name"])
    return {
        "type": "object",
        "description": whole["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": fields["apiVersion"]["description"]},
            "kind": {"type": "string", "description": fields["kind"]["description"]},
            "metadata": {
                "type": "object",
                "properties": {"name": {k: name[k] for k in ("type", "pattern", "maxLength")}},
            },
            "spec": _structural(fields["spec"]),
            "status": status_schema(),
        },
    }


def _structural(node: Node) -> Node:
    """One node of the policy's schema, without references, alternatives and defaults."""
    target = resolve(node)
    described = _description(node, target)
    if "anyOf" in target:
        found = _polymorphic(target)
    else:
        found = {key: target[key] for key in _KEPT if key in target} | _exclusive(target)
        _containers(target, found)
        _limits(target, found)
        found |= _rules(node, target)
    if "default" in node and node["default"] is not None:
        found["nullable"] = True
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
    return ({"description": described} if described else {}) | found


def _description(node: Node, target: Node) -> str:
    """What the field means, how it is written, and what it is when it is left out."""
    text = " ".join(str(node.get("description", target.get("description", ""))).split())
    parts = [text] if text else []
    if "title" in target:
        parts.append(f"Written as {target['title']}.")
    default = node.get("default")
    if default not in (None, {}, []):
        parts.append(f"Default: {default if isinstance(default, str) else json.dumps(default)}.")
    return " ".join(parts)


def _polymorphic(target: Node) -> Node:
    """Text with a pattern, or a number with bounds: each bound binds its own type only.

    What may be of still more types is `parse`'s to judge.
    """
    kinds = [option["type"] for option in target["anyOf"]]
    if kinds == ["string", "number", "boolean", "array"]:
        return {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
    if kinds != ["string", "number"]:
        raise InvariantError(f"no structural schema for {target}")
    text, number = target["anyOf"]
    found = {
        "x-kubernetes-preserve-unknown-fields": True,
        "pattern": text["pattern"],
        "maxLength": text.get("maxLength", _LONGEST_SHARE),
        "minimum": number["minimum"],
        "maximum": number["maximum"],
        "not": {"enum": [True, False]},
        **_exclusive(number),
    }
    if "exclusiveMinimum" in found:
        found["allOf"] = [{"pattern": "[1-9]"}]
    return found


def _exclusive(target: Node) -> Node:
    """Draft 4, which OpenAPI v3 keeps to, has the bound and the word for "without it" apart."""
    found: Node = {}
    for name, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if name in target:
            found |= {bound: target[name], name: True}
    return found


def _containers(target: Node, found: Node) -> None:
    if "const" in target:
        found["enum"] = [target["const"]]
    if "properties" in target:
        found["properties"] = {k: _structural(v) for k, v in target["properties"].items()}
        if _ON in found["properties"]:
            text = f"What {_ON} becomes where it stands without quotes; means the same."
            found["properties"][_READ_AS] = found["properties"][_ON] | {"description": text}
        if "required" in target:
            found["required"] = list(target["required"])
    elif isinstance(target.get("additionalProperties"), dict):
        found["additionalProperties"] = _structural(target["additionalProperties"])
    if "prefixItems" in target:
        first, *others = [_structural(item) for item in target["prefixItems"]]
        if any(other != first for other in others):
            raise InvariantError(f"no structural schema for items of several kinds: {target}")
        found["items"] = first
    elif "items" in target:
        found["items"] = _structural(target["items"])
    if target.get("type") == "array":
        found["x-kubernetes-list-type"] = "atomic"


def _limits(target: Node, found: Node) -> None:
    """A bound for texts whose pattern is one by itself; the cost of a rule is counted with it."""
    title = str(target.get("title", ""))
    if "pattern" in found and "maxLength" not in found:
        if not title.startswith("a duration"):
            raise InvariantError(f"a text with a pattern and without a bound: {title}")
        found["maxLength"] = _LONGEST_DURATION
    if found.get("type") == "integer":
        found["format"] = "int64"


def _rules(node: Node, target: Node) -> Node:
    """The rules of CEL that hold for this node."""
    rules: list[tuple[str, str]] = []
    name = _class_of(node)
    if name in ANY_OF:
        return {"anyOf": [{"required": [field]} for field in ANY_OF[name]]}
    rules += RULES.get(name, ())
    title = str(target.get("title", ""))
    if "pattern" in target:
        rules.append((_matches(target["pattern"], title), title))
    if "prefixItems" in target:
        rules.append(RISING_PAIR)
    if not rules:
        return {}
    return {"x-kubernetes-validations": [{"rule": rule, "message": text} for rule, text in rules]}


def _class_of(node: Node) -> str:
    """The name of the model that the node refers to; empty where it refers to none."""
    for candidate in (node, *node.get("anyOf", ())):
        if "$ref" in candidate:
            return str(candidate["$ref"]).rsplit("/", 1)[1]
    return ""


def _matches(pattern: str, title: str) -> str:
    rule = f"self.matches({json.dumps(pattern)})"
    return f"{rule} && self.matches('[1-9]')" if "longer than 0" in title else rule
