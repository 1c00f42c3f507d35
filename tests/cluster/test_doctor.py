"""`understudy doctor --kubernetes`: the kind, our rights, the clock, on a real API server."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from controller.core.model.checks import Finding, Status
from controller.core.policy.crd import crd
from controller.deploy.checks import check_cluster
from tests.cluster.chart import controller_kubeconfig
from tests.cluster.client import path
from tests.cluster.control_plane import ControlPlane


def by_status(found: list[Finding], status: Status) -> dict[str, Finding]:
    return {each.check: each for each in found if each.status is status}


def test_the_charts_rights_are_enough_and_no_rights_are_not(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    cluster.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump(crd()))
    chart = controller_kubeconfig(cluster, namespace, tmp_path / "chart.kubeconfig")
    found = list(check_cluster([namespace], time.time, kubeconfig=chart))
    assert not by_status(found, Status.FAILED), found
    fine = by_status(found, Status.OK)
    wanted = {"cluster: RolloutPolicy", f"cluster: rights in {namespace}", "cluster: clock"}
    assert wanted | {f"cluster: lease in {namespace}"} <= fine.keys()

    cluster.admin.create(
        path("serviceaccounts", namespace), {"metadata": {"name": "nobody", "namespace": namespace}}
    )
    nobody = cluster.service_account(namespace, "nobody")
    file = cluster.kubeconfig(tmp_path / "nobody.kubeconfig", nobody, namespace)
    every = list(check_cluster([namespace], time.time, kubeconfig=file))
    refused = by_status(every, Status.FAILED)
    assert "patch deployments" in refused[f"cluster: rights in {namespace}"].found
    assert "rbac.yaml" in refused[f"cluster: rights in {namespace}"].remedy
    assert f"cluster: lease in {namespace}" in refused


def test_a_clock_that_is_off_and_a_cluster_that_is_away_are_seen(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    file = cluster.kubeconfig(tmp_path / "admin.kubeconfig", None, namespace)
    found = list(check_cluster([], lambda: time.time() - 3_600, kubeconfig=file))
    assert "ahead" in by_status(found, Status.FAILED)["cluster: clock"].found
    (missing,) = check_cluster([], time.time, kubeconfig=tmp_path / "nothing")
    assert "KUBECONFIG" in missing.remedy
