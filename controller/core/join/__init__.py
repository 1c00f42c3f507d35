"""The reward joiner: which reward belongs to which exposure, and when that is final.

Exposures and rewards come as columns, one micro-batch per tick; closed exposures leave as columns,
`Outcomes`. An exposure is pending until no reward that is in time can still come: until the
*watermark*, clock - grace, reaches the end of its attribution window. What comes out is a function
of the set of events: their order within a micro-batch makes no difference, and neither does being
displaced by up to `grace` into later ones. Event times decide, never arrival.

    absorb   takes in a micro-batch: duplicates, late ones, what belongs together already
    close    gives the outcomes that are due, and refuses what waited in vain
    attach   what a reward does to its exposure, and to the root of the exposure's unit
    table    what is remembered between them; `snapshot`: the same as plain arrays
    store, index, calendar, chains   columns whose rows are used again; rows by key, by time; lists

Cost per event does not depend on how much is pending: every structure works in amortised constant
time per row, whole arrays at a time, and no Python object stands for an event.

Rejected: joining on arrival (a reward that travels faster than its exposure would be lost), one
database row per exposure (75 000 a second, a tenth of what is needed), a sort-merge join per tick
(its cost grows with all that is pending).
"""

from __future__ import annotations

from controller.core.join.absorb import absorb
from controller.core.join.close import close
from controller.core.join.rule import (
    Absorbed,
    Cause,
    JoinExposures,
    JoinRewards,
    JoinRule,
    Refused,
)
from controller.core.join.table import Table, new_rollout

__all__ = [
    "Absorbed",
    "Cause",
    "JoinExposures",
    "JoinRewards",
    "JoinRule",
    "Refused",
    "Table",
    "absorb",
    "close",
    "new_rollout",
]
