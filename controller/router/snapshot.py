"""A snapshot: all that an Envoy needs to route every model, as one value.

Splits, endpoints and routes go in; clusters (CDS), endpoints (EDS), listeners (LDS) and routes
(RDS) come out. Nothing here touches a socket, so every property of it can be tested as a value,
and `check` says whether it is whole: every route leads to a cluster, every cluster found by
EDS has its endpoints, every listener has its routes. Nothing that fails `check` is ever sent.

Invariants of what is built:

    an arm's places in `core.split.ranges` = its entries in `weighted_clusters`, in the same order
    a request of a unit is routed by xxh64(salt + unit) % 10 000; a request without one at random
    a route's name says model, epoch and where the unit stands, so a log line needs no history
    a request in segment s is routed by `weights_of(split, s)`, and its log line names s; in no
        segment, by the pooled weights, and its line names none
    a cluster exists for every arm that is known, also for those that get nothing

A model is two routes where it declares a unit: the first matches requests that carry the unit (not
empty) and hashes it; the second takes the rest, each of which is its own unit. With a single route,
an empty header (what many clients send for "not logged in") would be hashed, and everybody who is
not logged in would land on one arm.

Where the split declares a header of segments there are these routes once for each segment that has
weights, then once with the pooled weights for requests that are in some other segment, and once
more for those that are in none. The last two differ in what the log says: a segment is learnt from
the exposures that name it. The first route that fits counts, so a request whose header was sent
twice is in one segment, and its log line says in which.

The resources are written as the dictionaries of Envoy's own documentation and parsed into protobuf,
which refuses unknown fields; `config` holds those that do not depend on splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from controller.core.model import Split
from controller.core.policy import Deploy, Route
from controller.core.split import is_segment, ranges
from controller.errors import InvariantError
from controller.router import config
from controller.router.access_log import log_format, route_name
from controller.router.table import routes_in, table

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
TYPES = (CDS, EDS, LDS, RDS)
"""In the order in which they are sent: what is pointed to before what points."""

MESSAGES: dict[str, type[Message]] = {
    CDS: cluster_pb2.Cluster,
    EDS: endpoint_pb2.ClusterLoadAssignment,
    LDS: listener_pb2.Listener,
    RDS: route_pb2.RouteConfiguration,
}


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """One model as the router sees it.

    endpoints  arm -> `host:port` of its servers; an arm without any answers 503
    deploy     what else carries the split, where it is not Envoy
    namespace  where the arms are, in a cluster
    """

    name: str
    route: Route
    split: Split
    endpoints: Mapping[str, Sequence[str]] = field(default_factory=dict)
    deploy: Deploy | None = None
    namespace: str = "default"

    def arms(self) -> tuple[str, ...]:
        """Every arm that has a cluster, sorted."""
        weighted = {arm for weights in self.split.segments.values() for arm in weights}
        return tuple(sorted({*self.split.weights, *weighted, *self.endpoints, *self.split.mirror}))


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """Where the router listens and writes its log.

    shadow_socket  address of the inner listener that mirrored requests go through: the path of a
                   unix socket, or a name that begins with `@` in the abstract name space
    """

    host: str
    port: int
    log_path: str
    shadow_socket: str = "@understudy-shadow"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Resources by type and name, and the epoch of each model that they carry."""

    resources: Mapping[str, Mapping[str, Message]]
    epochs: Mapping[str, int]
    versions: Mapping[str, str]
    """Type -> xxh64 of its content: equal content has an equal version."""
    names: Mapping[str, frozenset[str]]
    """EDS, RDS -> what a router that has the rest asks for by name."""
    led_to: frozenset[str] = frozenset()
    """The clusters that users' requests may be routed to. Mirrored ones are not users'."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What one model adds to a snapshot."""

    clusters: dict[str, Message]
    assignments: dict[str, Message]
    routes: tuple[Message, ...]
    shadow_routes: tuple[Message, ...]


class Parts:
    """The parts of the last snapshot, for the next one: most models are as they were.

    Parsing is nearly all the work of a snapshot, a second for a thousand models.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[RoutedModel, _Part]] = {}

    def of(self, models: Sequence[RoutedModel]) -> list[_Part]:
        """The part of each model; what others had is forgotten."""
        self._kept = {model.name: self._entry(model) for model in models}
        return [self._kept[model.name][1] for model in models]

    def _entry(self, model: RoutedModel) -> tuple[RoutedModel, _Part]:
        known = self._kept.get(model.name)
        return known if known is not None and known[0] == model else (model, _part(model))


def snapshot(
    models: Sequence[RoutedModel], listener: ListenerConfig, parts: Parts | None = None
) -> Snapshot:
    """The resources that make these splits true; raises InvariantError when they are not whole."""
    _refuse_twins(models)
    ordered = sorted(models, key=lambda model: model.route.prefix)
    found = (parts or Parts()).of(ordered)
    resources = {
        CDS: _parsed(CDS, [config.shadow_cluster(listener.shadow_socket)]),
        EDS: {},
        LDS: _parsed(LDS, _listeners(ordered, listener)),
        RDS: {
            "router": table("router", _by_prefix(ordered, found)),
            "shadow": table("shadow", {"/": [r for each in found for r in each.shadow_routes]}),
        },
    }
    for each in found:
        resources[CDS] |= each.clusters
        resources[EDS] |= each.assignments
    built = of_resources(
        resources,
        {model.name: model.split.epoch for model in models},
        frozenset(name for model in models for name in _led_to(model)),
    )
    check(built)
    return built


def _part(model: RoutedModel) -> _Part:
    clusters, assignments = _clusters(model)
    return _Part(
        clusters=_parsed(CDS, clusters),
        assignments=_parsed(EDS, assignments, key="cluster_name"),
        routes=tuple(ParseDict(each, route_components_pb2.Route()) for each in _routes(model)),
        shadow_routes=tuple(
            ParseDict(each, route_components_pb2.Route()) for each in _shadow_routes(model)
        ),
    )


def of_resources(
    resources: Mapping[str, Mapping[str, Message]],
    epochs: Mapping[str, int],
    led_to: frozenset[str] = frozenset(),
) -> Snapshot:
    """A snapshot of these resources, unchecked, with its versions."""
    versions = {kind: _digest(resources[kind].values()) for kind in TYPES}
    names = {EDS: _eds_names(resources[CDS]), RDS: frozenset(resources[RDS])}
    return Snapshot(resources, epochs, versions, names, led_to)


def check(built: Snapshot) -> None:
    """Raise InvariantError unless every name that is pointed to exists."""
    clusters = built.resources[CDS]
    for name, routes in built.resources[RDS].items():
        missing = sorted(set(_pointed_to(routes)) - set(clusters))
        if missing:
            raise InvariantError(f"routes {name!r} lead to clusters that do not exist: {missing}")
    wanting = sorted(built.names[EDS] - set(built.resources[EDS]))
    if wanting:
        raise InvariantError(f"clusters without an assignment of endpoints: {wanting}")
    for name, listener in built.resources[LDS].items():
        missing = sorted(set(config.routes_of(listener)) - set(built.resources[RDS]))
        if missing:
            raise InvariantError(f"listener {name!r} needs routes that do not exist: {missing}")


def _eds_names(clusters: Mapping[str, Message]) -> frozenset[str]:
    """The clusters that get their endpoints by EDS."""
    eds = cluster_pb2.Cluster.EDS
    return frozenset(name for name, each in clusters.items() if getattr(each, "type", -1) == eds)


def union(old: Snapshot, new: Snapshot) -> Snapshot:
    """`new`, with the clusters and endpoints that only `old` has: safe under the routes of both."""
    resources = {
        kind: {**old.resources[kind], **new.resources[kind]} if kind in (CDS, EDS) else named
        for kind, named in new.resources.items()
    }
    return of_resources(resources, new.epochs, new.led_to)


def _refuse_twins(models: Sequence[RoutedModel]) -> None:
    owners: dict[str, str] = {}
    names = Counter(model.name for model in models)
    for model in models:
        other = owners.setdefault(model.route.prefix, model.name)
        if other != model.name or names[model.name] > 1:
            raise InvariantError(
                f"models {other!r} and {model.name!r} both claim the prefix or name "
                f"{model.route.prefix!r}; one of them would never be reached"
            )


# --- clusters ---------------------------------------------------------------------------------


def cluster_name(model: str, arm: str) -> str:
    """The cluster of an arm: `model/arm`."""
    return f"{model}/{arm}"


def _led_to(model: RoutedModel) -> Iterable[str]:
    """The clusters that a split gives users' requests to."""
    for weights in (model.split.weights, *model.split.segments.values()):
        yield from (cluster_name(model.name, arm) for arm, weight in weights.items() if weight)


def _clusters(model: RoutedModel) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    clusters: list[dict[str, Any]] = []
    assignments: list[dict[str, Any]] = []
    for arm in model.arms():
        name = cluster_name(model.name, arm)
        endpoints = tuple(model.endpoints.get(arm, ()))
        clusters.append(config.cluster(name, endpoints))
        if clusters[-1]["type"] == "EDS":
            assignments.append(config.assignment(name, endpoints))
    return clusters, assignments


# --- listeners and routes ---------------------------------------------------------------------


def _listeners(models: Sequence[RoutedModel], listener: ListenerConfig) -> list[dict[str, Any]]:
    """The listeners, whose routes have their names.

    The shadow listener is always there: a listener that comes and goes with each shadow stage
    would be one more thing to be warmed before the first mirrored request.
    """
    units = sorted({source for model in models if (source := _unit_source(model.route))})
    segments = sorted({header for model in models if (header := _segment_header(model.split))})
    public = {"socket_address": {"address": listener.host, "port_value": listener.port}}
    line, shadow_line = log_format("exposure", units, segments), log_format("shadow", units)
    inner = {"pipe": {"path": listener.shadow_socket}}
    return [
        config.listener("router", public, log_path=listener.log_path, log_line=line),
        config.listener("shadow", inner, log_path=listener.log_path, log_line=shadow_line),
    ]


def _by_prefix(models: Sequence[RoutedModel], parts: Sequence[_Part]) -> dict[str, Any]:
    pairs = zip(models, parts, strict=True)
    return {model.route.prefix: part.routes for model, part in pairs}


def _unit_source(route: Route) -> str:
    """Where the unit stands: `header:NAME`, `cookie:NAME`, or empty."""
    if route.unit is None:
        return ""
    if route.unit.header is not None:
        return f"header:{route.unit.header.lower()}"
    return f"cookie:{route.unit.cookie}"


def _segment_header(split: Split) -> str:
    """The header that names the segment, as Envoy writes it; empty for none."""
    return split.segment_header.lower()


@dataclass(frozen=True, slots=True)
class _Audience:
    """Requests that are routed by one set of weights.

    segment  whose weights; None for the pooled ones
    header   what names their segment; empty where they are in none
    """

    segment: str | None = None
    header: str = ""

    def matchers(self) -> list[dict[str, Any]]:
        return [config.segment_matcher(self.header, self.segment)] if self.header else []

    def source(self) -> str:
        """Where their log line has the segment from: the name of the route, or the header."""
        if self.segment is not None:
            return f"value:{self.segment}"
        return f"header:{self.header}" if self.header else ""


def _audiences(split: Split) -> list[_Audience]:
    """Whoever is in a segment with weights, in another one, in none: the first that fits counts."""
    header = _segment_header(split)
    if not header:
        return [_Audience()]
    known = [_Audience(each, header) for each in sorted(split.segments) if is_segment(each)]
    return [*known, _Audience(None, header), _Audience()]


def _routes(model: RoutedModel) -> list[dict[str, Any]]:
    """For each audience, requests with a unit, then those without one."""
    source = _unit_source(model.route)
    found: list[dict[str, Any]] = []
    for audience in _audiences(model.split):
        if source:
            matcher, policy = config.unit_rules(source, model.split.salt)
            found.append(_route(model, audience, source, (matcher, policy)))
        found.append(_route(model, audience, "", None))
    return found


def _route(
    model: RoutedModel,
    audience: _Audience,
    source: str,
    unit: tuple[dict[str, Any], dict[str, Any]] | None,
) -> dict[str, Any]:
    """One route; `unit` is who carries a unit, and how that is hashed."""
    matchers = audience.matchers() + ([unit[0]] if unit else [])
    return {
        "name": route_name(model.name, model.split.epoch, source, audience.source()),
        "match": {"prefix": model.route.prefix, "headers": matchers},
        "metadata": _metadata(model, audience.segment),
        "route": {
            "weighted_clusters": {
                "clusters": _arms(model, audience.segment),
                "use_hash_policy": unit is not None,
            },
            "hash_policy": [unit[1]] if unit else [],
            "request_mirror_policies": [
                config.mirror(cluster_name(model.name, arm), share)
                for arm, share in sorted(model.split.mirror.items())
                if share > 0
            ],
            **config.timeouts(model.route.timeout),
        },
    }


def _arms(model: RoutedModel, segment: str | None) -> list[dict[str, Any]]:
    return [
        {
            "name": cluster_name(model.name, part.arm),
            "weight": part.end - part.start,
            "response_headers_to_add": [config.header(config.ARM_HEADER, part.arm)],
        }
        for part in ranges(model.split, segment)
    ]


def _shadow_routes(model: RoutedModel) -> list[dict[str, Any]]:
    """One route per mirrored arm, chosen by the header that the mirror writes."""
    return [
        {
            "name": route_name(model.name, model.split.epoch, _unit_source(model.route)),
            "match": {"prefix": "/", "headers": [config.shadow_matcher(name)]},
            "metadata": _metadata(model),
            "request_headers_to_remove": [config.SHADOW_HEADER],
            "route": {"cluster": name, **config.timeouts(model.route.timeout)},
        }
        for arm in sorted(model.split.mirror)
        if model.split.mirror[arm] > 0 and (name := cluster_name(model.name, arm))
    ]


def _metadata(model: RoutedModel, segment: str | None = None) -> dict[str, Any]:
    fields = {"model": model.name, "epoch": str(model.split.epoch)}
    if segment is not None:
        fields["segment"] = segment
    return {"filter_metadata": {"understudy": fields}}


# --- protobuf ---------------------------------------------------------------------------------


def _parsed(
    kind: str, written: Iterable[dict[str, Any]], *, key: str = "name"
) -> dict[str, Message]:
    return {each[key]: ParseDict(each, MESSAGES[kind]()) for each in written}


def _digest(messages: Iterable[Message]) -> str:
    digest = xxhash.xxh64()
    for message in messages:
        payload = message.SerializeToString(deterministic=True)
        digest.update(len(payload).to_bytes(4, "big") + payload)
    return digest.hexdigest()


def _pointed_to(routes: Message) -> Iterable[str]:
    for route in routes_in(routes):
        action = route.route
        if action.cluster:
            yield action.cluster
        yield from (part.name for part in action.weighted_clusters.clusters)
        yield from (each.cluster for each in action.request_mirror_policies)
