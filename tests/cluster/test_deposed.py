"""A controller whose Lease another one has: it ends, with one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.cluster import rollout_policies
from tests.cluster.client import User, path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.serving import ClusterServe
from tests.processes import until

pytestmark = pytest.mark.timeout(60)

LEASES = {
    "apiGroups": ["coordination.k8s.io"],
    "resources": ["leases"],
    "verbs": ["get", "create", "update"],
}


@pytest.fixture
def make(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> Iterator[Callable[..., ClusterServe]]:
    """A controller as a user, not started yet."""
    rollout_policies.install(cluster)
    made: list[ClusterServe] = []

    def serve(user: User | None = None) -> ClusterServe:
        file = cluster.kubeconfig(tmp_path / "kubeconfig.yaml", user, namespace)
        made.append(ClusterServe(tmp_path, file, namespace))
        return made[-1]

    yield serve
    for each in made:
        each.end()


def holder(cluster: ControlPlane, namespace: str) -> str:
    """Who has the Lease."""
    every = cluster.admin.items(path("leases", namespace))
    return str(every[0]["spec"].get("holderIdentity")) if every else ""


def give_to_another(cluster: ControlPlane, namespace: str) -> None:
    """As a controller would that could look while this one could not."""
    where = path("leases", namespace, "understudy")
    cluster.admin.patch(where, {"spec": {"holderIdentity": "another"}})


def ended(serve: ClusterServe) -> str:
    """What it said after it began; the exit code is that of an error."""
    assert serve.process is not None
    assert serve.process.wait(15) == 1
    return serve.err.read_text()


def test_leader_whose_lease_another_has_ends_with_one_sentence(
    cluster: ControlPlane, namespace: str, make: Callable[..., ClusterServe]
) -> None:
    serve = make().start()
    with urlopen(f"http://127.0.0.1:{serve.api_port}/v1/stream", timeout=30) as stream:
        give_to_another(cluster, namespace)
        said = ended(serve)
        stream.read()
    assert "Traceback" not in said
    assert "Cancelled" not in said
    last = said.splitlines()[-1]
    assert last.startswith("understudy: this controller does not lead any more: ")
    assert "another" in last
    assert holder(cluster, namespace) == "another"


def test_lease_that_is_lost_before_there_is_a_term_ends_the_process_too(
    cluster: ControlPlane, namespace: str, make: Callable[..., ClusterServe]
) -> None:
    """Without the right to look at anything it would never know the cluster."""
    user = cluster.user(f"blind-{namespace}")
    cluster.grant(user, LEASES, namespace=namespace)
    serve = make(user)
    serve.spawn()
    until("it has the Lease", lambda: holder(cluster, namespace).startswith("a_"))
    assert serve.process is not None
    assert serve.process.poll() is None
    give_to_another(cluster, namespace)
    said = ended(serve)
    assert "Traceback" not in said
    assert "does not lead any more" in said.splitlines()[-1]
