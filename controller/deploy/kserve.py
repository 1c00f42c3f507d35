"""Models that KServe serves: the split, the orders and the arms, all by one InferenceService.

`inference` says which states KServe knows and what our wishes mean in them. Here they are
written: by server-side apply, as everywhere, one writer at a time, since a split and an order may
come at once and an apply names all fields that we own.

What is asked of an InferenceService, and what becomes of it:

    SetSplit                canaryTrafficPercent; one request, a rollback included
    Scale(candidate, n)     staged: its URI with 0 %; ready when its revision is
    Scale(candidate, 0)     the champion's URI again, still with 0 %, settled when that is ready
    Scale(champion, …), Scale(…, None)      nothing: KServe scales, and keeps what has traffic
    PointService(arm)       canaryTrafficPercent is removed; the arm's URI is the only one
    SetRole                 nothing: a label would start new pods. Roles stand in the RolloutPolicy

The InferenceService need not be labelled; the policy names it. Exposures come by event.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, assert_never

from controller.core.model import PointService, Scale, SetRole, Version
from controller.core.policy import Policy
from controller.core.policy.deploy import Deploy
from controller.deploy.carrying import ObjectRouter
from controller.deploy.client import Connection
from controller.deploy.faults import NotFound
from controller.deploy.found import Key, out_of_sight
from controller.deploy.inference import (
    arms,
    percent_patch,
    promote,
    restore,
    serving,
    stage,
    standing,
)
from controller.deploy.keeping import Kept
from controller.deploy.objects import Object, Resource
from controller.deploy.plan import Patch
from controller.deploy.target import FoundArm, Order, Standing
from controller.errors import Permanent
from controller.router.snapshot import RoutedModel

INFERENCE_SERVICES: Final = Resource(
    "serving.kserve.io/v1beta1", "inferenceservices", "InferenceService"
)


class InferenceServices(ObjectRouter):
    """Router, target and discovery of policies with `deploy.kserve`.

    namespaces  where the InferenceServices are; an empty sequence: everywhere
    changed     called with a model's name when something of it changed, from any thread
    clock       monotonic seconds
    fence       raises `Deposed` when another controller leads
    """

    def __init__(
        self,
        connection: Connection,
        *,
        namespaces: Sequence[str],
        changed: Callable[[str], None],
        clock: Callable[[], float],
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        kept = Kept(
            connection,
            INFERENCE_SERVICES,
            namespaces=namespaces,
            clock=clock,
            changed=self._noticed,
            fence=fence,
        )
        super().__init__(kept, clock)
        self._told = changed
        self._models: dict[Key, str] = {}
        self._writing = threading.Lock()

    # --- as a router ----------------------------------------------------------------------------

    def carry(self, model: RoutedModel) -> None:
        """Write the percent and read it back."""
        key = _key(model.deploy, model.namespace)
        self._until(key, lambda found: percent_patch(found, model.name, model.split))

    def standing(self, model: RoutedModel) -> Standing:
        """From the InferenceService as it was seen last."""
        key = _key(model.deploy, model.namespace)
        where = f"InferenceService {key[0]}/{key[1]}"
        return standing(self._kept.get(key), where, model.name, model.split)

    # --- as a target ----------------------------------------------------------------------------

    def carry_out(self, order: Order) -> None:
        """Act and read back."""
        key = _key(order.policy.spec.deploy, order.policy.namespace)
        match order.effect:
            case Scale(replicas=None) | SetRole():
                return
            case Scale(arm=arm, replicas=0):
                self._take_out(key, order, arm)
            case Scale(arm=arm):
                self._until(key, lambda f: stage(f, arm, order.champion, order.versions))
            case PointService(arm=arm):
                self._until(key, lambda f: promote(f, arm, order.champion))
            case _:
                assert_never(order.effect)

    def _take_out(self, key: Key, order: Order, arm: str) -> None:
        if arm == order.champion:
            raise Permanent(f"{arm} is the champion of {order.model}: it is not scaled to 0")
        try:
            self._until(key, lambda found: restore(found, arm, order.champion))
        except NotFound:
            return

    # --- as a discovery -------------------------------------------------------------------------

    @property
    def is_known(self) -> bool:
        """Whether everything has been looked at since the start; nothing to look at is known."""
        return not self._models or self._kept.is_known

    def found(self, policy: Policy, versions: Mapping[str, Version]) -> Mapping[str, FoundArm]:
        """The champion and every version that is known; empty before the first look."""
        deploy = policy.spec.deploy
        if deploy is None or deploy.kserve is None:
            return {}
        key = _key(deploy, policy.namespace)
        self._models[key] = policy.model
        self._kept.start()
        is_lost = self._kept.is_lost
        if not self._kept.is_known:
            return {name: FoundArm(name, "unknown", 0, 0) for name in versions if is_lost}
        every = self._arms(key, policy.spec.champion.version, versions)
        return {name: out_of_sight(arm) for name, arm in every.items()} if is_lost else every

    def problems(self, policy: Policy) -> list[str]:
        """What people must mend, as sentences."""
        found = self._kept.get(_key(policy.spec.deploy, policy.namespace))
        try:
            failure = serving(found).failure if found is not None else None
        except Permanent as exc:
            return [str(exc)]
        return [f"KServe says {failure}"] if failure else []

    def _arms(
        self, key: Key, champion: str, versions: Mapping[str, Version]
    ) -> Mapping[str, FoundArm]:
        """All gone without an InferenceService; all unknown when what it says cannot be read."""
        found = self._kept.get(key)
        if found is None:
            return {name: FoundArm(name, "gone", 0, 0) for name in {champion, *versions}}
        try:
            return arms(serving(found), champion, versions)
        except Permanent:
            return {name: FoundArm(name, "unknown", 0, 0) for name in {champion, *versions}}

    def _noticed(self, key: Key) -> None:
        model = self._models.get(key)
        if model is not None:
            self._told(model)

    # --- writing --------------------------------------------------------------------------------

    def _until(self, key: Key, step: Callable[[Object], Patch | None]) -> None:
        self._kept.start()
        with self._writing:
            self._kept.write(key, step)


def _key(deploy: Deploy | None, namespace: str) -> Key:
    assert deploy is not None
    assert deploy.kserve is not None
    return namespace, deploy.kserve.service
