from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.deploy import client
from controller.deploy.client import Connection
from controller.deploy.faults import Exists, FieldConflict, NotFound, Stale
from controller.deploy.objects import DEPLOYMENTS, SERVICES, Object, Resource
from controller.errors import Permanent, Retryable
from tests.cluster import models
from tests.cluster.client import User, path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.scene import connect
from tests.processes import free_port, until

MAPS = Resource("v1", "configmaps", "ConfigMap")


@pytest.fixture
def connection(cluster: ControlPlane, tmp_path: Path) -> Iterator[Connection]:
    found = connect(cluster, tmp_path)
    yield found
    found.close()


def config(name: str, namespace: str, **data: str) -> Object:
    return MAPS.head(namespace, name) | {"data": data}


def test_object_is_created_read_replaced_and_deleted(
    connection: Connection, namespace: str
) -> None:
    where = MAPS.path(namespace, "a")
    made = connection.create(MAPS.path(namespace), config("a", namespace, x="1"))
    with pytest.raises(Exists):
        connection.create(MAPS.path(namespace), config("a", namespace))
    assert connection.replace(where, made | {"data": {"x": "2"}})["data"] == {"x": "2"}
    with pytest.raises(Stale):
        connection.replace(where, made | {"data": {"x": "3"}})
    assert connection.get(where)["data"] == {"x": "2"}
    with pytest.raises(Stale):
        connection.delete(where, uid="another")
    connection.delete(where, uid=made["metadata"]["uid"])
    with pytest.raises(NotFound, match="not found"):
        connection.get(where)


def test_list_goes_through_all_pages(
    connection: Connection, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    for name in "abcde":
        body = config(name, namespace)
        body["metadata"]["labels"] = {"odd": str(name in "ace")}
        connection.create(MAPS.path(namespace), body)
    found = connection.list(MAPS.path(namespace), labels="odd")
    assert [each["metadata"]["name"] for each in found.items] == list("abcde")
    assert len(connection.list(MAPS.path(namespace), labels="odd=True").items) == 3
    assert len(connection.list(MAPS.path(namespace), fields="metadata.name=a").items) == 1
    assert int(found.version) > 0


def test_apply_owns_what_it_names_and_meets_other_owners(
    connection: Connection, namespace: str
) -> None:
    where = MAPS.path(namespace, "a")
    connection.apply(where, config("a", namespace, x="1", y="1"))
    connection.apply(where, config("a", namespace, x="1"))
    assert connection.get(where)["data"] == {"x": "1"}
    connection.create(MAPS.path(namespace), config("b", namespace, x="1"))
    other = MAPS.path(namespace, "b")
    found = connection.get(other)
    found["metadata"]["managedFields"][0]["manager"] = "somebody"
    connection.replace(other, found)
    with pytest.raises(FieldConflict, match="somebody") as conflict:
        connection.apply(other, config("b", namespace, x="2"))
    assert [claim.field for claim in conflict.value.claims] == [".data.x"]
    tried = connection.apply(other, config("b", namespace, x="2"), force=True, dry_run=True)
    assert tried["data"] == {"x": "2"}
    assert connection.get(other)["data"] == {"x": "1"}
    connection.apply(other, config("b", namespace, x="2"), force=True)
    assert connection.get(other)["data"] == {"x": "2"}


def test_apply_with_a_uid_makes_no_object_anew(connection: Connection, namespace: str) -> None:
    body = config("a", namespace)
    body["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(Stale):
        connection.apply(MAPS.path(namespace, "a"), body)
    with pytest.raises(NotFound):
        connection.get(MAPS.path(namespace, "a"))


def test_unknown_field_is_refused(connection: Connection, namespace: str) -> None:
    body = SERVICES.head(namespace, "a") | {"spec": {"ports": [{"port": 1}], "colour": "red"}}
    with pytest.raises(Permanent, match="colour"):
        connection.apply(SERVICES.path(namespace, "a"), body)


def test_status_is_applied_by_its_subresource(
    cluster: ControlPlane, connection: Connection, namespace: str
) -> None:
    cluster.admin.create(
        path("deployments", namespace), models.deployment("digits", "v1", replicas=0)
    )
    where = DEPLOYMENTS.path(namespace, "digits-v1")
    condition = {"type": "Understood", "status": "True"}
    body = DEPLOYMENTS.head(namespace, "digits-v1") | {"status": {"conditions": [condition]}}
    connection.apply(where, body, subresource="status")
    found = connection.get(where)["status"]["conditions"]
    assert any(each["type"] == "Understood" for each in found)


def test_watch_tells_changes_after_its_position(connection: Connection, namespace: str) -> None:
    connection.create(MAPS.path(namespace), config("before", namespace))
    version = connection.list(MAPS.path(namespace)).version
    opened: list[bool] = []
    watch = connection.watch(
        MAPS.path(namespace), version=version, opened=lambda: opened.append(True)
    )
    connection.create(MAPS.path(namespace), config("a", namespace))
    connection.delete(MAPS.path(namespace, "a"))
    found = []
    for change in watch:
        if change.object["metadata"]["name"] != "kube-root-ca.crt":
            found.append((change.type, change.object["metadata"]["name"]))
        if len(found) == 2:
            watch.stop()
    assert found == [("ADDED", "a"), ("DELETED", "a")]
    assert opened == [True]


def test_watch_that_was_stopped_before_it_began_ends(
    connection: Connection, namespace: str
) -> None:
    version = connection.list(MAPS.path(namespace)).version
    watch = connection.watch(MAPS.path(namespace), version=version)
    watch.stop()
    assert list(watch) == []


def test_requests_are_counted_and_signed(
    cluster: ControlPlane, connection: Connection, namespace: str
) -> None:
    mark = cluster.audit.mark()
    with pytest.raises(NotFound):
        connection.get(MAPS.path(namespace, "none"))
    connection.list(MAPS.path(namespace))
    connection.list(MAPS.path())
    assert connection.requests == {("get", "configmaps"): 1, ("list", "configmaps"): 2}
    until(
        "they are logged",
        lambda: len(cluster.audit.requests(since=mark, agent="understudy/", is_so=ours)) == 3,
    )


def ours(request: object) -> bool:
    return "understudy-tests" not in getattr(request, "agent", "")


def test_answer_is_heard_and_silence_is_not(
    cluster: ControlPlane, connection: Connection, tmp_path: Path
) -> None:
    assert connection.silent_s == float("inf")
    connection.ping()
    assert connection.silent_s < 5
    away = connect(cluster, tmp_path, url=f"https://127.0.0.1:{free_port()}")
    with pytest.raises(Retryable, match="cannot be reached"):
        away.ping()
    assert away.silent_s == float("inf")
    away.close()


def test_certificate_of_somebody_else_is_not_believed(
    cluster: ControlPlane, connection: Connection, tmp_path: Path
) -> None:
    strange = connect(cluster, tmp_path, url=cluster.url.replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises(Retryable):
        strange.ping()
    strange.close()


def test_wrong_token_is_named(cluster: ControlPlane, tmp_path: Path) -> None:
    nobody = connect(cluster, tmp_path, User("nobody", token="wrong"))
    with pytest.raises(Permanent, match="401"):
        nobody.get(MAPS.path("default", "a"))
    nobody.close()


def test_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="no way to the Kubernetes API"):
        Connection.from_settings(kubeconfig=tmp_path / "none", clock=lambda: 0.0)


def test_service_account_of_the_pod_is_used_when_there_is_one(
    cluster: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = cluster.service_account(namespace, "understudy")
    (tmp_path / "token").write_text(account.token or "")
    (tmp_path / "ca.crt").write_text(cluster.authority.read_text())
    (tmp_path / "namespace").write_text(namespace)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.port))
    monkeypatch.setattr(client, "_IN_CLUSTER", tmp_path)
    inside = "kubernetes.config.incluster_config"
    monkeypatch.setattr(f"{inside}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{inside}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    found = Connection.from_settings(clock=lambda: 0.0)
    assert found.namespace == namespace
    with pytest.raises(Permanent, match=f"system:serviceaccount:{namespace}:understudy"):
        found.list(MAPS.path(namespace))
    found.close()
