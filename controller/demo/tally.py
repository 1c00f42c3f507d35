"""The accounts: what the users saw, and whether the controller saw the same.

The users count for themselves, without asking the controller. In the end each arm's exposures must
equal the answers that users had from it, and every reward that was accepted must be joined or
rejected with a reason. `lost` is the sum of what is missing anywhere:

    requests that no arm answered, or answered badly
    + |exposures - answers|  of each arm
    + rewards that were posted and not accepted
    + rewards that were accepted, and neither joined nor rejected

Everything here is a value or pure, so it is tested without a network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """What the users saw; the one mutable thing of the demo.

    sent      requests begun
    answers   answers with an arm's name, of any status, by arm
    unusable  answers that were no label: a status of 400 or more, no arm, no request id, no sense
    dropped   requests without an answer
    right     usable answers that were right, by arm
    owed      rewards whose time has not come yet
    due       rewards that wait to be accepted
    accepted, refused   rewards, by what the controller said
    why       what went wrong, and how often
    """

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    unusable: int = 0
    dropped: int = 0
    right: Counter[str] = field(default_factory=Counter)
    owed: int = 0
    due: int = 0
    accepted: int = 0
    refused: int = 0
    why: Counter[str] = field(default_factory=Counter)

    @property
    def outstanding(self) -> int:
        """Rewards that are not accepted yet, though nobody has refused them."""
        return self.owed + self.due


@dataclass(frozen=True, slots=True)
class Account:
    """What is missing, by place; all zero when the books agree."""

    requests: int
    exposures: dict[str, int]
    unposted: int
    unjoined: int

    @property
    def lost(self) -> int:
        """Everything that is missing."""
        return self.requests + sum(self.exposures.values()) + self.unposted + self.unjoined

    def sentence(self) -> str:
        """What is missing, for people."""
        parts = [f"{self.requests} requests without a usable answer"] if self.requests else []
        parts += [f"{n} exposures of {arm} differ" for arm, n in self.exposures.items() if n]
        parts += [f"{self.unposted} rewards not accepted"] if self.unposted else []
        parts += [f"{self.unjoined} rewards neither joined nor rejected"] if self.unjoined else []
        return ", ".join(parts) or "nothing is missing"


def reconcile(
    tally: Tally,
    *,
    exposures: Mapping[str, int],
    joined: int,
    rejected: Mapping[str, int],
) -> Account:
    """Compare the users' counts with the controller's.

    `exposures` are the controller's, by arm; `rejected` its events by reason. A duplicate exposure
    is rejected under the same word as a duplicate reward, so more rejections than rewards are
    missing is no loss.
    """
    differences = {
        arm: abs(exposures.get(arm, 0) - tally.answers[arm])
        for arm in sorted({*exposures, *tally.answers})
    }
    turned_away = sum(rejected.values())
    return Account(
        requests=tally.dropped + tally.unusable,
        exposures=differences,
        unposted=tally.outstanding + tally.refused,
        unjoined=max(0, tally.accepted - joined - turned_away),
    )
