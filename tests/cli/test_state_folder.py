"""`--state` means the folder that is given, also when it is the present one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def ledger(*options: str, cwd: Path) -> str:
    """What `understudy ledger digits` complains about."""
    found = subprocess.run(
        [sys.executable, "-m", "controller.cli", "ledger", "digits", *options],
        cwd=cwd,
        env={**os.environ, "XDG_STATE_HOME": str(cwd / "xdg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    return found.stderr


def test_a_dot_is_the_present_folder(tmp_path: Path):
    said = ledger("--state", ".", cwd=tmp_path)
    assert said.startswith(f"understudy: {tmp_path}: found no ledger")


def test_without_it_the_state_folder_of_the_user_is_taken(tmp_path: Path):
    assert str(tmp_path / "xdg" / "understudy") in ledger(cwd=tmp_path)
