"""`kill -9` of the leader at every moment of a promotion and of a roll-back, one by one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from controller.ledger import Ledger, open_ledger
from controller.stream import open_stream
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet import TinyKubelet
from tests.cluster.serving import LEASES, MODEL, SLOW, ClusterServe, Scene, Users, policy

pytestmark = pytest.mark.timeout(1500)

FULL = 2
QUICK = {"warmup": "0s", "retain": "1s", "drain": "1s"}
MORTAL = Path(__file__).with_name("mortal.py")


@pytest.fixture
def scene(
    cluster: ControlPlane, namespace: str, kubelet: TinyKubelet, tmp_path: Path
) -> Iterator[Scene]:
    """A model whose champion v1 has two replicas, and a controller that was not started yet."""
    made = Scene(cluster, namespace, tmp_path, kubelet)
    made.apply(policy(namespace, canary={**SLOW, "steps": ["50%"]}, **QUICK))
    made.deploy("v1", FULL)
    made.serve()
    yield made
    made.end()


def survived(scene: Scene, nth: int, operation: str, candidate: str, aside: str) -> bool:
    """Whether the controller lived, though it was to die at the n-th moment; one leads anyway."""
    [serve] = scene.serves
    assert serve.process is not None
    scene.deploy(candidate)
    scene.phase(serve, "ramping")
    go(scene, nth).touch()
    serve.ask_for(operation)

    def is_over() -> bool:
        assert serve.process is not None
        if serve.process.poll() is not None:
            return True
        return scene.role(aside) in {"retired", "rejected"} and is_at_rest(serve)

    scene.until("it is killed or done", is_over, serve)
    if serve.process.poll() is None:
        return True
    # Nobody needs to wait for a Lease whose holder is known to be dead.
    scene.cluster.admin.delete(f"{LEASES.format(scene.namespace)}/understudy")
    start(scene, nth + 1)
    if ordered(serve) < nth:
        serve.order(operation)  # it was killed before the order was in the log
    return False


def start(scene: Scene, nth: int) -> None:
    """Start the controller; it will die at the n-th moment after `go` is there."""
    [serve] = scene.serves
    serve.launcher = (str(MORTAL), str(nth), str(go(scene, nth)))
    serve.start()


def go(scene: Scene, nth: int) -> Path:
    """The file from which on moments are counted."""
    return scene.folder / f"go-{nth}"


def check(scene: Scene, champion: str, aside: str, role: str) -> None:
    """All is as it must be: in the cluster, at the router, in the ledger and in the status."""
    [serve] = scene.serves
    scene.until(f"{aside} is {role}", lambda: scene.role(aside) == role, serve)
    scene.phase(serve, "idle", "promoted", "rolled_back")
    scene.until(f"{aside} is scaled down", lambda: scene.replicas(aside)[0] == 0, serve)
    scene.until(f"{champion} is whole", lambda: scene.replicas(champion) == (FULL, FULL), serve)
    scene.until("the Service", lambda: scene.served() == champion, serve)
    assert scene.role(champion) in {"champion", None}
    report = serve.report()
    assert report["champion"] == champion
    [arm] = [each for each in report["arms"] if each["weight_in_force"]]
    assert (arm["arm"], arm["weight_in_force"]) == (champion, 10_000)
    scene.until("nothing is left to do", lambda: pending(serve) == [], serve)
    scene.until(
        "the status says so",
        lambda: scene.rollout_policy()["status"]["champion"] == champion,
        serve,
    )
    notes = sorted(each["note"] for each in scene.events("RolloutPolicy", MODEL))
    decided = sorted(each["reason"] for each in serve.decisions())
    assert set(notes) <= set(decided)
    assert len(notes) <= len(decided)


def ordered(serve: ClusterServe) -> int:
    """How many orders are in the log."""
    with closing(open_stream(f"sqlite:///{serve.state / 'events.db'}")) as log:
        lines = (line for block in log.read(MODEL, 0) for line in block.lines)
        return sum(b'"type":"command"' in line for line in lines)


def pending(serve: ClusterServe) -> list[object]:
    """What was decided and is not done."""
    with closing(ledger_of(serve)) as ledger:
        return list(ledger.pending_effects(MODEL))


def is_at_rest(serve: ClusterServe) -> bool:
    """Whether everything is done and nothing more is decided: no moment is left to be killed at."""
    with closing(ledger_of(serve)) as ledger:
        last = ledger.last_decision(MODEL)
        is_last = last is not None and last.cause == "no_candidate"
        return is_last and not ledger.pending_effects(MODEL)


def ledger_of(serve: ClusterServe) -> Ledger:
    return open_ledger(f"sqlite:///{serve.state / 'ledger.db'}", clock=time.time)


def test_promotion_ends_well_wherever_the_leader_is_killed(scene: Scene) -> None:
    [serve] = scene.serves
    champion = "v1"
    start(scene, 1)
    with Users(serve, rate_hz=40, threads=1) as users:
        for nth in itertools.count(1):
            began, candidate = time.time(), f"v{nth + 1}"
            is_over = survived(scene, nth, "promote", candidate, champion)
            check(scene, candidate, champion, "retired")
            print(nth, f"{time.time() - began:.1f} s", last_kill(serve))
            champion = candidate
            if is_over:
                break
    assert nth > 12
    assert users.lost == []
    assert serve.verified().code == 0  # every decision since the first kill


def test_roll_back_ends_well_wherever_the_leader_is_killed(scene: Scene) -> None:
    [serve] = scene.serves
    start(scene, 1)
    with Users(serve, rate_hz=40, threads=1) as users:
        for nth in itertools.count(1):
            began, candidate = time.time(), f"v{nth + 1}"
            is_over = survived(scene, nth, "rollback", candidate, candidate)
            check(scene, "v1", candidate, "rejected")
            print(nth, f"{time.time() - began:.1f} s", last_kill(serve))
            if is_over:
                break
    assert nth > 8
    assert users.lost == []
    assert serve.verified().code == 0  # every decision since the first kill


def last_kill(serve: ClusterServe) -> str:
    """Where the process was killed last."""
    lines = serve.err.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith("killed at")), "not killed")
