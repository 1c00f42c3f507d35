"""The conductor, where no controller is needed: its policy, its verdict, how it fails and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from controller.core.policy import Policy
from controller.demo.run import Settings, Summary, demo, policy, run
from controller.demo.users import REWARD, Habits

_NO_CONTROLLER = ("-c", "raise SystemExit('the ledger is locked')")


def children_of(folder: Path) -> list[int]:
    """Processes that were started with a path in `folder` on their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in place.read_bytes():
                found.append(int(place.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_the_policy_is_valid_and_fits_the_users():
    parsed = Policy.model_validate(yaml.safe_load(policy("127.0.0.1:4711")))
    spec, habits = parsed.spec, Habits()
    assert spec.champion.endpoints == ("127.0.0.1:4711",)
    assert spec.reward.event == REWARD
    assert spec.route.unit is not None
    assert spec.route.unit.header == "x-user-id"
    # A reward that comes as late as users may send it, with a batch on top, is within the window.
    assert habits.delay_most_s + 0.5 < spec.reward.window


def test_every_line_of_the_policy_is_explained():
    lines = policy("127.0.0.1:4711").splitlines()
    settings = [
        line for line in lines if ": " in line and not line.startswith(("#", "apiV", "kind"))
    ]
    assert settings
    assert [line for line in settings if "#" not in line] == []


@pytest.mark.parametrize(
    ("champion", "rolled_back", "lost", "is_as_hoped"),
    [
        ("v2", ["v3"], 0, True),
        ("v1", ["v3"], 0, False),
        ("v2", [], 0, False),
        ("v2", ["v3", "v2"], 0, False),
        ("v2", ["v3"], 1, False),
    ],
)
def test_only_the_whole_story_is_a_success(champion, rolled_back, lost, is_as_hoped):
    assert Summary(champion, rolled_back, 10, 10, lost, 60.0).is_as_hoped is is_as_hoped


def test_a_controller_that_does_not_start_is_named_with_its_last_words(tmp_path, capsys):
    state = tmp_path / "state"
    assert run(Settings(output="json", state=state, serve=_NO_CONTROLLER)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "controller ended with code 1" in said.err
    assert "the ledger is locked" in said.err
    assert children_of(state) == []


def test_a_used_state_folder_is_refused(tmp_path, capsys):
    (tmp_path / "old").touch()
    assert demo(state=tmp_path) == 1
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "running"),
    # While it trains (the demo and the training), and while three model servers run and what should
    # have been a controller.
    [(signal.SIGTERM, 2), (signal.SIGINT, 5)],
)
def test_a_signal_ends_everything_within_five_seconds(tmp_path, number, running):
    program = f"""
from pathlib import Path
from controller.demo.run import Settings, run
serve = ("-c", "import time; time.sleep(600)")
raise SystemExit(run(Settings(state=Path({str(tmp_path)!r}), serve=serve)))
"""
    with subprocess.Popen([sys.executable, "-c", program], start_new_session=True) as process:
        ends = time.monotonic() + 60
        while len(children_of(tmp_path)) < running and time.monotonic() < ends:
            time.sleep(0.1)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 130
        assert time.monotonic() - began < 5
    assert children_of(tmp_path) == []
