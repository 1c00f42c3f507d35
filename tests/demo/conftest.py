"""Models trained once, and a model server as a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from controller.demo.models import save, train


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save(train(), folder)
    return folder


@pytest.fixture(scope="session")
def v2(models: Path) -> Iterator[httpx.Client]:
    """A client of a server of version v2."""
    command = [sys.executable, "-m", "controller.demo.server", "--model", models / "v2.pickle"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
        process.terminate()
        assert process.wait(10) in {0, -15}
