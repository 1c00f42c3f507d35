"""A process that something keeps from ending."""

from __future__ import annotations

import threading

import pytest

from controller.bootstrap.ending import Ending


def test_who_does_not_end_in_time_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    asked, left = threading.Event(), threading.Event()
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    Ending(asked.set, patience_s=0.05, leave=leave)()
    assert asked.is_set()
    assert left.wait(5)
    assert codes == [1]
    assert "not ended within 0.05 s of being told" in capsys.readouterr().err


def test_two_signals_at_once_are_one_wish(capsys: pytest.CaptureFixture[str]) -> None:
    """`timeout 60 understudy serve` sends one to the process and one to its group."""
    asked: list[str] = []
    codes: list[int] = []
    ending = Ending(lambda: asked.append("asked"), leave=codes.append)
    ending()
    ending()
    assert (asked, codes, capsys.readouterr().err) == (["asked"], [], "")


def test_who_is_told_again_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    ending = Ending(lambda: None, echo_s=0.0, leave=codes.append)
    ending()
    ending()
    assert codes == [1]
    assert "told twice to end" in capsys.readouterr().err
