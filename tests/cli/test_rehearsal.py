"""`understudy simulate` and `understudy plan` as people and programs run them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from controller.cli.rehearsed import number
from tests.core.logs import CANARY
from tests.processes import until

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "controller.cli")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    document = {
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "RolloutPolicy",
        "metadata": {"name": "m"},
        "spec": {
            "route": {"prefix": "/m/"},
            "champion": {"version": "v1"},
            "reward": {"event": "click", "window": "10s", "grace": "5s"},
            "stages": [CANARY],
        },
    }
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture
def world(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "rate: 100/s\nbase_rate: 30%\nrequests: 20000\ntick: 10s\ncandidates: [{effect: -50%}]\n",
        encoding="utf-8",
    )
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [str(argument) for argument in arguments]
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )


def test_simulate_tells_programs_and_people_the_same(file: Path, world: Path):
    arguments = ("simulate", file, "--scenario", world, "--runs", 6, "--seed", 3, "--jobs", 1)
    told, shown = run(*arguments, "-o", "json"), run(*arguments)
    assert (told.returncode, shown.returncode, told.stderr, shown.stderr) == (0, 0, "", "")
    values = json.loads(told.stdout)
    found = values["verdicts"]["rolled_back"]
    low, high = found["interval"]
    assert f"{found['rate']:.2%}  {low:.2%} .. {high:.2%}" in shown.stdout
    for field in ("requests", "harmed", "lost_reward"):
        assert number(values[field]["mean"]) in shown.stdout
    assert len(values["each"]) == values["runs"] == 6
    for cause, count in values["causes"].items():
        assert f"{cause} {count}" in shown.stdout


def test_options_take_the_place_of_the_files_values(file: Path, world: Path):
    told = run(
        *("simulate", file, "--scenario", world, "--runs", 1, "--requests", 3000),
        *("--rate", "600/min", "--tick", "30s", "--level", "events", "-o", "json"),
    )
    values = json.loads(told.stdout)
    assert (values["tick_s"], values["horizon_s"], values["level"]) == (30.0, 300.0, "events")
    assert values["requests"]["mean"] <= 3500


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("--scenario", "flatt"), 1, "flatt: found no such scenario"),
        (("--rate", "fast"), 1, "--rate: found 'fast', expected a number of requests per time"),
        (("--tick", "3"), 1, "--tick: found '3', expected a duration"),
        (("--runs", "0"), 2, "--runs"),
    ],
)
def test_what_cannot_be_simulated_is_one_sentence(file: Path, arguments, code, error):
    done = run("simulate", file, *arguments)
    assert done.returncode == code
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def test_a_faulty_scenario_names_file_line_and_field(file: Path, tmp_path: Path):
    path = tmp_path / "bad.yaml"
    path.write_text("rate: 50/s\nbase_rat: 5%\n", encoding="utf-8")
    done = run("simulate", file, "--scenario", path)
    assert done.returncode == 1
    assert f"{path}:2:1: base_rat: found base_rat, expected one of" in done.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_cleanly_and_shows_progress_until_then(file: Path, jobs: int):
    """On a terminal, where Ctrl-C reaches every process of the group."""
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [*COMMAND, "simulate", str(file), "--runs", "100000", "--jobs", str(jobs)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=ROOT,
        start_new_session=True,
    )
    os.close(slave)
    shown = _until(master, b"100000")
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(60) == 130
    shown += _rest(master)
    assert b"rehearsing" in shown
    assert b"Traceback" not in shown
    until("nobody is left", lambda: _is_gone(child.pid))


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _until(master: int, wanted: bytes) -> bytes:
    shown = b""
    while wanted not in shown:
        shown += os.read(master, 4096)
    return shown


def _rest(master: int) -> bytes:
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # the terminal's other side is closed
        pass
    os.close(master)
    return shown


def test_plan_tells_programs_and_people_the_same(file: Path):
    arguments = ("plan", file, "--rate", "100/s", "--base-rate", "30%", "--delay", "2s")
    told, shown = run(*arguments, "-o", "json"), run(*arguments)
    assert (told.returncode, shown.returncode, told.stderr, shown.stderr) == (0, 0, "", "")
    values = json.loads(told.stdout)
    assert values["rate_per_s"] == 100.0
    assert [row["share"] for row in values["stages"]] == [0.1, 0.5]
    for name, ending in values["hypotheses"].items():
        row = next(line for line in shown.stdout.splitlines() if line.startswith(name))
        assert ending["verdict"].replace("_", " ") in row
        about = float(f"{ending['requests']:.3g}")
        assert f"{about:,.0f}" in row
    for warning in values["warnings"]:
        assert warning in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--rate", "5x", "--base-rate", "5%"), "--rate: found '5x', expected a number of"),
        (("--rate", "5/s", "--base-rate", "500%"), "--base-rate: found '500%', expected a share"),
        (("--rate", "5/s", "--base-rate", "0"), "--base-rate: found '0', expected a share above"),
        (("--rate", "5/s", "--base-rate", "5%", "--delay", "9"), "--delay: found '9', expected a"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(file: Path, arguments, error):
    done = run("plan", file, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert error in done.stderr
    assert "Traceback" not in done.stderr
