"""The users: they ask, look at the answer, and say a few seconds later whether it was right.

Requests come as a Poisson process, each from a user drawn at random, about an image drawn at
random. The answer tells its request id and arm in headers, nothing else is known of the router.
After a random delay the user acts: a reward event with an id and an event time of its own is due.
Due rewards travel in small batches and are posted again until they are accepted, which their ids
make harmless.

Users never retry a question, and they wait for nobody: the next one asks at its time whether or not
the last one was answered, so a slow model cannot slow its own traffic and hide.

This room is outside the core. It has the demo's one wall clock and its one source of randomness.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import deque
from dataclasses import dataclass
from time import time  # noqa: TID251 - users act in real time; this room is outside the core

import msgspec
import numpy as np

from controller.demo.control import Control
from controller.demo.models import Holdout
from controller.demo.pool import Answer, Lost, Pool
from controller.demo.tally import Tally
from controller.errors import Retryable

MODEL = "digits"
REWARD = "correct"

_INFER = f"/v2/models/{MODEL}/infer"
_BATCH_EVERY_S = 0.2
_BATCH_MOST = 2_000


@dataclass(frozen=True, slots=True)
class Habits:
    """How the users behave.

    rate_hz       requests per second, all users together
    population    number of users
    delay_mean_s, delay_most_s   from an answer to its reward: exponential, cut off at the latter
    """

    rate_hz: float = 300.0
    population: int = 10_000
    delay_mean_s: float = 2.0
    delay_most_s: float = 4.0
    timeout_s: float = 5.0


class _Output(msgspec.Struct):
    data: list[int]


class _Body(msgspec.Struct):
    outputs: list[_Output]


class _Sense(Exception):  # noqa: N818 - a private signal
    """An answer that is no answer; the text says why."""


_BODY = msgspec.json.Decoder(_Body)


class Users:
    """All users together. `start`, `stop`, `drain`, in that order; `start` again goes on."""

    def __init__(
        self,
        *,
        router: str,
        control: Control,
        holdout: Holdout,
        habits: Habits | None = None,
        seed: int | None = None,
    ) -> None:
        self.tally = Tally()
        self._habits = habits or Habits()
        self._labels = [int(label) for label in holdout.labels]
        self._questions = [_question(image) for image in holdout.images.tolist()]
        self._pool = Pool(router, timeout_s=self._habits.timeout_s)
        self._control = control
        self._rng = np.random.default_rng(seed)  # noqa: TID251 - a generator of its own
        self._due: deque[bytes] = deque()
        self._asking: set[asyncio.Task[None]] = set()
        self._arrivals: asyncio.Task[None] | None = None
        self._post: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask, in the background."""
        self._arrivals = asyncio.create_task(self._arrive())
        if self._post is None:
            self._post = asyncio.create_task(self._deliver())

    async def stop(self) -> None:
        """Ask no more; return when every question has its answer or is lost."""
        if self._arrivals is not None:
            self._arrivals.cancel()
            await asyncio.wait([self._arrivals])
            self._arrivals = None
        if self._asking:
            await asyncio.wait(self._asking)

    async def drain(self, timeout_s: float) -> None:
        """Wait until every reward is accepted or refused, but no longer than the time-out."""
        ends = asyncio.get_running_loop().time() + timeout_s
        while self.tally.outstanding and asyncio.get_running_loop().time() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """End everything at once."""
        tasks = [task for task in (self._arrivals, self._post, *self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pool.close()

    def failure(self) -> BaseException | None:
        """What ended one of the background tasks, which nothing should."""
        for task in (self._arrivals, self._post):
            if task is not None and task.done() and not task.cancelled():
                return task.exception()
        return None

    # --- asking -------------------------------------------------------------------------------

    async def _arrive(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += float(self._rng.exponential(1 / self._habits.rate_hz))
            # A process that was stopped for a while does not make up for it with a burst.
            due = max(due, loop.time() - 1.0)
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            user = int(self._rng.integers(self._habits.population))
            image = int(self._rng.integers(len(self._labels)))
            task = asyncio.create_task(self._ask(f"user-{user}", image))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, user: str, image: int) -> None:
        self.tally.sent += 1
        try:
            answer = await self._pool.post(_INFER, {"x-user-id": user}, self._questions[image])
        except Lost as exc:
            self.tally.dropped += 1
            self.tally.why[str(exc)] += 1
            return
        arm = answer.headers.get("x-understudy-arm")
        if arm is not None:
            self.tally.answers[arm] += 1
        try:
            is_right = _label(answer) == self._labels[image]
        except _Sense as exc:
            self.tally.unusable += 1
            self.tally.why[str(exc)] += 1
            return
        assert arm is not None
        self.tally.right[arm] += is_right
        self._react_later(answer.headers["x-request-id"], is_right=is_right)

    # --- rewarding ----------------------------------------------------------------------------

    def _react_later(self, request_id: str, *, is_right: bool) -> None:
        self.tally.owed += 1
        delay_s = self._delay_s()
        asyncio.get_running_loop().call_later(delay_s, self._react, request_id, is_right)

    def _delay_s(self) -> float:
        """A draw from the exponential distribution cut off at the longest delay, by its inverse."""
        mean, most = self._habits.delay_mean_s, self._habits.delay_most_s
        share = float(self._rng.random()) * -math.expm1(-most / mean)
        return -mean * math.log1p(-share)

    def _react(self, request_id: str, is_right: bool) -> None:  # noqa: FBT001 - call_later's way
        self.tally.owed -= 1
        self.tally.due += 1
        event = {
            "type": "reward",
            "time": round(time(), 6),
            "model": MODEL,
            "id": f"label-{uuid.uuid4()}",
            "request_id": request_id,
            "name": REWARD,
            "value": int(is_right),
        }
        self._due.append(msgspec.json.encode(event))

    async def _deliver(self) -> None:
        """Post what is due, in order, one batch at a time, each until it is settled."""
        while True:
            await asyncio.sleep(_BATCH_EVERY_S)
            while self._due:
                batch = [self._due.popleft() for _ in range(min(len(self._due), _BATCH_MOST))]
                await self._settle(batch)

    async def _settle(self, batch: list[bytes]) -> None:
        pause_s = 0.1
        while True:
            try:
                refused = await self._control.post_events(batch)
            except Retryable as exc:
                self.tally.why[str(exc)] += 1
                await asyncio.sleep(max(pause_s, exc.after_s))
                pause_s = min(2 * pause_s, 2.0)
                continue
            self.tally.due -= len(batch)
            self.tally.refused += len(refused)
            self.tally.accepted += len(batch) - len(refused)
            self.tally.why.update(refused)
            return


def _question(image: list[float]) -> bytes:
    """The body of a request about one image; made once, for it is the dearest part of asking."""
    tensor = {"name": "image", "shape": [1, len(image)], "datatype": "FP32", "data": image}
    return msgspec.json.encode({"inputs": [tensor], "outputs": [{"name": "label"}]})


def _label(answer: Answer) -> int:
    if answer.status >= 400:
        raise _Sense(f"status {answer.status}")
    for header in ("x-understudy-arm", "x-request-id"):
        if header not in answer.headers:
            raise _Sense(f"answer without {header}")
    try:
        return _BODY.decode(answer.body).outputs[0].data[0]
    except (msgspec.DecodeError, IndexError) as exc:
        raise _Sense(f"answer without a label: {exc}") from exc
