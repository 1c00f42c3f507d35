"""What one event must be, and what a sender is told when it is not."""

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.core.model import Json
from controller.errors import EventError
from controller.stream.codec import Canonical, canonical, decode
from controller.stream.wire import MAX_DEPTH, MAX_EVENT_BYTES

EXPOSURE: dict[str, Any] = {
    "type": "exposure",
    "time": 1795423623.144,
    "model": "digits",
    "request_id": "r1",
    "unit": "u1",
    "arm": "v2",
    "epoch": 17,
    "propensity": 0.05,
    "status": 200,
    "latency_ms": 3.2,
    "segment": "de",
}
REWARD: dict[str, Any] = {
    "type": "reward",
    "time": 1795423625.9,
    "model": "digits",
    "id": "evt-1",
    "request_id": "r1",
    "name": "correct",
    "value": 1,
}
SPLIT: dict[str, Any] = {
    "type": "split",
    "time": 1795423620.0,
    "model": "digits",
    "epoch": 17,
    "weights": {"v1": 9500, "v2": 500},
    "segments": {"de": {"v1": 2000, "v2": 8000}, "Curaçao": {"v1": 10000}},
}
VERSION: dict[str, Any] = {
    "type": "version",
    "time": 1795423600.0,
    "model": "digits",
    "version": "v2",
    "role": "candidate",
    "parent": "v1",
    "endpoints": ["127.0.0.1:9002"],
    "trained_at": "2026-11-20T00:00:00Z",
    "metrics": {"accuracy": 0.94},
    "covariates": {"u1": 12.5, "u2": -3},
}
COVARIATE: dict[str, Any] = {
    "type": "covariate",
    "time": 1795423610.0,
    "model": "digits",
    "unit": "u1",
    "value": 12.5,
}
CAPACITY: dict[str, Any] = {
    "type": "capacity",
    "time": 1795423650.0,
    "model": "digits",
    "arm": "v2",
    "state": "known",
    "ready": 2,
    "replicas": 3,
    "limit": 10,
}
COMMAND: dict[str, Any] = {
    "type": "command",
    "time": 1795423700.0,
    "model": "digits",
    "command": "pause",
    "by": "ana@example.org",
    "reason": "incident 12",
}
TICK: dict[str, Any] = {"type": "tick", "time": 1795423624.0}
SHADOW = EXPOSURE | {"type": "shadow"}
ALL = [EXPOSURE, SHADOW, REWARD, COVARIATE, SPLIT, VERSION, CAPACITY, COMMAND, TICK]


def document(event: Canonical) -> Any:
    return msgspec.json.decode(event.line)


def judged(event: bytes | Json) -> Canonical | EventError:
    try:
        return canonical(event)
    except EventError as error:
        return error


def complaint(event: bytes | Json) -> str:
    with pytest.raises(EventError) as caught:
        canonical(event)
    assert caught.value.reason == "malformed"
    return str(caught.value)


@pytest.mark.parametrize("event", ALL, ids=lambda e: e["type"])
def test_every_event_of_the_contract_is_canonical_already(event: dict[str, Any]) -> None:
    line = msgspec.json.encode(event)
    request_id = event.get("request_id", "")
    expected = Canonical(event.get("model"), line, event["type"], event["time"], request_id)
    assert canonical(line) == expected
    assert canonical(event) == expected
    assert canonical(canonical(line).line) == expected


@pytest.mark.parametrize("event", ALL, ids=lambda e: e["type"])
def test_unknown_fields_are_kept_but_ignored(event: dict[str, Any]) -> None:
    extra = {"page": "home", "deep": {"list": [1, None, 2.5, "ü"]}, "big": 2**70}
    assert document(canonical({**event, **extra})) == {**event, **extra}


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T12:00:00Z",
        "2026-11-23t12:00:00z",
        "2026-11-23 12:00:00.000Z",
        "2026-11-23T13:30:00+01:30",
        "2026-11-23T04:00:00.0-08:00",
        "2026-11-23T12:00:00.000000000Z",
    ],
)
def test_rfc_3339_times_become_epoch_seconds(text: str) -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
    event = canonical({**TICK, "time": text})
    assert event.time == noon
    assert document(event)["time"] == noon


def test_a_fraction_of_a_second_is_kept() -> None:
    assert canonical({**TICK, "time": "1970-01-01T00:00:01.144Z"}).time == 1.144


@pytest.mark.parametrize("event", ALL, ids=lambda e: e["type"])
def test_null_is_the_same_as_leaving_an_optional_field_out(event: dict[str, Any]) -> None:
    optional = {"propensity", "status", "latency_ms", "segment", "id", "parent", "endpoints"}
    optional |= {"trained_at", "metrics", "covariates", "segments", "by", "reason"}
    optional |= set() if event["type"] == "covariate" else {"unit"}
    nulled = {k: None if k in optional else v for k, v in event.items()}
    left_out = {k: v for k, v in event.items() if k not in optional}
    assert canonical(nulled) == canonical(left_out)


def test_peer_7_fractional_reward_is_not_truncated() -> None:
    line = canonical({**REWARD, "value": 0.7}).line
    assert msgspec.json.decode(line)["value"] == 0.7
    batch = decode("digits", 0, [line] * 3)
    assert batch.rewards.value.tolist() == [0.7, 0.7, 0.7]


def test_a_reward_may_name_a_unit_a_request_or_both() -> None:
    bare = {k: v for k, v in REWARD.items() if k != "request_id"}
    for named in ({"unit": "u"}, {"request_id": "r"}, {"unit": "u", "request_id": "r"}):
        assert document(canonical(bare | named)) == bare | named


def test_a_tick_is_of_no_model() -> None:
    assert canonical({**TICK, "model": "digits"}).model is None


A_NAME = "a text of 1 to 128 characters"
AN_ID = "a text of 1 to 256 characters"
A_TIME = "epoch seconds, or an RFC 3339 time such as 2026-11-23T12:00:00Z"
TYPES = (
    "one of exposure, shadow, reward, covariate, split, version, capacity, command, tallies, tick"
)
A_SEGMENT = "a text of 1 to 64 characters"
SEGMENTS = "whole numbers from 0 per arm that sum to 10000, per segment"
WEIGHTS = "whole numbers from 0 per arm that sum to 10000"
MISSING = object()
LONG = '"' + "x" * 56 + "..."


@pytest.mark.parametrize(
    ("event", "field", "value", "found", "expected"),
    [
        (EXPOSURE, "type", MISSING, "nothing", TYPES),
        (EXPOSURE, "type", "click", '"click"', TYPES),
        (EXPOSURE, "type", ["tick"], '["tick"]', TYPES),
        (EXPOSURE, "time", MISSING, "nothing", A_TIME),
        (EXPOSURE, "time", None, "null", A_TIME),
        (EXPOSURE, "time", True, "true", A_TIME),
        (EXPOSURE, "time", -1, "-1", A_TIME),
        (EXPOSURE, "time", 1795423623144, "1795423623144", A_TIME),
        (EXPOSURE, "time", "yesterday", '"yesterday"', A_TIME),
        (EXPOSURE, "time", "1795423623", '"1795423623"', A_TIME),
        (EXPOSURE, "time", "2026-11-23T12:00:00", '"2026-11-23T12:00:00"', A_TIME),
        (EXPOSURE, "time", "2026-13-23T12:00:00Z", '"2026-13-23T12:00:00Z"', A_TIME),
        (EXPOSURE, "time", "1969-12-31T23:59:59Z", "-1.0", A_TIME),
        (EXPOSURE, "model", MISSING, "nothing", A_NAME),
        (EXPOSURE, "model", "", '""', A_NAME),
        (EXPOSURE, "model", "x" * 129, LONG, A_NAME),
        (EXPOSURE, "request_id", MISSING, "nothing", AN_ID),
        (EXPOSURE, "request_id", "x" * 257, LONG, AN_ID),
        (EXPOSURE, "request_id", 7, "7", AN_ID),
        (EXPOSURE, "unit", "", '""', AN_ID),
        (EXPOSURE, "unit", "x" * 257, LONG, AN_ID),
        (EXPOSURE, "arm", MISSING, "nothing", A_NAME),
        (EXPOSURE, "arm", ["v1"], '["v1"]', A_NAME),
        (EXPOSURE, "epoch", -1, "-1", "a whole number from 0"),
        (EXPOSURE, "epoch", 1.5, "1.5", "a whole number from 0"),
        (EXPOSURE, "epoch", 2**80, str(2**80), "a whole number from 0"),
        (EXPOSURE, "propensity", 0, "0", "a number above 0, at most 1"),
        (EXPOSURE, "propensity", 1.01, "1.01", "a number above 0, at most 1"),
        (EXPOSURE, "status", "200", '"200"', "a whole number from 0 to 999"),
        (EXPOSURE, "status", 1000, "1000", "a whole number from 0 to 999"),
        (EXPOSURE, "latency_ms", -0.1, "-0.1", "a finite number from 0"),
        (EXPOSURE, "segment", "", '""', A_SEGMENT),
        (EXPOSURE, "segment", "x" * 65, LONG, A_SEGMENT),
        (EXPOSURE, "segment", 7, "7", A_SEGMENT),
        (SHADOW, "segment", ["de"], '["de"]', A_SEGMENT),
        (COVARIATE, "unit", MISSING, "nothing", AN_ID),
        (COVARIATE, "unit", None, "null", AN_ID),
        (COVARIATE, "unit", "", '""', AN_ID),
        (COVARIATE, "value", MISSING, "nothing", "a finite number"),
        (COVARIATE, "value", None, "null", "a finite number"),
        (COVARIATE, "value", "1", '"1"', "a finite number"),
        (COVARIATE, "value", math.inf, "null", "a finite number"),
        (COVARIATE, "model", MISSING, "nothing", A_NAME),
        (COVARIATE, "time", MISSING, "nothing", A_TIME),
        (SHADOW, "arm", 1, "1", A_NAME),
        (REWARD, "name", MISSING, "nothing", A_NAME),
        (REWARD, "name", "", '""', A_NAME),
        (REWARD, "value", MISSING, "nothing", "a finite number"),
        (REWARD, "value", None, "null", "a finite number"),
        (REWARD, "value", True, "true", "a finite number"),
        (REWARD, "value", "0.7", '"0.7"', "a finite number"),
        (REWARD, "value", math.nan, "null", "a finite number"),
        (REWARD, "value", -math.inf, "null", "a finite number"),
        (REWARD, "id", 5, "5", AN_ID),
        (REWARD, "request_id", MISSING, "nothing", "a request_id or a unit"),
        (SPLIT, "epoch", MISSING, "nothing", "a whole number from 0"),
        (SPLIT, "weights", MISSING, "nothing", WEIGHTS),
        (SPLIT, "weights", {}, "a sum of 0", "10000"),
        (SPLIT, "weights", {"v1": 9500, "v2": 499}, "a sum of 9999", "10000"),
        (SPLIT, "weights", {"v1": 10001, "v2": -1}, '{"v1":10001,"v2":-1}', WEIGHTS),
        (SPLIT, "weights", {"v1": 9999.5, "v2": 0.5}, '{"v1":9999.5,"v2":0.5}', WEIGHTS),
        (SPLIT, "weights", {"v1": True}, '{"v1":true}', WEIGHTS),
        (SPLIT, "weights", {"": 10000}, '{"":10000}', WEIGHTS),
        (SPLIT, "segments", {"de": {"v1": 9999}}, 'a sum of 9999 in "de"', "10000"),
        (SPLIT, "segments", {"de": {}}, 'a sum of 0 in "de"', "10000"),
        (SPLIT, "segments", {"de": {"v1": 0.5}}, '{"de":{"v1":0.5}}', SEGMENTS),
        (SPLIT, "segments", {"de": {"v1": 10001}}, '{"de":{"v1":10001}}', SEGMENTS),
        (SPLIT, "segments", {"de": None}, '{"de":null}', SEGMENTS),
        (SPLIT, "segments", {"": {"v1": 10000}}, '{"":{"v1":10000}}', SEGMENTS),
        (SPLIT, "segments", ["de"], '["de"]', SEGMENTS),
        (VERSION, "covariates", {"u": "1"}, '{"u":"1"}', "finite numbers by unit"),
        (VERSION, "covariates", {"": 1}, '{"":1}', "finite numbers by unit"),
        (VERSION, "covariates", {"u": math.nan}, '{"u":null}', "finite numbers by unit"),
        (VERSION, "version", MISSING, "nothing", A_NAME),
        (VERSION, "role", "boss", '"boss"', "one of champion, candidate"),
        (VERSION, "parent", 1, "1", A_NAME),
        (
            VERSION,
            "endpoints",
            ["h:70000"],
            '["h:70000"]',
            "a list of HOST:PORT, such as 127.0.0.1:9001",
        ),
        (VERSION, "endpoints", [1], "[1]", "a list of HOST:PORT, such as 127.0.0.1:9001"),
        (VERSION, "trained_at", 5, "5", "an RFC 3339 time"),
        (VERSION, "uri", "", '""', "a text of 1 to 2048 characters, such as s3://models/digits/v2"),
        (CAPACITY, "state", "there", '"there"', "one of known, unknown, gone"),
        (CAPACITY, "ready", -1, "-1", "a whole number from 0"),
        (CAPACITY, "replicas", 1.5, "1.5", "a whole number from 0"),
        (CAPACITY, "limit", 0, "0", "a whole number from 1"),
        (VERSION, "metrics", {"a": None}, '{"a":null}', "finite numbers by name"),
        (
            COMMAND,
            "command",
            "nuke",
            '"nuke"',
            "one of promote, rollback, pause, resume, approve, undo",
        ),
        (COMMAND, "by", 3, "3", AN_ID),
        (COMMAND, "reason", "x" * 2049, LONG, "a text of at most 2048 characters"),
        (TICK, "time", MISSING, "nothing", A_TIME),
    ],
)
def test_an_error_says_the_field_what_was_found_and_what_was_expected(
    event: dict[str, Any], field: str, value: Any, found: str, expected: str
) -> None:
    broken = {k: v for k, v in event.items() if k != field}
    if value is not MISSING:
        broken[field] = value
    assert complaint(broken) == f"{field}: found {found}, expected {expected}"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "event: found no JSON"),
        (b"{", "event: found no JSON"),
        (b"\xff\xfe", "event: found no JSON"),
        (b'{"type":"tick","time":1,"x":"\xff"}', "event: found no JSON"),
        (b'{"type":"tick","time":1,"x":"\\ud800"}', "event: found no JSON"),
        (b'{"type":"tick","time":NaN}', "event: found no JSON"),
        (b'{"type":"tick","time":1e400}', "event: found no JSON"),
        (b'{"type":"tick","time":1,"x":-1e400}', "event: found no JSON"),
        (b'{"type":"tick","time":1,"x":' + b"9" * 5000 + b"}", "event: found no JSON"),
        (b'{"type":"tick","time":1}{"type":"tick","time":1}', "event: found no JSON"),
        (b"[1,2]", "event: found [1,2], expected a JSON object"),
        (b"null", "event: found null, expected a JSON object"),
        (b'"' + b"x" * MAX_EVENT_BYTES + b'"', "event: found 65538 bytes, expected at most 65536"),
        (b"[" * 60_000, "event: found deeper nesting, expected at most 32 levels"),
        (b"[" * 40 + b"]" * 40, "event: found deeper nesting, expected at most 32 levels"),
    ],
)
def test_garbage_is_explained(raw: bytes, message: str) -> None:
    assert complaint(raw).startswith(message)


def test_an_event_that_grows_too_long_as_it_is_normalised_is_an_error() -> None:
    raw = b'{"type":"tick","time":1,"x":[' + b",".join([b"1e9"] * 15_000) + b"]}"
    assert len(raw) < MAX_EVENT_BYTES
    assert complaint(raw).endswith("bytes, expected at most 65536")


@pytest.mark.parametrize("value", [object(), {(1,): object()}, "\ud800", 2 + 3j])
def test_a_python_value_without_json_form_is_an_error(value: Any) -> None:
    assert complaint({**TICK, "x": value}).startswith("event: found no JSON")


def test_nesting_is_bounded_at_the_same_depth_whatever_the_callers_stack() -> None:
    def nested(depth: int) -> bytes:
        return b'{"type":"tick","time":1,"x":' + b"[" * depth + b"]" * depth + b"}"

    assert canonical(nested(MAX_DEPTH - 1)).time == 1
    assert "deeper nesting" in complaint(nested(MAX_DEPTH))


@pytest.mark.parametrize("event", ALL, ids=lambda e: e["type"])
def test_a_cloud_event_carries_the_event_in_its_data(event: dict[str, Any]) -> None:
    data = {k: v for k, v in event.items() if k != "type"}
    envelope = {
        "specversion": "1.0",
        "id": "A-1",
        "source": "/shop",
        "type": f"dev.understudy.{event['type']}",
    }
    wrapped = canonical({**envelope, "data": data})
    assert document(wrapped) == {**event, "cloudevent": envelope}
    assert (wrapped.model, wrapped.type) == (event.get("model"), event["type"])


def test_a_cloud_events_time_and_identity_stand_in_for_what_data_lacks() -> None:
    data = {k: v for k, v in REWARD.items() if k not in {"type", "time", "id"}}
    envelope = {
        "specversion": "1.0",
        "type": "dev.understudy.reward",
        "source": "/shop",
        "id": "A-1",
        "time": "1970-01-01T00:00:05Z",
    }
    reward = document(canonical({**envelope, "data": data}))
    assert (reward["time"], reward["id"]) == (5.0, "/shop#A-1")
    full = document(canonical({**envelope, "data": REWARD}))
    assert (full["time"], full["id"]) == (REWARD["time"], REWARD["id"])


def test_cloud_events_of_two_sources_with_one_id_are_two_rewards() -> None:
    lines = [
        canonical(
            {
                "specversion": "1.0",
                "type": "dev.understudy.reward",
                "source": source,
                "id": "1",
                "data": {k: v for k, v in REWARD.items() if k != "id"},
            }
        ).line
        for source in ("/shop", "/app", "/app")
    ]
    ids = decode("digits", 0, lines).rewards.id
    assert ids[0] != ids[1] == ids[2]


def test_an_extension_of_a_cloud_event_is_never_taken_for_a_field() -> None:
    envelope = {
        "specversion": "1.0",
        "type": "dev.understudy.exposure",
        "unit": "forged",
        "data": {k: v for k, v in EXPOSURE.items() if k != "unit"},
    }
    assert "unit" not in document(canonical(envelope))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"specversion": "0.3"}, 'specversion: found "0.3", expected "1.0"'),
        ({"specversion": 1.0}, 'specversion: found 1.0, expected "1.0"'),
        ({"type": "com.example.tick"}, 'type: found "com.example.tick", expected one of dev.und'),
        ({"type": "dev.understudy.covariate"}, "model: found nothing, expected a text of 1 to 128"),
        ({"type": "dev.understudy.click"}, 'type: found "click", expected one of exposure'),
        ({"data": None}, "data: found null, expected a JSON object"),
        ({"data": "text"}, 'data: found "text", expected a JSON object'),
    ],
)
def test_a_faulty_cloud_event_is_explained(change: dict[str, Any], message: str) -> None:
    envelope = {"specversion": "1.0", "type": "dev.understudy.tick", "data": {"time": 1}}
    assert complaint(envelope | change).startswith(message)


# The same examples every time, however busy the machine.
EXAMPLES = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = sorted({field for event in ALL for field in event} | {"specversion", "data", "source"})


@EXAMPLES
@given(st.sampled_from(ALL), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
@example(TICK, {"specversion": "1.0", "data": {"time": math.nan}})
def test_whatever_is_accepted_can_be_read_back_and_the_rest_is_an_event_error(
    event: dict[str, Any], changes: dict[str, Any]
) -> None:
    accepted = judged(event | changes)
    if isinstance(accepted, EventError):
        assert ": found " in str(accepted)
        return
    assert b"\n" not in accepted.line
    assert canonical(accepted.line) == accepted
    batch = decode(accepted.model or "any", 0, [accepted.line])
    assert (batch.rejected, batch.count) == ((), 1)


@EXAMPLES
@given(st.binary(max_size=200))
@example(b'{"type":"tick","time":1,"time":2}')
@example(b'{"type":"tick","type":"x","time":2}')
def test_bytes_never_raise_anything_but_an_event_error(raw: bytes) -> None:
    accepted = judged(raw)
    assert isinstance(accepted, EventError) or canonical(accepted.line) == accepted


@EXAMPLES
@given(st.sampled_from(ALL), st.data())
def test_a_damaged_line_is_accepted_in_a_readable_form_or_is_an_event_error(
    event: dict[str, Any], data: st.DataObject
) -> None:
    raw = bytearray(msgspec.json.encode(event))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    accepted = judged(bytes(raw))
    assert isinstance(accepted, EventError) or canonical(accepted.line) == accepted
