"""The Helm chart for tests: rendered, applied, and its ServiceAccount to act as.

rendered(cluster, namespace, {"watchNamespaces": ["*"]}) -> list of documents
refused(cluster, namespace, values) -> why Helm did not render it
controller_user(cluster, namespace, values) -> User      with exactly the chart's rights
controller_kubeconfig(cluster, namespace, into, values) -> Path
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.client import Document, User, write_kubeconfig
from tests.cluster.control_plane import ControlPlane

CHART = Path(__file__).parents[2] / "charts" / "understudy"
RELEASE = "r"
RIGHTS = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}

Values = Mapping[str, Any]


def rendered(
    cluster: ControlPlane, namespace: str, values: Values | None = None, *more: str
) -> list[Document]:
    """What the chart becomes, as documents."""
    done = _template(cluster, namespace, values or {}, more)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def refused(cluster: ControlPlane, namespace: str, values: Values, *more: str) -> str:
    """Why the chart cannot be rendered with these values."""
    done = _template(cluster, namespace, values, more)
    assert done.returncode != 0, "it was rendered"
    return done.stderr


def of_kind(documents: Sequence[Document], kind: str, end: str = "") -> list[Document]:
    """The documents of a kind whose name ends so."""
    return [
        each
        for each in documents
        if each["kind"] == kind and each["metadata"]["name"].endswith(end)
    ]


def controller_user(
    cluster: ControlPlane, namespace: str, values: Values | None = None, seconds: int = 3600
) -> User:
    """The controller's ServiceAccount, with the rights that the chart gives it and no others."""
    documents = rendered(cluster, namespace, values)
    rights = [each for each in documents if each["kind"] in RIGHTS]
    cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(rights))
    (deployment,) = of_kind(documents, "Deployment", "-controller")
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    return cluster.service_account(namespace, account, seconds)


def controller_kubeconfig(
    cluster: ControlPlane, namespace: str, into: Path, values: Values | None = None
) -> Path:
    """A kubeconfig with which a process is the chart's controller."""
    user = controller_user(cluster, namespace, values)
    return write_kubeconfig(into, cluster.url, cluster.authority, user, namespace)


def _template(
    cluster: ControlPlane, namespace: str, values: Values, more: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(values), file)
        file.flush()
        command = [cluster.tools["helm"], "template", RELEASE, CHART, "--namespace", namespace]
        return subprocess.run(
            [*map(str, command), "--values", file.name, *more],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"HOME": str(cluster.folder), "PATH": "/usr/bin:/bin"},
        )
