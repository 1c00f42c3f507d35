"""What the joiner could not use, why, and which of it was an arm's loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from controller.core.model import Bool, Int, Reason, Rejected, quick


class Cause(IntEnum):
    """Why the joiner could not use an event, finer than `Reason`."""

    REPEATED_EXPOSURE = 0
    EXPOSURE_TOO_LATE = 1
    REPEATED_REWARD = 2
    OUT_OF_RANGE = 3
    AFTER_WINDOW = 4
    AFTER_CLOSE = 5
    BEFORE_EXPOSURE = 6
    NO_EXPOSURE = 7
    NO_REQUEST = 8


_WORDS = {
    Cause.REPEATED_EXPOSURE: (Reason.DUPLICATE, "an exposure with this request id is known"),
    Cause.EXPOSURE_TOO_LATE: (Reason.LATE, "the exposure came later than the grace allows"),
    Cause.REPEATED_REWARD: (Reason.DUPLICATE, "a reward with this id is known"),
    Cause.OUT_OF_RANGE: (Reason.OUT_OF_RANGE, "the value is outside the policy's range"),
    Cause.AFTER_WINDOW: (Reason.LATE, "the attribution window of its exposure had ended"),
    Cause.AFTER_CLOSE: (Reason.LATE, "its exposure was closed before it came"),
    Cause.BEFORE_EXPOSURE: (Reason.LATE, "it precedes its exposure by more than the grace"),
    Cause.NO_EXPOSURE: (Reason.ORPHAN, "no exposure came that it could belong to"),
    Cause.NO_REQUEST: (Reason.ORPHAN, "it names no request, and the policy joins by request_id"),
}


_NO_OFFSET = np.empty(0, np.int64)
_NO_CAUSE = np.empty(0, np.int8)

_OF_EXPOSURES = np.array([Cause.REPEATED_EXPOSURE, Cause.EXPOSURE_TOO_LATE], np.int8)


@quick
@dataclass(frozen=True)
class Refused:
    """Events that the joiner could not use; arrays (n,), in order of offset.

    offset  int64
    cause   int8, a `Cause`
    """

    offset: Int
    cause: NDArray[np.int8]

    @classmethod
    def gather(cls, parts: Iterable[tuple[Int, Cause]]) -> Self:
        """One column of all the parts: offsets, and why they were refused."""
        kept = [(offset, cause) for offset, cause in parts if offset.size]
        if not kept:
            return cls(_NO_OFFSET, _NO_CAUSE)
        offset = np.concatenate([offset for offset, _ in kept])
        cause = np.concatenate([np.full(offset.size, cause, np.int8) for offset, cause in kept])
        order = np.argsort(offset, kind="stable")
        return cls(offset[order], cause[order])

    def counts(self) -> dict[Reason, int]:
        """How many events were refused for each reason."""
        found: Counter[Reason] = Counter()
        for cause, count in enumerate(np.bincount(self.cause)):
            if count:
                found[_WORDS[Cause(cause)][0]] += int(count)
        return dict(found)

    def of_rewards(self) -> Self:
        """Those that are rewards: where several joiners meet the same exposures, one speaks."""
        rewards = ~np.isin(self.cause, _OF_EXPOSURES)
        return type(self)(self.offset[rewards], self.cause[rewards])

    def listed(self) -> tuple[Rejected, ...]:
        """The same as objects, for the dead-letter table."""
        pairs = zip(self.offset.tolist(), self.cause.tolist(), strict=True)
        return tuple(Rejected(offset, *_WORDS[Cause(cause)]) for offset, cause in pairs)


@quick
@dataclass(frozen=True)
class Dropped:
    """Events that would have counted had they come in time; arrays (n,), in no order.

    They are lost to the inference, so that an arm which loses more than its share of them is not to
    be trusted. An exposure that comes too late is dropped, several copies of it in one micro-batch
    once; so is a reward within the window of an exposure that was closed before it came.

    arm, stratum  int64, those of the exposure
    is_exposure   bool, else a reward
    """

    arm: Int
    stratum: Int
    is_exposure: Bool


_NONE_DROPPED = Dropped(_NO_OFFSET, _NO_OFFSET, np.empty(0, np.bool_))


class Refusals:
    """Collects what is refused in one call, and what of it is dropped."""

    def __init__(self) -> None:
        self._refused: list[tuple[Int, Cause]] = []
        self._dropped: list[Dropped] = []

    def refuse(self, offset: Int, cause: Cause) -> None:
        """These events could not be used."""
        self._refused.append((offset, cause))

    def drop(self, arm: Int, stratum: Int, *, is_exposure: bool) -> None:
        """Events of these arms were lost."""
        if arm.size:
            self._dropped.append(Dropped(arm, stratum, np.full(arm.size, is_exposure)))

    def refused(self) -> Refused:
        """All that could not be used."""
        return Refused.gather(self._refused)

    def dropped(self) -> Dropped:
        """All that was lost by arms."""
        parts = self._dropped
        if len(parts) <= 1:
            return parts[0] if parts else _NONE_DROPPED
        return Dropped(
            arm=np.concatenate([part.arm for part in parts]),
            stratum=np.concatenate([part.stratum for part in parts]),
            is_exposure=np.concatenate([part.is_exposure for part in parts]),
        )
