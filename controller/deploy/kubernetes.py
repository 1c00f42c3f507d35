"""Deployments as a target: scale, label, point the Service; each by server-side apply.

Every order is carried out in the same way: look, plan (`plan.py`), apply, and look again until the
plan is empty. So an order that was carried out already does nothing, and one that was cut short
goes on where it was.

Whoever was stopped between looking and applying must not undo what the next leader did meanwhile.
So after each look `fence` is asked whether this controller still leads, and each apply names the
version of the object that was looked at: what the next leader has changed is refused to the old
one, which looks again, and is told that it does not lead.

A Deployment that is not there cannot be scaled up or become champion; but it has no replicas and
needs no label any more, so scaling it to 0 and putting it aside are done already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from controller.core.model import ArmRole, PointService, Scale, SetRole
from controller.core.policy.deploy import KubernetesTarget
from controller.deploy.client import Connection
from controller.deploy.faults import FieldConflict, NotFound, Stale
from controller.deploy.objects import AUTOSCALERS, DEPLOYMENTS, SERVICES, Object, Resource
from controller.deploy.plan import Patch, give_back, label, point, scale
from controller.deploy.target import Order
from controller.deploy.words import selector, written
from controller.errors import BackendError, Permanent, Retryable

LOOKS = 6
"""How often an object is looked at for one order."""

_ASIDE = frozenset({ArmRole.RETIRED, ArmRole.REJECTED, ArmRole.RETAINED})


class Deployments:
    """The target of policies with `deploy.kubernetes`.

    fence  raises `Deposed` when another controller leads
    """

    def __init__(self, connection: Connection, fence: Callable[[], None] = lambda: None) -> None:
        self._connection = connection
        self._fence = fence

    def carry_out(self, order: Order) -> None:
        """Act and read back."""
        match order.effect:
            case Scale(arm=arm, replicas=replicas):
                self._scale(order, arm, replicas)
            case SetRole(arm=arm, role=role):
                self._label(order, arm, role)
            case PointService(arm=arm):
                self._point(order, arm)
            case _:
                assert_never(order.effect)

    def _scale(self, order: Order, arm: str, replicas: int | None) -> None:
        if _target(order).scaling == "observed":
            return
        if replicas == 0 and arm == order.champion:
            raise Permanent(f"{arm} is the champion of {order.model}: it is not scaled to 0")

        def step() -> bool:
            found = self._deployment(order, arm)
            if found is None and not replicas:
                return True
            found = _present(found, order, arm)
            autoscaler = self._autoscaler(found)
            if replicas is None:
                own = give_back(found)
                its = None if autoscaler is None else give_back(autoscaler)
            else:
                own, its = scale(found, autoscaler, replicas)
            self._apply(DEPLOYMENTS, own, found)
            self._apply(AUTOSCALERS, its, autoscaler)
            return own is None and its is None

        _until(step, f"the scale of {arm}")

    def _label(self, order: Order, arm: str, role: ArmRole) -> None:
        def step() -> bool:
            found = self._deployment(order, arm)
            if found is None and role in _ASIDE:
                return True
            patch = label(_present(found, order, arm), role.value)
            self._apply(DEPLOYMENTS, patch, found)
            return patch is None

        _until(step, f"the role of {arm}")

    def _point(self, order: Order, arm: str) -> None:
        name = _target(order).service
        path = SERVICES.path(order.policy.namespace, name)

        def step() -> bool:
            try:
                found = self._connection.get(path)
            except NotFound as exc:
                raise Permanent(
                    f"there is no Service {name} in namespace {order.policy.namespace}: create it, "
                    "or name another one in deploy.kubernetes.service"
                ) from exc
            patch = point(found, order.model, arm)
            self._apply(SERVICES, patch, found)
            return patch is None

        _until(step, f"the Service {name}")

    def _apply(self, resource: Resource, patch: Patch | None, found: Object | None) -> None:
        if patch is None or found is None:
            return
        self._fence()
        meta = patch.body["metadata"]
        meta["resourceVersion"] = found["metadata"]["resourceVersion"]
        path = resource.path(meta["namespace"], meta["name"])
        self._connection.apply(path, patch.body, force=patch.force)

    def _deployment(self, order: Order, arm: str) -> Object | None:
        """The arm's Deployment as it is now; the same of two as discovery takes."""
        return self._first(
            DEPLOYMENTS, order.policy.namespace, written(selector(order.model, arm)), lambda _: True
        )

    def _autoscaler(self, deployment: Object) -> Object | None:
        meta = deployment["metadata"]
        wanted = ("Deployment", meta["name"])

        def is_its(found: Object) -> bool:
            target = found["spec"]["scaleTargetRef"]
            return (target.get("kind"), target.get("name")) == wanted

        return self._first(AUTOSCALERS, meta["namespace"], "", is_its)

    def _first(
        self, resource: Resource, namespace: str, labels: str, fits: Callable[[Object], bool]
    ) -> Object | None:
        listing = self._connection.list(resource.path(namespace), labels=labels)
        every = [each for each in listing.items if fits(each)]
        every = [each for each in every if "deletionTimestamp" not in each["metadata"]]
        if not every:
            return None
        found = min(every, key=lambda each: str(each["metadata"]["name"]))
        # Items of a list do not say what they are.
        return {"apiVersion": resource.version, "kind": resource.kind, **found}


def _until(step: Callable[[], bool], what: str) -> None:
    """Look and act until there is nothing to do."""
    last: BackendError = Retryable(f"{what} is not what it was made a moment ago")
    for _ in range(LOOKS):
        try:
            if step():
                return
        except (Stale, FieldConflict) as exc:
            last = exc  # somebody wrote between our look and our act
    raise last


def _target(order: Order) -> KubernetesTarget:
    deploy = order.policy.spec.deploy
    assert deploy is not None
    assert deploy.kubernetes is not None
    return deploy.kubernetes


def _present(found: Object | None, order: Order, arm: str) -> Object:
    if found is None:
        raise Permanent(
            f"there is no Deployment with the labels {written(selector(order.model, arm))} in "
            f"namespace {order.policy.namespace}: apply it again, or roll {arm} back"
        )
    return found
