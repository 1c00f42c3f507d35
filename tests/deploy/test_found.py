from __future__ import annotations

import pytest

from controller.deploy.cache import Cache
from controller.deploy.found import found_arm
from controller.deploy.words import service_name
from tests.deploy.objects import autoscaler, deployment, endpoint_slice

MODEL = ("models", "digits")
SERVICE = ("models", "arm-digits-v1")


def cache(*objects: dict[str, object]) -> Cache:
    found = Cache()
    for each in objects:
        found.put("deployments", each)
    return found


def test_arm_is_ready_as_far_as_its_service_and_its_deployment_say() -> None:
    [found] = cache(deployment(replicas=4, ready=2)).deployments(*MODEL).values()
    assert found_arm(found, None, ("10.0.0.1",), 80).ready == 1
    assert found_arm(found, None, ("10.0.0.1", "10.0.0.2", "10.0.0.3"), 80).ready == 2
    assert found_arm(found, None, (), 80).ready == 0
    assert found_arm(found, None, (), 80).replicas == 4


def test_endpoints_carry_the_port_of_the_model_servers() -> None:
    [found] = cache(deployment()).deployments(*MODEL).values()
    arm = found_arm(found, None, ("10.0.0.1", "fd00::1"), 8080)
    assert arm.endpoints == ("10.0.0.1:8080", "[fd00::1]:8080")


def test_annotations_say_where_a_version_comes_from() -> None:
    notes = {
        "understudy.dev/parent": "v0",
        "understudy.dev/trained-at": "2026-11-20T00:00:00Z",
        "understudy.dev/metrics": '{"accuracy": 0.94, "n": 3}',
        "understudy.dev/uri": "s3://models/v1",
    }
    [found] = cache(deployment(notes=notes)).deployments(*MODEL).values()
    arm = found_arm(found, 5, (), 80)
    assert (arm.parent, arm.trained_at, arm.metrics, arm.uri, arm.limit) == (
        "v0",
        "2026-11-20T00:00:00Z",
        {"accuracy": 0.94, "n": 3.0},
        "s3://models/v1",
        5,
    )


@pytest.mark.parametrize("text", ["{", "[1]", '{"accuracy": "high"}', "0.94"])
def test_unreadable_metrics_are_left_out_and_named(text: str) -> None:
    notes = {"understudy.dev/metrics": text}
    [found] = cache(deployment(notes=notes)).deployments(*MODEL).values()
    assert found.metrics == {}
    assert "understudy.dev/metrics holds" in found.problems[0]


def test_pods_without_the_labels_are_named() -> None:
    other = deployment()
    other["spec"]["template"]["metadata"]["labels"] = {"app": "digits"}
    [found] = cache(other).deployments(*MODEL).values()
    assert "its pod template lacks the labels" in found.problems[0]


def test_deployment_that_is_being_deleted_is_none() -> None:
    leaving = deployment()
    leaving["metadata"]["deletionTimestamp"] = "2026-11-24T00:00:00Z"
    assert not cache(leaving).deployments(*MODEL)


def test_of_two_deployments_of_one_version_the_first_by_name_counts() -> None:
    found = cache(deployment(name="b"), deployment(name="a"), deployment(name="c"))
    assert found.deployments(*MODEL)["v1"].key == ("models", "a")
    assert {each.key[1] for each in found.doubles(*MODEL)} == {"b", "c"}


def test_cache_says_which_model_a_change_touches() -> None:
    found = Cache()
    assert found.put("deployments", deployment()) == {MODEL}
    assert found.put("deployments", deployment()) == set()
    assert found.put("deployments", deployment(ready=1)) == {MODEL}
    assert found.put("deployments", deployment(name="digits-v1", model="faces")) == {
        MODEL,
        ("models", "faces"),
    }
    assert found.drop("deployments", ("models", "digits-v1")) == {("models", "faces")}
    assert found.drop("deployments", ("models", "digits-v1")) == set()
    assert found.models == []


def test_smallest_maximum_of_the_autoscalers_is_the_limit() -> None:
    found = cache(deployment())
    key = ("models", "digits-v1")
    assert found.limit(key) is None
    assert found.put("horizontalpodautoscalers", autoscaler(maximum=8)) == {MODEL}
    found.put("horizontalpodautoscalers", autoscaler(name="other", maximum=6))
    found.put("horizontalpodautoscalers", autoscaler(name="far", target="something", maximum=1))
    assert found.limit(key) == 6
    found.drop("horizontalpodautoscalers", ("models", "other"))
    assert found.limit(key) == 8
    assert found.put("horizontalpodautoscalers", autoscaler(target="something")) == {MODEL}
    assert found.limit(key) is None


def test_only_ready_endpoints_count_and_each_once() -> None:
    found = Cache()
    found.put(
        "endpointslices",
        endpoint_slice("a", {"10.0.0.2": True, "10.0.0.3": False, "10.0.0.1": None}),
    )
    found.put("endpointslices", endpoint_slice("b", {"10.0.0.2": True, "10.0.0.4": True}))
    assert found.addresses(SERVICE) == ("10.0.0.1", "10.0.0.2", "10.0.0.4")
    found.drop("endpointslices", ("models", "a"))
    assert found.addresses(SERVICE) == ("10.0.0.2", "10.0.0.4")
    found.put("endpointslices", endpoint_slice("b", {}))
    assert found.addresses(SERVICE) == ()


def test_pods_that_change_places_touch_nothing_but_endpoints() -> None:
    found = Cache()
    found.put("endpointslices", endpoint_slice("a", {"10.0.0.1": True, "10.0.0.2": False}))
    assert (
        found.put("endpointslices", endpoint_slice("a", {"10.0.0.2": False, "10.0.0.1": True}))
        == set()
    )
    assert found.put(
        "endpointslices", endpoint_slice("a", {"10.0.0.1": False, "10.0.0.2": True})
    ) == {MODEL}


@pytest.mark.parametrize(
    ("model", "version"),
    [("digits", "v1"), ("digits", "V1"), ("digits", "2026.11_24"), ("x" * 60, "v1"), ("d", "v-")],
)
def test_service_name_is_a_dns_label(model: str, version: str) -> None:
    name = service_name(model, version)
    assert len(name) <= 63
    assert name[0].isalpha()
    assert name[-1].isalnum()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_service_names_differ_where_arms_do() -> None:
    arms = [("digits", v) for v in ("v1", "V1", "v.1", "v_1", "v-1")] + [
        ("x" * 70, "a"),
        ("x" * 70, "b"),
    ]
    assert len({service_name(*arm) for arm in arms}) == len(arms)
    assert service_name("digits", "v1") == "arm-digits-v1"
