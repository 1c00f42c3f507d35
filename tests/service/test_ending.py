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
