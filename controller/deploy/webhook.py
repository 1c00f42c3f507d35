"""Orders that somebody else carries out: `deploy.webhook`, for clusters that are kept in Git.

What Deployments and Services are to become is posted as JSON, with a patch that is ready to be
committed; a pull request, a pipeline or a person makes it so. Nothing here writes to the cluster.

    {"id": "…",                       the same for the same order, also as Idempotency-Key
     "action": "scale",               scale | label | point_service
     "model": "digits", "arm": "v2", "namespace": "models", "decision": 7,
     "reason": "v2 needs 3 replicas for 50 %",
     "replicas": 3,                   of scale; null: your own number applies again
     "role": "champion",              of label
     "object": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits-v2"},
     "patch": {"spec": {"replicas": 3}}}      a JSON merge patch; null: nothing is to be set

An order whose end is there already is not posted, so one that was merged is not asked for again. A
2xx says that it was taken, and ends the order; whether replicas came of it is what discovery sees,
and what the rollout waits for, no longer than `progress_deadline`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, assert_never

import httpx
import msgspec

from controller.core.model import ArmRole, PointService, Scale, SetRole
from controller.core.policy.deploy import KubernetesTarget
from controller.deploy.client import Connection
from controller.deploy.faults import NotFound
from controller.deploy.fields import value
from controller.deploy.objects import AUTOSCALERS, DEPLOYMENTS, SERVICES, Object, Resource
from controller.deploy.plan import MINIMUM, REPLICAS, ROLE_LABEL, SELECTOR
from controller.deploy.target import Order
from controller.deploy.words import ROLE, selector, written
from controller.errors import Permanent, Retryable

TIMEOUT_S: Final = 10.0

_ASIDE: Final = frozenset({ArmRole.RETIRED, ArmRole.REJECTED, ArmRole.RETAINED})
_AGAIN: Final = frozenset({408, 425, 429})
_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class _Ask:
    """What is to be posted, but for what is the same of every order."""

    action: str
    arm: str
    resource: Resource
    name: str
    patch: Object | None
    more: Object


class Webhook:
    """The target of policies with `deploy.webhook`; `close` it in the end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False)

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def carry_out(self, order: Order) -> None:
        """Ask for it, where it is not so already."""
        match order.effect:
            case Scale(arm=arm, replicas=replicas):
                ask = self._scale(order, arm, replicas)
            case SetRole(arm=arm, role=role):
                ask = self._label(order, arm, role)
            case PointService(arm=arm):
                ask = self._point(order, arm)
            case _:
                assert_never(order.effect)
        if ask is not None:
            self._post(order, ask)

    # --- what to ask for ------------------------------------------------------------------------

    def _scale(self, order: Order, arm: str, replicas: int | None) -> _Ask | None:
        if _target(order).scaling == "observed":
            return None
        if replicas == 0 and arm == order.champion:
            raise Permanent(f"{arm} is the champion of {order.model}: it is not scaled to 0")
        found = self._deployment(order, arm)
        if found is not None:
            return self._scaled(found, arm, replicas)
        if not replicas:
            return None
        raise Permanent(_absent(order, arm))

    def _scaled(self, found: Object, arm: str, replicas: int | None) -> _Ask | None:
        """Replicas, or, where an autoscaler scales a Deployment that runs, its minimum."""
        has = int(value(found, REPLICAS) or 0)
        autoscaler = self._autoscaler(found) if replicas and has else None
        if autoscaler is not None and replicas:
            replicas = min(replicas, int(autoscaler["spec"]["maxReplicas"]))
            has = int(value(autoscaler, MINIMUM) or 1)
        if replicas is not None and (has == replicas or 0 < replicas < has):
            return None
        resource, field, scaled = DEPLOYMENTS, "replicas", found
        if autoscaler is not None:
            resource, field, scaled = AUTOSCALERS, "minReplicas", autoscaler
        patch = None if replicas is None else {"spec": {field: replicas}}
        name = scaled["metadata"]["name"]
        return _Ask("scale", arm, resource, name, patch, {"replicas": replicas})

    def _label(self, order: Order, arm: str, role: ArmRole) -> _Ask | None:
        found = self._deployment(order, arm)
        if found is None:
            if role in _ASIDE:
                return None
            raise Permanent(_absent(order, arm))
        if value(found, ROLE_LABEL) == role.value:
            return None
        patch = {"metadata": {"labels": {ROLE: role.value}}}
        name = found["metadata"]["name"]
        return _Ask("label", arm, DEPLOYMENTS, name, patch, {"role": role.value})

    def _point(self, order: Order, arm: str) -> _Ask | None:
        name, wanted = _target(order).service, selector(order.model, arm)
        try:
            found = self._connection.get(SERVICES.path(order.policy.namespace, name))
        except NotFound as exc:
            raise Permanent(
                f"there is no Service {name} in namespace {order.policy.namespace}: create it, or "
                "name another one in deploy.kubernetes.service"
            ) from exc
        if wanted.items() <= (value(found, SELECTOR) or {}).items():
            return None
        return _Ask("point_service", arm, SERVICES, name, {"spec": {"selector": wanted}}, {})

    def _deployment(self, order: Order, arm: str) -> Object | None:
        labels = written(selector(order.model, arm))
        path = DEPLOYMENTS.path(order.policy.namespace)
        found = self._connection.list(path, labels=labels).items
        alive = [each for each in found if "deletionTimestamp" not in each["metadata"]]
        return min(alive, key=lambda each: str(each["metadata"]["name"]), default=None)

    def _autoscaler(self, deployment: Object) -> Object | None:
        meta = deployment["metadata"]
        found = self._connection.list(AUTOSCALERS.path(meta["namespace"])).items
        its = [
            each
            for each in found
            if each["spec"]["scaleTargetRef"].get("kind") == DEPLOYMENTS.kind
            and each["spec"]["scaleTargetRef"].get("name") == meta["name"]
        ]
        return min(its, key=lambda each: str(each["metadata"]["name"]), default=None)

    # --- asking ---------------------------------------------------------------------------------

    def _post(self, order: Order, ask: _Ask) -> None:
        deploy = order.policy.spec.deploy
        assert deploy is not None
        assert deploy.webhook is not None
        body = _body(order, ask)
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(body["id"])}
        try:
            answer = self._http.post(
                deploy.webhook, content=msgspec.json.encode(body), headers=headers
            )
        except httpx.InvalidURL as exc:
            raise Permanent(f"the webhook {deploy.webhook} is no address: {exc}") from exc
        except httpx.HTTPError as exc:
            raise Retryable(f"the webhook {deploy.webhook} cannot be reached: {exc!r}") from exc
        if not answer.is_success:
            raise _fault(deploy.webhook, answer)


def _target(order: Order) -> KubernetesTarget:
    deploy = order.policy.spec.deploy
    assert deploy is not None
    assert deploy.kubernetes is not None
    return deploy.kubernetes


def _body(order: Order, ask: _Ask) -> Object:
    namespace = order.policy.namespace
    body: Object = {
        "action": ask.action,
        "model": order.model,
        "arm": ask.arm,
        "namespace": namespace,
        "decision": order.effect.decision,
        "reason": order.reason,
        "object": {
            "apiVersion": ask.resource.version,
            "kind": ask.resource.kind,
            "name": ask.name,
        },
        "patch": ask.patch,
        **ask.more,
    }
    identity = (namespace, order.model, order.effect.decision, ask.action, ask.arm, ask.more)
    return {"id": hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:32], **body}


def _fault(address: str, answer: httpx.Response) -> Retryable | Permanent:
    text = " ".join(answer.text[:_SHOWN].split())
    sentence = f"the webhook {address} answers {answer.status_code}: {text or 'nothing'}"
    if answer.status_code >= 500 or answer.status_code in _AGAIN:
        after = answer.headers.get("Retry-After", "")
        return Retryable(sentence, after_s=float(after) if after.isdecimal() else 1.0)
    return Permanent(sentence)


def _absent(order: Order, arm: str) -> str:
    return (
        f"there is no Deployment with the labels {written(selector(order.model, arm))} in "
        f"namespace {order.policy.namespace}: apply it again, or roll {arm} back"
    )
