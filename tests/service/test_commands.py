"""Every command of contract 4.3 against a live `serve`, and against none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.processes import until
from tests.service.conftest import ROOT, Serve, policy_text, run


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, models: list[int]) -> Iterator[Serve]:
    policy = policy_text(models[0]).replace("  stages:", "  gates: {cooldown: 0s}\n  stages:")
    made = Serve(tmp_path_factory.mktemp("commands"), {"m": policy})
    yield made.start()
    made.end()


def ledger_lines(serve: Serve) -> list[str]:
    rows = serve.cli("ledger", "m", "-o", "json").json
    return [json.dumps(row, sort_keys=True) for row in rows]


def test_a_rollout_by_hand_from_offer_to_replay(live: Serve, models: list[int]) -> None:
    endpoint = f"127.0.0.1:{models[1]}"
    offered = live.cli(
        *("candidate", "add", "m", "v2", "--endpoint", endpoint),
        *("--parent", "v1", "--metric", "accuracy=0.94"),
    )
    assert offered.code == 0, offered.err
    listed = live.cli("candidate", "list", "m")
    assert (listed.code, "v2" in listed.out) == (0, True)
    assert live.cli("status", "m", "--wait", "ramping", "--timeout", "10s").code == 0
    late = live.cli("status", "m", "--wait", "promoted", "--timeout", "1s")
    assert late.code == 1
    assert "did not reach promoted within 1s" in late.err

    table = live.cli("status")
    assert "m: ramping (canary" in table.out
    as_json = live.cli("status", "m", "-o", "json").json
    assert as_json["phase"] == yaml.safe_load(live.cli("status", "m", "-o", "yaml").out)["phase"]
    assert live.cli("explain", "m").out.startswith("m: ramping, hold")

    for command, phase in (("pause", "paused"), ("resume", "ramping"), ("rollback", "rolled_back")):
        done = live.cli(command, "m", "--reason", "incident 12")
        assert done.code == 0, done.err
        assert live.cli("status", "m", "--wait", phase, "--timeout", "10s").code == 0, phase
    again = live.cli("rollback", "m")
    assert again.code == 1
    assert "does not fit" in again.err
    live.offer("v3", models[2])
    assert live.cli("status", "m", "--wait", "ramping", "--timeout", "10s").code == 0
    assert live.cli("promote", "m", "--reason", "we know it").code == 0
    until("a report", lambda: live.arms()["arms"][0]["weight_in_force"] is not None, 5)
    until("v3 is the champion", lambda: live.get("/v1/models/m")["champion"] == "v3", 10)

    shown = live.cli("explain", "m", "--decision", "1", "-o", "json")
    assert shown.json["number"] == 1
    assert any("incident 12" in line for line in ledger_lines(live))
    assert live.get("/v1/models/m/decisions")["decisions"]
    verified = live.cli("ledger", "m", "--verify")
    assert (verified.code, "all equal" in verified.out) == (0, True)

    log = live.folder / "log.jsonl"
    log.write_text(live.cli("events", "m").out)
    replayed = run(
        "replay", live.policies / "m.yaml", "--events", log, "-o", "json"
    ).out.splitlines()
    rows = [json.dumps(json.loads(line), sort_keys=True) for line in replayed]
    assert json.loads(rows[-1])["final"] is True
    written = ledger_lines(live)
    assert written[: len(rows) - 1] == rows[:-1]
    assert len(rows) > 8


def test_unknown_model_and_bad_usage(live: Serve) -> None:
    unknown = live.cli("status", "nobody")
    assert unknown.code == 1
    assert "nobody" in unknown.err
    for wrong in (["status", "--wait", "ramping"], ["nonsense"], ["candidate", "add", "m"]):
        assert live.cli(*wrong).code == 2, wrong
    assert live.cli("status", "m", "--wait", "flying").code == 2


@pytest.mark.parametrize("command", ["status", "explain m", "promote m", "candidate list m"])
def test_a_serve_that_does_not_answer_is_one_sentence(command: str) -> None:
    done = run(*command.split(), "--api", "127.0.0.1:1")
    assert done.code == 1
    assert len(done.err.strip().splitlines()) == 1
    assert "127.0.0.1:1" in done.err


def test_check_and_schema(tmp_path: Path) -> None:
    good = sorted((ROOT / "policies").glob("*.yaml"))
    fine = run("check", *good)
    assert fine.code == 0, fine.out
    bad = tmp_path / "bad.yaml"
    bad.write_text(good[0].read_text().replace("reward:", "rewards:"))
    done = run("check", good[0], bad)
    assert done.code == 1
    assert f"{bad}:" in done.out
    assert "did you mean 'reward'" in done.out
    assert run("schema").json["type"] == "object"
    missing = run("check", tmp_path / "none.yaml")
    assert missing.code == 1


def test_a_policy_edited_between_two_runs_leaves_the_ledger_true(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    text = policy_text(models[0])
    serve = make_serve(m=text).start()
    serve.offer("v2", models[1])
    time.sleep(1.5)
    assert serve.stop() < 5
    (serve.policies / "m.yaml").write_text(text.replace("steps: [20%, 50%]", "steps: [30%, 60%]"))
    serve.start()
    assert serve.cli("rollback", "m", "--reason", "again").code == 0
    serve.offer("v3", models[2])
    time.sleep(1.5)
    verified = serve.cli("ledger", "m", "--verify")
    assert verified.code == 0, verified.out
    digests = {row["policy_digest"] for row in serve.cli("ledger", "m", "-o", "json").json}
    assert len(digests) == 2
