"""What is broken, when, for how long: drawn from a seed, then carried out.

A kind of fault is two functions, to begin and to end it, of a target. To add a kind, add a row to
`KINDS` and targets for it in the scene.
"""

from __future__ import annotations

import itertools
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.chaos.hosts import Disk, Host, Step, cut, heal
from tests.chaos.services import Service

Link: TypeAlias = tuple[Host, Host]


def _dies(service: Service) -> None:
    service.kill()


def _stops(service: Service) -> None:
    service.signal(signal.SIGSTOP)


def _wakes(service: Service) -> None:
    service.signal(signal.SIGCONT)


KINDS: dict[str, tuple[Callable[[Any], None], Callable[[Any], None]]] = {
    "kill": (_dies, Service.start),
    "stop": (_stops, _wakes),
    "cut": (lambda link: cut(*link), lambda link: heal(*link)),
    "full": (Disk.fill, Disk.clear),
    "clock": (Step.make, Step.undo),
}
"""kill: SIGKILL, then started again; stop: SIGSTOP, then SIGCONT; cut: no packet passes between two
hosts; full: no room on a disk; clock: the wall clock of a host steps, and steps back."""

ALONE = {"clock"}
"""Kinds of which there is one at a time: two wrong clocks that agree are another matter."""


_NEXT_S = 0.1
"""Later another target is looked at, where one was not free."""


@dataclass(frozen=True, slots=True)
class Fault:
    """From `at_s` on, for `lasts_s`; seconds since the scene began."""

    at_s: float
    lasts_s: float
    kind: str
    target: str


def draw(
    rng: random.Random,
    targets: Mapping[str, Sequence[str]],
    *,
    begin_s: float,
    end_s: float,
    every_s: float,
    longest_s: float,
) -> list[Fault]:
    """Faults in order of time: each (kind, target) comes about equally often, in any order.

    targets  kind -> what it can be done to; the first word is what is broken, others say how
    every_s  between two of them on average; they overlap, but those of one target do not
    """
    pairs = [(kind, target) for kind, names in targets.items() for target in names]
    made: list[Fault] = []
    free_at: dict[str, float] = {}
    at_s = begin_s + rng.expovariate(1 / every_s)
    for kind, target in _shuffled(rng, pairs):
        if at_s >= end_s:
            return made
        lasts_s = min(rng.uniform(0.2, longest_s), end_s - at_s)
        busy = {target.partition(" ")[0], *({kind} & ALONE)}
        if all(free_at.get(each, 0.0) <= at_s for each in busy):
            made.append(Fault(round(at_s, 2), round(lasts_s, 2), kind, target))
            free_at |= dict.fromkeys(busy, at_s + lasts_s + 0.5)
            at_s += rng.expovariate(1 / every_s)
        else:
            at_s += _NEXT_S
    raise AssertionError("there is nothing that could be broken")


def _shuffled(rng: random.Random, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    while pairs:
        yield from rng.sample(pairs, len(pairs))


class Trouble:
    """Carries faults out as time passes."""

    def __init__(
        self,
        faults: Sequence[Fault],
        things: Mapping[str, Mapping[str, Service | Link | Disk | Step]],
    ) -> None:
        begins = ((fault.at_s, True, fault) for fault in faults)
        ends = ((fault.at_s + fault.lasts_s, False, fault) for fault in faults)
        self._steps = sorted(itertools.chain(begins, ends), key=lambda step: step[0])
        self._things = things
        self.counts: Counter[tuple[str, str]] = Counter()

    def until(self, now_s: float) -> Iterator[str]:
        """Do what is due; a sentence for each."""
        while self._steps and self._steps[0][0] <= now_s:
            _, begins, fault = self._steps.pop(0)
            begin, end = KINDS[fault.kind]
            (begin if begins else end)(self._things[fault.kind][fault.target])
            if begins:
                self.counts[fault.kind, fault.target] += 1
                yield f"{fault.kind} {fault.target} for {fault.lasts_s:g} s"

    @property
    def is_over(self) -> bool:
        """Whether all is well again."""
        return not self._steps
