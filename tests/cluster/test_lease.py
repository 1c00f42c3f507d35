"""The election on a real API server: one leads, and who that is changes when it must."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from controller.deploy.client import Connection
from controller.deploy.lease import Lease, Timing
from tests.cluster.client import path
from tests.cluster.control_plane import ControlPlane
from tests.processes import until

SHORT = Timing(lease_s=3.0, deadline_s=2.0, retry_s=0.4)
RULES = {
    "apiGroups": ["coordination.k8s.io"],
    "resources": ["leases"],
    "verbs": ["get", "create", "update"],
}


class Standing:
    """A candidate in this process, and what it was told."""

    def __init__(self, connection: Connection, name: str, **options: Any) -> None:
        self.told: list[str] = []
        given = {
            "clock": time.monotonic,
            "wall": time.time,
            "timing": SHORT,
            "gained": lambda: self.told.append("gained"),
            "lost": lambda why: self.told.append(f"lost: {why}"),
        }
        self.lease = Lease(connection, identity=name, **(given | options))
        self.lease.start()

    @property
    def leads(self) -> bool:
        return self.lease.is_leader


class Process:
    """A candidate in a process of its own."""

    def __init__(self, kubeconfig: Path, name: str, folder: Path) -> None:
        self._out = folder / f"{name}.out"
        command = [sys.executable, "-m", "tests.cluster.elected", str(kubeconfig), name]
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out)
        until(f"{name} stands", lambda: self.when("stands"))

    def when(self, word: str) -> float | None:
        """When it last said the word."""
        found = re.findall(rf"^{word} ([\d.]+)", self._out.read_text(), re.MULTILINE)
        return float(found[-1]) if found else None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def stand(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Any]:
    made: list[Lease] = []
    user = cluster.user("elected")
    cluster.grant(user, RULES, namespace=namespace)
    file = cluster.kubeconfig(tmp_path / "kubeconfig", user, namespace)

    def make(name: str, **options: Any) -> Standing:
        connection = Connection.from_settings(kubeconfig=file, clock=time.monotonic)
        standing = Standing(connection, name, **options)
        made.append(standing.lease)
        return standing

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def spawn(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Any]:
    made: list[Process] = []
    file = cluster.kubeconfig(tmp_path / "kubeconfig", namespace=namespace)

    def make(name: str) -> Process:
        made.append(Process(file, name, tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def spec(cluster: ControlPlane, namespace: str) -> Callable[[], dict[str, Any]]:
    where = path("leases", namespace, "understudy")
    return lambda: dict(cluster.admin.get(where)["spec"])


def test_one_leads_and_the_other_knows_who(stand, spec):
    first = stand("a")
    until("a leads", lambda: first.leads)
    second = stand("b")
    until("b has looked", lambda: second.lease.holder == "a")
    time.sleep(2 * SHORT.lease_s)  # longer than a Lease lasts without being renewed
    assert (first.told, second.told) == (["gained"], [])
    assert (first.leads, second.leads) == (True, False)
    found = spec()
    assert (found["holderIdentity"], found["leaseDurationSeconds"]) == ("a", 3)
    assert found.get("leaseTransitions", 0) == 0
    assert found["acquireTime"] < found["renewTime"]


def test_of_many_that_stand_at_once_one_leads(stand):
    many = [stand(f"c{i}") for i in range(5)]
    until("one leads", lambda: any(each.leads for each in many))
    until("all know", lambda: len({each.lease.holder for each in many}) == 1)
    assert sum(each.leads for each in many) == 1
    assert sorted(each.told for each in many)[-2:] == [[], ["gained"]]


def test_a_leader_that_ends_hands_over_at_its_next_look(stand, spec):
    first = stand("a")
    until("a leads", lambda: first.leads)
    second = stand("b")
    until("b has looked", lambda: second.lease.holder == "a")
    begin = time.monotonic()
    first.lease.stop()
    until("b leads", lambda: second.leads, every_s=0.005)
    assert time.monotonic() - begin < SHORT.retry_s + 0.5
    assert first.told == ["gained"]  # it was asked to stop, so nobody needs to tell it
    assert not first.leads
    assert (spec()["holderIdentity"], spec()["leaseTransitions"]) == ("b", 1)


def test_a_leader_that_ends_gives_back_a_lease_that_nobody_waits_for(stand, spec):
    first = stand("a")
    until("a leads", lambda: first.leads)
    first.lease.stop()
    assert "holderIdentity" not in spec()
    second = stand("b")
    until("b leads", lambda: second.leads, timeout_s=1)


def test_clocks_that_disagree_by_years_change_nothing(stand):
    first = stand("a", wall=lambda: time.time() - 1e9)
    until("a leads", lambda: first.leads)
    second = stand("b", wall=lambda: time.time() + 1e9)
    time.sleep(2 * SHORT.lease_s)
    assert (first.told, second.told) == (["gained"], [])


@pytest.mark.parametrize("fault", ["stop", "pause"])
def test_a_leader_outlives_an_outage_of_the_api_server(cluster, stand, fault):
    first = stand("a")
    until("a leads", lambda: first.leads)
    second = stand("b")
    until("b has looked", lambda: second.lease.holder == "a")
    getattr(cluster, f"{fault}_api")()
    try:
        time.sleep(2.5 * SHORT.lease_s)
        assert first.leads
        assert fault == "pause" or "cannot be reached" in first.lease.trouble
    finally:
        {"stop": cluster.start_api, "pause": cluster.resume_api}[fault]()
    until("a renews again", lambda: first.lease.trouble is None)
    time.sleep(SHORT.lease_s + 2 * SHORT.retry_s)
    assert (first.told, second.told) == (["gained"], [])


def test_a_leader_that_ended_during_an_outage_is_replaced_after_it(cluster, stand):
    first = stand("a")
    until("a leads", lambda: first.leads)
    second = stand("b")
    until("b has looked", lambda: second.lease.holder == "a")
    cluster.stop_api()
    first.lease.stop()
    assert not first.leads
    cluster.start_api()
    until("b leads", lambda: second.leads, timeout_s=SHORT.lease_s + 3)


def test_a_leader_that_sees_another_holder_stops_at_once(cluster, namespace, stand):
    first = stand("a")
    until("a leads", lambda: first.leads)
    usurped = {"spec": {"holderIdentity": "x", "leaseDurationSeconds": 3}}
    cluster.admin.patch(path("leases", namespace, "understudy"), usurped)
    until("a is told to stop", lambda: first.told[1:], timeout_s=SHORT.retry_s + 1)
    assert first.told == ["gained", "lost: x holds the Lease"]
    assert not first.leads
    assert first.lease.holder == "x"
    until("x never renews, so a leads again", lambda: first.leads, timeout_s=SHORT.lease_s + 2)


def test_a_lease_that_is_deleted_or_labelled_by_hand_stays_with_its_leader(
    cluster, namespace, stand, spec
):
    first = stand("a")
    until("a leads", lambda: first.leads)
    where = path("leases", namespace, "understudy")
    cluster.admin.patch(where, {"metadata": {"labels": {"by": "hand"}}})
    renewed = spec()["renewTime"]
    until("it is renewed", lambda: spec()["renewTime"] > renewed)
    assert cluster.admin.get(where)["metadata"]["labels"] == {"by": "hand"}
    cluster.admin.delete(where)
    until("it is there again", lambda: cluster.admin.call("GET", where)[0] == 200)
    assert spec()["holderIdentity"] == "a"
    assert first.told == ["gained"]


def test_without_the_right_to_the_lease_nobody_leads_and_the_trouble_names_it(
    cluster, namespace, tmp_path
):
    file = cluster.kubeconfig(tmp_path / "k", cluster.user("nobody"), namespace)
    alone = Standing(Connection.from_settings(kubeconfig=file, clock=time.monotonic), "a")
    until("it was refused", lambda: alone.lease.trouble)
    alone.lease.stop()
    assert '403: leases.coordination.k8s.io "understudy" is forbidden' in alone.lease.trouble
    assert (alone.told, alone.leads) == ([], False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_leader_whose_thread_dies_does_not_go_on_leading(stand):
    def fail() -> None:
        raise RuntimeError("a bug")

    first = stand("a", gained=fail)
    until("it is told", lambda: first.told)
    assert first.told == ["lost: nobody looks after the Lease any more"]
    assert not first.leads


def test_a_kill_of_the_leader_is_over_within_15_seconds(spawn):
    first = spawn("a")
    until("a leads", lambda: first.when("gained"))
    second = spawn("b")
    time.sleep(3)
    first.process.kill()
    killed = time.monotonic()
    took = until("b leads", lambda: second.when("gained"), timeout_s=15) - killed
    print(f"failover: {took:.2f} s")
    assert 6 < took < 13


def test_a_leader_that_is_terminated_hands_over_within_its_rounds_time(spawn):
    first = spawn("a")
    until("a leads", lambda: first.when("gained"))
    second = spawn("b")
    time.sleep(1)
    begin = time.monotonic()
    first.process.send_signal(signal.SIGTERM)
    took = until("b leads", lambda: second.when("gained"), timeout_s=5) - begin
    print(f"handover: {took:.2f} s")
    assert took < 2.6
    assert first.process.wait(5) == 0


def test_a_leader_that_was_stopped_for_too_long_finds_out_when_it_goes_on(spawn):
    first = spawn("a")
    until("a leads", lambda: first.when("gained"))
    second = spawn("b")
    first.process.send_signal(signal.SIGSTOP)
    until("b leads", lambda: second.when("gained"), timeout_s=15)
    with suppress(ProcessLookupError):
        first.process.send_signal(signal.SIGCONT)
    until("a has lost", lambda: first.when("lost"), timeout_s=5)
    assert second.when("lost") is None
