"""What `--kubernetes` adds: who leads, whose policies, what runs, who acts, who is told.

Everything that watches the cluster has threads of its own; what they find is handed to the event
loop, where the wheel turns. A standby watches as well, so that it knows all there is to know at the
moment in which it leads.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time  # noqa: TID251 - clocks are taken here and handed on
from collections.abc import Callable
from uuid import uuid4

import structlog

from controller.core.model import Json
from controller.core.policy import Policy
from controller.deploy.client import Connection
from controller.deploy.discovery import ClusterDiscovery
from controller.deploy.events import Reference, decision_events, deployment_reference, warning
from controller.deploy.kubernetes import Deployments
from controller.deploy.lease import Lease
from controller.deploy.policies import AppliedPolicy, ClusterPolicies
from controller.deploy.reporter import Reporter
from controller.deploy.status import VALID, Validity, told
from controller.deploy.target import Target
from controller.ledger import Ledger
from controller.loop.backend import LoopBackend
from controller.loop.fold import PolicySource, Turned
from controller.loop.wheel import Wheel

log = structlog.get_logger()


class ClusterSide:
    """One controller's side of the cluster. Made in the event loop that the wheel turns in.

    namespaces  those that are watched; none: all
    """

    def __init__(self, namespaces: tuple[str, ...], ledger: Ledger, backend: LoopBackend) -> None:
        self._loop = asyncio.get_running_loop()
        self._backend = backend
        self._wheel: Wheel | None = None
        self._validities: dict[str, tuple[Reference, Validity]] = {}
        self._statuses: dict[str, dict[str, Json]] = {}
        self._conflicts: dict[str, str] = {}
        self._turned: dict[str, Turned] = {}
        self.leading = asyncio.Event()
        self.identity = f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{uuid4().hex[:8]}"
        self.connection = Connection.from_settings(clock=time.monotonic)
        self.lease = Lease(
            self.connection,
            identity=self.identity,
            clock=time.monotonic,
            wall=time.time,
            gained=lambda: self._soon(self.leading.set),
            lost=lambda why: self._soon(lambda: self._lost(why)),
        )
        self.discovery = ClusterDiscovery(
            self.connection,
            namespaces=namespaces,
            changed=lambda _: self._soon(self._hurry),
            may_write=lambda: self.lease.is_leader,
            clock=time.monotonic,
        )
        self.policies = ClusterPolicies(
            self.connection,
            namespaces=namespaces,
            listener=self,
            remembered=lambda model: _newest(ledger, model),
            clock=time.monotonic,
        )
        self.reporter = Reporter(
            self.connection, may_write=lambda: self.lease.is_leader, clock=time.monotonic
        )
        self._deployments = Deployments(self.connection)

    def start(self) -> None:
        """Begin to watch, to report, and to stand for election."""
        for part in (self.discovery, self.policies, self.reporter, self.lease):
            part.start()

    def stop(self) -> None:
        """End all threads; the Lease is given back last, when nothing acts any more."""
        for part in (self.policies, self.discovery, self.reporter, self.lease):
            part.stop()
        self.connection.close()

    @property
    def is_known(self) -> bool:
        """Whether policies and arms have been looked at since the start."""
        return self.policies.is_known and self.discovery.is_known

    def sources(self) -> list[PolicySource]:
        """The policies that are in force now."""
        return [PolicySource(each.policy, each.document) for each in self.policies.in_force()]

    def drive(self, wheel: Wheel) -> None:
        """This controller leads: from now on its wheel is told what changes."""
        self._wheel = wheel

    def target_of(self, policy: Policy) -> Target | None:
        """Who carries out what is decided for a policy."""
        deploy = policy.spec.deploy
        return self._deployments if deploy is not None and deploy.kubernetes is not None else None

    # --- what the policies' watcher tells, in its thread ----------------------------------------

    def applied(self, applied: AppliedPolicy) -> None:
        """A policy is in force."""
        source = PolicySource(applied.policy, applied.document)
        self._soon(lambda: self._adopt(applied.policy.model, source))

    def removed(self, model: str) -> None:
        """A model has no policy any more."""
        self._soon(lambda: self._adopt(model, None))

    def judged(
        self,
        reference: Reference,
        validity: Validity,
        status: dict[str, Json],
        *,
        is_in_force: bool,
    ) -> None:
        """What is to be said of an object."""
        self._soon(lambda: self._judge(reference, validity, status, is_in_force=is_in_force))

    def forgotten(self, reference: Reference) -> None:
        """An object is gone."""
        self._soon(lambda: self._forget(reference))

    # --- in the event loop ----------------------------------------------------------------------

    def told(self, model: str, turned: Turned) -> None:
        """A turn is over: say so in the status, and in Events where something was decided."""
        self._backend.told(model, turned)
        self._turned[model] = turned
        reference = self.policies.reference(model)
        if reference is None:
            return
        self._write_status(reference, turned)
        for decision in turned.decisions:
            arm = self._arm(turned.policy, decision.candidate or turned.state.champion)
            for event in decision_events(decision, reference, arm, instance=self.identity):
                self.reporter.tell_event(event)
        self._report_conflict(reference, model)

    def worried(self) -> None:
        """What holds a model came or went."""
        self._backend.worried()

    def _write_status(self, reference: Reference, turned: Turned | None) -> None:
        _, validity = self._validities.get(reference.uid, (reference, VALID))
        said = told(
            self._backend.report(reference.name) if turned is not None else None,
            turned.policy if turned is not None else None,
            validity,
            generation=reference.generation,
            before=self._statuses.get(reference.uid, {}),
            now=time.time(),
        )
        self._statuses[reference.uid] = said.status
        self.reporter.tell_status(reference, said)

    def _report_conflict(self, reference: Reference, model: str) -> None:
        """An Event for an effect that could not be carried out, once for each sentence."""
        trouble = self._wheel.deploy_trouble(model) if self._wheel is not None else None
        if trouble == self._conflicts.get(model):
            return
        if trouble is None:
            self._conflicts.pop(model, None)
            return
        self._conflicts[model] = trouble
        event = warning(
            reference,
            reason="NotCarriedOut",
            note=trouble,
            time=time.time(),
            instance=self.identity,
        )
        self.reporter.tell_event(event)

    def _adopt(self, model: str, source: PolicySource | None) -> None:
        if source is None:
            self._backend.forget(model)
            self._turned.pop(model, None)
        else:
            self._backend.adopt(model)
        if self._wheel is not None:
            self._wheel.adopt(model, source)

    def _judge(
        self,
        reference: Reference,
        validity: Validity,
        status: dict[str, Json],
        *,
        is_in_force: bool,
    ) -> None:
        self._validities[reference.uid] = reference, validity
        self._statuses.setdefault(reference.uid, status)
        self._write_status(reference, self._turned.get(reference.name) if is_in_force else None)
        if validity.is_valid:
            return
        log.error("policy", object=f"{reference.namespace}/{reference.name}", why=validity.message)
        event = warning(
            reference,
            reason=validity.reason,
            note=validity.message,
            time=time.time(),
            instance=self.identity,
        )
        self.reporter.tell_event(event)

    def _forget(self, reference: Reference) -> None:
        self._validities.pop(reference.uid, None)
        self._statuses.pop(reference.uid, None)
        self.reporter.forget(reference)

    def _arm(self, policy: Policy, arm: str) -> Reference | None:
        found = self.discovery.deployment(policy, arm)
        return None if found is None else deployment_reference(*found)

    def _hurry(self) -> None:
        if self._wheel is not None:
            self._wheel.hurry()

    def _lost(self, why: str) -> None:
        if self._wheel is not None:
            self._wheel.depose(why)

    def _soon(self, work: Callable[[], None]) -> None:
        """From a thread: do it in the event loop, if that still turns."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)


def _newest(ledger: Ledger, model: str) -> str | None:
    """The document of the policy that was adopted last."""
    adopted = ledger.newest_policy(model)
    return adopted.document if adopted is not None else None
