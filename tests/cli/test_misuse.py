"""What goes wrong at the command line is said in a sentence, with the exit code that fits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from controller.bootstrap import read_policies
from controller.errors import PolicyError
from tests.processes import until

ROOT = Path(__file__).parents[2]
CANARY = (ROOT / "policies" / "canary.yaml").read_text()


def run(*words: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller.cli", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "--api", "127.0.0.1:port"), "--api: found 'http://127.0.0.1:port' (Invalid"),
        (("status", "--api", "ftp://127.0.0.1:1"), "--api: found 'ftp://127.0.0.1:1'"),
        (("status", "m", "--wait", "promoted", "--timeout", "10"), "--timeout: found '10'"),
        (("serve", "--api", "here"), "--api: found 'here', expected HOST:PORT"),
        (("serve", "--retain", "long"), "--retain: found 'long', expected a duration"),
        (("serve", "--redis", "u:secret@h:6379"), "--redis: found an address with no scheme"),
    ],
)
def test_a_value_that_is_none_is_wrong_usage(words: tuple[str, ...], said: str) -> None:
    found = run(*words)
    assert found.returncode == 2
    assert found.stderr.startswith(f"understudy: {said}")
    assert "secret" not in found.stderr
    assert len(found.stderr.splitlines()) == 1


@contextmanager
def other_server() -> Iterator[str]:
    """A server that is no controller: it answers each question with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html></html>")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_no_controller_is_told_from_one() -> None:
    with other_server() as address:
        found = run("status", "--api", address)
    assert found.returncode == 1
    assert found.stderr == (
        f"understudy: something else than a controller answers at http://{address} (HTTP 200): "
        "give the --api of `understudy serve`\n"
    )


def test_output_that_cannot_be_written_is_said() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        found = run("schema", stdout=full)
    finally:
        os.close(full)
    assert found.returncode == 1
    assert found.stderr == "understudy: [Errno 28] No space left on device\n"


def test_the_demo_says_that_its_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = run("demo", "--state", str(tmp_path / "file"))
    assert found.returncode == 1
    assert found.stderr.startswith("the demo failed: the folder cannot be made: ")


def test_an_interrupt_while_the_command_is_loaded_leaves_no_trace(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "controller.cli", "serve", "--policies", str(tmp_path)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child:
        maps = Path(f"/proc/{child.pid}/maps")
        until("it loads a library", lambda: "pydantic_core" in maps.read_text())
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
    assert "Traceback" not in said
    # It was loaded by then, and found no policy: 1, or ended by the signal as Python was leaving.
    assert child.returncode in {130, 1, -signal.SIGINT}


def twins(folder: Path) -> tuple[Path, Path]:
    """Two models with one prefix."""
    one, other = folder / "a.yaml", folder / "b.yaml"
    one.write_text(CANARY)
    other.write_text(CANARY.replace("name: digits", "name: other", 1))
    return one, other


def test_of_two_policies_with_one_prefix_neither_is_served(tmp_path: Path) -> None:
    """One of them would never get a request, and the router takes neither."""
    one, other = twins(tmp_path)
    line = 1 + CANARY[: CANARY.index("prefix:")].count("\n")
    with pytest.raises(PolicyError) as caught:
        read_policies(tmp_path)
    assert str(caught.value) == (
        f"{other}:{line}:13: spec.route.prefix: found /v2/models/digits/, "
        f"expected a prefix of its own: {one} has it"
    )


def test_check_warns_of_files_that_are_not_for_one_folder(tmp_path: Path) -> None:
    one, other = twins(tmp_path)
    found = run("check", str(one), str(other), str(ROOT / "policies" / "canary.yaml"))
    assert found.returncode == 0
    assert "b.yaml:9:13: warning: spec.route.prefix: found /v2/models/digits/" in found.stdout
    assert f"warning: metadata.name: found digits, expected a model of its own: {one} has it" in (
        found.stdout
    )


def test_a_file_that_is_no_policy_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    """10 MiB of YAML took 27 s of CPU."""
    large = tmp_path / "large.yaml"
    large.write_text(CANARY + "#" * (1 << 20))
    found = run("check", str(large))
    said = f"{large}: found a file of more than 1 MiB, expected a policy of at most 1 MiB\n"
    assert (found.returncode, found.stdout) == (1, said)


def test_a_byte_that_is_not_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"# one\n# \xfcbrig\n")
    found = run("check", str(latin))
    assert (found.returncode, found.stdout) == (
        1,
        f"{latin}:2: found the byte 0xfc, expected text in UTF-8\n",
    )
