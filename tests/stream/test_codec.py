"""Lines to columns and back: every field, every offset, wherever a batch is cut."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.core.model import (
    NO_EPOCH,
    CapacityEvent,
    CommandEvent,
    ControlEvent,
    EventBatch,
    Operation,
    Reason,
    Role,
    SplitEvent,
    Tick,
    Version,
    VersionEvent,
)
from controller.errors import EventError
from controller.stream.codec import (
    canonical,
    capacity_line,
    command_line,
    control_line,
    decode,
    key,
    split_line,
    tick_line,
    version_line,
)

EXAMPLES = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def line(**fields: Any) -> bytes:
    return msgspec.json.encode({"time": 1.0, "model": "m"} | fields)


def exposure(request_id: str = "r", arm: str = "v1", **fields: Any) -> bytes:
    return line(type="exposure", request_id=request_id, arm=arm, **fields)


def reward(name: str = "click", value: float = 1, **fields: Any) -> bytes:
    return line(type="reward", name=name, value=value, **fields)


def test_an_exposure_becomes_one_row_of_every_column() -> None:
    fields = {"unit": "u", "epoch": 3, "propensity": 0.05, "status": 503, "latency_ms": 1.5}
    batch = decode("m", 40, [exposure("r1", "v2", time=5.25, **fields)])
    e = batch.exposures
    assert (batch.start, batch.count, batch.names) == (40, 1, ("v2",))
    assert (e.offset[0], e.time[0], e.arm[0], e.epoch[0]) == (40, 5.25, 0, 3)
    assert (e.propensity[0], e.status[0], e.latency_ms[0]) == (0.05, 503, 1.5)
    assert e.request[0] == xxhash.xxh64(b"r1", seed=0).intdigest()
    assert e.unit[0] == xxhash.xxh64(b"u", seed=0).intdigest()


def test_what_an_exposure_leaves_out_has_its_absent_value() -> None:
    e = decode("m", 0, [exposure()]).exposures
    assert (e.unit[0], e.epoch[0], e.status[0]) == (0, NO_EPOCH, 200)
    assert math.isnan(e.propensity[0])
    assert math.isnan(e.latency_ms[0])


def test_a_reward_becomes_one_row_of_every_column() -> None:
    lines = [reward("a", 0.5, id="e1", request_id="r"), reward("b", -2, unit="ü", time=3.5)]
    r = decode("m", 7, lines).rewards
    assert r.offset.tolist() == [7, 8]
    assert r.time.tolist() == [1.0, 3.5]
    assert r.value.tolist() == [0.5, -2.0]
    assert r.request.tolist() == [xxhash.xxh64_intdigest(b"r"), 0]
    assert r.unit.tolist() == [0, xxhash.xxh64_intdigest("ü".encode())]
    assert r.id[0] == xxhash.xxh64_intdigest(b"e1")


def test_columns_have_their_types_even_when_empty() -> None:
    for lines in ([], [exposure(), reward(unit="u")]):
        batch = decode("m", 0, lines)
        e, r = batch.exposures, batch.rewards
        ints = (e.offset, e.arm, e.epoch, e.status, r.offset, r.name, batch.shadows.offset)
        assert {column.dtype for column in ints} == {np.dtype(np.int64)}
        keys = (e.request, e.unit, r.id, r.request, r.unit, batch.shadows.request)
        assert {column.dtype for column in keys} == {np.dtype(np.uint64)}
        floats = (e.time, e.propensity, e.latency_ms, r.time, r.value, batch.shadows.time)
        assert {column.dtype for column in floats} == {np.dtype(np.float64)}
        assert batch.count == len(lines)


def test_a_key_is_zero_for_no_text_only() -> None:
    assert key("") == 0
    assert key("u1") == xxhash.xxh64_intdigest(b"u1")


def test_a_reward_without_id_is_known_by_its_content() -> None:
    same = [reward(request_id="r", unit="u"), reward(unit="u", request_id="r", x=1)]
    ids = decode("m", 0, same).rewards.id
    assert ids[0] == ids[1] != 0
    others = [
        reward(request_id="r"),
        reward(unit="u"),
        reward(unit="r"),
        reward(unit="u", name="b"),
        reward(unit="u", value=2),
        reward(unit="u", time=2.0),
    ]
    assert len({*decode("m", 0, others).rewards.id.tolist(), *ids.tolist()}) == 7


def test_names_are_one_dictionary_for_arms_and_rewards() -> None:
    lines = [exposure(arm="v1"), reward("v1", unit="u"), exposure(arm="v2"), reward(unit="u")]
    batch = decode("m", 0, lines)
    assert [batch.names[i] for i in batch.exposures.arm] == ["v1", "v2"]
    assert [batch.names[i] for i in batch.rewards.name] == ["v1", "click"]
    assert sorted(batch.names) == ["click", "v1", "v2"]


def test_a_segment_is_an_index_into_the_names() -> None:
    lines = [exposure(arm="v1", segment="de"), exposure(), exposure(arm="de", segment="v1")]
    batch = decode("m", 0, lines)
    segments = batch.exposures.segment.tolist()
    assert (batch.names[segments[0]], segments[1], batch.names[segments[2]]) == ("de", -1, "v1")
    assert sorted(batch.names) == ["de", "v1"]
    without = decode("m", 0, [exposure(), exposure()])
    assert without.exposures.segment.tolist() == [-1, -1]
    assert without.exposures.segment.dtype == np.int64


def test_covariates_are_columns_and_none_where_there_are_none() -> None:
    lines = [exposure(), line(type="covariate", unit="ü", value=-2.5), reward(unit="u")]
    covariates = decode("m", 7, lines).covariates
    assert covariates is not None
    assert covariates.offset.tolist() == [8]
    assert covariates.unit.tolist() == [xxhash.xxh64_intdigest("ü".encode())]
    assert covariates.value.tolist() == [-2.5]
    types = (covariates.offset.dtype, covariates.unit.dtype, covariates.value.dtype)
    assert types == (np.int64, np.uint64, np.float64)
    assert decode("m", 7, [exposure(), reward(unit="u")]).covariates is None


def test_shadows_are_apart_from_exposures() -> None:
    batch = decode("m", 0, [exposure(), exposure("s", "v2").replace(b"exposure", b"shadow")])
    assert batch.exposures.offset.tolist() == [0]
    assert batch.shadows.offset.tolist() == [1]
    assert batch.names[int(batch.shadows.arm[0])] == "v2"


def test_a_malformed_line_is_rejected_and_keeps_its_offset() -> None:
    lines = [exposure("a"), b"{", reward(), exposure("b"), b"", exposure("c", time="noon")]
    batch = decode("m", 100, lines)
    assert batch.count == 6
    assert batch.exposures.offset.tolist() == [100, 103]
    assert [(r.offset, r.reason) for r in batch.rejected] == [
        (at, Reason.MALFORMED) for at in (101, 102, 104, 105)
    ]
    assert batch.rejected[1].detail.startswith("request_id: found nothing")
    assert batch.rejected[3].detail.startswith('time: found "noon"')


def test_times_as_text_and_envelopes_are_read_in_a_users_file() -> None:
    envelope = {
        "specversion": "1.0",
        "type": "dev.understudy.reward",
        "id": "1",
        "source": "s",
        "time": "1970-01-01T00:00:07Z",
        "data": {"model": "m", "unit": "u", "name": "click", "value": 0.25},
    }
    lines = [exposure(time="1970-01-01T00:01:00.5Z"), msgspec.json.encode(envelope)]
    batch = decode("m", 0, lines)
    assert batch.exposures.time.tolist() == [60.5]
    assert (batch.rewards.time.tolist(), batch.rewards.value.tolist()) == ([7.0], [0.25])
    assert batch.rewards.id[0] == key("s#1")


def test_other_models_events_are_rejected_or_skipped_as_asked() -> None:
    lines = [exposure("a"), exposure("b", model="n"), tick_line(2.0), exposure("c")]
    rejecting = decode("m", 5, lines, others="reject")
    skipping = decode("m", 5, lines, others="skip")
    for batch in (rejecting, skipping):
        assert batch.exposures.offset.tolist() == [5, 8]
        assert batch.control == (Tick(7, 2.0),)
        assert batch.count == 4
    assert [(r.offset, r.detail) for r in rejecting.rejected] == [
        (6, 'model: found "n", expected "m"')
    ]
    assert skipping.rejected == ()


def test_control_events_stand_in_log_order() -> None:
    events: list[ControlEvent] = [
        Tick(3, 1.5),
        SplitEvent(4, 2.0, 17, {"v1": 9500, "v2": 500}, {"de": {"v1": 0, "v2": 10_000}}),
        VersionEvent(
            5, 2.5, "v2", Role.CANDIDATE, "v1", ("h:1",), "2026-01-01", {"a": 0.94}, {"u": 2}
        ),
        CommandEvent(6, 3.0, Operation.PROMOTE, "ana", "go", "v2"),
        VersionEvent(7, 3.5, "v3", Role.CHAMPION, uri="s3://models/v3"),
        CommandEvent(8, 4.0, Operation.PAUSE),
        CapacityEvent(9, 4.5, "v2", "known", 2, 3, 10),
        CapacityEvent(10, 5.0, "v2", "known", 0, 0),
        CapacityEvent(11, 5.5, "v2", "unknown"),
        CapacityEvent(12, 6.0, "v3", "gone"),
        Tick(13, 6.5, "abc", 4, ("v1", "v2"), 17, ("de",), 0.0),
    ]
    lines = [control_line("m", event) for event in events]
    assert decode("m", 3, lines).control == tuple(events)


def test_lines_of_our_own_are_canonical_and_read_as_the_contract_says() -> None:
    version = Version("v2", ("h:1",), "v1", "2026-11-20T00:00:00Z", {"accuracy": 0.94})
    assert [
        msgspec.json.decode(own)
        for own in (
            tick_line(1.5),
            tick_line(1.5, policy="abc", arms=("v1", "v2"), epoch=17),
            split_line("m", time=2.0, epoch=17, weights={"v1": 9500, "v2": 500}),
            version_line("m", time=3.0, version=version, role=Role.CANDIDATE),
            command_line("m", time=4.0, command=Operation.PAUSE, by="ana", reason="incident 12"),
            capacity_line("m", time=5.0, arm="v2", state="known", ready=2, replicas=3, limit=10),
        )
    ] == [
        {"type": "tick", "time": 1.5},
        {"type": "tick", "time": 1.5, "policy": "abc", "arms": ["v1", "v2"], "epoch": 17},
        {
            "type": "split",
            "time": 2.0,
            "model": "m",
            "epoch": 17,
            "weights": {"v1": 9500, "v2": 500},
        },
        {
            "type": "version",
            "time": 3.0,
            "model": "m",
            "version": "v2",
            "role": "candidate",
            "parent": "v1",
            "endpoints": ["h:1"],
            "trained_at": "2026-11-20T00:00:00Z",
            "metrics": {"accuracy": 0.94},
        },
        {
            "type": "command",
            "time": 4.0,
            "model": "m",
            "command": "pause",
            "by": "ana",
            "reason": "incident 12",
        },
        {
            "type": "capacity",
            "time": 5.0,
            "model": "m",
            "arm": "v2",
            "state": "known",
            "ready": 2,
            "replicas": 3,
            "limit": 10,
        },
    ]


def test_what_a_split_or_a_version_has_none_of_is_left_out_of_its_line() -> None:
    split = {"time": 2.0, "epoch": 1, "weights": {"v1": 10_000}}
    assert split_line("m", **split, segments={}) == split_line("m", **split)
    assert b"segments" not in split_line("m", **split)
    version = {"time": 3.0, "version": Version("v2"), "role": Role.CANDIDATE}
    assert version_line("m", **version, covariates={}) == version_line("m", **version)
    assert b"covariates" not in version_line("m", **version)


def test_a_control_line_that_nobody_could_read_is_not_written() -> None:
    with pytest.raises(EventError, match="weights: found a sum of 9999"):
        split_line("m", time=1.0, epoch=1, weights={"v1": 9999})
    segments = {"de": {"v1": 10_000}, "fr": {"v1": 9998}}
    with pytest.raises(EventError, match="segments: found a sum of 9998 in"):
        split_line("m", time=1.0, epoch=1, weights={"v1": 10_000}, segments=segments)
    covariates = {f"unit-{i}": 1.5 for i in range(5_000)}
    version: dict[str, Any] = {"time": 1.0, "version": Version("v2"), "role": Role.CANDIDATE}
    with pytest.raises(EventError, match="expected at most 65536"):
        version_line("m", **version, covariates=covariates)
    with pytest.raises(EventError, match="time: found null"):
        tick_line(math.nan)


# --- properties -------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
TIME = st.floats(0, 1e10)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
EXPOSURES = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["exposure", "shadow"]),
        "time": TIME,
        "model": st.just("m"),
        "request_id": TEXT,
        "arm": TEXT,
    },
    optional={
        "unit": TEXT,
        "epoch": st.integers(0, 2**53),
        "propensity": st.floats(0, 1, exclude_min=True),
        "status": st.integers(0, 999),
        "latency_ms": st.floats(0, 1e9),
        "segment": st.sampled_from(["de", "fr", "v1"]) | TEXT,
    },
)
COVARIATES = st.fixed_dictionaries(
    {
        "type": st.just("covariate"),
        "time": TIME,
        "model": st.just("m"),
        "unit": TEXT,
        "value": FINITE,
    }
)
REWARDS = st.fixed_dictionaries(
    {
        "type": st.just("reward"),
        "time": TIME,
        "model": st.just("m"),
        "name": TEXT,
        "value": FINITE,
        "unit": TEXT,
    },
    optional={"id": TEXT, "request_id": TEXT},
)
ENDPOINT = st.sampled_from(["127.0.0.1:1", "[::1]:65535", "model-1.svc:8080"])
WEIGHTS = st.integers(0, 10_000).map(lambda w: {"v1": 10_000 - w, "v2": w})
CONTROLS = st.one_of(
    st.builds(Tick, st.just(0), TIME),
    st.builds(
        SplitEvent,
        st.just(0),
        TIME,
        st.integers(0, 2**53),
        WEIGHTS,
        st.dictionaries(TEXT, WEIGHTS, max_size=3),
    ),
    st.builds(
        VersionEvent,
        st.just(0),
        TIME,
        TEXT,
        st.sampled_from(Role),
        st.none() | TEXT,
        st.lists(ENDPOINT, max_size=3).map(tuple),
        st.none() | TEXT,
        st.dictionaries(TEXT, FINITE, max_size=3),
        st.dictionaries(TEXT, FINITE, max_size=3),
        st.none() | TEXT,
    ),
    st.builds(
        CapacityEvent,
        st.just(0),
        TIME,
        TEXT,
        st.sampled_from(["known", "unknown", "gone"]),
        st.integers(0, 2**31 - 1),
        st.integers(0, 2**31 - 1),
        st.none() | st.integers(1, 2**31 - 1),
    ),
    st.builds(
        CommandEvent,
        st.just(0),
        TIME,
        st.sampled_from(Operation),
        st.just("") | TEXT,
        st.just("") | TEXT,
        st.none() | TEXT,
    ),
)


@EXAMPLES
@given(CONTROLS)
def test_a_control_event_comes_back_as_it_was(event: ControlEvent) -> None:
    assert decode("m", 0, [control_line("m", event)]).control == (event,)


@EXAMPLES
@given(st.lists(EXPOSURES, max_size=6))
def test_exposures_come_back_in_columns_as_they_were(events: list[dict[str, Any]]) -> None:
    batch = decode("m", 9, [canonical(event).line for event in events])
    for kind, columns in (("exposure", batch.exposures), ("shadow", batch.shadows)):
        own = [(at, e) for at, e in enumerate(events) if e["type"] == kind]
        assert columns.offset.tolist() == [9 + at for at, _ in own]
        assert columns.time.tolist() == [e["time"] for _, e in own]
        assert columns.request.tolist() == [hashed(e["request_id"]) for _, e in own]
        assert columns.unit.tolist() == [hashed(e["unit"]) if "unit" in e else 0 for _, e in own]
        assert [batch.names[i] for i in columns.arm] == [e["arm"] for _, e in own]
        segments = [None if i < 0 else batch.names[i] for i in columns.segment]
        assert segments == [e.get("segment") for _, e in own]
        assert columns.epoch.tolist() == [e.get("epoch", -1) for _, e in own]
        assert columns.status.tolist() == [e.get("status", 200) for _, e in own]
        for field in ("propensity", "latency_ms"):
            expected = [e.get(field, math.nan) for _, e in own]
            np.testing.assert_array_equal(getattr(columns, field), expected)


@EXAMPLES
@given(st.lists(REWARDS, max_size=6))
def test_rewards_come_back_in_columns_as_they_were(events: list[dict[str, Any]]) -> None:
    batch = decode("m", 9, [canonical(event).line for event in events])
    r = batch.rewards
    assert r.offset.tolist() == list(range(9, 9 + len(events)))
    assert r.time.tolist() == [e["time"] for e in events]
    assert r.value.tolist() == [e["value"] for e in events]
    assert r.unit.tolist() == [hashed(e["unit"]) for e in events]
    assert [batch.names[i] for i in r.name] == [e["name"] for e in events]
    with_id = [at for at, e in enumerate(events) if "id" in e]
    assert r.id[with_id].tolist() == [hashed(events[at]["id"]) for at in with_id]
    assert r.id.all()


@EXAMPLES
@given(st.lists(COVARIATES, min_size=1, max_size=6))
def test_covariates_come_back_in_columns_as_they_were(events: list[dict[str, Any]]) -> None:
    covariates = decode("m", 9, [canonical(event).line for event in events]).covariates
    assert covariates is not None
    assert covariates.offset.tolist() == list(range(9, 9 + len(events)))
    assert covariates.unit.tolist() == [hashed(e["unit"]) for e in events]
    assert covariates.value.tolist() == [e["value"] for e in events]


GARBAGE = st.binary(max_size=30) | st.sampled_from([b"[" * 5_000, b"{}", b"", b"null", b"1e999"])
LINES = st.lists(
    (EXPOSURES | REWARDS | COVARIATES).map(msgspec.json.encode)
    | CONTROLS.map(lambda event: control_line("m", event))
    | EXPOSURES.map(lambda e: msgspec.json.encode(e | {"model": "n"}))
    | EXPOSURES.map(lambda e: msgspec.json.encode(e | {"time": "2026-11-23T12:00:00Z"}))
    | GARBAGE,
    max_size=8,
)


@EXAMPLES
@given(LINES, st.data(), st.sampled_from(["skip", "reject"]))
def test_what_a_line_becomes_does_not_depend_on_where_a_batch_is_cut(
    lines: list[bytes], data: st.DataObject, others: Any
) -> None:
    cut = data.draw(st.integers(0, len(lines)))
    whole = decode("m", 0, lines, others=others)
    parts = [
        decode("m", 0, lines[:cut], others=others),
        decode("m", cut, lines[cut:], others=others),
    ]
    assert rows([whole]) == rows(parts)
    assert whole.count == len(lines)


def test_batches_longer_than_a_chunk_keep_their_order_and_their_faults() -> None:
    lines = [exposure(f"r{i}", f"v{i // 1000}", time=float(i)) for i in range(7_000)]
    lines[4_100] = b"{"
    lines[5_000] = tick_line(1.0)
    lines[6_000] = line(type="covariate", unit="u", value=1)
    lines[6_999] = exposure("r6999", "v6", time=6999.0, segment="de")
    batch = decode("m", 10, lines)
    expected = [i for i in range(7_000) if i not in {4_100, 5_000, 6_000}]
    assert batch.exposures.offset.tolist() == [10 + i for i in expected]
    assert batch.exposures.time.tolist() == expected
    assert [batch.names[i] for i in batch.exposures.arm] == [f"v{i // 1000}" for i in expected]
    assert [r.offset for r in batch.rejected] == [4_110]
    assert batch.control == (Tick(5_010, 1.0),)
    assert batch.covariates is not None
    assert batch.covariates.offset.tolist() == [6_010]
    assert set(batch.exposures.segment[:-1].tolist()) == {-1}
    assert batch.names[int(batch.exposures.segment[-1])] == "de"


def hashed(text: str) -> int:
    return xxhash.xxh64(text.encode(), seed=0).intdigest()


def rows(batches: Sequence[EventBatch]) -> list[str]:
    """Every event of some batches as text, with names in place of indices."""
    found: list[str] = []
    for batch in batches:
        for e in (batch.exposures, batch.shadows):
            arms = [batch.names[i] for i in e.arm]
            segments = [None if i < 0 else batch.names[i] for i in e.segment]
            columns = (e.offset, e.time, e.request, e.unit, e.epoch, e.propensity, e.status)
            found += map(repr, zip(arms, segments, *(c.tolist() for c in columns), strict=True))
        r = batch.rewards
        names = [batch.names[i] for i in r.name]
        columns = (r.offset, r.time, r.id, r.request, r.unit, r.value)
        found += map(repr, zip(names, *(c.tolist() for c in columns), strict=True))
        if (c := batch.covariates) is not None:
            found += map(
                repr, zip(c.offset.tolist(), c.unit.tolist(), c.value.tolist(), strict=True)
            )
        found += map(repr, (*batch.control, *batch.rejected))
    return sorted(found)
