from __future__ import annotations

from pathlib import Path

import msgspec

from controller.router.access_log import exposure_lines, route_name
from controller.router.tail import Tail, rotation_target


def line(i: int) -> bytes:
    return b"17954386%02d.000000 line %d" % (i, i)


def append(path: Path, *lines: bytes, end: bytes = b"\n") -> None:
    with path.open("ab") as file:
        file.write(b"\n".join(lines) + end)


def test_a_partial_line_waits_for_its_end(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    append(log, line(1), b"half", end=b"")
    tail = Tail(log)
    lines, position = tail.read()
    assert lines == [line(1)]
    append(log, b" done")
    assert Tail(log, position).read()[0] == [b"half done"]


def test_lines_are_read_once_over_rotation_and_restarts_at_every_step(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    seen: list[bytes] = []
    position = None
    for i in range(12):
        append(log, line(2 * i), line(2 * i + 1))
        if i % 3 == 2:
            log.rename(rotation_target(log))
        if i % 2:
            lines, position = Tail(log, position).read(limit_bytes=30)
            seen += lines
            if position:
                Tail(log).forget(position)
    append(log, line(24))
    tail = Tail(log, position)
    while lines := tail.read(limit_bytes=30)[0]:
        seen += lines
    assert seen == [line(i) for i in range(25)]
    last = tail.read()[1]
    assert last is not None
    tail.forget(last)
    assert [each.name for each in tmp_path.iterdir()] == ["access.log"]


def test_a_half_line_of_a_killed_router_becomes_a_dead_letter(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    append(log, b"1795438621.976562\x1fexpo", end=b"")
    log.rename(rotation_target(log))
    append(log, line(1))
    tail = Tail(log)
    lines, _ = tail.read()
    assert lines == [b"1795438621.976562\x1fexpo"]
    assert len(exposure_lines(lines).bad) == 1
    assert tail.read()[0] == [line(1)]


def test_a_line_that_begins_behind_a_half_one_is_read_wherever_that_was_cut() -> None:
    fields = ["1795438621.976562", "exposure", route_name("m", 4, "header:x-user-id"), "m/v1"]
    one = "\x1f".join([*fields, "200", "2500", "-", "", "q1", "x-user-id=u1"]).encode()
    other = one.replace(b"q1", b"q2").replace(b"m/v1", b"m/v2")
    (whole,) = exposure_lines([other]).events["m"]
    for cut in range(1, len(one) + 1):
        decoded = exposure_lines([one[:cut] + other])
        assert decoded.events == {"m": [whole]}
        assert [line for line, _ in decoded.bad] == [one[:cut]]


def test_a_truncated_file_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    append(log, line(1), line(2))
    _, position = Tail(log).read()
    log.write_bytes(line(3) + b"\n")
    assert Tail(log, position).read()[0] == [line(3)]


def test_statuses_say_what_the_user_got() -> None:
    route = route_name("m", 4, "")
    cases = {("200", "-", ""): 200, ("200", "-", "14"): 503, ("200", "-", "0"): 200}
    cases |= {("200", "UC", ""): 502, ("503", "UH", ""): 503, ("0", "DC", ""): 0}
    for (status, flags, grpc), expected in cases.items():
        fields = ["1.5", "exposure", route, "m/v1", status, "2500", flags, grpc, "id"]
        decoded = exposure_lines(["\x1f".join(fields).encode()])
        assert msgspec.json.decode(decoded.events["m"][0]) == {
            "type": "exposure",
            "time": 1.5,
            "model": "m",
            "request_id": "id",
            "arm": "v1",
            "epoch": 4,
            "status": expected,
            "latency_ms": 2.5,
        }
