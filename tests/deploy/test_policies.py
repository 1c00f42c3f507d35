"""Which policies are in force, whatever order objects come, change and go in."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import pytest
import yaml
from kubernetes.client import Configuration

from controller.core.policy import parse
from controller.deploy.client import Connection
from controller.deploy.objects import Change
from controller.deploy.policies import POLICIES, ClusterPolicies
from controller.deploy.status import Validity
from controller.deploy.watching import Feed
from tests.core.policy_texts import SMALLEST, document, written

FEED = Feed(POLICIES, None)


class Recorder:
    """Keeps what it is told, and checks that no two policies in force share model or prefix."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.policies: dict[str, Any] = {}
        self.said: dict[str, Validity] = {}
        self.enforced: dict[str, bool] = {}

    def applied(self, applied):
        model = applied.policy.model
        self.calls.append(("applied", model))
        self.policies[model] = applied
        prefixes = [each.policy.spec.route.prefix for each in self.policies.values()]
        assert len(prefixes) == len(set(prefixes))

    def removed(self, model):
        self.calls.append(("removed", model))
        del self.policies[model]

    def judged(self, reference, validity, status, *, is_in_force):
        self.said[f"{reference.namespace}/{reference.name}"] = validity
        self.enforced[f"{reference.namespace}/{reference.name}"] = is_in_force

    def forgotten(self, reference):
        self.said.pop(f"{reference.namespace}/{reference.name}", None)


numbers = itertools.count(1)


def made(
    name="digits", namespace="a", *, prefix="/digits/", generation=1, uid="", at=0, spec=None, ok=""
):
    values = document(route={"prefix": prefix}, **(spec or {}))
    found: dict[str, Any] = {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"{namespace}-{name}",
            "generation": generation,
            "creationTimestamp": f"2026-11-24T00:00:{at:02}Z",
            "resourceVersion": str(next(numbers)),
        },
        "spec": values["spec"],
    }
    if ok:
        found["status"] = {"conditions": [{"type": "Valid", "status": ok}]}
    return found


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def memory():
    return {}


@pytest.fixture
def policies(recorder, memory):
    connection = Connection(
        Configuration(host="https://127.0.0.1:1"), namespace="default", clock=lambda: 0.0
    )
    return ClusterPolicies(
        connection,
        namespaces=(),
        listener=recorder,
        remembered=memory.get,
        clock=lambda: 0.0,
    )


def put(policies, found):
    policies.changed(FEED, Change("MODIFIED", found))


def drop(policies, found):
    policies.changed(FEED, Change("DELETED", found))


def test_policy_is_in_force_once_its_object_is_there(policies, recorder):
    policies.replaced(FEED, [made()])
    (applied,) = policies.in_force()
    assert applied.policy.spec == parse(SMALLEST, "file.yaml").spec
    assert parse(applied.document, "again") == applied.policy
    assert recorder.said["a/digits"].is_valid
    assert policies.reference("digits").uid == "a-digits"


def test_own_echo_is_not_news(policies, recorder):
    policies.replaced(FEED, [made()])
    put(policies, made())
    policies.replaced(FEED, [made()])
    assert recorder.calls == [("applied", "digits")]


def test_edit_is_told_and_an_edit_without_meaning_is_not(policies, recorder):
    policies.replaced(FEED, [made()])
    put(policies, made(generation=2, spec={"candidates": {"on_new": "queue"}}))
    assert recorder.calls == [("applied", "digits")]
    put(policies, made(generation=3, spec={"candidates": {"on_new": "replace"}}))
    assert recorder.calls == [("applied", "digits")] * 2


def test_deleted_object_takes_its_policy_along(policies, recorder):
    found = made()
    policies.replaced(FEED, [found])
    drop(policies, found)
    assert recorder.calls[-1] == ("removed", "digits")
    assert policies.in_force() == []
    assert policies.reference("digits") is None


def test_object_that_went_while_nobody_watched_is_missed_at_the_next_list(policies, recorder):
    policies.replaced(FEED, [made(), made("other", prefix="/other/")])
    policies.replaced(FEED, [made("other", prefix="/other/")])
    assert [each.policy.model for each in policies.in_force()] == ["other"]


def test_object_that_was_made_anew_while_nobody_watched_is_another_one(policies, recorder):
    policies.replaced(FEED, [made()])
    policies.replaced(FEED, [made(uid="new")])
    assert recorder.calls == [("applied", "digits"), ("removed", "digits"), ("applied", "digits")]
    assert policies.reference("digits").uid == "new"


def test_list_of_one_namespace_says_nothing_of_another(recorder, policies):
    policies.replaced(Feed(POLICIES, "a"), [made()])
    policies.replaced(Feed(POLICIES, "b"), [made("other", "b", prefix="/other/")])
    assert [each.policy.model for each in policies.in_force()] == ["digits", "other"]


def test_faulty_policy_names_its_field_and_puts_nothing_in_force(policies, recorder):
    policies.replaced(FEED, [made(spec={"reward": {"event": "e", "window": 30}})])
    said = recorder.said["a/digits"]
    assert (said.is_valid, said.reason) == (False, "Invalid")
    assert said.message.startswith("spec.reward.window: found 30, expected a duration with")
    assert said.message.endswith("no policy of this object is in force")
    assert policies.in_force() == []
    assert policies.faults == {"RolloutPolicy a/digits": said.message}


def test_faulty_edit_keeps_the_policy_of_before(policies, recorder):
    policies.replaced(FEED, [made()])
    put(policies, made(generation=2, spec={"stages": []}))
    assert recorder.calls == [("applied", "digits")]
    assert recorder.said["a/digits"].message.endswith("the policy of before stays in force")
    assert recorder.enforced["a/digits"]
    put(policies, made(generation=3))
    assert recorder.said["a/digits"].is_valid
    assert policies.faults == {}


def test_after_a_restart_the_policy_of_before_is_what_was_remembered(policies, recorder, memory):
    memory["digits"] = SMALLEST
    policies.replaced(FEED, [made(spec={"stages": []})])
    assert recorder.calls == [("applied", "digits")]
    assert recorder.said["a/digits"].message.endswith("the policy of before stays in force")


def test_what_was_remembered_and_cannot_be_used_any_more_is_passed_over(policies, recorder, memory):
    memory["digits"] = "no: policy"
    policies.replaced(FEED, [made(spec={"stages": []})])
    assert recorder.calls == []


def test_second_object_of_a_model_waits_until_the_first_is_gone(policies, recorder):
    first, second = made(at=1), made(namespace="b", at=2, prefix="/b/")
    policies.replaced(FEED, [second, first])
    assert policies.reference("digits").namespace == "a"
    said = recorder.said["b/digits"]
    assert said.reason == "DuplicateModel"
    assert "the model digits is that of RolloutPolicy a/digits already" in said.message
    drop(policies, first)
    assert policies.reference("digits").namespace == "b"
    assert recorder.said["b/digits"].is_valid
    assert recorder.calls == [("applied", "digits"), ("removed", "digits"), ("applied", "digits")]


def test_second_object_of_a_prefix_waits_until_the_first_moves_away(policies, recorder):
    policies.replaced(FEED, [made(), made("other", at=1)])
    said = recorder.said["a/other"]
    assert said.reason == "DuplicateRoute"
    assert said.message.startswith("spec.route.prefix: /digits/ is that of RolloutPolicy a/digits")
    put(policies, made(generation=2, prefix="/elsewhere/"))
    assert recorder.said["a/other"].is_valid
    assert [each.policy.model for each in policies.in_force()] == ["digits", "other"]


def test_edit_onto_the_prefix_of_another_keeps_the_own_one(policies, recorder):
    policies.replaced(FEED, [made(), made("other", prefix="/other/")])
    put(policies, made("other", generation=2, prefix="/digits/"))
    assert recorder.said["a/other"].reason == "DuplicateRoute"
    assert recorder.said["a/other"].message.endswith("the policy of before stays in force")
    assert {each.policy.spec.route.prefix for each in policies.in_force()} == {
        "/digits/",
        "/other/",
    }


def test_after_a_restart_whoever_had_the_model_keeps_it_even_if_the_other_is_older(policies):
    policies.replaced(FEED, [made(at=1, ok="False"), made(namespace="b", at=2, ok="True")])
    assert policies.reference("digits").namespace == "b"


def test_what_is_in_force_is_the_same_whatever_the_order_of_a_list(recorder, memory):
    objects = [
        made("m1", prefix="/x/", at=3),
        made("m2", prefix="/x/", at=1),
        made("m1", "b", prefix="/y/", at=2),
        made("m3", prefix="/z/", at=5),
    ]
    found = set()
    for order in itertools.permutations(objects):
        connection = Connection(
            Configuration(host="https://127.0.0.1:1"), namespace="default", clock=lambda: 0.0
        )
        policies = ClusterPolicies(
            connection,
            namespaces=(),
            listener=Recorder(),
            remembered=memory.get,
            clock=lambda: 0.0,
        )
        policies.replaced(FEED, list(order))
        found.add(tuple((a.policy.model, a.reference.namespace) for a in policies.in_force()))
    assert found == {(("m1", "b"), ("m2", "a"), ("m3", "a"))}


def test_any_history_leaves_each_object_in_force_or_with_a_reason(policies, recorder):
    """Random edits; the recorder checks after each call that prefixes and models are unique."""
    rng = Random(7)
    there: dict[tuple[str, str], dict[str, Any]] = {}
    for generation in range(1, 800):
        key = rng.choice(["a", "b"]), rng.choice(["m1", "m2", "m3"])
        if key in there and rng.random() < 0.3:
            drop(policies, there.pop(key))
            continue
        spec = {"stages": []} if rng.random() < 0.2 else None
        uid = there[key]["metadata"]["uid"] if key in there else f"{key}{generation}"
        found = made(
            key[1],
            key[0],
            prefix=rng.choice(["/1/", "/2/", "/3/"]),
            generation=generation,
            uid=uid,
            spec=spec,
        )
        there[key] = found
        put(policies, found)
        assert {each.policy.model for each in policies.in_force()} == set(recorder.policies)
        for (namespace, name), each in there.items():
            said = recorder.said[f"{namespace}/{name}"]
            in_force = policies.reference(name)
            mine = in_force is not None and in_force.namespace == namespace
            assert said.is_valid <= mine
            if said.is_valid:
                wanted = each["spec"]["route"]["prefix"]
                assert recorder.policies[name].policy.spec.route.prefix == wanted
            if said.reason.startswith("Duplicate"):
                prefix = each["spec"]["route"]["prefix"]
                owner = next(
                    (
                        a.policy.model
                        for a in policies.in_force()
                        if a.policy.spec.route.prefix == prefix
                    ),
                    None,
                )
                taken = in_force is not None and not mine
                assert taken or owner not in {None, name}, "nobody has what it waits for"


def test_document_of_an_object_is_a_policy_file(policies):
    policies.replaced(FEED, [made()])
    (applied,) = policies.in_force()
    assert yaml.safe_load(applied.document)["metadata"] == {"name": "digits", "namespace": "a"}
    assert yaml.safe_load(written(document()))["spec"] == yaml.safe_load(applied.document)["spec"]
