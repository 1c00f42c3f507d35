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

from controller.core.model import HealthKey, Json
from controller.core.policy import Policy
from controller.deploy.chronicle import Chronicle
from controller.deploy.client import Connection
from controller.deploy.discoveries import Discoveries
from controller.deploy.discovery import ClusterDiscovery
from controller.deploy.events import Reference, deployment_reference
from controller.deploy.gateway import GatewayRouter
from controller.deploy.held import AppliedPolicy
from controller.deploy.kserve import InferenceServices
from controller.deploy.kubernetes import Deployments
from controller.deploy.lease import Lease
from controller.deploy.policies import ClusterPolicies
from controller.deploy.reporter import Reporter
from controller.deploy.status import Validity
from controller.deploy.target import Target
from controller.deploy.webhook import Webhook
from controller.errors import Deposed
from controller.ledger import Ledger
from controller.loop.backend import LoopBackend
from controller.loop.carriers import Kind
from controller.loop.fold import PolicySource, Turned
from controller.loop.routes import Router
from controller.loop.wheel import Wheel


class ClusterSide:
    """One controller's side of the cluster. Made in the event loop that the wheel turns in.

    namespaces  those that are watched; none: all
    """

    def __init__(self, namespaces: tuple[str, ...], ledger: Ledger, backend: LoopBackend) -> None:
        self._loop = asyncio.get_running_loop()
        self._backend = backend
        self._wheel: Wheel | None = None
        self._is_leading = False
        self._deposed: str | None = None
        machine = os.environ.get("HOSTNAME") or socket.gethostname()
        self.identity = f"{machine}_{uuid4().hex[:8]}"
        self.connection = connection = Connection.from_settings(clock=time.monotonic)
        self.lease = Lease(
            connection,
            identity=self.identity,
            clock=time.monotonic,
            wall=time.time,
            gained=lambda: self._soon(self._gained),
            lost=lambda why: self._soon(lambda: self._lost(why)),
        )
        self._deployments = ClusterDiscovery(
            connection,
            namespaces=namespaces,
            changed=self._changed,
            may_write=lambda: self.lease.is_leader,
            clock=time.monotonic,
        )
        self._gateway = GatewayRouter(
            connection, namespaces=namespaces, clock=time.monotonic, fence=ledger.require_current
        )
        self._kserve = InferenceServices(
            connection,
            namespaces=namespaces,
            changed=self._changed,
            clock=time.monotonic,
            fence=ledger.require_current,
        )
        self.discovery = Discoveries(self._deployments, self._kserve, (self._gateway, self._kserve))
        self._scaler = Deployments(connection, ledger.require_current)
        self._webhook = Webhook(connection)
        self._policies = ClusterPolicies(
            connection,
            namespaces=namespaces,
            listener=self,
            remembered=lambda model: _newest(ledger, model),
            clock=time.monotonic,
        )
        self._reporter = Reporter(
            connection, may_write=lambda: self.lease.is_leader, clock=time.monotonic
        )
        self._chronicle = Chronicle(
            self._reporter, deployment=self._deployment, instance=machine, clock=time.time
        )

    def start(self) -> None:
        """Begin to watch, to report, and to stand for election."""
        for part in (self._deployments, self._policies, self._reporter, self.lease):
            part.start()

    def stop(self) -> None:
        """End all threads; the Lease is given back last, when nothing acts any more."""
        for part in (self._policies, self._deployments, self._gateway, self._kserve):
            part.stop()
        self._reporter.stop()
        self.lease.stop()
        self._webhook.close()
        self.connection.close()

    @property
    def is_known(self) -> bool:
        """Whether policies and arms have been looked at since the start."""
        return self._policies.is_known and self.discovery.is_known

    @property
    def routers(self) -> dict[Kind, Router]:
        """Who carries splits that our Envoys do not."""
        return {"gateway": self._gateway, "kserve": self._kserve}

    def sources(self) -> list[PolicySource]:
        """The policies that are in force now."""
        return [PolicySource(each.policy, each.document) for each in self._policies.in_force()]

    @property
    def is_leading(self) -> bool:
        """Whether this controller leads. Raises `Deposed` once it does not any more."""
        if self._deposed is not None:
            raise Deposed(f"this controller does not lead any more: {self._deposed}")
        return self._is_leading

    def drive(self, wheel: Wheel) -> None:
        """This controller leads: from now on its wheel is told what changes."""
        self._wheel = wheel
        if self._deposed is not None:
            wheel.depose(self._deposed)

    def target_of(self, policy: Policy) -> Target | None:
        """Who carries out what is decided for a policy."""
        deploy = policy.spec.deploy
        if deploy is None:
            return None
        if deploy.kserve is not None:
            return self._kserve
        return self._scaler if deploy.webhook is None else self._webhook

    def turned(self, turned: Turned) -> None:
        """A turn is over: say so in the status, and in Events where something was decided."""
        report = self._backend.report(turned.report.model)
        self._chronicle.turned(report, turned.policy, turned.decisions)

    def conflicted(self, policy: Policy, arm: str, sentence: str | None) -> None:
        """Another writer owns what would be changed for an arm; None: not any more."""
        self._chronicle.conflict(policy, arm, sentence)

    def worries(self, policy: Policy) -> dict[HealthKey, str | None]:
        """What people should mend, by where it is."""
        is_kserve = policy.spec.deploy is not None and policy.spec.deploy.kserve is not None
        found = (self._kserve if is_kserve else self._deployments).problems(policy)
        out_of_reach = self._deployments.trouble or self._policies.trouble
        return {
            "cluster": "; ".join([*found, *([out_of_reach] if out_of_reach else [])]),
            "carrier": self.discovery.trouble(policy.model),
        }

    def status(self) -> dict[str, Json]:
        """For people: who leads, and how the cluster answers."""
        return {
            "identity": self.identity,
            "leader": self.lease.holder,
            "lease": self.lease.trouble,
            "arms": self._deployments.status(),
            "policies": dict(self._policies.faults),
            "reports": self._reporter.status(),
        }

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
        self._chronicle.judged(reference, validity, status, is_in_force=is_in_force)

    def forgotten(self, reference: Reference) -> None:
        """An object is gone."""
        self._chronicle.forgotten(reference)

    # --- inside ---------------------------------------------------------------------------------

    def _adopt(self, model: str, source: PolicySource | None) -> None:
        if source is None:
            self._backend.forget(model)
        else:
            self._backend.adopt(model)
        if self._wheel is not None:
            self._wheel.adopt(model, source)

    def _deployment(self, policy: Policy, arm: str) -> Reference | None:
        found = self._deployments.deployment(policy, arm)
        return None if found is None else deployment_reference(*found)

    def _changed(self, model: str) -> None:
        self._soon(lambda: self._stir(model))

    def _stir(self, model: str) -> None:
        if self._wheel is not None:
            self._wheel.stir(model)

    def _gained(self) -> None:
        self._is_leading = True

    def _lost(self, why: str) -> None:
        self._deposed = why
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
