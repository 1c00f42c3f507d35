"""The environment of the stream processors that we are compared with: their own, outside ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PINNED = ("polars==2.1.0", "bytewax==0.21.1", "pyspark==4.3.0")
HOME = Path.home() / ".cache" / "understudy" / "bench-peers"


def python() -> str:
    """The Python of that environment, made when it is asked for first (400 MB)."""
    made = HOME / "pinned.txt"
    wanted = "\n".join(PINNED)
    executable = HOME / "venv" / "bin" / "python"
    if made.is_file() and made.read_text() == wanted and executable.exists():
        return str(executable)
    HOME.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(HOME / "venv", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(HOME / "venv")], check=True)
    subprocess.run([str(executable), "-m", "pip", "install", "--quiet", *PINNED], check=True)
    made.write_text(wanted)
    return str(executable)
