"""What people are told when something beside the rollout goes wrong."""

import asyncio
from pathlib import Path

from controller.core.policy import parse
from controller.ledger import open_ledger
from controller.loop.backend import LoopBackend
from controller.loop.fold import Fold, PolicySource
from controller.loop.wheel import Wheel
from controller.stream import open_stream

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


async def _story(folder):
    source = PolicySource(parse(TEXT, "canary.yaml"), TEXT)
    stream = open_stream(f"sqlite:///{folder}/events.db")
    ledger = open_ledger(f"sqlite:///{folder}/ledger.db", clock=lambda: 0.0)
    router, seconds = Refusing(), iter(range(1, 1000))
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
    await _until(lambda: backend.report("digits").epoch_in_force == 1)
    assert "trouble" not in told[-1].health
    assert told[-1].health["split"] == "in force"
    backend.wheel.stop()
    await turning
    listening.cancel()
    stream.close()
    ledger.close()


async def _listen(backend, told):
    async for report in backend.changes():
        told.append(report)


async def _until(is_so):
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)
