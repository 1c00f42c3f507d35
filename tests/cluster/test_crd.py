"""The API server and `parse` judge policies alike, and the API server changes none on the way."""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from controller.core.policy import Policy, digest, parse
from controller.core.policy.crd import NAME
from controller.core.policy.document import read
from controller.deploy.manifests import policy_of, text_of
from controller.deploy.policies import POLICIES as RESOURCE
from controller.errors import PolicyError
from tests.cluster import rollout_policies
from tests.cluster.client import Client, Refused, path
from tests.cluster.control_plane import ControlPlane
from tests.core import broken_policies
from tests.core.policy_texts import EVERY_FIELD, POLICIES, SMALLEST, VALUES, document, places

CASES = 2_000
"""Of some 8 000. All of them were tried, too: none was judged apart."""

DOCS = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def admin(cluster: ControlPlane) -> Client:
    rollout_policies.install(cluster)
    return cluster.admin


def supported(text: str) -> str:
    """The text, without what has no effect yet."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.strip().startswith("freeze:"))


def snippets() -> Iterator[tuple[str, str]]:
    """Whole policies in the documentation."""
    for page in DOCS:
        for n, block in enumerate(page.read_text("utf-8").split("```yaml\n")[1:]):
            text = block.split("```")[0]
            if "kind: RolloutPolicy" in text:
                yield f"{page.stem}-{n}", text


TEXTS = [
    ("smallest", SMALLEST),
    ("every-field", supported(EVERY_FIELD)),
    *((file.stem, file.read_text("utf-8")) for file in POLICIES),
    *snippets(),
]


def kept(admin: Client, values: Any, query: str = "fieldValidation=Strict") -> dict[str, Any]:
    """What the API server would keep of a policy; raises `Refused`."""
    where = RESOURCE.path("default") + f"?dryRun=All&{query}"
    return admin.create(where, values)


def in_default(values: Any) -> Any:
    values = copy.deepcopy(values)
    values["metadata"].pop("namespace", None)
    return values


def as_json(value: Any) -> Any:
    """JSON does not tell 200.0 from 200, and the API server writes the latter."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e18:
        return int(value)
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list) else value


def test_definition_is_structural_established_and_has_a_status(admin):
    found = admin.get(path("customresourcedefinitions", name=NAME))
    conditions = {row["type"]: row["status"] for row in found["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}  # no NonStructuralSchema
    (version,) = found["spec"]["versions"]
    assert version["subresources"] == {"status": {}}


def test_kubectl_shows_the_columns(cluster, admin, namespace):
    admin.create(RESOURCE.path(namespace), in_default(document()))
    heading, row = cluster.kubectl("get", "rop", "-n", namespace).splitlines()
    assert heading.split() == [
        *("NAME", "MODEL", "PHASE", "CHAMPION", "CANDIDATE", "STEP", "WEIGHT", "LIFT", "AGE")
    ]
    assert row.split()[0] == "digits"


def test_kubectl_explains_every_field(cluster, admin):
    assert "5m" in cluster.kubectl("explain", "rop.spec.stages.canary.min_duration")
    shown = cluster.kubectl("explain", "rop", "--recursive")
    for name in ("guardrails", "min_outcomes", "segments", "observedGeneration", "epochInForce"):
        assert name in shown


@pytest.mark.parametrize("text", [t for _, t in TEXTS], ids=[n for n, _ in TEXTS])
def test_file_means_the_same_in_a_cluster_as_on_a_laptop(cluster, admin, text):
    name = parse(text, "file.yaml").model
    values = in_default(read(text).value)
    given = yaml.safe_dump(values, sort_keys=False)
    cluster.kubectl("apply", "-f", "-", "--namespace=default", given=given)
    try:
        found = admin.get(RESOURCE.path("default", name))
        assert digest(policy_of(found)) == digest(parse(text, "file.yaml"))
        assert "default" not in json.dumps(found["spec"]) or "default" in text
    finally:
        admin.delete(RESOURCE.path("default", name))


def test_file_as_it_is_written_goes_through_kubectl(cluster, admin, namespace):
    text = supported(EVERY_FIELD).replace("namespace: models\n", f"namespace: {namespace}\n", 1)
    cluster.kubectl("apply", "-f", "-", given=text)
    found = admin.get(RESOURCE.path(namespace, "digits"))
    assert digest(policy_of(found)) == digest(parse(text, "file.yaml"))
    # What kubectl reads of `on:` without quotes.
    assert "true" in found["spec"]["notify"][0]
    assert "on:" in text_of(found).replace('"', "").replace("'", "")


def test_server_puts_in_no_defaults(admin):
    values = in_default(document())
    assert kept(admin, values)["spec"] == values["spec"]


def test_numbers_survive_the_way_through_json(admin):
    for number in (1e-07, 1e21, 0.1 + 0.2, 123456789.123456789):
        values = in_default(document(reward={"event": "e", "range": [-number, number]}))
        assert policy_of(kept(admin, values)).spec.reward.range == (-number, number)


def verdicts(admin: Client, values: Any) -> tuple[str, object]:
    """What comes of a policy: where it is refused, or that both mean the same."""
    try:
        ours: Policy | None = Policy.model_validate(as_json(values))
    except ValidationError:
        ours = None
    try:
        found = kept(admin, values)
    except Refused as exc:
        return ("refused by both", None) if ours is None else ("refused but fine", exc)
    try:
        theirs = policy_of(found)
    except PolicyError as exc:
        return ("in a condition", None) if ours is None else ("read wrongly", exc)
    if ours is None:
        return "accepted but bad", None
    return ("the same", None) if digest(ours) == digest(theirs) else ("of another digest", None)


def test_api_server_and_parse_judge_alike_whatever_stands_in_a_field(admin):
    base = in_default(read(supported(EVERY_FIELD)).value)
    counts: Counter[str] = Counter()
    spec = [place for place in places(base) if place[0] == "spec"]
    for place, value in Random(4).sample(list(itertools.product(spec, VALUES)), CASES):
        changed = copy.deepcopy(base)
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = value
        try:
            json.dumps(changed, allow_nan=False, ensure_ascii=False).encode()
        except ValueError:
            continue  # no JSON, so it never gets there
        if value == 10**400:
            continue
        verdict, why = verdicts(admin, changed)
        assert verdict in {"refused by both", "in a condition", "the same"}, (place, value, why)
        counts[verdict] += 1
    assert counts["the same"] > CASES // 20
    # Most faults are found before the object is in.
    assert counts["refused by both"] > 8 * counts["in a condition"]


@pytest.mark.parametrize(("spec", "said"), [*broken_policies.RULES, *broken_policies.VALUES])
def test_wrong_policy_is_refused_with_its_field_in_our_words(admin, spec, said):
    values = in_default(document(**spec))
    with pytest.raises(Refused, match="spec") as caught:
        kept(admin, values)
    assert said in caught.value.document["message"]
    with pytest.raises(ValidationError):
        Policy.model_validate(values)


@pytest.mark.parametrize("name", ["Digits", "a_b", "a..b", "-a", "x" * 64])
def test_name_that_no_object_can_have_is_refused_by_both(admin, name):
    values = in_default(document()) | {"metadata": {"name": name}}
    with pytest.raises(Refused):
        kept(admin, values)
    with pytest.raises(ValidationError):
        Policy.model_validate(values)


def test_field_that_the_server_drops_is_a_fault_of_the_object(cluster, admin, namespace):
    values = in_default(document(guardrail=[{"metric": "error_rate", "max_increase": "1%"}]))
    given = yaml.safe_dump(values)
    with pytest.raises(AssertionError, match="unknown field"):
        cluster.kubectl("apply", "-n", namespace, "-f", "-", given=given)
    cluster.kubectl("apply", "-n", namespace, "--validate=false", "-f", "-", given=given)
    found = admin.get(RESOURCE.path(namespace, "digits"))
    assert "guardrail" not in found["spec"]
    with pytest.raises(PolicyError, match=r"spec\.guardrail: found guardrail, expected") as caught:
        policy_of(found)
    assert caught.value.problems[0].nearest == "guardrails"


def test_field_that_was_dropped_once_does_not_count_after_an_edit(cluster, admin, namespace):
    values = in_default(document(guardrail=[]))
    given = yaml.safe_dump(values)
    cluster.kubectl("apply", "-n", namespace, "--validate=false", "-f", "-", given=given)
    edit = {"spec": {"route": {"prefix": "/other/"}}}
    found = admin.patch(RESOURCE.path(namespace, "digits"), edit)
    assert policy_of(found).spec.route.prefix == "/other/"
