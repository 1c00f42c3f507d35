"""What people read of a running controller: explanations and status, within 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from controller.cli import remote
from controller.cli.printing import Output
from tests.api.conftest import Served, serving
from tests.api.fake import T0, exploring


@pytest.fixture
def served() -> Iterator[Served]:
    with serving("digits") as one:
        yield one


def explained(served: Served, read: pytest.CaptureFixture[str], number: int | None = None) -> str:
    remote.explain(served.url, "digits", number, Output.TABLE)
    return read.readouterr().out


def status(served: Served, read: pytest.CaptureFixture[str]) -> str:
    remote.status(served.url, "digits", watch=False, wait=None, timeout="1s", output=Output.TABLE)
    return read.readouterr().out


def row(text: str, begin: str) -> list[str]:
    """The words of the first line that begins so, after its beginning."""
    line = next(line for line in text.splitlines() if line.startswith(begin))
    return line.removeprefix(begin).split()


def test_the_present_is_explained_within_80_columns(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    text = explained(served, capsys)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.startswith("digits: ramping, hold (canary)\n  because v2 holds at 5 %: 212 of 400")
    assert row(text, "not worse by the margin *") == ["3.32", "100", "no", "5,200"]
    assert row(text, "within the bound: latency p95") == ["3", "100", "no", "not", "in", "sight"]
    assert row(text, "more than allowed: errors") == ["6.69", "333", "no"]
    assert row(text, "v2         errors") == ["0.3%", "0.25%", "1%"]
    order = ["Would promote", "the rollout waits for this", "Would roll back", "Would hold"]
    places = [text.index(words) for words in [*order, "Guardrails saw"]]
    assert places == sorted(places)


def test_a_decision_is_explained_without_a_forecast(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    text = explained(served, capsys, 3)
    assert "decision 3 of 2026-11-23 08:49:40Z, split 16" in text
    assert row(text, "within the bound: latency p95") == ["3", "100", "no"]
    assert "REQUESTS LEFT" not in text
    assert "waits for this" not in text
    bare = explained(served, capsys, 1)
    assert "because v2 takes step 1" in bare
    assert "Would" not in bare


def test_what_holds_is_said_first(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.fake.reports["digits"].health.update(
        {
            "trouble": "the disk is full",
            "carrier": "there is no HTTPRoute public",
            "clock": "the clock stepped",
            "sample_ratio": "mismatch",
            "join_rate": {"now": 0.02, "before": 0.11},
        }
    )
    for text in (explained(served, capsys), status(served, capsys)):
        assert "HOLDING: the disk is full" in text
        assert "HOLDING: there is no HTTPRoute public" in text
        assert "HOLDING: the clock stepped" in text
        assert "HOLDING: the arms did not get the traffic that the splits say" in text
        assert "HOLDING: the share of outcomes with a reward fell to 2.00%, from 11.00%" in text


def test_several_candidates_are_told_apart(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.fake.reports["digits"] = exploring("digits", T0 + 600)
    text = explained(served, capsys)
    assert max(len(line) for line in text.splitlines()) <= 80
    for arm in ("v2", "v3", "v4"):
        assert row(text, f"{arm}         better *")[:3] == ["12.2", "100", "no"]
    shown = status(served, capsys)
    assert "v2 against v1: +16.80% (+1.10% to +35.20%)" in shown
    assert "v4 against v1: -13.90% (-31.20% to +8.10%)" in shown
    assert row(shown, "SE ") == ["9", "%", "21", "%", "69", "%", "1", "%"]


def test_programs_get_the_document_as_it_is(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = served.client.get("/v1/models/digits/explain").json()
    remote.explain(served.url, "digits", None, Output.JSON)
    assert json.loads(capsys.readouterr().out) == wanted
    remote.explain(served.url, "digits", None, Output.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == wanted


def test_command_that_meets_a_standby_is_sent_again_until_one_leads(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served.fake.leader = "pod-2_1234"
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            served.fake.leader = ""

    monkeypatch.setattr(remote, "_pause", wait)
    remote.post(served.url, "digits", "pause", {}, Output.TABLE)
    assert capsys.readouterr().out.startswith("digits: paused")
    assert waits == [1.0] * 3


def test_standby_that_is_all_there_is_to_reach_names_who_leads(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.fake.leader = "understudy-controller-7d9f-x2x4q_1234"

    async def wait(_: float) -> None:
        pass

    monkeypatch.setattr(remote, "_pause", wait)
    with pytest.raises(remote.RefusedError, match="pod/understudy-controller-7d9f-x2x4q 8800"):
        remote.post(served.url, "digits", "pause", {}, Output.TABLE)
