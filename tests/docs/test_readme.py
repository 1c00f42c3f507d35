"""The README does what it says: its policy is checked, its commands are run, in its order.

All blocks run in one shell, as a reader would run them in one terminal, in an empty folder, against
a real `understudy serve` with its Envoy. The only thing changed is where things listen: the
README's ports become free ones, so that two runs can stand side by side. `make` targets are checked
to exist and not run from here: the demo has tests of its own, and `make test` is what runs this.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from controller.core.policy import parse, warnings
from tests.processes import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DONE = "--- block done ---"
PORTS = ("8800", "8080", "9001", "9002")


def blocks(language: str) -> list[str]:
    return [body for kind, body in FENCED.findall(README) if kind == language]


class Shell:
    """One bash for all blocks; a command that fails ends it, and with it the test."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "-euo", "pipefail"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, block: str, *, timeout_s: float = 120) -> str:
        """What the block prints."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{block}\necho '{DONE}'\n".encode())
        self._bash.stdin.flush()
        return self._until_done(block, timeout_s)

    def _until_done(self, block: str, timeout_s: float) -> str:
        assert self._bash.stdout is not None
        said, end = b"", time.monotonic() + timeout_s
        while not said.rstrip().endswith(DONE.encode()):
            ready, _, _ = select.select([self._bash.stdout], [], [], end - time.monotonic())
            assert ready, f"no end within {timeout_s} s:\n{block}\n{said.decode()}"
            more = os.read(self._bash.stdout.fileno(), 65_536)
            assert more, f"failed:\n{block}\n{said.decode()}"
            said += more
        return said.decode().replace(DONE, "")

    def close(self) -> None:
        """End the shell, with whatever a failed test left running."""
        assert self._bash.stdin is not None
        with suppress(BrokenPipeError):
            self._bash.stdin.close()
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGTERM)
        self._bash.wait(10)
        if self._bash.stdout is not None:
            self._bash.stdout.close()


@pytest.fixture
def ports() -> dict[str, str]:
    return {name: str(free_port()) for name in PORTS}


@pytest.fixture
def shell(tmp_path: Path, ports: dict[str, str]) -> Iterator[Shell]:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "rollouts").mkdir()
    policy = elsewhere(blocks("yaml")[0], ports)
    (tmp_path / "rollouts" / "digits.yaml").write_text(policy, encoding="utf-8")
    own = {
        "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "UNDERSTUDY_API": f"127.0.0.1:{ports['8800']}",
        "UNDERSTUDY_ROUTER": f"127.0.0.1:{ports['8080']}",
        "UNDERSTUDY_XDS": "127.0.0.1:0",
    }
    bash = Shell(tmp_path, own)
    yield bash
    bash.close()


def elsewhere(text: str, ports: dict[str, str]) -> str:
    """The text with the README's ports replaced by free ones."""
    for port, free in ports.items():
        text = re.sub(rf"(127\.0\.0\.1:|http\.server ){port}\b", rf"\g<1>{free}", text)
    return text


def without_make(block: str) -> str:
    return "\n".join(line for line in block.splitlines() if not line.startswith("make "))


def test_the_commands_of_the_readme_run_in_its_order(shell: Shell, ports: dict[str, str]):
    said = ""
    for block in blocks("sh"):
        said += f"\n$ {block}" + shell.run(without_make(elsewhere(block, ports)))
    expected = (
        "Usage: understudy",
        "digits.yaml: ok, policy of digits",
        '"status":"ready"',
        '{"label": 1}',
        "x-understudy-arm: v1",
        '{"accepted":1,"rejected":[]}',
        "digits: ramping",
        "not worse by the margin",
        "pause by 127.0.0.1: a look at the logs",
        "rollback by 127.0.0.1: that was the tour",
        "decisions derived again from the log, all equal",
        "final",
    )
    at = 0
    for words in expected:  # one after the other
        at = said.find(words, at)
        assert at >= 0, f"{words!r} is not said, or not in its place:\n{said}"


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE))
    assert {"demo", "test", "install"} <= named
    assert named <= targets


def test_the_policy_of_the_readme_is_valid_and_every_line_of_it_is_explained():
    [text] = blocks("yaml")
    policy = parse(text, "README.md")
    assert policy.model == "digits"
    assert warnings(policy) == ()
    for line in text.splitlines():
        assert re.search(r"\S +# \S", line), line


def test_the_first_screen_has_a_picture_and_the_two_commands():
    head = README.split("```yaml")[0]
    [picture] = re.findall(r"!\[[^]]+\]\(([^)]+)\)", head)
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")
    assert re.findall(r"^make (\w+)", head, re.MULTILINE) == ["demo", "test"]
