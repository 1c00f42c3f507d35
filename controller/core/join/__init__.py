"""The reward joiner: which reward belongs to which exposure, and when that is final.

Exposures and rewards come as columns, one micro-batch per tick, and leave as columns: `Matured`
when time has passed an exposure that is analysed, `Events` when it has passed its first reward, and
`Outcomes` when it is closed. An exposure is pending until no reward that is in time can still come:
until the *watermark*, clock - grace, reaches the end of its attribution window. What comes out is a
function of the set of events: their order within a micro-batch makes no difference, and neither
does being displaced by up to `grace` into later ones. Event times decide, never arrival.

    absorb   takes in a micro-batch: duplicates, late ones, what belongs together already
    close    gives the outcomes that are due, and refuses what waited in vain
    settle   at the watermark: which exposures are analysed, and the first reward of each
    levels   with which of its exposures a unit enters the analysis, and enters again
    attach   what a reward does to its exposure; `refuse`: what could not be used, and why
    table    what is remembered between them; `snapshot`: the same as plain arrays
    store, index, calendar, chains   columns whose rows are used again; rows by key, by time; lists
    covariates   what is known of units beforehand

Cost per event does not depend on how much is pending: every structure works in amortised constant
time per row, whole arrays at a time, and no Python object stands for an event.

Rejected: joining on arrival (a reward that travels faster than its exposure would be lost), one
database row per exposure (75 000 a second, a tenth of what is needed), a sort-merge join per tick
(its cost grows with all that is pending).
"""

from __future__ import annotations

from controller.core.join.absorb import absorb
from controller.core.join.close import close
from controller.core.join.covariates import CovariateTable
from controller.core.join.levels import SPENT, levels
from controller.core.join.refuse import Cause, Dropped, Refused
from controller.core.join.rule import (
    Absorbed,
    Closed,
    Events,
    Joined,
    JoinExposures,
    JoinRewards,
    JoinRule,
    Matured,
)
from controller.core.join.table import Table, new_rollout

__all__ = [
    "SPENT",
    "Absorbed",
    "Cause",
    "Closed",
    "CovariateTable",
    "Dropped",
    "Events",
    "JoinExposures",
    "JoinRewards",
    "JoinRule",
    "Joined",
    "Matured",
    "Refused",
    "Table",
    "absorb",
    "close",
    "levels",
    "new_rollout",
]
