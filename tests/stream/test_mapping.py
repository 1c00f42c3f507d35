"""Records of others become events: what is found where, what is skipped, what is refused."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import jsonpath_rfc9535
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.policy import Source
from controller.core.policy.paths import names_a_place, steps
from controller.errors import EventError
from controller.stream.mapping import Opened, _look, route
from controller.stream.records import Record
from controller.stream.wire import WIRE

MAP = {"request_id": "$.ctx.rid", "name": "$.event", "value": "$.v", "time": "$.ts"}
BODY: dict[str, Any] = {"ctx": {"rid": "r1"}, "event": "click", "v": 1, "ts": 1795423625.9}


def opening(record: Record) -> Opened:
    return Opened(record, "kafka:clicks" if isinstance(record.body, bytes) else "redis:clicks")


def source(mapping: dict[str, Any] | None = None, **records: Any) -> Source:
    given_map = MAP if mapping is None else mapping
    return Source.model_validate({"kafka": {"topic": "clicks", "map": given_map, **records}})


def mapped(body: object, mapping: dict[str, Any] | None = None, **records: Any) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    opened = opening(Record("/3@12345", 1795423000.5, raw))
    made = route("m", source(mapping, **records))
    assert made.chooses(opened)
    (event,) = made.events(opened)
    assert not isinstance(event, EventError)
    assert WIRE.decode(event.line).model == event.model == "m"
    found: dict[str, Any] = json.loads(event.line)
    assert found["time"] == event.time
    return found


def refused(body: object, mapping: dict[str, Any] | None = None, **records: Any) -> str:
    with pytest.raises(EventError) as caught:
        mapped(body, mapping, **records)
    assert caught.value.reason == "malformed"
    return str(caught.value)


def test_a_record_becomes_a_reward_and_its_place_is_its_id():
    assert mapped(BODY) == {
        "type": "reward",
        "model": "m",
        "time": 1795423625.9,
        "request_id": "r1",
        "name": "click",
        "value": 1,
        "id": "kafka:clicks/3@12345",
    }


def test_a_record_becomes_an_exposure_of_routers_that_are_not_ours():
    mapping = {
        "type": "exposure",
        "request_id": "$.rid",
        "unit": "$.user",
        "arm": "$.model.version",
        "status": "$.status",
        "latency_ms": "$.ms",
        "epoch": "$.epoch",
        "segment": "$.country",
    }
    body = {
        "rid": 17,
        "user": "u1",
        "model": {"version": "v2"},
        "status": "503",
        "ms": 3.5,
        "epoch": 4.0,
        "country": None,
    }
    assert mapped(body, mapping) == {
        "type": "exposure",
        "model": "m",
        "time": 1795423000.5,
        "request_id": "17",
        "unit": "u1",
        "arm": "v2",
        "status": 503,
        "latency_ms": 3.5,
        "epoch": 4,
    }


@pytest.mark.parametrize(
    ("written", "unit", "found"),
    [
        (1795423625.9, "s", 1795423625.9),
        ("1795423625.9", "s", 1795423625.9),
        (1795423625900, "ms", 1795423625.9),
        ("1795423625900", "ms", 1795423625.9),
        (1795423625900000, "us", 1795423625.9),
        (1795423625900000000, "ns", 1795423625.9),
        ("2026-11-23T08:47:05.9Z", "ms", 1795423625.9),
        ("2026-11-23 09:47:05.900+01:00", "s", 1795423625.9),
    ],
)
def test_times_in_the_forms_that_producers_write(written, unit, found):
    got = mapped(BODY | {"ts": written}, MAP | {"time_unit": unit})["time"]
    assert math.isclose(got, found, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("written", "found"),
    [(True, 1.0), (False, 0.0), ("12.50", 12.5), ("-1e3", -1000.0), (0, 0), (-2.5, -2.5)],
)
def test_values_in_the_forms_that_producers_write(written, found):
    assert mapped(BODY | {"v": written})["value"] == found


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"v": None}, "value: found nothing at $.v, expected a number"),
        ({"v": "NaN"}, 'value: found "NaN" at $.v'),
        ({"v": "1,5"}, "value: found"),
        ({"v": "9" * 400}, "value: found"),
        ({"v": [1]}, "value: found [1] at $.v"),
        ({"event": None}, "name: found nothing at $.event"),
        ({"event": 1.5}, "name: found 1.5 at $.event, expected a text or a whole number"),
        ({"event": "x" * 129}, "name: found"),
        ({"ctx": {"rid": True}}, "request_id: found true at $.ctx.rid"),
        ({"ctx": {"rid": ""}}, "request_id: found"),
        ({"ctx": "r1"}, "request_id: found nothing, expected a request_id or a unit"),
        ({"ctx": {"rid": "r" * 300}}, "request_id: found"),
        ({"ts": None}, "time: found nothing at $.ts"),
        ({"ts": "yesterday"}, 'time: found "yesterday"'),
        ({"ts": 1795423625900}, "time: found 1795423625900 at $.ts, expected s since 1970"),
        ({"ts": -1}, "time: found -1"),
        ({"ts": -1.5}, "time: found -1"),
        ({"ts": int("9" * 400)}, "time: found 999"),
        ({"ts": 1e300}, "time: found 1000"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(other, said):
    assert said in refused(BODY | other)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe\x00",
        b"\x00\x00\x00\x00\x01avro",
        b"{",
        b"NaN",
        b'{"v": NaN}',
        b'{"v": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'"' + b"x" * 5_000_000 + b'"',
        b'{"ctx":{"rid":"\\ud800"},"event":"click","v":1,"ts":1}',
        b"[]",
        b"null",
        b"17",
    ],
    ids=range(13),
)
def test_poison_is_refused_and_raises_nothing_else(body):
    refused(body)


def test_a_record_that_cannot_be_read_is_refused_also_where_only_some_are_wanted():
    opened = opening(Record("/0@1", 1.0, b"\xff"))
    with pytest.raises(EventError, match="found no JSON"):
        route("m", source(when={"$.event": "click"})).chooses(opened)


@pytest.mark.parametrize(
    ("when", "is_chosen"),
    [
        ({"$.event": "click"}, True),
        ({"$.event": ["buy", "click"]}, True),
        ({"$.event": "buy"}, False),
        ({"$.v": 1}, True),
        ({"$.v": 1.0}, True),
        ({"$.v": True}, False),
        ({"$.v": "1"}, False),
        ({"$.bot": False}, True),
        ({"$.bot": 0}, False),
        ({"$.event": "click", "$.bot": True}, False),
        ({"$.nowhere.at.all": "x"}, False),
        ({"$.event.deeper": "x"}, False),
        ({"$.tags[1]": "b"}, True),
        ({"$.tags[-1]": "b"}, True),
        ({"$.event[0]": "c"}, False),
        ({"$.tags": "b"}, False),
        ({"$['a b'].c": 2}, True),
    ],
)
def test_when_chooses_records_by_their_values(when, is_chosen):
    body = {**BODY, "bot": False, "tags": ["a", "b"], "a b": {"c": 2}}
    opened = opening(Record("/0@1", 1.0, json.dumps(body).encode()))
    assert route("m", source(when=when)).chooses(opened) is is_chosen


def test_fields_of_a_redis_entry_are_texts_that_are_read_as_what_they_say():
    records = {
        "stream": "clicks",
        "map": {"request_id": "$.rid", "name": "click", "value": "$.v", "time": "$.at"},
        "when": {"$.bot": False, "$.shop": [3, 4]},
    }
    made = route("m", Source.model_validate({"redis": records}))
    fields = {"rid": b"r1", "v": b"2.5", "at": b"1795423625.9", "bot": b"false", "shop": b"4"}
    opened = opening(Record("@1795423625900-0", 1.0, fields))
    assert made.chooses(opened)
    (event,) = made.events(opened)
    found = json.loads(event.line)
    assert (found["value"], found["id"]) == (2.5, "redis:clicks@1795423625900-0")
    assert not made.chooses(opening(Record("@1-0", 1.0, fields | {"shop": b"5"})))
    with pytest.raises(EventError, match="no text"):
        made.chooses(opening(Record("@1-0", 1.0, fields | {"bot": b"\xff"})))


def test_headers_of_kafka_carry_cloud_events_in_binary_mode():
    headers = {
        "ce_specversion": "1.0",
        "ce_type": "dev.understudy.reward",
        "ce_id": "7",
        "ce_source": "/shop",
        "ce_time": "2026-11-23T08:47:05Z",
        "content-type": "application/json",
    }
    body = {"model": "m", "request_id": "r1", "name": "click", "value": 1}
    record = Record("/0@1", 1.0, json.dumps(body).encode(), headers)
    made = route("m", Source.model_validate({"kafka": {"topic": "clicks"}}))
    (event,) = made.events(opening(record))
    assert json.loads(event.line)["id"] == "/shop#7"


def test_several_events_in_one_record_are_as_at_intake():
    event = {"type": "reward", "time": 1.0, "model": "m", "unit": "u", "name": "n", "value": 1}
    body = json.dumps([event, {**event, "model": "x"}, {"type": "reward"}]).encode()
    made = route("m", Source.model_validate({"kafka": {"topic": "clicks"}}))
    good, bad = made.events(opening(Record("/0@1", 1.0, body)))
    assert good.model == "m"
    assert isinstance(bad, EventError)


# --- paths, as the RFC has them -----------------------------------------------------------------

NAMES = st.text("abc_Z9 -é.$", min_size=1, max_size=4)
DOCUMENTS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text("ab", max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)
STEP = st.one_of(
    st.from_regex(r"\A\.[A-Za-z_][A-Za-z0-9_]{0,3}\Z"),
    st.integers(-4, 4).map(lambda i: f"[{i}]"),
    NAMES.map(lambda name: f"['{name}']"),
    NAMES.map(lambda name: f'["{name}"]'),
)
PATHS = st.lists(STEP, min_size=1, max_size=4).map(lambda parts: "$" + "".join(parts))


@given(DOCUMENTS, PATHS)
def test_a_path_finds_what_another_reader_of_the_rfc_finds(document, path):
    assert names_a_place(path)
    nodes = jsonpath_rfc9535.find(path, document)
    try:
        found = [_look(steps(path))(document)]
    except (KeyError, IndexError, TypeError):
        found = []
    assert found == [node.value for node in nodes]


@given(st.text("$.[]'\"ab1-*?@:,( \\", max_size=12))
def test_what_is_taken_for_a_path_is_one_of_the_rfc_that_names_one_place(text):
    if names_a_place(text):
        assert jsonpath_rfc9535.compile(text).singular_query()


JSONS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=4,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("ctx", "event", "v", "ts"), JSONS)))
def test_any_json_becomes_a_line_of_the_log_or_is_refused(body):
    opened = opening(Record("/0@1", 5.0, msgspec.json.encode(body)))
    made = route("m", source())
    with suppress(EventError):
        (event,) = made.events(opened)
        assert math.isfinite(WIRE.decode(event.line).value)
