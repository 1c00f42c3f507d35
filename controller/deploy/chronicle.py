"""Puts together what is to be said of each policy's object, and tells the reporter.

    from the watch, from the turns, from whoever deploys:

    ClusterPolicies -> judged, forgotten --+
    the wheel       -> turned --------------+--> status, Events -> Reporter
    whoever deploys -> conflict ------------+

Never waits: it runs in the wheel's thread and in the watcher's. What the wheel tells of a model
whose object is not known yet is kept until it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controller.core.model import Decision, Json, Report
from controller.core.policy import Policy
from controller.deploy.events import FRESH_S, Reference, arm_of, decision_events, warning
from controller.deploy.objects import Object
from controller.deploy.reporter import Reporter
from controller.deploy.status import Told, Validity, told, unread, without


@dataclass(slots=True)
class _Page:
    """What is known of one object."""

    reference: Reference
    validity: Validity
    before: dict[str, Json]
    is_in_force: bool


@dataclass(frozen=True, slots=True)
class _Turn:
    report: Report
    policy: Policy


class Chronicle:
    """Tells a reporter of every policy's object what is so.

    deployment  the Deployment of a version of a policy's model, where there is one
    instance    the name of this controller's Pod, or of its machine
    clock       wall clock, seconds
    """

    def __init__(
        self,
        reporter: Reporter,
        *,
        deployment: Callable[[Policy, str], Reference | None],
        instance: str,
        clock: Callable[[], float],
    ) -> None:
        self._reporter = reporter
        self._deployment = deployment
        self._instance = instance
        self._clock = clock
        self._lock = threading.Lock()
        self._pages: dict[str, _Page] = {}
        self._owners: dict[str, str] = {}
        self._turns: dict[str, _Turn] = {}
        self._conflicts: dict[str, str] = {}

    # --- what ClusterPolicies tells -------------------------------------------------------------

    def judged(
        self,
        reference: Reference,
        validity: Validity,
        status: dict[str, Json],
        *,
        is_in_force: bool,
    ) -> None:
        """Whether the policy of an object can be used, and whether one of it is in force."""
        with self._lock:
            page = self._pages.get(reference.uid)
            if page is None:
                page = _Page(reference, validity, status, is_in_force)
                self._pages[reference.uid] = page
            page.reference, page.validity, page.is_in_force = reference, validity, is_in_force
            if is_in_force:
                self._owners[reference.name] = reference.uid
            elif self._owners.get(reference.name) == reference.uid:
                del self._owners[reference.name]
            self._tell(page)
        if not validity.is_valid:
            self._warn(reference, validity.reason, validity.message)

    def forgotten(self, reference: Reference) -> None:
        """The object is gone."""
        with self._lock:
            self._pages.pop(reference.uid, None)
            if self._owners.get(reference.name) == reference.uid:
                del self._owners[reference.name]
                self._turns.pop(reference.name, None)
                self._conflicts.pop(reference.name, None)
        self._reporter.forget(reference)

    # --- what the wheel and the targets tell ----------------------------------------------------

    def turned(self, report: Report, policy: Policy, decisions: Sequence[Decision]) -> None:
        """Where a model stands, and what was decided."""
        with self._lock:
            self._turns[report.model] = _Turn(report, policy)
            page = self._page(report.model)
            if page is None:
                return
            self._tell(page)
            about = page.reference
        oldest = self._clock() - FRESH_S
        for decision in decisions:
            if decision.time >= oldest:
                arm = self._deployment(policy, arm_of(decision, report.champion))
                for event in decision_events(decision, about, arm, instance=self._instance):
                    self._reporter.tell_event(event)

    def conflict(self, policy: Policy, version: str, sentence: str | None) -> None:
        """Another writer owns what would be changed for a model; None: not any more."""
        with self._lock:
            if self._conflicts.get(policy.model) == sentence:
                return
            self._conflicts.pop(policy.model, None)
            if sentence is not None:
                self._conflicts[policy.model] = sentence
            page = self._page(policy.model)
            if page is None:
                return
            self._tell(page)
            about = page.reference
        if sentence is not None:
            arm = self._deployment(policy, version)
            for each in (about, arm):
                if each is not None:
                    self._warn(each, "Conflict", sentence)

    # --- inside ---------------------------------------------------------------------------------

    def _page(self, model: str) -> _Page | None:
        return self._pages.get(self._owners.get(model, ""))

    def _tell(self, page: _Page) -> None:
        now_told = self._told(page)
        page.before = now_told.status
        self._reporter.tell_status(page.reference, now_told)

    def _told(self, page: _Page) -> Told:
        generation, now = page.reference.generation, self._clock()
        turn = self._turns.get(page.reference.name)
        if not page.is_in_force:
            return without(page.validity, generation=generation, before=page.before, now=now)
        if turn is None:
            return unread(page.validity, generation=generation, before=page.before, now=now)
        return told(
            turn.report,
            turn.policy,
            page.validity,
            generation=generation,
            before=page.before,
            now=now,
            conflict=self._conflicts.get(page.reference.name),
        )

    def _warn(self, about: Reference, reason: str, note: str) -> None:
        event: Object = warning(
            about, reason=reason, note=note, time=self._clock(), instance=self._instance
        )
        self._reporter.tell_event(event)
