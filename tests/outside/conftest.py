"""GrowthBook's gbstats, in a virtual environment of its own: it rules out the NumPy of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GBSTATS = "gbstats==0.8.0"
NEEDED = ("numpy<3", "packaging", "pydantic<3", "scipy<2")
"""What it imports; what it asks for beyond these (pandas, notebooks) is not imported here."""

HOME = ROOT / ".cache" / f"gbstats-{sha256(repr((GBSTATS, NEEDED)).encode()).hexdigest()[:12]}"

Arm = tuple[int, float, float]
"""Number of outcomes, their sum, the sum of their squares."""

Ask = Callable[[str, Arm, Arm], dict[str, float]]


def _installer(folder: Path) -> list[str]:
    """An empty environment in `folder`, and the command that installs into it."""
    own = ROOT / ".uv" / "bin" / "uv"
    uv = shutil.which("uv") or (str(own) if own.exists() else None)
    python = str(folder / "bin" / "python")
    if uv is None:
        venv.create(folder, with_pip=True)
        return [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    return [uv, "pip", "install", "--quiet", "--python", python]


def _install() -> None:
    """Made beside its place and moved there when it is whole; the first of two runs wins."""
    HOME.parent.mkdir(exist_ok=True)
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # as in the Makefile: trust what the machine does
    with tempfile.TemporaryDirectory(dir=HOME.parent, ignore_cleanup_errors=True) as folder:
        fresh = Path(folder) / "fresh"
        install = _installer(fresh)
        subprocess.run([*install, *NEEDED], check=True)
        subprocess.run([*install, "--no-deps", GBSTATS], check=True)
        with suppress(OSError):
            fresh.rename(HOME)


@pytest.fixture(scope="session")
def gbstats() -> Iterator[Ask]:
    """What gbstats says of two arms: see `gbstats_says`."""
    if not HOME.exists():
        _install()
    script = Path(__file__).with_name("gbstats_says.py")
    command = [str(HOME / "bin" / "python"), "-I", str(script)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as child:

        def ask(kind: str, champion: Arm, candidate: Arm) -> dict[str, float]:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps([kind, champion, candidate]) + "\n")
            answer: dict[str, float] = json.loads(child.stdout.readline())
            return answer

        yield ask
