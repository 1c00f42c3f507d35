"""A backup that was made while `serve` ran, restored: what docs/backup.md says, done."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.processes import until
from tests.service.conftest import CANARY, Serve, Users, policy_text

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"


def saved(state: Path, name: str, target: Path) -> None:
    """The statement of the page, which `sqlite3 FILE "STATEMENT"` runs."""
    found = re.search(rf'sqlite3 \S*{name}\.db "(VACUUM INTO [^"]*)"', PAGE.read_text())
    assert found is not None
    statement = re.sub(r"'[^']*'", f"'{target}'", found[1])
    with closing(sqlite3.connect(state / f"{name}.db", isolation_level=None)) as connection:
        connection.execute(statement)


def test_a_backup_made_while_serve_runs_is_restored_and_a_log_older_than_the_ledger_is_held(
    make_serve: Callable[..., Serve], models: list[int], tmp_path: Path
) -> None:
    policy = policy_text(models[0], window="2s", stages=CANARY.format(min_duration="60s"))
    serve = make_serve(m=policy).start()
    serve.offer("v2", models[1])
    until("the rollout begins", lambda: serve.arms()["phase"] == "ramping", 10)
    with Users(serve, rate_hz=150, reward_chance=0.3):
        time.sleep(1.5)
        for name in ("ledger", "events"):  # in this order
            saved(serve.state, name, tmp_path / f"{name}.db")
            time.sleep(0.5)
        assert serve.cli("pause", "m", "--reason", "after the backup").code == 0
        time.sleep(1.0)
    serve.end()
    saved(serve.state, "ledger", tmp_path / "later.db")

    restored = make_serve(m=policy)
    _put(restored, ledger=tmp_path / "ledger.db", events=tmp_path / "events.db")
    restored.start()
    report = restored.arms()
    assert report["phase"] == "ramping"
    assert sum(arm["exposures"] for arm in report["arms"]) > 100
    assert restored.ask()[0] == 200
    verified = restored.cli("ledger", "m", "--verify")
    assert verified.code == 0, verified.out
    restored.end()

    wrong = make_serve(m=policy)
    _put(wrong, ledger=tmp_path / "later.db", events=tmp_path / "events.db")
    wrong.spawn()
    what = re.compile("the log is older than the ledger.*restore both from one backup")
    until("it says what is wrong", lambda: what.search(wrong.err.read_text()), 20)
    until("traffic goes on as it was", lambda: _answers(wrong), 20)
    decisions = wrong.cli("ledger", "m", "-o", "json").json
    assert [d["cause"] for d in decisions][-1] == "paused", decisions[-1]
    assert wrong.cli("ledger", "m", "--verify").code == 1


def _put(serve: Serve, **files: Path) -> None:
    serve.state.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        (serve.state / f"{name}.db").write_bytes(file.read_bytes())


def _answers(serve: Serve) -> bool:
    try:
        return serve.ask()[0] == 200
    except OSError:
        return False
