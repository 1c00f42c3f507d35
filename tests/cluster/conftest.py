"""One control plane for all tests of this folder, and a namespace for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import build
from tests.cluster.client import path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import TinyKubelet
from tests.cluster.network import Network
from tests.cluster.serving import Scene
from tests.processes import until

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    # Building takes minutes, which are not a test's: `make test` has done it before.
    tools = build.find()
    if tools is None:
        pytest.fail("the control plane's programs are not built: run `make cluster`", pytrace=False)
    with ControlPlane(tmp_path_factory.mktemp("cluster"), tools) as running:
        yield running
        running.check()


@pytest.fixture
def namespace(cluster: ControlPlane) -> Iterator[str]:
    """A fresh namespace in which pods can be made; it is deleted in the background."""
    with _namespace(cluster) as name:
        yield name


@pytest.fixture(scope="module")
def untouched(cluster: ControlPlane) -> Iterator[str]:
    """One for all tests of a module that write nothing into it.

    To delete a namespace the cluster asks for every kind of object that could be in it.
    """
    with _namespace(cluster) as name:
        yield name


@contextmanager
def _namespace(cluster: ControlPlane) -> Iterator[str]:
    cluster.wake_controllers()
    name = f"t{next(_numbers)}"
    cluster.admin.create(path("namespaces"), {"metadata": {"name": name}})
    account = path("serviceaccounts", name, "default")
    until(f"{account} is there", lambda: cluster.admin.call("GET", account)[0] == 200)
    yield name
    cluster.admin.delete(path("namespaces", name=name))


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Addresses for pods with a real server."""
    with Network() as running:
        yield running


@pytest.fixture
def kubelet(
    cluster: ControlPlane, network: Network, namespace: str, tmp_path: Path
) -> Iterator[TinyKubelet]:
    """Real servers for the pods of `namespace` that carry `models.KUBELET`."""
    with TinyKubelet(cluster, network, namespace, tmp_path) as running:
        yield running


@pytest.fixture
def scene(
    cluster: ControlPlane, namespace: str, kubelet: TinyKubelet, tmp_path: Path
) -> Iterator[Scene]:
    """A model without a policy; whatever is started is ended."""
    made = Scene(cluster, namespace, tmp_path, kubelet)
    yield made
    made.end()
