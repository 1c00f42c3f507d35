"""What the real Envoy does with a snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import xxhash
from scipy.stats import binomtest, chisquare

from controller.core.model import BASIS, Split
from controller.core.policy import Route, Unit
from controller.core.split import assign_many, ranges
from controller.router.snapshot import LDS, RDS, RoutedModel, of_resources, snapshot

HEADER = Unit(header="x-user-id")


def model(
    rig: Any,
    weights: dict[str, int],
    *,
    name: str = "digits",
    prefix: str = "/digits/",
    unit: Unit | None = HEADER,
    epoch: int = 1,
    mirror: dict[str, int] | None = None,
    silent: tuple[str, ...] = (),
) -> RoutedModel:
    split = Split(
        epoch=epoch,
        champion="v1",
        weights=weights,
        salt=f"{name}/r1:",
        anchors=tuple(sorted(set(weights) - {"v1"})),
        mirror=mirror or {},
    )
    arms = {*weights, *(mirror or {})} - set(silent)
    endpoints = {arm: [rig.upstream(arm)] for arm in sorted(arms)}
    return RoutedModel(name, Route(prefix=prefix, unit=unit), split, endpoints)


def users(n: int, start: int = 0) -> list[dict[str, str]]:
    return [{"x-user-id": f"user-{i}"} for i in range(start, start + n)]


def test_100_000_units_agree_with_envoys_formula(rig: Any) -> None:
    """The oracle walks the weighted clusters that Envoy is sent, as Envoy does."""
    made = model(rig, {"v1": 7000, "v2": 2000, "v3": 1000})
    table: Any = snapshot([made], rig.envoy.listener).resources[RDS]["router"]
    clusters = table.virtual_hosts[0].routes[0].route.weighted_clusters.clusters
    ladder = [c.name.split("/")[1] for c in clusters for _ in range(c.weight.value)]
    units = [f"user-{i}" for i in range(100_000)]
    salt = made.split.salt.encode()
    oracle = [ladder[xxhash.xxh64_intdigest(salt + u.encode()) % BASIS] for u in units]
    assert assign_many(made.split, units) == oracle
    assert len(ranges(made.split)) == 4


def test_the_real_router_assigns_as_split_says(rig: Any) -> None:
    made = model(rig, {"v1": 7000, "v2": 2000, "v3": 1000})
    assert rig.publish(made)
    answers = rig.get("/digits/x", users(2000))
    expected = assign_many(made.split, [f"user-{i}" for i in range(2000)])
    assert [names["x-understudy-arm"] for _, names, _ in answers] == expected
    assert [body for _, _, body in answers] == expected
    assert len({names["x-request-id"] for _, names, _ in answers}) == 2000


def test_peer_3_weights_are_what_they_say(rig: Any) -> None:
    """With 1e-6 chance to fail for an honest router."""
    weights = {"v1": 9000, "v2": 700, "v3": 300}
    assert rig.publish(model(rig, weights, name="w", prefix="/w/"))
    counts = Counter(rig.arms("/w/x", users(2000)))
    expected = [2000 * weights[arm] / BASIS for arm in sorted(weights)]
    assert chisquare([counts[arm] for arm in sorted(weights)], expected).pvalue > 1e-6


def test_peer_4_a_drained_arm_gets_nothing(rig: Any) -> None:
    weights = {"v1": 3334, "v2": 3333, "v3": 3333, "v4": 0}
    assert rig.publish(model(rig, weights, unit=None))
    assert set(rig.arms("/digits/x", [{}] * 800)) == {"v1", "v2", "v3"}


def test_peer_5_units_are_randomised_not_all_sent_to_the_candidate(rig: Any) -> None:
    assert rig.publish(model(rig, {"v1": 5000, "v2": 5000}))
    first = rig.arms("/digits/x", users(400))
    assert min(Counter(first).values()) > 120
    assert rig.arms("/digits/x", users(400)) == first


def test_peer_6_growing_a_canary_moves_only_new_units(rig: Any) -> None:
    before: list[str] = []
    for epoch, weight in enumerate((500, 2500, 5000, BASIS)):
        assert rig.publish(model(rig, {"v1": BASIS - weight, "v2": weight}, epoch=epoch))
        after = rig.arms("/digits/x", users(300))
        assert all(now == "v2" for was, now in zip(before, after, strict=False) if was == "v2")
        before = after
    assert set(before) == {"v2"}


def test_requests_without_a_unit_are_split_one_by_one(rig: Any) -> None:
    """A fair coin 400 times: outside 5 sigma with chance 6e-7."""
    assert rig.publish(model(rig, {"v1": 5000, "v2": 5000}))
    for headers in ({}, {"x-user-id": ""}):
        counts = Counter(rig.arms("/digits/x", [headers] * 400))
        assert 150 < counts["v1"] < 250
    events = [msgspec.json.decode(line) for line in rig.log().events["digits"][-800:]]
    assert all("unit" not in event for event in events)


def test_a_cookie_is_a_unit(rig: Any) -> None:
    made = model(rig, {"v1": 5000, "v2": 5000}, unit=Unit(cookie="sid"))
    assert rig.publish(made)
    rig.log()
    units = [f"user-{i}" for i in range(300)]
    forms = ("sid={}", "a=1; sid={}; b=2", "xsid=no; sid={}", "sid=; sid={}", "sid={}; sid=second")
    headers = [{"cookie": forms[i % 5].format(unit)} for i, unit in enumerate(units)]
    assert rig.arms("/digits/x", headers) == assign_many(made.split, units)
    events = [msgspec.json.decode(line) for line in rig.log().events["digits"]]
    assert [event["unit"] for event in events] == units
    assert len(set(rig.arms("/digits/x", [{"cookie": "other=1"}] * 100))) == 2


@pytest.mark.parametrize(
    ("unit", "lines", "logged"),
    [
        (HEADER, ("x-user-id: {}", "x-user-id: b"), "{},b"),
        (Unit(cookie="sid"), ("cookie: a=1", "cookie: sid={}"), "{}"),
        (Unit(cookie="sid"), ("cookie: sid={}", "cookie: sid=b"), "{}"),
    ],
)
def test_a_unit_in_repeated_headers_is_routed_as_it_is_logged(
    rig: Any, unit: Unit, lines: Sequence[str], logged: str
) -> None:
    made = model(rig, {"v1": 5000, "v2": 5000}, unit=unit)
    assert rig.publish(made)
    rig.log()
    names = [f"user-{i}" for i in range(40)]
    for name in names:
        rig.raw(*(line.format(name).encode() for line in lines))
    events = [msgspec.json.decode(line) for line in rig.log().events["digits"]]
    units = [event["unit"] for event in events]
    assert units == [logged.format(name) for name in names]
    assert [event["arm"] for event in events] == assign_many(made.split, units)


def test_an_arm_cannot_pass_itself_off_as_another_one(rig: Any) -> None:
    """The servers say so, twice."""
    assert rig.publish(model(rig, {"v1": BASIS}))
    head = rig.raw(b"x-user-id: u")
    assert [line for line in head if b"understudy-arm" in line] == [b"x-understudy-arm: v1"]


def test_two_models_share_one_listener_and_the_longer_prefix_wins(rig: Any) -> None:
    first = model(rig, {"v1": BASIS}, name="wide", prefix="/")
    second = model(rig, {"v1": 5000, "v2": 5000}, name="narrow", prefix="/narrow/")
    assert rig.publish(first, second)
    rig.log()
    assert set(rig.arms("/x", users(50))) == {"v1"}
    assert set(rig.arms("/narrow/x", users(50))) == {"v1", "v2"}
    assert {name: len(lines) for name, lines in rig.log().events.items()} == {
        "wide": 50,
        "narrow": 50,
    }


def test_a_path_of_no_model_is_answered_404_and_is_no_exposure(rig: Any) -> None:
    assert rig.publish(model(rig, {"v1": BASIS}))
    rig.log()
    assert rig.get("/nowhere", [{}])[0][0] == 404
    logged = rig.log()
    assert (logged.events, logged.unmatched, logged.bad) == ({}, 1, [])


def test_an_arm_without_servers_answers_503_and_is_exposed(rig: Any) -> None:
    assert rig.publish(model(rig, {"v1": 0, "v2": BASIS}, silent=("v2",), epoch=5))
    rig.log()
    assert rig.get("/digits/x", users(1))[0][0] == 503
    event = msgspec.json.decode(rig.log().events["digits"][0])
    assert (event["arm"], event["status"], event["epoch"]) == ("v2", 503, 5)


def test_the_share_of_mirrored_requests_is_right_and_their_answers_are_seen(rig: Any) -> None:
    """1 000 requests at 30 %, two-sided, with 1e-6 chance to fail for an honest router."""
    assert rig.publish(model(rig, {"v1": BASIS}, mirror={"v9": 3000}))
    rig.log()
    assert set(rig.arms("/digits/x", users(1000))) == {"v1"}
    events = [msgspec.json.decode(line) for line in rig.log().events["digits"]]
    shown = {e["request_id"]: e["unit"] for e in events if e["type"] == "exposure"}
    shadows = [e for e in events if e["type"] == "shadow"]
    assert len(shown) == 1000
    assert binomtest(len(shadows), 1000, 0.3).pvalue > 1e-6
    assert {(e["arm"], e["status"]) for e in shadows} == {("v9", 200)}
    assert all(shown[e["request_id"]] == e["unit"] and e["latency_ms"] > 0 for e in shadows)


def test_a_callers_request_id_is_not_trusted(rig: Any) -> None:
    assert rig.publish(model(rig, {"v1": BASIS}))
    answers = rig.get("/digits/x", [{"x-request-id": "mine"}] * 2)
    assert len({names["x-request-id"] for _, names, _ in answers} - {"mine"}) == 2


def test_a_client_cannot_forge_fields_of_the_log(rig: Any) -> None:
    assert rig.publish(model(rig, {"v1": BASIS}))
    rig.log()
    units = [b'"quoted",\\', b"tab\there", b"a=b=c", b"%s%n", b"x" * 5000, b"\xc3\xa9"]
    refused = [b"a\x1fexposure\x1f", b"a\x1eb", b"a\x00b", b"a\x7fb"]
    heads = [rig.raw(b"x-user-id: " + value) for value in (*units, *refused)]
    statuses = [int(head[0].split()[1]) for head in heads]
    assert statuses == [200] * len(units) + [400] * len(refused)
    logged = rig.log()
    events = [msgspec.json.decode(line) for line in logged.events["digits"]]
    assert [event["unit"] for event in events] == [u.decode()[:128] for u in units]
    assert logged.bad == []


def test_a_refused_snapshot_keeps_the_old_split_and_is_reported(rig: Any) -> None:
    good = model(rig, {"v1": 0, "v2": BASIS}, epoch=7)
    assert rig.publish(good)
    built = snapshot([model(rig, {"v1": BASIS, "v2": 0}, epoch=8)], rig.envoy.listener)
    table: Any = built.resources[RDS]["router"]
    table.virtual_hosts[0].routes[0].match.safe_regex.regex = "("
    broken = of_resources(built.resources, built.epochs)
    rig.run(rig.plane.publish(broken))
    assert not rig.run(rig.plane.acked(broken, 10))
    assert rig.plane.last_nack is not None
    assert "(" in rig.plane.last_nack.detail
    assert rig.plane.last_nack.type_url == RDS
    assert set(rig.arms("/digits/x", users(50))) == {"v2"}
    assert [epochs["digits"] for epochs in rig.plane.in_force.values()] == [7]
    assert rig.publish(model(rig, {"v1": BASIS, "v2": 0}, epoch=9))
    assert set(rig.arms("/digits/x", users(50))) == {"v1"}
    assert LDS in broken.versions


def test_many_models_hang_in_a_tree_and_the_longer_prefix_wins(rig: Any) -> None:
    """More than a list takes; nested prefixes, units, requests of no model, and the log."""
    names = [f"m{i}" for i in range(40)]
    some = [model(rig, {"v1": 5000, "v2": 5000}, name=n, prefix=f"/t/{n}/") for n in names]
    nested = model(rig, {"v1": BASIS}, name="nested", prefix="/t/m7/inner/")
    wide = model(rig, {"v2": BASIS, "v1": 0}, name="wide", prefix="/t/")
    assert rig.publish(*some, nested, wide)
    table: Any = rig.plane._present.resources[RDS]["router"]
    assert not table.virtual_hosts[0].routes
    rig.log()
    for at in (0, 7, 39):
        expected = assign_many(some[at].split, [f"user-{i}" for i in range(60)])
        assert rig.arms(f"/t/m{at}/x?a=/t/m1/", users(60)) == expected
    assert set(rig.arms("/t/m7/inner/x", users(20))) == {"v1"}
    assert set(rig.arms("/t/m7/inne", users(20))) == {"v1", "v2"}
    assert set(rig.arms("/t/m40/x", users(20))) == {"v2"}
    assert rig.get("/elsewhere", [{}])[0][0] == 404
    logged = rig.log()
    counts = {name: len(lines) for name, lines in logged.events.items()}
    assert counts == {"m0": 60, "m7": 80, "m39": 60, "nested": 20, "wide": 20}
    assert logged.unmatched == 1
    assert rig.publish(*some[1:])
    assert rig.get("/t/m0/x", [{}])[0][0] == 404
