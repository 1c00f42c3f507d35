"""RolloutPolicy objects of a real API server: watched, judged, and reported on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import yaml

from controller.core.model import Decision, Phase, Verdict
from controller.deploy.chronicle import Chronicle
from controller.deploy.client import Connection
from controller.deploy.events import EVENTS, deployment_reference
from controller.deploy.held import AppliedPolicy
from controller.deploy.objects import DEPLOYMENTS
from controller.deploy.policies import POLICIES, ClusterPolicies
from controller.deploy.reporter import NUMBERS_S, Reporter
from tests.api.fake import ramping
from tests.cluster import models, rollout_policies
from tests.cluster.client import Refused
from tests.cluster.control_plane import ControlPlane
from tests.core.policy_texts import document
from tests.processes import until


class Office:
    """A controller's part that is tested here, wired as `serve` wires it."""

    def __init__(self, connection: Connection, namespace: str, memory: dict[str, str]) -> None:
        self.connection = connection
        self.namespace = namespace
        self.leads = True
        self.lead = 0.0
        self.policies: dict[str, AppliedPolicy] = {}
        self.calls: list[tuple[str, str]] = []
        self.reporter = Reporter(
            connection, may_write=lambda: self.leads, clock=lambda: time.monotonic() + self.lead
        )
        self.chronicle = Chronicle(
            self.reporter, deployment=self._deployment, instance="understudy-0", clock=time.time
        )
        self.watch = ClusterPolicies(
            connection,
            namespaces=(namespace,),
            listener=self,
            remembered=memory.get,
            clock=time.monotonic,
        )

    def applied(self, applied: AppliedPolicy) -> None:
        self.policies[applied.policy.model] = applied
        self.calls.append(("applied", applied.policy.model))

    def removed(self, model: str) -> None:
        del self.policies[model]
        self.calls.append(("removed", model))

    def judged(self, *given: Any, **more: Any) -> None:
        self.chronicle.judged(*given, **more)

    def forgotten(self, reference: Any) -> None:
        self.chronicle.forgotten(reference)

    def _deployment(self, policy: Any, version: str) -> Any:
        path = DEPLOYMENTS.path(self.namespace, f"{policy.model}-{version}")
        try:
            found = self.connection.get(path)
        except Exception:  # noqa: BLE001
            return None
        meta = found["metadata"]
        return deployment_reference(meta["namespace"], meta["name"], meta["uid"])


@pytest.fixture(scope="module", autouse=True)
def _defined(cluster: ControlPlane) -> None:
    rollout_policies.install(cluster)


@pytest.fixture
def office(cluster: ControlPlane, namespace: str, tmp_path) -> Iterator[Office]:
    with opened(cluster, namespace, tmp_path) as found:
        yield found


@contextmanager
def opened(cluster, namespace, folder, memory=None) -> Iterator[Office]:
    file = cluster.kubeconfig(folder / f"kubeconfig-{time.monotonic_ns()}")
    connection = Connection.from_settings(kubeconfig=file, clock=time.monotonic)
    office = Office(connection, namespace, memory or {})
    office.watch.start()
    office.reporter.start()
    until("policies are listed", lambda: office.watch.is_known)
    try:
        yield office
    finally:
        office.watch.stop()
        office.reporter.stop()
        connection.close()


def apply(cluster, namespace, *, name="digits", prefix="/digits/", **spec):
    values = document(route={"prefix": prefix}, **spec)
    values["metadata"]["name"] = name
    cluster.kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump(values))


def status(cluster, namespace, name="digits"):
    return cluster.admin.get(POLICIES.path(namespace, name)).get("status") or {}


def condition(cluster, namespace, kind, name="digits"):
    rows = status(cluster, namespace, name).get("conditions", [])
    return next((row for row in rows if row["type"] == kind), {})


def events(cluster, namespace):
    return cluster.admin.items(EVENTS.path(namespace))


def our_events(cluster, namespace):
    every = events(cluster, namespace)
    return [e for e in every if e.get("reportingController") == "understudy.dev/controller"]


def decision(number=1, **changes) -> Decision:
    made = Decision(
        number=number,
        time=time.time(),
        offset=1,
        model="digits",
        rollout="digits-1",
        candidate="v2",
        stage="canary",
        step=1,
        phase=Phase.RAMPING,
        verdict=Verdict.ADVANCE,
        cause="step_passed",
        reason="v2 goes on to 25 %: 400 of 400 outcomes",
        epoch=18,
        weights={"v1": 7_500, "v2": 2_500},
        evidence={},
        evidence_digest="",
        policy_digest="",
        seed=1,
    )
    return replace(made, **changes)


def report(weight=2_500, n=4_000, **changes):
    return replace(ramping("digits", time.time(), weight, n), **changes)


def test_applied_edited_and_deleted_while_it_runs(cluster, namespace, office):
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    apply(cluster, namespace, prefix="/elsewhere/")
    until("it moved", lambda: prefix(office) == "/elsewhere/")
    cluster.kubectl("delete", "rop", "digits", "-n", namespace)
    until("it is gone", lambda: not office.policies)
    assert office.calls == [("applied", "digits")] * 2 + [("removed", "digits")]


def prefix(office):
    return office.policies["digits"].policy.spec.route.prefix


def test_kubectl_can_wait_for_a_policy_and_see_why_it_is_faulty(cluster, namespace, office):
    apply(cluster, namespace)
    cluster.kubectl("wait", "rop/digits", "-n", namespace, "--for=condition=Valid", "--timeout=9s")
    apply(cluster, namespace, stages=[{"canary": {"steps": ["25%", "5%"]}}])
    waiting = ("wait", "rop/digits", "-n", namespace, "--for=condition=Valid=False")
    cluster.kubectl(*waiting, "--timeout=9s")
    found = condition(cluster, namespace, "Valid")
    assert found["reason"] == "Invalid"
    assert found["observedGeneration"] == 2
    assert found["message"].startswith("spec.stages[0].canary.steps: found ")
    assert "expected steps that rise" in found["message"]
    assert found["message"].endswith("the policy of before stays in force")
    assert office.policies["digits"].policy.spec.stages[0].canary.steps == (0.05, 0.25)
    until("an event says so", lambda: our_events(cluster, namespace))
    (event,) = our_events(cluster, namespace)
    assert (event["type"], event["reason"]) == ("Warning", "Invalid")


def test_second_policy_of_a_prefix_says_whose_it_is(cluster, namespace, office):
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    apply(cluster, namespace, name="other")
    until("it is judged", lambda: condition(cluster, namespace, "Valid", "other"))
    found = condition(cluster, namespace, "Valid", "other")
    assert (found["status"], found["reason"]) == ("False", "DuplicateRoute")
    assert f"{namespace}/digits" in found["message"]
    cluster.kubectl("delete", "rop", "digits", "-n", namespace)
    until("it takes over", lambda: "other" in office.policies)
    until("it is said", lambda: condition(cluster, namespace, "Valid", "other")["status"] == "True")


def test_status_shows_the_ramp_in_kubectls_columns(cluster, namespace, office):
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    policy = office.policies["digits"].policy
    office.chronicle.turned(report(), policy, ())
    until("it is written", lambda: status(cluster, namespace).get("phase"))
    _, row = cluster.kubectl("get", "rop", "-n", namespace).splitlines()
    assert row.split()[:8] == [*("digits", "digits", "ramping", "v1", "v2", "canary", "3/2", "25%")]
    assert "+4.20%" in row
    assert {r["type"] for r in status(cluster, namespace)["conditions"]} == {
        *("Valid", "Ready", "Progressing", "Healthy")
    }
    managers = cluster.admin.get(POLICIES.path(namespace, "digits"))["metadata"]["managedFields"]
    ours = [each for each in managers if each["manager"] == "understudy"]
    assert [(each["operation"], each["subresource"]) for each in ours] == [("Apply", "status")]


def writes(cluster, since):
    return len(cluster.audit.requests(since=since, verb="patch", resource="rolloutpolicies/status"))


def test_numbers_are_written_now_and_then_and_news_at_once(cluster, namespace, office):
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    policy = office.policies["digits"].policy
    office.chronicle.turned(report(), policy, ())
    until("it is written", lambda: status(cluster, namespace).get("phase"))
    mark = cluster.audit.mark()
    for n in range(50):
        office.chronicle.turned(report(n=5_000 + n, reason=f"{n} of 400"), policy, ())
        time.sleep(0.02)
    assert writes(cluster, mark) == 0
    began = time.monotonic()
    office.chronicle.turned(report(5_000, n=6_000, epoch=18), policy, ())
    until("the split is written", lambda: status(cluster, namespace)["split"]["epoch"] == 18)
    assert time.monotonic() - began < 1.0
    office.chronicle.turned(report(5_000, n=7_000, epoch=18), policy, ())
    office.lead += NUMBERS_S + 1
    until("numbers are written", lambda: exposures(cluster, namespace) == 7_000)
    until("both are in the audit log", lambda: writes(cluster, mark) == 2)


def exposures(cluster, namespace):
    return status(cluster, namespace)["evidence"]["arms"][0]["exposures"]


def test_decision_is_told_of_policy_and_deployment_once_even_by_the_next_controller(
    cluster, namespace, office, tmp_path
):
    models.deploy(cluster.admin, namespace, "digits", "v2")
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    policy = office.policies["digits"].policy
    decided = decision(phase=Phase.ROLLING_BACK, verdict=Verdict.ROLL_BACK, reason="é" * 1_000)
    office.chronicle.turned(report(), policy, [decided])
    until("both are there", lambda: len(our_events(cluster, namespace)) == 2)
    found = {each["regarding"]["kind"]: each for each in our_events(cluster, namespace)}
    assert set(found) == {"RolloutPolicy", "Deployment"}
    for event in found.values():
        assert (event["type"], event["reason"]) == ("Warning", "RollingBack")
        assert len(event["note"].encode()) <= 1_024
    with opened(cluster, namespace, tmp_path) as successor:
        until("it is in force", lambda: "digits" in successor.policies)
        successor.chronicle.turned(report(), policy, [decided, decision(2)])
        until("the new one is there", lambda: len(our_events(cluster, namespace)) == 4)
    assert "RollingBack" in cluster.kubectl("describe", "rop", "digits", "-n", namespace)
    assert "RollingBack" in cluster.kubectl("describe", "deployment", "-n", namespace)


def test_old_decision_is_not_told_again(cluster, namespace, office):
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    policy = office.policies["digits"].policy
    old = decision(time=time.time() - 7_200)
    office.chronicle.turned(report(), policy, [old, decision(2)])
    until("the new one is there", lambda: our_events(cluster, namespace))
    time.sleep(0.3)
    assert len(our_events(cluster, namespace)) == 1


def test_conflict_is_a_condition_and_an_event_until_it_is_over(cluster, namespace, office):
    models.deploy(cluster.admin, namespace, "digits", "v2")
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    policy = office.policies["digits"].policy
    office.chronicle.turned(report(), policy, ())
    office.chronicle.conflict(policy, "v2", "argocd owns .spec.replicas: let it ignore the field")
    until("it is said", lambda: condition(cluster, namespace, "Healthy").get("status") == "False")
    assert "argocd" in condition(cluster, namespace, "Healthy")["message"]
    until("both are there", lambda: len(our_events(cluster, namespace)) == 2)
    assert {e["reason"] for e in our_events(cluster, namespace)} == {"Conflict"}
    office.chronicle.conflict(policy, "v2", None)
    until("it is over", lambda: condition(cluster, namespace, "Healthy")["status"] == "True")


def test_after_a_restart_a_condition_keeps_its_time(cluster, namespace, office, tmp_path):
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    policy = office.policies["digits"].policy
    office.chronicle.turned(report(), policy, ())
    until("it is written", lambda: status(cluster, namespace).get("phase"))
    before = condition(cluster, namespace, "Progressing")["lastTransitionTime"]
    office.leads = False
    time.sleep(1.1)  # times are whole seconds
    with opened(cluster, namespace, tmp_path) as successor:
        until("it is in force", lambda: "digits" in successor.policies)
        successor.chronicle.turned(report(epoch=19, epoch_in_force=19), policy, ())
        until("it writes", lambda: status(cluster, namespace)["split"]["epoch"] == 19)
    assert condition(cluster, namespace, "Progressing")["lastTransitionTime"] == before


def test_api_server_that_is_away_changes_nothing_and_only_the_newest_is_written(
    cluster, namespace, office
):
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    policy = office.policies["digits"].policy
    office.chronicle.turned(report(), policy, ())
    until("it is written", lambda: status(cluster, namespace).get("phase"))
    mark = cluster.audit.mark()
    cluster.stop_api()
    try:
        for epoch in range(18, 40):
            began = time.monotonic()
            office.chronicle.turned(report(epoch=epoch), policy, [decision(epoch)])
            assert time.monotonic() - began < 0.5
        until("somebody noticed", lambda: office.reporter.trouble)
        assert office.policies["digits"].policy == policy
    finally:
        cluster.start_api()
    until("it is written", lambda: status(cluster, namespace)["split"]["epoch"] == 39)
    until("events came, too", lambda: len(our_events(cluster, namespace)) == 22)
    assert writes(cluster, mark) <= 2
    apply(cluster, namespace, prefix="/after/")
    until("the watch goes on", lambda: prefix(office) == "/after/")
    assert office.reporter.trouble is None
    assert office.watch.trouble is None


def test_what_happened_while_the_history_was_lost_is_found_by_a_new_list(
    cluster, namespace, office
):
    apply(cluster, namespace)
    apply(cluster, namespace, name="other", prefix="/other/")
    until("both are in force", lambda: len(office.policies) == 2)
    cluster.expire_watches()
    apply(cluster, namespace, prefix="/moved/")
    cluster.kubectl("delete", "rop", "other", "-n", namespace)
    until("both are seen", lambda: list(office.policies) == ["digits"] and prefix(office) != "/")
    until("it moved", lambda: prefix(office) == "/moved/")


def test_standby_writes_nothing_until_it_leads(cluster, namespace, office):
    office.leads = False
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    time.sleep(0.6)
    assert status(cluster, namespace) == {}
    office.leads = True
    until("it is written", lambda: condition(cluster, namespace, "Valid"))


def test_status_of_a_new_object_is_not_that_of_the_one_before(cluster, namespace, office):
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    policy = office.policies["digits"].policy
    office.chronicle.turned(report(), policy, ())
    until("it is written", lambda: status(cluster, namespace).get("phase"))
    cluster.kubectl("delete", "rop", "digits", "-n", namespace)
    until("it is gone", lambda: not office.policies)
    apply(cluster, namespace)
    until("it is judged", lambda: condition(cluster, namespace, "Valid"))
    assert "phase" not in status(cluster, namespace)
    with pytest.raises(Refused):
        cluster.admin.get(POLICIES.path(namespace, "nobody"))


def test_turns_never_wait_for_an_api_server_that_hangs(cluster, namespace, office):
    apply(cluster, namespace)
    until("it is in force", lambda: "digits" in office.policies)
    policy = office.policies["digits"].policy
    cluster.pause_api()
    try:
        began = time.monotonic()
        for epoch in range(18, 1_018):
            office.chronicle.turned(report(epoch=epoch), policy, ())
        assert time.monotonic() - began < 3.0
    finally:
        cluster.resume_api()
    until("it is written", lambda: status(cluster, namespace).get("split", {}).get("epoch") == 1017)
    assert threading.active_count() < 20
