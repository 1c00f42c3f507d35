from __future__ import annotations

import pytest

from controller.deploy.plan import Patch, give_back, label, patch, point, scale
from controller.errors import Conflict
from tests.deploy.objects import autoscaler, deployment, owns, service

REPLICAS = ("spec", "replicas")
FIELDS = "understudy.dev/fields"
HEAD = {"name": "digits-v1", "namespace": "models", "uid": "uid-v1"}
OURS = owns("understudy", "Apply", *REPLICAS)


def body(found: Patch | None) -> dict[str, object]:
    assert found is not None
    return found.body


def test_scale_applies_replicas_to_that_very_object_and_nothing_else() -> None:
    own, its = scale(deployment(replicas=2), None, 5)
    assert its is None
    assert own == Patch(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": HEAD, "spec": {"replicas": 5}},
        force=False,
    )


@pytest.mark.parametrize("replicas", [1, 2])
def test_scale_never_takes_replicas_away(replicas: int) -> None:
    assert scale(deployment(replicas=2), None, replicas) == (None, None)


def test_scale_to_nothing() -> None:
    own, _ = scale(deployment(replicas=2), None, 0)
    assert body(own)["spec"] == {"replicas": 0}
    assert scale(deployment(replicas=0), None, 0) == (None, None)


def test_value_that_is_wanted_is_left_alone_whoever_owns_it() -> None:
    argo = owns("argocd", "Apply", *REPLICAS)
    assert scale(deployment(replicas=5, fields=[argo]), None, 5) == (None, None)


def test_field_that_others_apply_is_a_conflict_with_names_and_remedy() -> None:
    argo = owns("argocd", "Apply", *REPLICAS)
    with pytest.raises(Conflict) as conflict:
        scale(deployment(replicas=2, fields=[argo]), None, 5)
    assert str(conflict.value) == (
        "Deployment models/digits-v1: spec.replicas is 2 and applied by 'argocd'; Understudy wants "
        "5. Take the field out of what argocd applies, or set deploy.kubernetes.scaling: observed"
    )


def test_field_that_others_apply_is_a_conflict_even_if_updaters_own_it_as_well() -> None:
    fields = [owns("kubectl", "Update", *REPLICAS), owns("argocd", "Apply", *REPLICAS)]
    with pytest.raises(Conflict, match="argocd"):
        scale(deployment(fields=fields), None, 5)


def test_field_that_somebody_updated_is_taken_over_and_that_is_noted() -> None:
    kubectl = owns("kubectl-create", "Update", *REPLICAS)
    own, _ = scale(deployment(fields=[kubectl]), None, 5)
    assert own == Patch(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": HEAD | {"resourceVersion": "7", "annotations": {FIELDS: "spec.replicas"}},
            "spec": {"replicas": 5},
        },
        force=True,
    )


def test_field_that_was_taken_back_is_a_conflict() -> None:
    fields = [owns("kubectl", "Update", *REPLICAS, subresource="scale")]
    found = deployment(replicas=1, fields=fields, notes={FIELDS: "spec.replicas"})
    with pytest.raises(Conflict, match="was changed to 1 by 'kubectl' after Understudy had taken"):
        scale(found, None, 5)


def test_field_that_is_still_ours_as_well_is_changed() -> None:
    fields = [OURS, owns("kubectl", "Update", *REPLICAS)]
    found = deployment(replicas=3, fields=fields, notes={FIELDS: "spec.replicas"})
    own, _ = scale(found, None, 5)
    assert own is not None
    assert own.force


def test_replicas_that_a_former_autoscaler_wrote_are_free() -> None:
    written = owns("kube-controller-manager", "Update", *REPLICAS, subresource="scale")
    found = deployment(fields=[written], notes={FIELDS: "spec.replicas"})
    assert body(scale(found, None, 5)[0])["spec"] == {"replicas": 5}


def test_apply_names_all_that_is_ours_already() -> None:
    fields = [
        OURS,
        owns("understudy", "Apply", "metadata", "annotations", FIELDS),
        owns("somebody", "Apply", "spec", "paused"),
    ]
    found = deployment(replicas=5, fields=fields, notes={FIELDS: "spec.replicas", "other": "x"})
    assert body(label(found, "candidate")) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": HEAD
        | {
            "labels": {"understudy.dev/role": "candidate"},
            "annotations": {FIELDS: "spec.replicas"},
        },
        "spec": {"replicas": 5},
    }


def test_label_that_is_there_is_left_alone() -> None:
    assert label(deployment(labels={"understudy.dev/role": "champion"}), "champion") is None


# --- autoscalers --------------------------------------------------------------------------------


def test_autoscaler_gets_a_higher_minimum_and_its_own_is_kept() -> None:
    own, its = scale(deployment(replicas=2), autoscaler(minimum=2), 5)
    assert own is None
    assert body(its)["spec"] == {"minReplicas": 5}
    assert body(its)["metadata"]["annotations"] == {"understudy.dev/min-replicas": "2"}  # type: ignore[index]


def test_its_own_minimum_is_kept_when_it_is_raised_again() -> None:
    fields = [
        owns("understudy", "Apply", "spec", "minReplicas"),
        owns("understudy", "Apply", "metadata", "annotations", "understudy.dev/min-replicas"),
    ]
    found = autoscaler(minimum=5, notes={"understudy.dev/min-replicas": "2"}, fields=fields)
    _, its = scale(deployment(replicas=5), found, 7)
    assert body(its)["metadata"]["annotations"] == {"understudy.dev/min-replicas": "2"}  # type: ignore[index]
    assert scale(deployment(replicas=5), found, 3) == (None, None)


def test_minimum_is_never_above_the_maximum() -> None:
    _, its = scale(deployment(), autoscaler(minimum=1, maximum=4), 9)
    assert body(its)["spec"] == {"minReplicas": 4}


def test_autoscaler_gets_its_minimum_back() -> None:
    fields = [
        owns("understudy", "Apply", "spec", "minReplicas"),
        owns("understudy", "Apply", "metadata", "annotations", "understudy.dev/min-replicas"),
    ]
    found = autoscaler(minimum=5, notes={"understudy.dev/min-replicas": "2"}, fields=fields)
    assert body(give_back(found)) == {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scaler", "namespace": "models", "uid": "uid-scaler"},
        "spec": {"minReplicas": 2},
    }


def test_minimum_that_somebody_changed_meanwhile_is_theirs() -> None:
    fields = [
        owns("kubectl-edit", "Update", "spec", "minReplicas"),
        owns("understudy", "Apply", "metadata", "annotations", "understudy.dev/min-replicas"),
    ]
    found = autoscaler(minimum=3, notes={"understudy.dev/min-replicas": "2"}, fields=fields)
    assert "spec" not in body(give_back(found))


def test_what_was_given_back_may_be_taken_over_again() -> None:
    fields = [OURS, owns("understudy", "Apply", "metadata", "annotations", FIELDS)]
    found = deployment(replicas=5, fields=fields, notes={FIELDS: "spec.replicas"})
    assert body(give_back(found)) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": HEAD,
        "spec": {"replicas": 5},
    }
    assert give_back(deployment()) is None
    assert give_back(autoscaler()) is None


def test_autoscaled_arm_is_put_to_sleep_and_woken_by_its_replicas() -> None:
    own, its = scale(deployment(replicas=2), autoscaler(), 0)
    assert body(own)["spec"] == {"replicas": 0}
    assert its is None
    own, its = scale(deployment(replicas=0), autoscaler(), 3)
    assert body(own)["spec"] == {"replicas": 3}
    assert body(its)["spec"] == {"minReplicas": 3}


# --- the Service --------------------------------------------------------------------------------


def test_service_keeps_the_rest_of_its_selector() -> None:
    kubectl = owns("kubectl", "Update", "spec", "selector")
    found = point(service({"app": "digits"}, [kubectl]), "digits", "v2")
    assert body(found)["spec"] == {
        "selector": {
            "app": "digits",
            "understudy.dev/model": "digits",
            "understudy.dev/version": "v2",
        }
    }
    assert found is not None
    assert found.force


def test_service_that_points_there_is_left_alone() -> None:
    there = {"understudy.dev/model": "digits", "understudy.dev/version": "v2"}
    assert point(service(there), "digits", "v2") is None


def test_selector_that_others_apply_is_a_conflict() -> None:
    helm = owns("helm", "Apply", "spec", "selector")
    with pytest.raises(Conflict, match=r"applied by 'helm'.*deploy.webhook"):
        point(service({"app": "digits"}, [helm]), "digits", "v2")


def test_nothing_wanted_is_nothing_done() -> None:
    assert patch(deployment(), {}) is None
