"""An object is read as the file would be, and its document is that file again."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.policy import digest, parse, validated
from controller.core.policy.document import read
from controller.deploy.manifests import LAST_APPLIED, lost_fields, policy_of, text_of
from controller.errors import PolicyError
from tests.core.policy_texts import EVERY_FIELD, SMALLEST, VALUES, document, places


def made(spec, applied=None):
    meta = {"name": "digits", "namespace": "models", "uid": "u", "labels": {"a": "b"}}
    if applied is not None:
        meta["annotations"] = {LAST_APPLIED: json.dumps({"spec": applied})}
    return {"metadata": meta, "spec": spec}


def test_object_means_what_the_file_means():
    found = policy_of(made(document()["spec"]))
    assert digest(found) == digest(parse(SMALLEST, "file.yaml"))
    assert found.metadata.namespace == "models"


def test_fault_names_the_object_and_the_field_and_no_line():
    with pytest.raises(PolicyError) as caught:
        policy_of(made(document(stages=[])["spec"]))
    assert str(caught.value).startswith("RolloutPolicy models/digits: spec.stages: found []")
    assert caught.value.problems[0].line is None


def test_values_are_judged_as_their_text_is():
    base = read(EVERY_FIELD).value
    accepted = 0
    cases = [(p, v) for p in places(base) if p[0] == "spec" for v in VALUES]
    for place, value in cases[::23]:
        changed = copy.deepcopy(base)
        changed["spec"]["gates"].pop("freeze")
        parent = changed
        try:
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = value
            json.dumps(changed, allow_nan=False, ensure_ascii=False).encode()
        except (KeyError, ValueError):
            continue
        if value == 10**400:
            continue
        found = validated(changed)
        try:
            text = text_of(made(changed["spec"]))
            ours = parse(text, "file.yaml")
        except PolicyError:
            assert found is None, (place, value)
        else:
            assert found is not None, (place, value)
            assert digest(found) == digest(ours)
            accepted += 1
    assert accepted > 20


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_survives_the_way_into_the_document(event):
    found = made(document(reward={"event": event})["spec"])
    assert parse(text_of(found), "ledger").spec.reward.event == policy_of(found).spec.reward.event


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=300, deadline=None)
def test_any_number_survives_the_way_into_the_document(number):
    spec = document(gates={"offline": {"metric": "m", "min": number}})["spec"]
    assert digest(parse(text_of(made(spec)), "ledger")) == digest(policy_of(made(spec)))


def test_on_without_quotes_is_read_as_on():
    spec = document(notify=[{"webhook": "https://x", "true": ["holding"]}])["spec"]
    assert policy_of(made(spec)).spec.notify[0].on == ("holding",)


def test_field_that_was_applied_and_dropped_is_a_fault():
    kept = document()["spec"]
    applied = copy.deepcopy(kept) | {"guardrail": []}
    assert lost_fields(made(kept, applied)) == ["spec.guardrail"]
    with pytest.raises(PolicyError, match=r"spec\.guardrail: found guardrail") as caught:
        policy_of(made(kept, applied))
    assert [problem.path for problem in caught.value.problems] == ["spec.guardrail"]


def test_field_in_a_list_that_was_dropped_is_found():
    kept = document()["spec"]
    applied = copy.deepcopy(kept)
    applied["stages"][0]["canary"]["margins"] = "1%"
    assert lost_fields(made(kept, applied)) == ["spec.stages[0].canary.margins"]


@pytest.mark.parametrize(
    "applied",
    [
        {"gates": None},  # null is as if left out
        {"route": {"prefix": "/other/"}, "guardrail": []},  # edited since
        {"stages": [], "guardrail": []},
    ],
)
def test_what_was_applied_does_not_count_once_the_object_is_another(applied):
    kept = document()["spec"]
    assert lost_fields(made(kept, copy.deepcopy(kept) | applied)) == []


@pytest.mark.parametrize(
    "note", ["no json", "[]", '{"spec": 1}', "null", pytest.param(100_000 * "[", id="nested")]
)
def test_annotation_that_is_no_manifest_says_nothing(note):
    found = made(document()["spec"])
    found["metadata"]["annotations"] = {LAST_APPLIED: note}
    assert lost_fields(found) == []
