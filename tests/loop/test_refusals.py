"""Refused events: kept without making anybody wait, bounded, counted beyond the bound."""

import asyncio
import threading

import pytest

from controller.errors import Permanent, Retryable
from controller.ledger import open_ledger
from controller.loop import refusals
from controller.loop.refusals import UNKEPT, WAITING, Refusals


@pytest.fixture
def ledger(tmp_path):
    made = open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: 0.0)
    yield made
    made.close()


def bad(count, text=b"x"):
    return [("malformed", f"no {i}", text) for i in range(count)]


def test_refused_events_are_in_the_ledger_when_they_have_settled(ledger):
    async def story():
        keeper = Refusals(ledger.reject, "api")
        keeper.keep(bad(2_500))
        await keeper.settled()
        assert len(ledger.rejections(limit=10_000)) == 2_500
        assert keeper.refused == {"malformed": 2_500}
        assert keeper.unkept == 0

    asyncio.run(story())


def test_nobody_waits_for_a_ledger_that_is_away_and_all_is_kept_when_it_is_back(
    ledger, monkeypatch
):
    monkeypatch.setattr(refusals, "_AGAIN_S", 0.05)
    is_away = True

    def reject(source, refused):
        if is_away:
            raise Retryable("locked")
        ledger.reject(source, refused)

    async def story():
        nonlocal is_away
        keeper = Refusals(reject, "api")
        for _ in range(5):
            keeper.keep(bad(3))
            await keeper.settled()
        assert ledger.rejections() == ()
        is_away = False
        async with asyncio.timeout(5):
            await keeper._work
        assert len(ledger.rejections()) == 15
        keeper.keep(bad(1))
        await keeper.settled()
        assert len(ledger.rejections()) == 16

    asyncio.run(story())


def test_nobody_waits_long_for_a_ledger_that_hangs(ledger, monkeypatch):
    monkeypatch.setattr(refusals, "PATIENCE_S", 0.1)
    goes_on = threading.Event()

    def reject(source, refused):
        goes_on.wait(10)
        ledger.reject(source, refused)

    async def story():
        loop = asyncio.get_running_loop()
        keeper = Refusals(reject, "api")
        began = loop.time()
        for _ in range(20):
            keeper.keep(bad(1))
            await keeper.settled()
        assert loop.time() - began < 1
        goes_on.set()
        await keeper.close()
        assert len(ledger.rejections()) == 20

    asyncio.run(story())


def test_beyond_the_bound_they_are_counted_and_the_table_says_how_many(ledger):
    async def story():
        keeper = Refusals(ledger.reject, "api")
        for _ in range(10):
            keeper.keep(bad(5_000))
        await keeper.close()
        assert keeper.refused == {"malformed": 50_000}
        kept = ledger.rejections(limit=100_000)
        said = [row for row in kept if row.reason == UNKEPT]
        assert len(kept) - len(said) == 50_000 - keeper.unkept
        assert WAITING <= 50_000 - keeper.unkept <= WAITING + 2_000
        assert sum(int(row.detail.split()[0]) for row in said) == keeper.unkept

    asyncio.run(story())


def test_texts_that_wait_are_bounded_in_bytes():
    async def story():
        keeper = Refusals(lambda *_: None, "api")
        keeper.keep(bad(10_000, b"y" * 60_000))
        assert keeper.unkept > 5_000
        assert sum(len(text) for _, _, text in keeper._waiting) <= refusals.WAITING_BYTES + 4_096
        await keeper.close()

    asyncio.run(story())


def test_a_ledger_that_will_never_take_them_is_not_asked_for_ever():
    def reject(_source, _refused):
        raise Permanent("another controller leads")

    async def story():
        keeper = Refusals(reject, "api")
        keeper.keep(bad(7))
        await keeper.settled()
        assert keeper.unkept == 7

    asyncio.run(story())
