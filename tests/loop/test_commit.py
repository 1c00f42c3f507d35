"""Group commit: who shares an append, who is sent away, and what a failure costs."""

import asyncio
import threading

import pytest

from controller.errors import Busy, Permanent, Retryable
from controller.loop import commit
from controller.loop.commit import GroupCommit
from controller.stream import open_stream


class Log:
    """A real log that can be made to wait, and to fail."""

    def __init__(self, folder):
        self.stream = open_stream(f"sqlite:///{folder}/events.db")
        self.open = threading.Event()
        self.open.set()
        self.fault = None
        self.calls = []

    def append(self, lines):
        assert self.open.wait(10)
        self.calls.append(sum(len(own) for own in lines.values()))
        if self.fault is not None:
            raise self.fault
        return self.stream.append(lines)

    def lines(self, model):
        return [line for block in self.stream.read(model, 0) for line in block.lines]


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path)
    yield made
    made.open.set()
    made.stream.close()


def test_those_that_come_during_an_append_share_the_next_one_in_their_order(log):
    ends = {}

    async def story():
        group = GroupCommit(log.append, appended=ends.update)
        log.open.clear()
        first = asyncio.create_task(group.append({"a": [b"0"]}))
        await asyncio.sleep(0.05)
        others = [
            asyncio.create_task(group.append({"a": [b"%d" % i], "b": [b"b%d" % i, b"x"]}))
            for i in range(1, 40)
        ]
        await asyncio.sleep(0)
        assert group.waiting_bytes == 1 + sum(len(f"{i}b{i}x") for i in range(1, 40))
        log.open.set()
        await asyncio.gather(first, *others)
        assert group.waiting_bytes == 0

    asyncio.run(story())
    assert log.calls == [1, 39 * 3]
    assert log.lines("a") == [b"%d" % i for i in range(40)]
    assert ends == {"a": 40, "b": 78}


def test_more_than_may_wait_is_refused_before_it_is_kept(log):
    async def story():
        group = GroupCommit(log.append, limit_bytes=100)
        log.open.clear()
        first = asyncio.create_task(group.append({"a": [b"f" * 60]}))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(group.append({"a": [b"s" * 40]}))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="wait for the event log") as refused:
            await group.append({"a": [b"t"]})
        assert refused.value.after_s >= 1
        log.open.set()
        await asyncio.gather(first, second)
        await group.append({"a": [b"t" * 1_000]})  # alone, anything is taken

    asyncio.run(story())
    assert [len(line) for line in log.lines("a")] == [60, 40, 1_000]


def test_a_log_that_does_not_answer_sends_newcomers_away_at_once(log, monkeypatch):
    monkeypatch.setattr(commit, "STALL_S", 0.1)

    async def story():
        group = GroupCommit(log.append)
        log.open.clear()
        first = asyncio.create_task(group.append({"a": [b"0"]}))
        await asyncio.sleep(0.2)
        with pytest.raises(Busy, match="has not answered for"):
            await group.append({"a": [b"1"]})
        log.open.set()
        await first
        await group.append({"a": [b"2"]})

    asyncio.run(story())
    assert log.lines("a") == [b"0", b"2"]


@pytest.mark.parametrize(
    ("fault", "appends"), [(Retryable("disk full"), 1), (Permanent("read only"), 3)]
)
def test_a_failure_is_told_to_all_whom_it_concerns(log, fault, appends, monkeypatch):
    monkeypatch.setattr(commit, "GROUP_BYTES", 1)  # each in an append of its own

    async def story():
        group = GroupCommit(log.append)
        log.fault = fault
        told = await asyncio.gather(
            *(group.append({"a": [b"%d" % i]}) for i in range(3)), return_exceptions=True
        )
        assert told == [fault] * 3
        assert len(log.calls) == appends
        assert group.waiting_bytes == 0
        log.fault = None
        await group.append({"a": [b"after"]})

    asyncio.run(story())
    assert log.lines("a") == [b"after"]


def test_a_caller_that_leaves_keeps_nobody_from_being_told(log):
    async def story():
        group = GroupCommit(log.append)
        log.open.clear()
        leaving = asyncio.create_task(group.append({"a": [b"0"]}))
        staying = asyncio.create_task(group.append({"a": [b"1"]}))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        log.open.set()
        await staying

    asyncio.run(story())
    assert log.lines("a") == [b"0", b"1"]
