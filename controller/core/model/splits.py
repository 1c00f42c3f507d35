"""Who gets what, and what is known of a version."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Split:
    """Who gets what: arm -> weight in basis points, summing to BASIS.

    `anchors` places each candidate on the circle of units (see `core.split`), in the order in
    which candidates joined; the champion fills what they leave. `mirror` is the share in basis
    points of requests that are copied to an arm whose answers no user sees.

    `segments` are weights of their own for requests whose header `segment_header` has that value;
    all others get `weights`, the pooled split.
    """

    epoch: int
    champion: str
    weights: dict[str, int]
    salt: str
    anchors: tuple[str, ...] = ()
    mirror: dict[str, int] = field(default_factory=dict)
    segment_header: str = ""
    segments: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """What is known of one version of the model; `uri` is where its artifact is kept."""

    name: str
    endpoints: tuple[str, ...] = ()
    parent: str | None = None
    trained_at: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    uri: str | None = None
