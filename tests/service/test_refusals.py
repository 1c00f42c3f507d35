"""What `serve` cannot do, it says in a sentence, with exit code 1, and leaves nothing behind."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

import pytest

from tests.service.conftest import ROOT, Serve, environment, policy_text, processes_of


def refused(serve: Serve, **options: object) -> str:
    """What a serve that must not start says."""
    done = subprocess.run(
        serve.command(**options),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_a_second_serve_on_the_same_state_is_refused(serve: Serve) -> None:
    said = refused(serve, api="127.0.0.1:0", router="127.0.0.1:0", xds="127.0.0.1:0")
    assert "another `understudy serve`" in said
    assert str(serve.state) in said
    assert serve.ask()[0] == 200
    assert serve.arms()["phase"] == "idle"
    assert serve.stop() < 5


@pytest.mark.parametrize("name", ["api", "router", "xds"])
def test_a_taken_port_is_refused(
    name: str, make_serve: Callable[..., Serve], models: list[int]
) -> None:
    serve = make_serve(m=policy_text(models[0]))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in refused(serve, **{name: address})
    assert processes_of(serve.folder) == []


def test_a_wrong_policy_is_refused_with_its_place(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    serve = make_serve(m=policy_text(models[0]).replace("window: 10s", "windov: 10s"))
    said = refused(serve)
    assert f"{serve.policies / 'm.yaml'}:14:5: " in said
    assert "did you mean 'window'" in said


def test_a_folder_without_policies_is_refused(make_serve: Callable[..., Serve]) -> None:
    serve = make_serve()
    assert "at least one *.yaml policy" in refused(serve)


def test_a_policies_folder_that_is_not_there_is_refused(make_serve: Callable[..., Serve]) -> None:
    serve = make_serve()
    assert str(serve.folder / "nowhere") in refused(serve, policies=serve.folder / "nowhere")


def test_a_state_folder_that_cannot_be_made_is_refused(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    serve = make_serve(m=policy_text(models[0]))
    (serve.folder / "file").write_text("")
    state = serve.folder / "file" / "state"  # root may write everywhere, but not below a file
    assert str(state) in refused(serve, state=state)


@pytest.mark.parametrize("name", ["events.db", "ledger.db"])
def test_a_corrupt_database_is_refused_by_name(
    name: str, make_serve: Callable[..., Serve], models: list[int]
) -> None:
    serve = make_serve(m=policy_text(models[0]))
    serve.state.mkdir()
    (serve.state / name).write_bytes(b"this is no database " * 500)
    said = refused(serve)
    assert str(serve.state / name) in said
    assert "restore" in said
    assert processes_of(serve.folder) == []
