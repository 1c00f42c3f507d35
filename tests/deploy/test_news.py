from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from controller.deploy.found import out_of_sight
from controller.deploy.news import news
from controller.deploy.target import FoundArm

V1 = FoundArm("v1", "known", 2, 3, limit=10, endpoints=("10.0.0.1:80",))
V2 = FoundArm("v2", "known", 0, 1)


def lines(
    before: dict[str, FoundArm],
    found: dict[str, FoundArm],
    versions: tuple[str, ...] = ("v1", "v2"),
) -> list[dict[str, Any]]:
    return [json.loads(line) for line in news("digits", before, found, versions, "v1", 5.0)]


def test_new_version_is_introduced_before_its_capacity() -> None:
    found = replace(
        V2, parent="v1", trained_at="yesterday", metrics={"accuracy": 0.9}, uri="s3://x"
    )
    version, capacity = lines({}, {"v2": found}, ("v1",))
    assert version == {
        "type": "version",
        "time": 5.0,
        "model": "digits",
        "version": "v2",
        "role": "candidate",
        "parent": "v1",
        "endpoints": [],
        "trained_at": "yesterday",
        "metrics": {"accuracy": 0.9},
        "uri": "s3://x",
    }
    assert (capacity["type"], capacity["arm"], capacity["state"]) == ("capacity", "v2", "known")


def test_champion_is_introduced_as_one() -> None:
    assert lines({}, {"v1": V1}, ())[0]["role"] == "champion"


def test_capacity_is_told_once() -> None:
    [line] = lines({}, {"v1": V1})
    assert (line["ready"], line["replicas"], line["limit"]) == (2, 3, 10)
    assert lines({"v1": V1}, {"v1": V1}) == []


def test_each_count_is_news() -> None:
    for other in (replace(V1, ready=1), replace(V1, replicas=4), replace(V1, limit=None)):
        assert len(lines({"v1": V1}, {"v1": other})) == 1


def test_pods_that_come_and_go_behind_equal_counts_are_no_news() -> None:
    assert lines({"v1": V1}, {"v1": replace(V1, endpoints=("10.0.0.9:80",))}) == []


def test_unknown_keeps_the_last_numbers_and_is_told_once() -> None:
    [line] = lines({"v1": V1}, {"v1": out_of_sight(FoundArm("v1", "known", 0, 0))})
    assert (line["state"], line["ready"], line["replicas"], line["limit"]) == ("unknown", 2, 3, 10)
    assert lines({"v1": replace(V1, state="unknown")}, {"v1": out_of_sight(V1)}) == []


def test_arm_that_nothing_was_ever_known_of_is_unknown() -> None:
    assert lines({}, {"v1": FoundArm("v1", "unknown", 0, 0)})[0]["state"] == "unknown"


def test_unknown_version_is_not_introduced() -> None:
    assert lines({}, {"v3": FoundArm("v3", "unknown", 0, 0)}) == []


def test_deleted_deployment_is_gone_and_back() -> None:
    gone = FoundArm("v1", "gone", 0, 0)
    [line] = lines({"v1": V1}, {"v1": gone})
    assert (line["state"], line["ready"]) == ("gone", 0)
    assert lines({"v1": gone}, {"v1": gone}) == []
    assert lines({"v1": gone}, {"v1": V1})[0]["state"] == "known"


def test_deployment_deleted_while_out_of_sight_is_gone() -> None:
    before = {"v1": replace(V1, state="unknown")}
    assert lines(before, {"v1": FoundArm("v1", "gone", 0, 0)})[0]["state"] == "gone"


def test_gone_arm_stays_gone_while_out_of_sight() -> None:
    before = {"v1": FoundArm("v1", "gone", 0, 0)}
    assert lines(before, {"v1": FoundArm("v1", "unknown", 0, 0)}) == []


def test_deployment_that_was_never_there_has_no_replicas_yet() -> None:
    gone = FoundArm("v2", "gone", 0, 0)
    [line] = lines({}, {"v2": gone})
    assert (line["state"], line["replicas"]) == ("known", 0)
    assert lines({"v2": FoundArm("v2", "known", 0, 0)}, {"v2": gone}) == []


def test_arm_that_nobody_reports_on_is_no_news() -> None:
    assert lines({"v1": V1}, {}) == []


def test_arm_that_has_had_its_turn_is_no_candidate_of_a_new_log() -> None:
    for role in ("rejected", "retired", "retained"):
        assert lines({}, {"v2": replace(V2, role=role)}, ("v1",)) == []
    assert len(lines({}, {"v2": replace(V2, role="candidate")}, ("v1",))) == 2
    assert len(lines({}, {"v2": replace(V2, role="rejected")})) == 1


def test_annotations_that_no_event_may_hold_do_not_hide_the_version() -> None:
    version, _ = lines({}, {"v2": replace(V2, trained_at="x" * 5_000)}, ("v1",))
    assert version["version"] == "v2"
