"""What the real Envoy does with a split that has segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import xxhash
from scipy.stats import chisquare

from controller.core.model import BASIS, Split
from controller.core.policy import Route, Unit
from controller.core.split import assign_many
from controller.errors import InvariantError
from controller.router.access_log import SEGMENT_BYTES, exposure_lines
from controller.router.snapshot import LDS, RDS, RoutedModel, check, snapshot

WEIGHTS = {"v1": 5000, "v2": 3000, "v3": 2000}
SEGMENTS = {
    "de": {"v1": 1000, "v2": 8000, "v3": 1000},
    "fr": {"v1": 9000, "v2": 0, "v3": 1000},
    "at": {"v1": 500, "v2": 500, "v3": 9000},
}
OTHERS = ("us", "DE", "De", "de,fr", "x" * 64, "x" * 65, "", None)
"""Values of the header that have no weights of their own."""


def model(rig: Any, segments: Mapping[str, dict[str, int]] = SEGMENTS, **split: Any) -> RoutedModel:
    fields: dict[str, Any] = {
        "epoch": 4,
        "champion": "v1",
        "weights": WEIGHTS,
        "salt": "digits/r1:",
        "anchors": ("v2", "v3"),
        "segment_header": "X-Country",
        "segments": dict(segments),
    }
    made = Split(**fields | split)
    endpoints = {arm: [rig.upstream(arm)] for arm in sorted({*made.weights, *made.mirror})}
    route = Route(prefix="/digits/", unit=Unit(header="x-user-id"))
    return RoutedModel("digits", route, made, endpoints)


def asked(units: Sequence[str], country: str | None) -> list[dict[str, str]]:
    headers = {} if country is None else {"x-country": country}
    return [{"x-user-id": unit, **headers} for unit in units]


def users(n: int) -> list[str]:
    return [f"user-{i}" for i in range(n)]


def events(rig: Any, kind: str = "exposure") -> list[dict[str, Any]]:
    logged = rig.log()
    assert logged.bad == []
    found = [msgspec.json.decode(line) for line in logged.events.get("digits", [])]
    return [event for event in found if event["type"] == kind]


def test_20_000_units_in_segments_are_routed_as_split_says(rig: Any) -> None:
    made = model(rig)
    assert rig.publish(made)
    rig.log()
    units = users(20_000)
    countries = ("de", "fr", "at", "us", None)
    headers = [asked([unit], countries[i % 5])[0] for i, unit in enumerate(units)]
    answered = rig.arms("/digits/x", headers)
    for i, country in enumerate(countries):
        assert answered[i::5] == assign_many(made.split, units[i::5], country)
    assert "v2" not in answered[1::5]
    logged = events(rig)
    assert [event.get("segment") for event in logged] == [countries[i % 5] for i in range(20_000)]
    assert [event["arm"] for event in logged] == answered
    assert {event["epoch"] for event in logged} == {4}


def test_the_shares_of_each_segment_are_its_weights(rig: Any) -> None:
    """Four tests, with 4e-6 chance that one fails for an honest router."""
    assert rig.publish(model(rig))
    for country, weights in {**SEGMENTS, "us": WEIGHTS}.items():
        counts = Counter(rig.arms("/digits/x", asked(users(1500), country)))
        given = sorted(arm for arm in weights if weights[arm])
        assert sorted(counts) == given
        expected = [1500 * weights[arm] / BASIS for arm in given]
        assert chisquare([counts[arm] for arm in given], expected).pvalue > 1e-6


def test_the_weighted_clusters_of_each_route_are_the_formula(rig: Any) -> None:
    """The oracle walks what Envoy is sent, as Envoy does: the first route that fits."""
    made = model(rig)
    table: Any = snapshot([made], rig.envoy.listener).resources[RDS]["router"]
    units = users(20_000)
    salt = made.split.salt.encode()
    places = [xxhash.xxh64_intdigest(salt + unit.encode()) % BASIS for unit in units]
    for country in ("at", "de", "fr", "us"):
        route = next(r for r in table.virtual_hosts[0].routes if _fits(r, country))
        clusters = route.route.weighted_clusters.clusters
        assert all(cluster.weight.value > 0 for cluster in clusters)
        ladder = [c.name.split("/")[1] for c in clusters for _ in range(c.weight.value)]
        assert assign_many(made.split, units, country) == [ladder[place] for place in places]


def _fits(route: Any, country: str) -> bool:
    for matcher in route.match.headers:
        if matcher.name == "x-country" and matcher.string_match.exact not in {"", country}:
            return False
    return True


def test_units_stay_with_their_arm_while_it_grows_in_their_segment(rig: Any) -> None:
    before: list[str] = []
    headers = asked(users(300), "de")
    for epoch, weight in enumerate((0, 1000, 4000, 9000)):
        grown = {"de": {"v1": 9000 - weight, "v2": weight, "v3": 1000}}
        assert rig.publish(model(rig, grown, epoch=epoch))
        after = rig.arms("/digits/x", headers)
        assert rig.arms("/digits/x", headers) == after
        assert all(now == "v2" for was, now in zip(before, after, strict=False) if was == "v2")
        before = after
    assert set(before) == {"v2", "v3"}


def test_requests_without_a_unit_get_the_weights_of_their_segment_one_by_one(rig: Any) -> None:
    """Outside 6 sigma with chance 2e-9."""
    assert rig.publish(model(rig))
    rig.log()
    counts = Counter(rig.arms("/digits/x", [{"x-country": "de"}] * 400))
    assert 272 < counts["v2"] < 368
    logged = events(rig)
    assert all("unit" not in event for event in logged)
    assert {event["segment"] for event in logged} == {"de"}


LONGEST = ("x" * 64, "\u00e9" * 64, "\U0001f600" * 64)
PLAIN = {name: {"v1": 0, "v2": BASIS} for name in ("de", "DE", "a=b|c %s", *LONGEST)}


HEADERS = [
    (["x-country: de"], "v2", "de"),
    (["X-COUNTRY:   de  "], "v2", "de"),
    (["x-country: DE"], "v2", "DE"),
    (["x-country: De"], "v1", "De"),
    (["x-country: d"], "v1", "d"),
    (["x-country: dee"], "v1", "dee"),
    (["x-country: a=b|c %s"], "v2", "a=b|c %s"),
    *((["x-country: " + name], "v2", name) for name in LONGEST),
    *((["x-country: " + name + name[0]], "v1", None) for name in LONGEST),
    (["x-country: " + "x" * 5000], "v1", None),
    (["x-country: " + "x" + "\u00e9" * 5000], "v1", None),
    (["x-country:"], "v1", None),
    ([], "v1", None),
    (["x-country: de,fr"], "v1", None),
    # Of repeated values one that fits is enough; the log says which it was.
    (["x-country: de", "x-country: de"], "v2", "de"),
    (["x-country: de", "x-country: fr"], "v2", "de"),
    (["x-country: fr", "x-country: de"], "v2", "de"),
    (["x-country: de", "x-country: DE"], "v2", "DE"),
    (["x-country: de", "x-country:"], "v2", "de"),
    (["x-country:", "x-country: de"], "v2", "de"),
    (["x-country: fr", "x-country: us"], "v1", "fr"),
    (["x-country:", "x-country: us"], "v1", None),
    (["x-country: a,b", "x-country: us"], "v1", None),
    (["x-country: a,b", "x-country: a,b"], "v1", None),
    (["x-country: d\udcffe"], "v1", None),
    (["x-country: \udced\udca0\udc80"], "v1", None),
    (["x-country-code: de"], "v1", None),
    (["x-user-id: x-country=de"], "v1", None),
]
"""Header lines of a request, the arm that it gets, the segment that is logged."""


def test_router_and_log_agree_on_every_value(rig: Any) -> None:
    pooled = {"v1": BASIS, "v2": 0}
    assert rig.publish(model(rig, PLAIN, weights=pooled, anchors=("v2",)))
    rig.log()
    for lines, _, _ in HEADERS:
        head = rig.raw(*(each.encode("utf-8", "surrogateescape") for each in lines))
        assert head[0] == b"HTTP/1.1 200 OK"
    found = [(event["arm"], event.get("segment")) for event in events(rig)]
    told = [(lines, *each) for (lines, _, _), each in zip(HEADERS, found, strict=True)]
    assert told == HEADERS


def test_a_segment_cannot_forge_fields_of_the_log(rig: Any) -> None:
    assert rig.publish(model(rig))
    rig.log()
    for value in (b"de\x1fx-country=fr", b"de\x1e1\x1e", b"\x00de", b"de\x7f"):
        assert rig.raw(b"x-country: " + value)[0] == b"HTTP/1.1 400 Bad Request"
    assert events(rig) == []


def test_every_segment_is_mirrored(rig: Any) -> None:
    assert rig.publish(model(rig, mirror={"v9": BASIS}))
    rig.log()
    for country in ("de", "us", "de,fr", None):
        assert "v9" not in rig.arms("/digits/x", asked(users(20), country))
    shadows = events(rig, "shadow")
    assert [event["arm"] for event in shadows] == ["v9"] * 80
    assert {event["status"] for event in shadows} == {200}
    assert all("segment" not in event for event in shadows)


def test_models_with_and_without_segments_share_a_listener(rig: Any) -> None:
    country = model(rig)
    plain = replace(model(rig, {}, segment_header=""), name="plain", route=Route(prefix="/plain/"))
    # The unit of one model is the segment of another: both are in the log, at the wider bound.
    user = replace(
        model(rig, {"user-1": SEGMENTS["at"]}, segment_header="x-user-id"),
        name="user",
        route=Route(prefix="/user/", unit=Unit(header="x-country")),
    )
    assert rig.publish(country, plain, user)
    rig.log()
    for path in ("/digits/x", "/plain/x", "/user/x"):
        rig.get(path, asked(["user-1"], "de"))
    logged = rig.log().events
    found = {name: msgspec.json.decode(lines[0]) for name, lines in logged.items()}
    assert {name: (e.get("unit"), e.get("segment")) for name, e in found.items()} == {
        "digits": ("user-1", "de"),
        "plain": (None, None),
        "user": ("de", "user-1"),
    }
    assert found["user"]["arm"] == assign_many(user.split, ["de"], "user-1")[0]


def test_segments_that_come_and_go_change_routes_only(rig: Any) -> None:
    """Another listener would drain every connection."""
    without = snapshot([model(rig, {})], rig.envoy.listener)
    made = snapshot([model(rig)], rig.envoy.listener)
    assert without.versions[LDS] == made.versions[LDS]
    assert without.versions[RDS] != made.versions[RDS]
    reordered = dict(reversed(list(SEGMENTS.items())))
    assert snapshot([model(rig, reordered)], rig.envoy.listener).versions == made.versions


def test_what_no_header_can_say_has_no_route(rig: Any) -> None:
    unsayable = {"de,fr": WEIGHTS, "a\nb": WEIGHTS}
    plain = snapshot([model(rig, {})], rig.envoy.listener)
    assert snapshot([model(rig, unsayable)], rig.envoy.listener).versions == plain.versions


def test_an_arm_that_only_a_segment_has_gets_a_cluster(rig: Any) -> None:
    only = {"de": {"v1": 5000, "v3": 5000}}
    made = model(rig, only, weights={"v1": 7000, "v2": 3000})
    check(snapshot([made], rig.envoy.listener))
    with pytest.raises(InvariantError, match="v4"):
        snapshot([model(rig, {"de": {"v1": 5000, "v4": 5000}})], rig.envoy.listener)


def test_a_line_whose_route_names_a_header_that_it_lacks_is_kept_as_refused() -> None:
    fields = (
        "1.5",
        "exposure",
        "m\x1e1\x1e\x1eheader:x-country",
        "m/v1",
        "200",
        "9",
        "-",
        "",
        "r1",
    )
    line = "\x1f".join(fields).encode()
    assert exposure_lines([line]).bad == [
        (line, "the line lacks the header x-country, which its route names")
    ]
    whole = exposure_lines([line + b"\x1fx-country=" + b"x" * SEGMENT_BYTES])
    assert (whole.bad, b"segment" in whole.events["m"][0]) == ([], False)
