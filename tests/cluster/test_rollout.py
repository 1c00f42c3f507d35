"""The whole of it: policies and Deployments by `kubectl`, a real API server, Envoy and servers."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml

from tests.cluster import models
from tests.cluster.kubelet import Place
from tests.cluster.scene import autoscaler
from tests.cluster.serving import (
    AUTOSCALERS,
    FULL,
    MODEL,
    SLOW,
    ClusterServe,
    Film,
    Scene,
    Users,
    policy,
)

HEAD = ["NAME", "MODEL", "PHASE", "CHAMPION", "CANDIDATE", "STEP", "WEIGHT"]

pytestmark = pytest.mark.timeout(180)


def served(scene: Scene, **target: object) -> ClusterServe:
    """A controller that leads, with v1 as the champion that answers."""
    scene.apply(policy(scene.namespace, **target))  # type: ignore[arg-type]
    scene.deploy("v1", FULL)
    serve = scene.serve().start()
    scene.until("v1 answers", lambda: serve.ask(f"/{MODEL}/x")[0] == 200, serve)
    return serve


def test_promotes_by_the_policy_and_undoes(scene: Scene) -> None:
    serve = served(scene)
    with Users(serve, {"v1": 0.5, "v2": 0.9}) as users, Film(scene, "v1", "v2") as film:
        scene.until("v1 answers", lambda: len(users.answers) > 50, serve)
        scene.deploy("v2")
        scene.phase(serve, "ramping")
        scene.phase(serve, "promoted")
        promoted = time.time()
        assert {a.arm for a in users.since(promoted + 0.5)} <= {"v2"}
        scene.until("roles", lambda: scene.role("v1") == "retained", serve)
        assert (scene.role("v2"), scene.served()) == ("champion", "v2")
        assert scene.replicas("v1")[0] == FULL
        scene.until("v1 is retired", lambda: scene.role("v1") == "retired", serve)
        assert scene.replicas("v1")[0] == 0
        assert scene.replicas("v2") == (FULL, FULL)
        rises = weights_of("v2", serve)
        print(serve.cli("undo", MODEL, "--reason", "on a whim").out)
        scene.until("v1 answers again", lambda: users.share("v1") == 1, serve)
        scene.phase(serve, "rolled_back")
        scene.until("the Service is v1's", lambda: scene.served() == "v1", serve)
        scene.until("v2 is retired", lambda: scene.role("v2") == "retired", serve)
        assert scene.role("v1") == "champion"
        assert scene.replicas("v2")[0] == 0
    assert [weight for _, weight in rises] == [2500, 5000, 10_000]
    for moment, weight in rises:
        frame, needed = film.at("v2", moment), math.ceil(FULL * weight / 10_000)
        assert frame.ready >= needed, (weight, frame)
    assert film.least("v1", 0, promoted) == FULL
    assert users.lost == []
    assert {a.pod for a in users.answers if a.arm == "v2"}
    assert serve.verified().code == 0


def weights_of(arm: str, serve: ClusterServe) -> list[tuple[float, int]]:
    """When the arm's weight changed, and to what."""
    found: list[tuple[float, int]] = []
    for each in serve.decisions():
        weight = each["weights"].get(arm, 0)
        if weight != (found[-1][1] if found else 0):
            found.append((each["time"], weight))
    return found


def ramping(scene: Scene, serve: ClusterServe, version: str = "v2") -> None:
    """Bring a candidate to its first step, where a policy that is slow keeps it."""
    scene.deploy(version)
    scene.phase(serve, "ramping")


def weight(serve: ClusterServe, arm: str) -> int:
    """The weight of an arm, as the API has it now."""
    report = serve.report()
    return next((each["weight"] for each in report["arms"] if each["arm"] == arm), 0)


def in_force(serve: ClusterServe, version: str) -> int:
    """What the routers give to a version."""
    arms = [each for each in serve.report()["arms"] if each["arm"] == version]
    return int(arms[0]["weight_in_force"]) if arms else 0


def test_rolls_a_bad_candidate_back(scene: Scene) -> None:
    serve = served(scene)
    with Users(serve, {"v1": 0.9, "v3": 0.0}) as users, Film(scene, "v1") as film:
        scene.deploy("v3")
        scene.until("v3 answers", lambda: users.share("v3") > 0, serve)
        scene.phase(serve, "rolling_back", "rolled_back")
        told = time.time()
        scene.until("nobody gets v3", lambda: users.share("v3", 0.4) == 0, serve, 5)
        scene.until("v3 is put aside", lambda: scene.role("v3") == "rejected", serve)
        assert scene.replicas("v3")[0] == 0
        time.sleep(1)
        assert not [a for a in users.since(told + 2) if a.arm == "v3"]
    assert film.least("v1", 0, math.inf) == FULL
    assert users.lost == []
    [back] = [each for each in serve.decisions() if each["verdict"] == "roll_back"]
    # The weight was 0 before anything was scaled down.
    [scaled] = [each for each in serve.decisions() if each["cause"] == "retired"]
    assert scaled["time"] - back["time"] >= 1
    assert scene.served() == "v1"
    assert serve.verified().code == 0


@pytest.mark.parametrize("operation", ["promote", "rollback"])
def test_cuts_no_answer_that_is_under_way(scene: Scene, operation: str) -> None:
    slow_s = 6.0
    serve = served(scene, canary=SLOW, retain="8s", drain="8s")
    ramping(scene, serve)
    scene.until("v2 has its share", lambda: in_force(serve, "v2") == 2500, serve)
    with Users(serve) as users, ThreadPoolExecutor(16) as pool:
        paths = [f"/{MODEL}/x/slow/{slow_s:g}"] * 16
        begun = time.time()
        slow = [pool.submit(serve.ask, path, x_user_id=f"s{n}") for n, path in enumerate(paths)]
        time.sleep(0.5)
        serve.order(operation)
        leaves, stays = ("v1", "v2") if operation == "promote" else ("v2", "v1")
        scene.until("the traffic has moved", lambda: users.share(stays, 0.5) == 1, serve, 20)
        moved = time.time()
        answers = [each.result() for each in slow]
        scene.until("none is left", lambda: scene.replicas(leaves)[0] == 0, serve)
    assert moved < begun + slow_s, "the answers were over before it counted"
    assert {status for status, _ in answers} == {200}
    assert leaves in {headers["x-understudy-arm"] for _, headers in answers}
    assert users.lost == []


def test_says_what_it_decides_in_status_and_events(scene: Scene) -> None:
    serve = served(scene, canary=SLOW)
    ramping(scene, serve)

    def row() -> list[str]:
        table = scene.cluster.kubectl("get", "rop", "-n", scene.namespace, MODEL).splitlines()
        assert table[0].split()[:7] == HEAD
        return table[1].split()

    scene.until(
        "the row is right", lambda: row()[:5] == [MODEL, MODEL, "ramping", "v1", "v2"], serve
    )
    assert row()[5:8] == ["canary", "1/2", "25%"]
    assert scene.condition("Valid")["status"] == "True"
    assert scene.condition("Progressing")["status"] == "True"
    assert scene.condition("Healthy")["status"] == "True"
    status = scene.rollout_policy()["status"]
    assert status["observedGeneration"] == scene.rollout_policy()["metadata"]["generation"]
    serve.kill()
    serve.start()
    serve.order("promote", reason="it is time")
    scene.until("v1 is retired", lambda: scene.role("v1") == "retired", serve)
    serve.stop()
    serve.start()
    scene.phase(serve, "idle", "promoted")

    def told(kind: str, name: str) -> list[str]:
        return sorted(each["note"] for each in scene.events(kind, name))

    decided = serve.decisions()
    notes = sorted(each["reason"] for each in decided)
    scene.until("all are told", lambda: told("RolloutPolicy", MODEL) == notes, serve, 10)
    about = sorted(told("Deployment", f"{MODEL}-v1") + told("Deployment", f"{MODEL}-v2"))
    assert about == notes
    promotion = next(each for each in decided if each["verdict"] == "promote")
    assert promotion["reason"] in told("Deployment", f"{MODEL}-v2")
    assert "it is time" in promotion["reason"]
    row = scene.cluster.kubectl("get", "rop", "-n", scene.namespace, MODEL).splitlines()[1].split
    assert row()[3] == "v2"


def test_outlives_an_outage_of_the_api_server(scene: Scene) -> None:
    serve = served(scene, canary={"min_duration": "12s"})
    with Users(serve, {"v1": 0.5, "v2": 0.9}) as users:
        ramping(scene, serve)
        scene.cluster.stop_api()
        gone = time.monotonic()
        try:
            report = scene.until(
                "it says why it holds",
                lambda: (r := serve.report()) and "does not say what runs" in r["reason"] and r,
                serve,
            )
            assert report["verdict"] == "hold"
            while time.monotonic() < gone + 60:
                assert weight(serve, "v2") == 2500
                assert 0.1 < users.share("v2", 2) < 0.4
                time.sleep(1)
        finally:
            scene.cluster.start_api()
            scene.cluster.restart_controllers()
        scene.until("it goes on", lambda: weight(serve, "v2") == 5000, serve)
        scene.cluster.stop_api()
        try:
            begun = time.monotonic()
            assert serve.cli("rollback", MODEL).code == 0
            scene.until("nobody gets v2", lambda: users.share("v2", 0.3) == 0, serve, 5)
            took = time.monotonic() - begun
            time.sleep(3)
        finally:
            scene.cluster.start_api()
            scene.cluster.restart_controllers()
        scene.until("v2 is put aside", lambda: scene.role("v2") == "rejected", serve)
        assert scene.replicas("v2")[0] == 0
    assert took < 5
    assert users.lost == []
    assert serve.verified().code == 0


def test_rolls_back_a_candidate_that_is_deleted(scene: Scene) -> None:
    serve = served(scene, canary=SLOW)
    with Users(serve) as users:
        ramping(scene, serve)
        scene.until("v2 answers", lambda: users.share("v2") > 0.1, serve)
        scene.cluster.kubectl("delete", "deployment", "-n", scene.namespace, f"{MODEL}-v2")
        scene.phase(serve, "rolling_back", "rolled_back", timeout_s=5)
        scene.until("nobody gets v2", lambda: users.share("v2", 0.4) == 0, serve, 5)
        last = serve.decisions()
        assert "v2 is gone from the cluster" in [each["reason"] for each in last]
        scene.phase(serve, "idle", "rolled_back")
        time.sleep(1)
        assert serve.report()["health"].get("trouble") is None
    assert users.lost == []
    assert scene.replicas("v1") == (FULL, FULL)


def test_gives_up_a_candidate_that_never_gets_ready(scene: Scene) -> None:
    serve = served(scene, progress_deadline="5s")
    marks = {models.READINESS: "manual"}
    models.deploy(scene.cluster.admin, scene.namespace, MODEL, "v2", pod_annotations=marks)
    scene.until(
        "it says what it waits for",
        lambda: "v2 needs 1 of 4 replicas for 25 %; 0 are ready" in serve.report()["reason"],
        serve,
    )
    began = time.time()
    scene.until("v2 is put aside", lambda: scene.role("v2") == "rejected", serve)
    assert 3 < time.time() - began < 15
    assert scene.replicas("v2")[0] == 0
    assert weights_of("v2", serve) == []
    assert "progress_deadline" in {each["cause"] for each in serve.decisions()}


def test_flapping_readiness_moves_no_weight(scene: Scene) -> None:
    serve = served(scene, canary={**SLOW, "steps": ["50%"]})
    with Users(serve) as users:
        ramping(scene, serve)
        epoch = serve.report()["epoch"]
        place = next(p for p in scene.kubelet.places().values() if p.version == "v2")
        for _ in range(4):
            for status, ready in ((503, 1), (200, 2)):
                tell(place, status)
                scene.until("seen", lambda n=ready: scene.replicas("v2")[1] == n, serve)  # type: ignore[misc]
                time.sleep(0.7)
        assert serve.report()["epoch"] == epoch
        assert 0.3 < users.share("v2") < 0.7
    # A server that answers 503 while it is still among the endpoints is its own fault; if it stayed
    # among them, it would lose a quarter of the requests half of the time.
    assert len(users.lost) < 0.05 * len(users.answers), (len(users.lost), len(users.answers))


def tell(place: Place, status: int) -> None:
    """What a pod's server answers from now on."""
    httpx.get(f"http://{place.address}:{place.port}/tell/{status}/0", trust_env=False)


def test_takes_up_a_policy_that_is_edited_or_wrong(scene: Scene) -> None:
    serve = served(scene, canary=SLOW)
    ramping(scene, serve)
    with pytest.raises(AssertionError, match=r"spec\.reward"):
        scene.apply(policy(scene.namespace) | {"spec": {"route": {"prefix": "/x/"}}})
    wrong = policy(scene.namespace, canary=SLOW)
    wrong["spec"]["stages"][0]["canary"]["steps"] = ["50%", "25%"]
    scene.apply(wrong)
    found = scene.until(
        "the condition says so",
        lambda: (c := scene.condition("Valid"))["status"] == "False" and c,
        serve,
    )
    assert "spec.stages[0].canary" in found["message"]
    assert weight(serve, "v2") == 2500
    assert serve.report()["phase"] == "ramping"
    scene.apply(policy(scene.namespace, canary={"steps": ["25%", "60%"]}))
    scene.until("it is valid", lambda: scene.condition("Valid")["status"] == "True", serve)
    with Users(serve, {"v1": 0.5, "v2": 0.9}):
        scene.until("the new step", lambda: weight(serve, "v2") == 6000, serve)
    status = scene.rollout_policy()["status"]
    assert status["observedGeneration"] == scene.rollout_policy()["metadata"]["generation"]
    assert serve.verified().code == 0


def test_deleting_a_policy_leaves_its_deployments_alone(scene: Scene) -> None:
    serve = served(scene, canary=SLOW)
    ramping(scene, serve)
    before = [scene.replicas(version) for version in ("v1", "v2")]
    scene.cluster.kubectl("delete", "rop", "-n", scene.namespace, MODEL)
    scene.until("the model is gone", lambda: serve.report() is None, serve, 10)
    scene.until("the route is gone", lambda: serve.ask(f"/{MODEL}/x")[0] == 404, serve, 10)
    time.sleep(1)
    assert [scene.replicas(version) for version in ("v1", "v2")] == before
    scene.apply(policy(scene.namespace, canary=SLOW))
    scene.phase(serve, "ramping")
    scene.until("it answers again", lambda: serve.ask(f"/{MODEL}/x")[0] == 200, serve, 10)
    assert weight(serve, "v2") == 2500


def test_two_candidates_come_one_after_the_other(scene: Scene) -> None:
    serve = served(scene, canary=SLOW)
    scene.deploy("v2")
    scene.deploy("v3")
    report = scene.phase(serve, "ramping")
    [first] = report["candidates"]
    [second] = {"v2", "v3"} - {first}
    scene.until("the other waits", lambda: serve.report()["queue"] == [second], serve, 10)
    serve.order("rollback")
    scene.until("it is its turn", lambda: weight(serve, second) == 2500, serve)
    scene.until("the first is put aside", lambda: scene.role(first) == "rejected", serve)
    assert (scene.replicas(first)[0], scene.role(second)) == (0, "candidate")


def test_watches_that_are_too_old_are_begun_anew(scene: Scene) -> None:
    serve = served(scene, canary=SLOW)
    scene.cluster.expire_watches()
    ramping(scene, serve)
    scene.cluster.expire_watches()
    scene.apply(policy(scene.namespace, canary={"steps": ["25%", "60%"]}))
    with Users(serve, {"v1": 0.5, "v2": 0.9}):
        scene.until("the new step", lambda: weight(serve, "v2") == 6000, serve)


def test_rolling_back_an_idle_model_is_refused(scene: Scene) -> None:
    serve = served(scene)
    scene.until("the condition is there", lambda: scene.condition("Valid"), serve)
    time.sleep(1)
    mark = scene.cluster.audit.mark()
    code, answer = serve.order("rollback")
    assert (code, answer["detail"]) == (409, "rollback does not fit: the phase is idle")
    time.sleep(2)
    written = scene.cluster.audit.requests(since=mark, agent="understudy/", verb="patch")
    assert [each for each in written if each.resource in {"deployments", "services"}] == []
    assert scene.replicas("v1") == (FULL, FULL)


def test_leaves_replicas_to_an_autoscaler(scene: Scene) -> None:
    serve = served(scene, canary={**SLOW, "steps": ["50%"]})
    where = f"{AUTOSCALERS.format(scene.namespace)}"
    name = f"{MODEL}-v2"
    scene.cluster.admin.create(where, autoscaler(name, 1, 3))
    scene.deploy("v2")

    def minimum() -> int:
        found = scene.cluster.admin.get(f"{where}/{name}")
        return int(found["spec"]["minReplicas"])

    scene.until("its minimum is raised", lambda: minimum() == 2, serve)
    # There is no metrics server: do what the autoscaler would.
    scene.cluster.kubectl("scale", "-n", scene.namespace, "deployment", name, "--replicas=2")
    scene.phase(serve, "ramping")
    serve.order("promote")
    scene.until("up to its maximum", lambda: minimum() == 3, serve)
    scene.cluster.kubectl("scale", "-n", scene.namespace, "deployment", name, "--replicas=3")
    scene.phase(serve, "promoted")
    scene.until("it is given back", lambda: minimum() == 1, serve)
    owners = scene.cluster.kubectl(
        "get", "deployment", "-n", scene.namespace, name, "-o", "yaml", "--show-managed-fields"
    )
    [ours] = [
        each
        for each in yaml.safe_load(owners)["metadata"]["managedFields"]
        if each["manager"] == "understudy"
    ]
    assert "f:replicas" not in ours["fieldsV1"].get("f:spec", {})
    assert scene.role("v2") == "champion"
