from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.model import BASIS, Split
from controller.core.split import assign, assign_many, propensity, ranges
from controller.errors import InvariantError


def split(weights: dict[str, int], *, salt: str = "m/r1:", anchors: tuple[str, ...] = ()) -> Split:
    return Split(epoch=1, champion="c", weights=weights, salt=salt, anchors=anchors)


def owners(made: Split) -> list[str]:
    """Brute force: one entry per place of the circle."""
    found: list[str] = []
    for part in ranges(made):
        assert part.start == len(found)
        found += [part.arm] * (part.end - part.start)
    return found


@st.composite
def splits(draw: st.DrawFn) -> Split:
    k = draw(st.integers(0, 5))
    cuts = sorted(draw(st.lists(st.integers(0, BASIS), min_size=k, max_size=k)))
    edges = [0, *cuts, BASIS]
    widths = [b - a for a, b in pairwise(edges)]
    arms = [f"a{i}" for i in range(k)]
    weights = dict(zip(["c", *arms], widths, strict=True))
    return split(weights, anchors=tuple(draw(st.permutations(arms))))


@given(splits())
def test_ranges_cover_the_circle_and_weights_are_exact(made: Split) -> None:
    found = owners(made)
    assert len(found) == BASIS
    assert {arm: found.count(arm) for arm in made.weights} == made.weights
    assert all(part.end > part.start for part in ranges(made))


@given(splits(), st.data())
def test_growing_one_candidate_takes_no_place_from_it(made: Split, data: st.DataObject) -> None:
    if not made.anchors:
        return
    arm = data.draw(st.sampled_from(made.anchors))
    growth = data.draw(st.integers(0, made.weights["c"]))
    weights = {**made.weights, arm: made.weights[arm] + growth, "c": made.weights["c"] - growth}
    before, after = owners(made), owners(split(weights, anchors=made.anchors))
    assert all(now == arm for was, now in zip(before, after, strict=True) if was == arm)


@settings(max_examples=30)
@given(splits(), st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=50))
def test_assignment_is_the_formula(made: Split, units: list[str]) -> None:
    found = owners(made)
    expected = [found[xxhash.xxh64((made.salt + u).encode()).intdigest() % BASIS] for u in units]
    assert assign_many(made, units) == expected
    assert [assign(made, unit) for unit in units] == expected


def test_one_candidate_grows_from_zero_and_units_keep_it() -> None:
    units = [f"u{i}" for i in range(20_000)]
    had: set[str] = set()
    for weight in (0, 100, 500, 2500, 5000, BASIS):
        made = split({"c": BASIS - weight, "v": weight}, anchors=("v",))
        pairs = zip(units, assign_many(made, units), strict=True)
        has = {unit for unit, arm in pairs if arm == "v"}
        assert had <= has
        assert (len(has) == 0) == (weight == 0)
        had = has
    assert len(had) == len(units)


def test_peer_6_other_candidates_units_stay_while_one_grows() -> None:
    before = owners(split({"c": 8000, "x": 1000, "y": 1000}, anchors=("x", "y")))
    after = owners(split({"c": 5000, "x": 4000, "y": 1000}, anchors=("x", "y")))
    moved = {(was, now) for was, now in zip(before, after, strict=True) if was != now}
    assert moved == {("c", "x")}


def test_peer_4_a_drained_arm_has_no_range() -> None:
    made = split({"c": 3334, "x": 3333, "y": 3333, "z": 0}, anchors=("x", "y", "z"))
    assert "z" not in owners(made)
    assert propensity(made, "z") == 0.0


@pytest.mark.parametrize(
    "weights", [{"c": 9999}, {"c": 10_001, "x": -1}, {"x": BASIS}, {"c": 9999.5, "x": 0.5}]
)
def test_a_split_that_is_none_is_refused(weights: dict[str, int]) -> None:
    with pytest.raises(InvariantError):
        ranges(split(weights))


def test_the_propensity_of_an_unknown_arm_is_an_error() -> None:
    with pytest.raises(InvariantError, match="not among"):
        propensity(split({"c": BASIS}), "nobody")


def segmented(made: Split, segments: dict[str, dict[str, int]]) -> Split:
    return replace(made, segment_header="x-country", segments=segments)


@given(splits(), st.data())
def test_a_segment_is_a_split_of_its_own_on_the_same_circle(
    made: Split, data: st.DataObject
) -> None:
    shares = data.draw(st.permutations(list(made.weights.values())))
    weights = dict(zip(made.weights, shares, strict=True))
    both = segmented(made, {"de": weights})
    alone = replace(made, weights=weights)
    units = [f"u{i}" for i in range(200)]
    assert ranges(both, "de") == ranges(alone)
    assert assign_many(both, units, "de") == assign_many(alone, units)
    assert [assign(both, unit, "de") for unit in units[:9]] == assign_many(alone, units[:9])
    assert [propensity(both, arm, "de") for arm in weights] == [w / BASIS for w in shares]
    for segment in (None, "fr", "DE", ""):
        assert ranges(both, segment) == ranges(made)
        assert assign_many(both, units, segment) == assign_many(made, units)
        assert all(propensity(both, a, segment) == propensity(made, a) for a in made.weights)


@given(splits(), st.data())
def test_who_has_an_arm_in_one_segment_has_it_where_the_arm_is_larger(
    made: Split, data: st.DataObject
) -> None:
    if not made.anchors:
        return
    arm = data.draw(st.sampled_from(made.anchors))
    growth = data.draw(st.integers(0, made.weights["c"]))
    larger = {**made.weights, arm: made.weights[arm] + growth, "c": made.weights["c"] - growth}
    both = segmented(made, {"large": larger, "small": made.weights})
    units = [f"u{i}" for i in range(300)]
    small, large = assign_many(both, units, "small"), assign_many(both, units, "large")
    assert all(now == arm for was, now in zip(small, large, strict=True) if was == arm)


@pytest.mark.parametrize(
    ("segments", "complaint"),
    [
        ({"de": {"c": 9999}}, "segment 'de': weights sum to 9999"),
        ({"de": {"c": 10_001, "x": -1}}, "segment 'de': weight of 'x' is -1"),
        ({"de": {"x": BASIS}}, "segment 'de': champion 'c' is not among"),
        ({"de": {"c": 5000, "z": 5000}}, r"segment 'de': no place for \['z'\]"),
        ({"": {"c": BASIS}}, "a segment is called ''"),
        ({"y" * 65: {"c": BASIS}}, "a segment is called 'yyy"),
    ],
)
def test_a_segment_that_is_no_split_is_refused(
    segments: dict[str, dict[str, int]], complaint: str
) -> None:
    made = split({"c": 9000, "x": 1000}, anchors=("x",))
    assert ranges(segmented(made, {"y" * 64: {"c": BASIS}}))
    for use in (ranges, lambda each: propensity(each, "c"), lambda each: assign(each, "u")):
        with pytest.raises(InvariantError, match=complaint):
            use(segmented(made, segments))


def test_segments_without_a_header_are_refused() -> None:
    made = replace(split({"c": BASIS}), segments={"de": {"c": BASIS}})
    with pytest.raises(InvariantError, match="no header"):
        ranges(made)


def test_the_propensity_of_an_arm_that_a_segment_lacks_is_an_error() -> None:
    made = segmented(split({"c": 5000, "x": 5000}), {"de": {"c": BASIS}})
    assert propensity(made, "x") == 0.5
    with pytest.raises(InvariantError, match="not among"):
        propensity(made, "x", "de")
