"""Children end with the demo, however it ends, and their last words are kept."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.demo.children import STOP_WITHIN_S, Children
from controller.errors import Permanent


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def all_gone(pids: list[int], *, within_s: float) -> bool:
    ends = time.monotonic() + within_s
    while any(map(is_alive, pids)) and time.monotonic() < ends:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


def test_a_model_server_dies_with_its_parent(models):
    program = f"""
import os, subprocess, sys
leash = [sys.executable, "-m", "controller.leash", str(os.getpid()), sys.executable]
server = subprocess.Popen(
    [*leash, "-m", "controller.demo.server", "--model", {str(models / "v1.pickle")!r}],
    stdout=subprocess.PIPE, text=True,
)
server.stdout.readline()
print(server.pid, flush=True)
server.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait(5)
        assert all_gone([pid], within_s=5)


def test_a_child_whose_parent_is_gone_does_not_start():
    leash = [sys.executable, "-m", "controller.leash", str(os.getppid()), sys.executable]
    done = subprocess.run([*leash, "-c", "print('started')"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_stop_ends_the_stubborn_and_their_children(tmp_path):
    stubborn = """
import json, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"child": child.pid}))
time.sleep(600)
"""
    mild = "import json, time; print(json.dumps({'ready': 1})); time.sleep(600)"

    async def scene() -> float:
        children = Children(tmp_path)
        first = await children.start("stubborn", ["-c", stubborn])
        second = await children.start("mild", ["-c", mild])
        grandchild = (await children.said(first, "child", 30))["child"]
        await children.said(second, "ready", 30)
        began = asyncio.get_running_loop().time()
        await children.stop()
        took_s = asyncio.get_running_loop().time() - began
        assert all_gone([first.process.pid, second.process.pid, grandchild], within_s=1)
        return took_s

    assert asyncio.run(scene()) < STOP_WITHIN_S + 1


def test_the_first_line_that_carries_the_key_counts(tmp_path):
    program = """
import time
print("warming up")
print("[1]")
print('{"other": 1}')
print('{"ready": tr', end="", flush=True)
time.sleep(0.2)
print('ue, "api": "here"}')
time.sleep(600)
"""

    async def scene() -> dict[str, object]:
        children = Children(tmp_path)
        child = await children.start("slow", ["-c", program])
        try:
            return await children.said(child, "ready", 30)
        finally:
            await children.stop()

    assert asyncio.run(scene()) == {"ready": True, "api": "here"}


def test_a_child_that_dies_is_named_with_its_last_words(tmp_path):
    async def scene() -> None:
        children = Children(tmp_path)
        child = await children.start("router", ["-c", "raise SystemExit('port 80 is taken')"])
        with pytest.raises(Permanent, match=r"router ended with code 1[\s\S]*port 80 is taken"):
            await children.said(child, "ready", 30)
        with pytest.raises(Permanent, match="router ended with code 1"):
            children.check()
        await children.stop()

    asyncio.run(scene())
