"""`understudy demo`, whole: twice at the same time, interrupted, and replayed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.processes import until
from tests.service.conftest import CLI, ROOT, environment, processes_of, run

KEYS = ["champion", "rolled_back", "requests", "rewards", "lost", "seconds"]


def demo(state: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CLI, "demo", "-o", "json", "--rate", "200", "--state", str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )


def controller_state(home: Path) -> Path:
    return next(home.rglob("ledger.db")).parent


def judge(one: subprocess.Popen[str], home: Path) -> None:
    out, err = one.communicate(timeout=220)
    assert one.returncode == 0, f"{out}\n{err[-3000:]}"
    summary = json.loads(out)
    assert list(summary) == KEYS
    fate = (summary["champion"], summary["rolled_back"], summary["lost"])
    assert fate == ("v2", ["v3"], 0)
    assert summary["requests"] >= summary["rewards"] > 1000
    assert processes_of(home) == []


@pytest.mark.timeout(280)
def test_two_demos_at_once_end_as_hoped_and_replay_to_their_ledger(tmp_path: Path) -> None:
    homes = [tmp_path / "one", tmp_path / "two"]
    both = [demo(home) for home in homes]
    try:
        for one, home in zip(both, homes, strict=True):
            judge(one, home)
    finally:
        for one in both:
            one.kill()
            one.communicate()
    state, policy = controller_state(homes[0]), next(homes[0].rglob("digits.yaml"))
    log = tmp_path / "log.jsonl"
    log.write_text(run("events", "digits", "--state", state).out)
    lines = run("replay", policy, "--events", log, "-o", "json").out.splitlines()
    rows = [json.dumps(json.loads(line), sort_keys=True) for line in lines]
    ledger = run("ledger", "digits", "--state", state, "-o", "json").json
    written = [json.dumps(row, sort_keys=True) for row in ledger]
    assert rows[:-1] == written
    assert json.loads(rows[-1])["champion"] == "v2"


@pytest.mark.timeout(120)
def test_ctrl_c_ends_a_demo_within_five_seconds_without_orphans(tmp_path: Path) -> None:
    home = tmp_path / "home"
    one = demo(home)
    try:
        until("the router answers", lambda: list(home.rglob("access.log")), 60)
        time.sleep(3)
        begin = time.monotonic()
        one.send_signal(signal.SIGINT)
        one.wait(15)
        assert time.monotonic() - begin < 5
        assert one.returncode == 130
        assert processes_of(home) == []
    finally:
        one.kill()
        one.communicate()
