"""Where a model's arms run, and who carries out what is decided: `spec.deploy`.

    kubernetes               Deployments behind our own router
    kubernetes + gateway     Deployments; the split is the weights of an HTTPRoute
    kubernetes + webhook     Deployments; somebody else scales them and sets their labels
    kserve                   an InferenceService, which scales and splits by itself

Times have one meaning for all of them. `Pace` is what the core needs of a policy, so that nothing
behind this module tells targets apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controller.core.policy.base import Object, given, written
from controller.core.policy.quantities import Duration, Name, Port, PositiveDuration, WebAddress
from controller.core.policy.stages import Stage


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things in the cluster may take, and must, in seconds.

    warmup    between an arm's readiness and its first request
    deadline  until a wait for capacity is given up
    retain    how long a champion that was replaced stays up
    drain     between an arm's last request and its being scaled down
    """

    warmup_s: float = 10.0
    deadline_s: float = 600.0
    retain_s: float = 3_600.0
    drain_s: float = 300.0


class KubernetesTarget(Object):
    """Deployments in a cluster: one for each version, told apart by labels."""

    namespace: Name | None = None
    """The namespace of the model's Deployments; without it that of the policy."""
    service: Name
    """The Service that selects the champion, for callers that pass the router by."""
    port: Port
    """The port at which the model servers answer."""
    warmup: Duration = written("10s")
    """How long a version that has become ready waits for its first request."""
    progress_deadline: PositiveDuration = written("10m")
    """How long a rollout waits for replicas before it is rolled back."""
    retain: Duration = written("1h")
    """How long a champion that was replaced stays up; `undo` is at once until then."""
    drain: Duration = written("5m")
    """How long a version that gets no traffic any more may finish its streams before it is scaled
    down."""
    scaling: Literal["managed", "observed"] = "managed"
    """Whether Understudy scales the Deployments, or only waits for whoever does."""


class GatewayTarget(Object):
    """A route of the Gateway API that carries the split."""

    namespace: Name | None = None
    """The namespace of the HTTPRoute; without it that of the Deployments."""
    route: Name
    """The name of the HTTPRoute."""
    service_port: Port | None = None
    """The port in the route's backends; without it the port of the model servers."""


class KServeTarget(Object):
    """An InferenceService of KServe: two versions at a time, by `storageUri`."""

    namespace: Name | None = None
    """The namespace of the InferenceService; without it that of the policy."""
    service: Name
    """The name of the InferenceService."""
    warmup: Duration = written("10s")
    """How long a version that has become ready waits for its first request."""
    progress_deadline: PositiveDuration = written("10m")
    """How long a rollout waits for a version to become ready before it is rolled back."""


class Deploy(Object):
    """Where the model's versions run, and what carries out a promotion."""

    kubernetes: KubernetesTarget | None = None
    """Deployments in a cluster."""
    gateway: GatewayTarget | None = None
    """The split as weights of an HTTPRoute, beside `kubernetes`; without it our router has it."""
    kserve: KServeTarget | None = None
    """An InferenceService, instead of Deployments."""
    webhook: WebAddress | None = None
    """Beside `kubernetes`: where changes of Deployments and Services are posted instead of made,
    for clusters whose objects are kept in Git."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        if given(values, "kubernetes", "kserve") != 1:
            yield "exactly one of kubernetes and kserve"
        if given(values, "kserve") and given(values, "gateway", "webhook"):
            yield "kserve alone, or gateway and webhook beside kubernetes"
        elif given(values, "gateway", "webhook") and not given(values, "kubernetes"):
            yield "kubernetes beside gateway and webhook"

    @property
    def namespace(self) -> str | None:
        """The namespace of the model's arms; None: that of the policy."""
        target = self.kubernetes or self.kserve
        return target.namespace if target is not None else None

    @property
    def pace(self) -> Pace:
        """The times that the core goes by. KServe itself keeps no old version, and drains."""
        if self.kserve is not None:
            at = self.kserve
            return Pace(at.warmup, at.progress_deadline, retain_s=0.0, drain_s=0.0)
        at_ = self.kubernetes
        assert at_ is not None
        return Pace(at_.warmup, at_.progress_deadline, at_.retain, at_.drain)


def misfits(deploy: Deploy, stages: Sequence[Stage]) -> Iterator[tuple[str, str]]:
    """Where a target cannot carry what the stages ask for: its field, and what was expected."""
    for index, stage in enumerate(stages):
        path = f"spec.stages[{index}].{stage.kind}"
        if deploy.gateway is not None and stage.thompson and stage.thompson.segments:
            text = f"no gateway: an HTTPRoute has one split, and {path}.segments asks for several"
            yield "gateway", text
        if deploy.kserve is not None:
            yield from (("kserve", text) for text in _beyond_kserve(path, stage))


def _beyond_kserve(path: str, stage: Stage) -> Iterator[str]:
    """What `canaryTrafficPercent`, one whole number of percent, cannot say."""
    if stage.kind in {"shadow", "thompson"}:
        yield (
            f"kubernetes, or stages that are canary or ab: KServe can carry no split of {path}, "
            "only a fixed share of the traffic for one candidate"
        )
    shares = []
    if stage.canary is not None:
        shares = [(f"{path}.steps[{i}]", share) for i, share in enumerate(stage.canary.steps)]
    if stage.ab is not None:
        shares = [(f"{path}.share", stage.ab.share)]
    for place, share in shares:
        if round(share * 10_000) % 100:
            yield f"whole percents in {place}, which KServe can carry: found {100 * share:g}%"
