"""What a sender may post, and that one bad event never costs its neighbours."""

import json
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.errors import EventError
from controller.stream.codec import Canonical, intake


def reward(number: int, **changes: Any) -> dict[str, Any]:
    event = {"type": "reward", "time": 5.0, "model": "m", "id": f"e{number}", "unit": "u"}
    return event | {"name": "click", "value": number} | changes


def cloud(number: int) -> dict[str, Any]:
    data = {k: v for k, v in reward(number).items() if k != "type"}
    return {
        "specversion": "1.0",
        "id": f"c{number}",
        "source": "/shop",
        "type": "dev.understudy.reward",
        "datacontenttype": "application/json",
        "data": data,
    }


def values(events: Sequence[Canonical | EventError]) -> list[float | str]:
    """The value of each reward that was accepted, the field at fault of each that was not."""
    return [
        str(e).partition(":")[0]
        if isinstance(e, EventError)
        else float(msgspec.json.decode(e.line)["value"])
        for e in events
    ]


@pytest.mark.parametrize(
    "content_type",
    ["application/x-ndjson", "application/json", "text/plain; charset=utf-8", "", "nonsense"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n \t\n"])
def test_ndjson_is_taken_line_by_line_whatever_it_is_called(content_type: str, end: str) -> None:
    body = end.join(json.dumps(reward(i)) for i in range(3)) + end
    assert values(intake(body.encode(), content_type)) == [0, 1, 2]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON;charset=utf-8", ""])
def test_arrays_and_single_objects_may_be_printed_for_people(
    content_type: str, indent: int | None
) -> None:
    array = json.dumps([reward(i) for i in range(3)], indent=indent)
    assert values(intake(array.encode(), content_type)) == [0, 1, 2]
    assert values(intake(json.dumps(reward(7), indent=indent).encode(), content_type)) == [7]


def test_cloud_events_structured() -> None:
    body = json.dumps(cloud(3), indent=1).encode()
    assert values(intake(body, "application/cloudevents+json; charset=UTF-8")) == [3]


def test_cloud_events_batch() -> None:
    batch = [cloud(0), {**cloud(1), "data": 5}, cloud(2)]
    events = intake(json.dumps(batch).encode(), "application/cloudevents-batch+json")
    assert values(events) == [0, "data", 2]
    assert intake(b"[]", "application/cloudevents-batch+json") == []


def test_cloud_events_binary() -> None:
    data = {k: v for k, v in reward(4).items() if k not in {"type", "time", "id"}}
    headers = {
        "Content-Type": "application/json",
        "CE-SpecVersion": "1.0",
        "ce-type": "dev.understudy.reward",
        "Ce-Id": "A%20B",
        "ce-source": "/sh%C3%B6p",
        "ce-time": "1970-01-01T00:00:09Z",
    }
    (event,) = intake(json.dumps(data).encode(), "application/json", headers)
    assert isinstance(event, Canonical)
    assert (event.time, event.model, event.type) == (9.0, "m", "reward")
    assert msgspec.json.decode(event.line)["id"] == "/shöp#A B"


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        (b"{", {"ce-type": "dev.understudy.reward", "ce-specversion": "1.0"}, "data"),
        (b"", {"ce-type": "dev.understudy.reward", "ce-specversion": "1.0"}, "data"),
        (b"[]", {"ce-type": "dev.understudy.reward", "ce-specversion": "1.0"}, "data"),
        (b"{}", {"ce-type": "dev.understudy.reward"}, "specversion"),
        (b"{}", {"ce-specversion": "1.0"}, "type"),
        (b"{}", {"ce-specversion": "1.0", "ce-type": "other"}, "type"),
        (b"{}", {"ce-specversion": "1.0", "ce-type": "dev.understudy.tick"}, "time"),
    ],
)
def test_a_faulty_binary_cloud_event_is_one_error(
    body: bytes, headers: dict[str, str], field: str
) -> None:
    assert values(intake(body, "application/json", headers)) == [field]


def test_other_headers_do_not_make_a_cloud_event() -> None:
    headers = {"ce-tracing": "1", "x-ce-type": "y"}
    assert values(intake(json.dumps(reward(1)).encode(), "application/json", headers)) == [1]


@pytest.mark.parametrize("bad", ['{"type":"tick"', "nonsense", '"text"', "17", "\x01"])
def test_a_bad_line_keeps_its_place_and_costs_no_neighbour(bad: str) -> None:
    body = "\n".join([json.dumps(reward(0)), bad, json.dumps(reward(2))])
    assert values(intake(body.encode(), "application/x-ndjson")) == [0, "event", 2]


def test_a_bad_element_keeps_its_place_and_costs_no_neighbour() -> None:
    body = b"[%b, 1e400, {}, [[]], null, %b]" % (
        json.dumps(reward(0)).encode(),
        json.dumps(reward(5)).encode(),
    )
    assert values(intake(body, "application/json")) == [
        0,
        "event",
        "type",
        "event",
        "event",
        5,
    ]


@pytest.mark.parametrize("body", [b"[", b"[1,", b"[]]", b"[" * 100_000, b'["\xff'])
def test_a_torn_array_is_one_error(body: bytes) -> None:
    assert values(intake(body, "application/json")) == ["body"]


@pytest.mark.parametrize("body", [b"", b" \r\n \n", b"\xef\xbb\xbf", b"[]"])
def test_an_empty_body_is_no_event(body: bytes) -> None:
    assert intake(body, "application/json") == []


def test_a_byte_order_mark_is_overlooked() -> None:
    assert values(intake(b"\xef\xbb\xbf" + json.dumps(reward(1)).encode(), "text/plain")) == [1]


def test_an_array_is_an_error_where_lines_were_announced() -> None:
    assert values(intake(b"[%b]" % json.dumps(reward(1)).encode(), "application/x-ndjson")) == [
        "event"
    ]


def test_a_large_body_is_taken_whole() -> None:
    body = b"\n".join(repeat(json.dumps(reward(1)).encode(), 20_000))
    assert values(intake(body, "application/x-ndjson")) == [1.0] * 20_000


TYPES = st.sampled_from(
    ["application/json", "application/x-ndjson", "application/cloudevents-batch+json", "", "; x"]
)
HEADERS = st.none() | st.dictionaries(
    st.sampled_from(["ce-type", "ce-specversion", "ce-id", "ce-data", "CE-TIME", "x"]), st.text()
)


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=300) | st.text(alphabet='{}[]",:1e\\\n t').map(str.encode), TYPES, HEADERS
)
@example(b"[" * 5_000 + b"]" * 5_000, "application/json", None)
@example(b'{"a":' * 5_000, "application/x-ndjson", None)
@example(b'{"time":1}', "", {"ce-type": "dev.understudy.tick", "ce-specversion": "1.%ff"})
def test_no_body_raises(body: bytes, content_type: str, headers: dict[str, str] | None) -> None:
    for event in intake(body, content_type, headers):
        assert isinstance(event, Canonical | EventError)
