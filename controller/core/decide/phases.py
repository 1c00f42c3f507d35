"""The phases of a rollout: one table, from which the diagram in the docs is made.

A happening that the table does not know for a phase is illegal: it raises `InvariantError` and
changes nothing. Callers that carry an operator's wish ask `is_legal` first.

The four phases in which a stage runs have the same exits, so they are written once. `PAUSED` and
`HOLDING` go back to a stage by the same happenings by which a stage is entered; there is no memory
in the table. Rejected: a `resume` happening, whose target would depend on something off the table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from controller.core.model import Phase
from controller.errors import InvariantError


class Happening(StrEnum):
    """What moves a model from phase to phase."""

    ENTER_SHADOW = "enter_shadow"
    ENTER_CANARY = "enter_canary"
    ENTER_AB = "enter_ab"
    ENTER_THOMPSON = "enter_thompson"
    HOLD = "hold"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    SETTLE = "settle"
    REFUSE = "refuse"
    PAUSE = "pause"
    REST = "rest"
    UNDO = "undo"


ENTER: Final[dict[Literal["shadow", "canary", "ab", "thompson"], Happening]] = {
    "shadow": Happening.ENTER_SHADOW,
    "canary": Happening.ENTER_CANARY,
    "ab": Happening.ENTER_AB,
    "thompson": Happening.ENTER_THOMPSON,
}

ACTIVE: Final = frozenset({Phase.SHADOWING, Phase.RAMPING, Phase.TESTING, Phase.EXPLORING})
"""A stage runs: the stage's function is asked at each tick."""

IN_ROLLOUT: Final = ACTIVE | {Phase.HOLDING, Phase.PAUSED}
"""A candidate is being judged, even if nothing moves now."""

RESTING: Final = frozenset({Phase.IDLE, Phase.PROMOTED, Phase.ROLLED_BACK})
"""No candidate: the next one of the queue may start."""

_ENTRIES: Final = {
    Happening.ENTER_SHADOW: Phase.SHADOWING,
    Happening.ENTER_CANARY: Phase.RAMPING,
    Happening.ENTER_AB: Phase.TESTING,
    Happening.ENTER_THOMPSON: Phase.EXPLORING,
}
_EXITS: Final = {
    Happening.HOLD: Phase.HOLDING,
    Happening.PROMOTE: Phase.PROMOTING,
    Happening.ROLL_BACK: Phase.ROLLING_BACK,
    Happening.PAUSE: Phase.PAUSED,
}


def _table() -> dict[tuple[Phase, Happening], Phase]:
    table: dict[tuple[Phase, Happening], Phase] = {}
    for phase in (*ACTIVE, Phase.HOLDING, Phase.PAUSED):
        table |= {(phase, happening): target for happening, target in (_ENTRIES | _EXITS).items()}
    for phase in RESTING:
        table |= {(phase, happening): target for happening, target in _ENTRIES.items()}
        table[phase, Happening.REFUSE] = Phase.ROLLED_BACK
        table[phase, Happening.PAUSE] = Phase.PAUSED
        table[phase, Happening.UNDO] = Phase.ROLLING_BACK
    table[Phase.PAUSED, Happening.REST] = Phase.IDLE
    table[Phase.PROMOTING, Happening.SETTLE] = Phase.PROMOTED
    table[Phase.ROLLING_BACK, Happening.SETTLE] = Phase.ROLLED_BACK
    return table


TRANSITIONS: Final = _table()
"""(phase, happening) -> phase; what is missing is illegal."""


def is_legal(phase: Phase, happening: Happening) -> bool:
    """Whether `happening` may befall a model in `phase`."""
    return (phase, happening) in TRANSITIONS


def after(phase: Phase, happening: Happening) -> Phase:
    """The phase that follows.

    Raises:
        InvariantError: the happening is illegal in this phase.
    """
    target = TRANSITIONS.get((phase, happening))
    if target is None:
        raise InvariantError(f"{happening} is illegal in phase {phase}")
    return target
