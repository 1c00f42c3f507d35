"""Models that KServe serves, on the real API server with KServe's real definition.

Neither KServe nor Knative runs here: `KServe` below plays their controllers, by the rules of
KServe 0.19 (`createKnativeService`, `PropagateStatus`), and writes the status that they would.

The contract of targets (target_contract.py) asks for Deployments: replicas that are counted, labels
for roles, a Service. KServe has none of these, so what of it means something here is tested here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import ArmRole, PointService, Scale, SetRole, Split, Version
from controller.deploy.client import Connection
from controller.deploy.inference import STAGED
from controller.deploy.kserve import InferenceServices
from controller.deploy.target import FoundArm, Order
from controller.errors import Conflict, Permanent, Retryable
from controller.router.snapshot import RoutedModel
from tests.cluster.client import Document, path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.scene import connect, kserve_policy
from tests.cluster.target_contract import eventually
from tests.processes import until

URIS = {version: f"s3://models/digits/{version}" for version in ("v1", "v2", "v3")}
WAIT_S = 5.0


class KServe:
    """Its controller and Knative's, for one InferenceService; a pass is `reconcile`.

    A changed template makes a revision, which is ready only when `gets_ready`. The template is
    what KServe makes it of: the storageUri, and all labels and annotations.
    """

    def __init__(self, cluster: ControlPlane, where: str) -> None:
        self.cluster, self.where = cluster, where
        self.templates: list[str] = []
        self.ready = 0
        self.rolled_out = 0
        self.previous = 0

    def reconcile(self, *, gets_ready: bool = True) -> None:
        found = self.cluster.admin.get(self.where)
        meta, predictor = found["metadata"], found["spec"]["predictor"]
        marks = [meta.get("labels"), meta.get("annotations"), predictor["model"]["storageUri"]]
        template = json.dumps(marks, sort_keys=True)
        if not self.templates or self.templates[-1] != template:
            self.templates.append(template)
        if gets_ready:
            self.ready = len(self.templates)
        for _ in range(2):  # a status that it wrote makes it look again
            self._write(predictor.get("canaryTrafficPercent"))

    def _write(self, percent: int | None) -> None:
        created = len(self.templates)
        traffic = []
        if self.ready:
            share = 100 if percent is None or not self.rolled_out else percent
            traffic = [(self.ready, share, True)]
            if share < 100:
                traffic.append((self.rolled_out, 100 - share, False))
            self._roll(traffic, created, share)
        component = {
            "latestCreatedRevision": name(created),
            "latestReadyRevision": name(self.ready),
            "latestRolledoutRevision": name(self.rolled_out),
            "previousRolledoutRevision": name(self.previous),
            "traffic": [
                {"revisionName": name(n), "percent": share, "latestRevision": is_latest}
                for n, share, is_latest in traffic
            ],
        }
        status = {"deploymentMode": "Knative", "components": {"predictor": component}}
        self.cluster.admin.patch(f"{self.where}/status", {"status": status})

    def _roll(self, traffic: list[tuple[int, int, bool]], created: int, share: int) -> None:
        if self.rolled_out != self.ready:
            if share == 100:
                self.previous, self.rolled_out = self.rolled_out, self.ready
            return
        is_all = sum(s for n, s, _ in traffic if n == self.ready) == 100
        if self.ready == created and share < 100 and self.previous and is_all:
            self.rolled_out = self.previous

    def gets(self) -> dict[str, int]:
        """The traffic by URI, which is what users notice."""
        found = self.cluster.admin.get(self.where)
        shares: dict[str, int] = {}
        for each in found["status"]["components"]["predictor"]["traffic"]:
            uri = json.loads(self.templates[int(each["revisionName"][-5:]) - 1])[2]
            shares[uri] = shares.get(uri, 0) + each["percent"]
        return {uri: share for uri, share in shares.items() if share}


def name(number: int) -> str:
    return f"digits-predictor-{number:05}" if number else ""


class World:
    """An InferenceService that its owner created, rolled out, and what acts on it."""

    def __init__(self, cluster: ControlPlane, namespace: str, connection: Connection) -> None:
        self.cluster, self.namespace, self.connection = cluster, namespace, connection
        self.policy = kserve_policy(namespace)
        self.where = path("inferenceservices", namespace, "digits")
        self.versions = {v: Version(v, uri=uri) for v, uri in URIS.items() if v != "v1"}
        self.versions["v1"] = Version("v1")
        self.made: list[InferenceServices] = []
        self.ours = self.another()
        self.create()

    def another(self) -> InferenceServices:
        """As after a restart."""
        ours = InferenceServices(
            self.connection,
            namespaces=[self.namespace],
            changed=lambda _: None,
            clock=time.monotonic,
        )
        self.made.append(ours)
        return ours

    def create(self) -> None:
        body = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "digits", "labels": {"team": "vision"}},
            "spec": {
                "predictor": {
                    "minReplicas": 1,
                    "model": {"modelFormat": {"name": "sklearn"}, "storageUri": URIS["v1"]},
                }
            },
        }
        where = path("inferenceservices", self.namespace)
        self.cluster.admin.create(f"{where}?fieldManager=kubectl", body)
        self.kserve = KServe(self.cluster, self.where)
        self.kserve.reconcile()

    def found(self) -> Document:
        return self.cluster.admin.get(self.where)

    def spec(self) -> tuple[str, int | None]:
        predictor = self.found()["spec"]["predictor"]
        return predictor["model"]["storageUri"], predictor.get("canaryTrafficPercent")

    def carry_out(self, effect: Scale | SetRole | PointService, champion: str = "v1") -> None:
        order = Order("digits", self.policy, effect, self.versions, champion, "because")
        self.ours.carry_out(order)

    def soon(self, effect: Scale | SetRole | PointService, champion: str = "v1") -> None:
        """Once the watch has told of KServe's last pass."""
        eventually(lambda: self.carry_out(effect, champion))

    def publish(self, epoch: int, weights: dict[str, int], champion: str = "v1") -> None:
        model = RoutedModel(
            "digits",
            self.policy.spec.route,
            Split(epoch, champion, weights, "salt"),
            deploy=self.policy.spec.deploy,
            namespace=self.policy.namespace,
        )
        asyncio.run(self.ours.publish([model]))

    def confirmed(self, timeout_s: float = 0.2) -> dict[str, int]:
        return dict(asyncio.run(self.ours.confirmed(timeout_s)))

    def arms(self) -> dict[str, tuple[str, int, int]]:
        found = self.ours.found(self.policy, self.versions)
        return {n: (arm.state, arm.ready, arm.replicas) for n, arm in sorted(found.items())}

    def becomes(self, **expected: tuple[str, int, int]) -> None:
        until(f"the arms are {expected}", lambda: self.arms().items() >= expected.items())

    def staged(self, version: str = "v2") -> None:
        """A candidate that is ready beside the champion."""
        self.soon(Scale(1, version, 1))
        self.kserve.reconcile()
        self.becomes(**{version: READY})


READY, STARTING, AWAY, GONE = ("known", 1, 1), ("known", 0, 1), ("known", 0, 0), ("gone", 0, 0)


@pytest.fixture
def world(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[World]:
    cluster.install_crds("kserve")
    connection = connect(cluster, tmp_path)
    made = World(cluster, namespace, connection)
    yield made
    for each in made.made:
        each.stop()
    connection.close()


def test_whole_rollout_with_promotion(world: World) -> None:
    world.becomes(v1=READY, v2=AWAY)
    world.carry_out(Scale(1, "v2", 1))
    assert world.spec() == (URIS["v2"], 0)
    world.becomes(v1=READY, v2=STARTING)
    world.kserve.reconcile(gets_ready=False)
    assert world.kserve.gets() == {URIS["v1"]: 100}
    assert world.arms()["v2"] == STARTING
    world.kserve.reconcile()
    world.becomes(v1=READY, v2=READY)
    assert world.kserve.gets() == {URIS["v1"]: 100}
    for epoch, share in enumerate((5, 50, 100), 1):
        world.publish(epoch, {"v1": 10_000 - 100 * share, "v2": 100 * share})
        assert world.confirmed() == {}
        world.kserve.reconcile()
        assert world.confirmed(WAIT_S) == {"digits": epoch}
        assert world.kserve.gets()[URIS["v2"]] == share
    world.soon(PointService(2, "v2"), champion="v2")
    assert world.spec() == (URIS["v2"], None)
    world.kserve.reconcile()
    assert world.kserve.gets() == {URIS["v2"]: 100}
    world.carry_out(Scale(3, "v1", 0), champion="v2")
    world.becomes(v1=AWAY, v2=READY)
    world.publish(4, {"v2": 10_000}, champion="v2")
    assert world.confirmed(WAIT_S) == {"digits": 4}


def test_whole_rollout_with_roll_back(world: World) -> None:
    world.staged()
    world.publish(1, {"v1": 7_500, "v2": 2_500})
    world.kserve.reconcile()
    assert world.confirmed(WAIT_S) == {"digits": 1}
    before = sum(world.connection.requests.values())
    world.publish(2, {"v1": 10_000})
    assert sum(world.connection.requests.values()) - before == 1
    world.kserve.reconcile()
    assert world.confirmed(WAIT_S) == {"digits": 2}
    with pytest.raises(Retryable, match="revision of v1 is not ready"):
        world.carry_out(Scale(3, "v2", 0))
    assert world.spec() == (URIS["v1"], 0)
    world.kserve.reconcile(gets_ready=False)
    assert world.kserve.gets() == {URIS["v1"]: 100}
    with pytest.raises(Retryable, match="revision of v1 is not ready"):
        world.carry_out(Scale(3, "v2", 0))
    assert world.spec() == (URIS["v1"], 0)
    world.kserve.reconcile()
    world.soon(Scale(3, "v2", 0))
    assert world.spec() == (URIS["v1"], None)
    world.kserve.reconcile()
    assert world.kserve.gets() == {URIS["v1"]: 100}
    world.becomes(v1=READY, v2=AWAY)
    assert world.confirmed(WAIT_S) == {"digits": 2}


def test_rejected_candidate_gets_nothing_at_any_moment_of_its_removal(world: World) -> None:
    world.staged()
    with pytest.raises(Retryable):
        world.carry_out(Scale(2, "v2", 0))
    for gets_ready in (False, False, True, True):
        world.kserve.reconcile(gets_ready=gets_ready)
        assert world.kserve.gets() == {URIS["v1"]: 100}
        try:
            world.carry_out(Scale(2, "v2", 0))
        except Retryable:
            continue


def test_full_weight_can_be_taken_back(world: World) -> None:
    world.staged()
    world.publish(1, {"v2": 10_000})
    world.kserve.reconcile()
    assert world.confirmed(WAIT_S) == {"digits": 1}
    world.publish(2, {"v1": 10_000})
    assert world.confirmed() == {}
    world.kserve.reconcile()
    assert world.confirmed(WAIT_S) == {"digits": 2}
    assert world.kserve.gets() == {URIS["v1"]: 100}


def test_next_candidate_takes_the_place_of_one_without_traffic(world: World) -> None:
    world.staged()
    world.soon(Scale(2, "v3", 1))
    assert world.spec() == (URIS["v3"], 0)
    world.kserve.reconcile()
    world.becomes(v1=READY, v2=AWAY, v3=READY)
    assert world.kserve.gets() == {URIS["v1"]: 100}
    world.publish(1, {"v1": 9_900, "v3": 100})
    world.kserve.reconcile()
    assert world.confirmed(WAIT_S) == {"digits": 1}
    with pytest.raises(Retryable, match="v3 still gets 1 %"):
        world.carry_out(Scale(3, "v2", 1))


def test_undone_champion_is_staged_by_the_uri_that_it_had(world: World) -> None:
    world.staged()
    world.publish(1, {"v2": 10_000})
    world.kserve.reconcile()
    world.soon(PointService(1, "v2"), champion="v2")
    world.kserve.reconcile()
    world.soon(Scale(2, "v1", 1), champion="v2")
    assert world.spec() == (URIS["v1"], 0)
    world.kserve.reconcile()
    assert world.kserve.gets() == {URIS["v2"]: 100}
    world.becomes(v1=READY, v2=READY)


def test_nothing_is_staged_before_kserve_has_taken_up_the_last(world: World) -> None:
    world.carry_out(Scale(1, "v2", 1))
    with pytest.raises(Retryable, match="not yet taken up v2"):
        world.carry_out(Scale(2, "v3", 1))
    with pytest.raises(Retryable, match="not yet taken up"):
        world.carry_out(Scale(2, "v2", 0))
    assert world.spec() == (URIS["v2"], 0)


def test_nothing_is_staged_beside_what_never_was_rolled_out(world: World) -> None:
    world.cluster.admin.delete(world.where)
    until("it is gone", lambda: world.cluster.admin.call("GET", world.where)[0] == 404)
    world.create()
    status = {"components": {"predictor": {"latestRolledoutRevision": ""}}}
    world.cluster.admin.patch(f"{world.where}/status", {"status": status})
    with pytest.raises(Retryable, match="a new version would get everything"):
        world.carry_out(Scale(1, "v2", 1))
    assert world.spec() == (URIS["v1"], None)


@pytest.mark.parametrize(
    "effect",
    [
        Scale(1, "v2", 1),
        Scale(1, "v1", 1),
        Scale(1, "v1", None),
        Scale(1, "v3", 0),
        SetRole(1, "v2", ArmRole.CANDIDATE),
    ],
    ids=repr,
)
def test_order_that_was_carried_out_writes_nothing(world: World, effect: Scale | SetRole) -> None:
    world.staged()
    before = world.found()["metadata"]["resourceVersion"]
    world.ours = world.another()
    for _ in range(2):
        world.carry_out(effect)
    assert world.found()["metadata"]["resourceVersion"] == before


def test_same_split_again_writes_nothing(world: World) -> None:
    world.staged()
    world.publish(1, {"v1": 9_500, "v2": 500})
    version = world.found()["metadata"]["resourceVersion"]
    world.ours = world.another()
    world.publish(1, {"v1": 9_500, "v2": 500})
    assert world.found()["metadata"]["resourceVersion"] == version


def test_split_and_promotion_start_no_new_pods(world: World) -> None:
    world.staged()
    revisions = len(world.kserve.templates)
    for epoch, share in enumerate((5, 50, 100), 1):
        world.publish(epoch, {"v1": 10_000 - 100 * share, "v2": 100 * share})
        world.kserve.reconcile()
    world.soon(SetRole(2, "v2", ArmRole.CHAMPION), champion="v2")
    world.soon(PointService(2, "v2"), champion="v2")
    world.kserve.reconcile()
    assert len(world.kserve.templates) == revisions


def test_rest_of_the_inference_service_is_left_alone(world: World) -> None:
    before = world.found()
    world.staged()
    after = world.found()
    del after["spec"]["predictor"]["canaryTrafficPercent"]
    after["spec"]["predictor"]["model"]["storageUri"] = URIS["v1"]
    assert after["spec"] == before["spec"]
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    assert set(after["metadata"]["annotations"]) == {STAGED, "understudy.dev/fields"}


def test_weight_of_a_version_that_is_not_there_yet_waits(world: World) -> None:
    world.publish(1, {"v1": 9_500, "v2": 500})
    assert world.spec() == (URIS["v1"], None)
    assert world.confirmed() == {}
    assert "serves v1 and not yet v2" in world.ours.troubles["digits"]


def test_part_of_a_percent_is_refused(world: World) -> None:
    world.staged()
    world.publish(1, {"v1": 9_950, "v2": 50})
    assert "KServe carries whole percents" in world.ours.troubles["digits"]
    assert world.spec() == (URIS["v2"], 0)


def test_standard_mode_is_refused_before_anything_is_written(world: World) -> None:
    world.cluster.admin.patch(
        f"{world.where}/status", {"status": {"deploymentMode": "RawDeployment"}}
    )
    with pytest.raises(Permanent, match="RawDeployment mode, in which KServe ignores"):
        world.carry_out(Scale(1, "v2", 1))
    assert world.spec() == (URIS["v1"], None)


def test_version_without_uri_is_named(world: World) -> None:
    world.versions["v4"] = Version("v4")
    with pytest.raises(Permanent, match="v4 has no uri"):
        world.carry_out(Scale(1, "v4", 1))


def test_champion_is_never_taken_out(world: World) -> None:
    with pytest.raises(Permanent, match="v1 is the champion"):
        world.carry_out(Scale(1, "v1", 0))


def test_field_that_somebody_applies_is_not_taken(world: World) -> None:
    body: dict[str, Any] = {"spec": {"predictor": {"model": {"storageUri": URIS["v1"]}}}}
    head = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    world.cluster.admin.apply(world.where, head | body, "flux")
    with pytest.raises(Conflict, match="storageUri is applied by 'flux'"):
        world.carry_out(Scale(1, "v2", 1))
    assert world.spec() == (URIS["v1"], None)


def test_another_writer_in_mid_ramp_is_named_and_not_fought(world: World) -> None:
    world.staged()
    world.publish(1, {"v1": 9_500, "v2": 500})
    world.kserve.reconcile()
    assert world.confirmed(WAIT_S) == {"digits": 1}
    world.cluster.admin.call(
        "PATCH",
        f"{world.where}?fieldManager=kubectl-edit",
        {"spec": {"predictor": {"canaryTrafficPercent": 60}}},
        "application/merge-patch+json",
    )
    until("the change is seen", lambda: "digits" in world.ours.troubles)
    assert "is 60 and not 5; it was written by 'kubectl-edit'" in world.ours.troubles["digits"]
    world.publish(2, {"v1": 10_000})
    assert world.spec() == (URIS["v2"], 60)
    assert world.ours.troubles["digits"].startswith("Conflict")
    assert world.confirmed() == {}


def test_changed_uri_is_named_and_nothing_is_done(world: World) -> None:
    world.staged()
    change = {"spec": {"predictor": {"model": {"storageUri": "s3://elsewhere"}}}}
    world.cluster.admin.patch(world.where, change)
    with pytest.raises(Conflict, match="storageUri was changed to s3://elsewhere"):
        world.carry_out(PointService(1, "v2"), champion="v2")
    world.publish(1, {"v1": 9_500, "v2": 500})
    assert "changed to s3://elsewhere" in world.ours.troubles["digits"]
    assert world.spec() == ("s3://elsewhere", 0)


def test_rollout_of_somebody_else_is_not_taken_over(world: World) -> None:
    world.cluster.admin.patch(world.where, {"spec": {"predictor": {"canaryTrafficPercent": 20}}})
    with pytest.raises(Conflict, match="end that rollout first"):
        world.carry_out(Scale(1, "v2", 1))


def test_deleted_inference_service_is_gone(world: World) -> None:
    world.staged()
    world.cluster.admin.delete(world.where)
    world.becomes(v1=GONE, v2=GONE)
    with pytest.raises(Permanent, match="no InferenceService digits"):
        world.carry_out(Scale(1, "v2", 1))
    world.carry_out(Scale(2, "v2", 0))


def test_api_server_that_is_away_is_waited_for(world: World, cluster: ControlPlane) -> None:
    world.staged()
    cluster.stop_api()
    try:
        world.publish(1, {"v1": 9_500, "v2": 500})
        assert world.ours.troubles["digits"].startswith("Retryable")
        with pytest.raises(Retryable):
            world.carry_out(Scale(1, "v3", 1))
        until("nothing is known", lambda: {s for s, *_ in world.arms().values()} == {"unknown"})
    finally:
        cluster.start_api()
    world.becomes(v1=READY, v2=READY)
    until("it is carried", lambda: world.confirmed() == {} and not world.ours.troubles)
    assert world.spec() == (URIS["v2"], 5)


def test_failure_to_load_is_said(world: World) -> None:
    world.staged()
    info = {"reason": "ModelLoadFailed", "message": "no such bucket"}
    failed = {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": info}
    world.cluster.admin.patch(f"{world.where}/status", {"status": {"modelStatus": failed}})
    until("it is said", lambda: world.ours.problems(world.policy))
    assert world.ours.problems(world.policy) == [
        "KServe says BlockedByFailedLoad: ModelLoadFailed no such bucket"
    ]


def test_arms_carry_their_uris(world: World) -> None:
    world.becomes(v1=READY)
    found: FoundArm = world.ours.found(world.policy, world.versions)["v1"]
    assert (found.uri, found.limit) == (URIS["v1"], 1)
