"""What people are told when something beside the rollout goes wrong."""

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from controller.core.model import VersionEvent
from controller.core.policy import parse
from controller.core.split import assign_many, weights_of
from controller.errors import EventError
from controller.ledger import open_ledger
from controller.loop.backend import LoopBackend
from controller.loop.fold import Fold, PolicySource
from controller.loop.wheel import Wheel
from controller.stream import open_stream
from controller.stream.codec import decode

TEXT = (Path(__file__).parents[2] / "policies" / "canary.yaml").read_text()


class Refusing:
    """A router that has refused what it was given, until it is mended."""

    def __init__(self):
        self.published = []
        self.is_mended = False

    async def publish(self, models):
        self.published = list(models)

    async def confirmed(self, _timeout_s):
        if not self.is_mended:
            raise OSError("the control plane is gone")
        return {model.name: model.split.epoch for model in self.published}

    def status(self):
        refusal = None if self.is_mended else "no such cluster"
        return {"connected": 1, "nacks": 1, "last_nack": refusal}


def test_a_refused_split_and_a_trouble_are_reported_at_once_and_end(tmp_path):
    asyncio.run(_story(tmp_path))


def test_a_split_in_force_is_in_the_log_with_its_segments_and_units_are_assigned_by_them(tmp_path):
    asyncio.run(_segmented(tmp_path))


async def _segmented(folder):
    router = Refusing()
    router.is_mended = True
    with _controller(folder, router) as (backend, stream):
        await backend.wheel._try_turn()
        turned = backend._turned["digits"]
        own = {"de": {"v1": 1000, "v2": 9000}, "fr": {"v1": 10_000}}
        split = replace(
            turned.state.split,
            epoch=2,
            weights={"v1": 8000, "v2": 2000},
            anchors=("v2",),
            segment_header="x-country",
            segments=own,
        )
        state = replace(turned.state, split=split)
        backend.told("digits", replace(turned, state=state))
        backend.wheel._states["digits"] = state
        backend.wheel.stir("digits")
        await backend.wheel._act()
        assert router.published[0].split == split
        lines = [line for block in stream.read("digits", 0) for line in block.lines]
        written = decode("digits", 0, lines).control[-1]
        assert (written.epoch, written.weights, written.segments) == (2, split.weights, own)
        units = [f"u{i}" for i in range(500)]
        for given, named in (
            ("de", "de"),
            ("fr", "fr"),
            ("us", "us"),
            (None, None),
            ("de,fr", None),
        ):
            rows = backend.assign("digits", units, given)
            assert [row["arm"] for row in rows] == assign_many(split, units, named)
            shares = {arm: weight / 10_000 for arm, weight in weights_of(split, named).items()}
            assert all(row["propensity"] == shares[row["arm"]] for row in rows)
            assert {(row["segment"], row["epoch"]) for row in rows} == {(named, 2)}
        alone = backend.assign("digits", [None] * 300, "de")
        assert len({row["request_id"] for row in alone}) == 300
        by_id = assign_many(split, [row["request_id"] for row in alone], "de")
        assert [row["arm"] for row in alone] == by_id
        assert {row["unit"] for row in alone} == {None}
        too_long = "x" * 65
        assert backend.assign("digits", ["u1"], too_long)[0]["segment"] is None


def test_covariates_of_a_candidate_are_in_its_version_event(tmp_path):
    asyncio.run(_offered(tmp_path))


async def _offered(folder):
    router = Refusing()
    router.is_mended = True
    with _controller(folder, router) as (backend, stream):
        await backend.wheel._try_turn()
        version = {"version": "v2", "endpoints": ["127.0.0.1:9"], "covariates": {"u1": 2.5}}
        await backend.candidate("digits", version)
        with pytest.raises(EventError, match="expected at most 65536"):
            await backend.candidate("digits", {"version": "v3", "covariates": _many(10_000)})
        lines = [line for block in stream.read("digits", 0) for line in block.lines]
        found = [e for e in decode("digits", 0, lines).control if isinstance(e, VersionEvent)]
        assert [(e.version, e.covariates) for e in found][-1] == ("v2", {"u1": 2.5})


def _many(count):
    return {f"unit-{i}": 1.0 for i in range(count)}


@contextmanager
def _controller(folder, router):
    source = PolicySource(parse(TEXT, "canary.yaml"), TEXT)
    stream = open_stream(f"sqlite:///{folder}/events.db")
    ledger = open_ledger(f"sqlite:///{folder}/ledger.db", clock=lambda: 0.0)
    seconds = iter(range(1, 1000))
    backend = LoopBackend(["digits"], ledger=ledger, router=router, clock=lambda: 0.0)
    backend.wheel = Wheel(
        [Fold(source, stream, ledger)],
        stream=stream,
        ledger=ledger,
        router=router,
        sources=[],
        clock=lambda: float(next(seconds)),
        told=backend.told,
        worried=backend.worried,
    )
    try:
        yield backend, stream
    finally:
        stream.close()
        ledger.close()


async def _story(folder):
    router = Refusing()
    with _controller(folder, router) as (backend, _):
        told = []
        listening = asyncio.create_task(_listen(backend, told))
        await asyncio.sleep(0)
        turning = asyncio.create_task(backend.wheel.run())
        await _until(lambda: any("trouble" in r.health for r in told))
        report = backend.report("digits")
        assert report.health["trouble"] == "OSError: the control plane is gone"
        assert report.health["split"].startswith("refused by the router")
        assert backend.ready()["splits"] is not True
        router.is_mended = True
        await _until(lambda: told[-1].epoch_in_force == 1)
        assert "trouble" not in told[-1].health
        assert told[-1].health["split"] == "in force"
        backend.wheel.stop()
        await turning
        listening.cancel()


async def _listen(backend, told):
    async for report in backend.changes():
        told.append(report)


async def _until(is_so):
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)
