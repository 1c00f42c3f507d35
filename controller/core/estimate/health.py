"""Can the data be trusted: did the arms get the traffic that the splits say?

If exposures of one arm are lost, or the router does not do what it was told, what is seen is no
longer a random sample and every comparison is worthless, however significant. So the arm itself
is tested: given its propensity pi it is a coin, and a gambler bets that its odds are really m times
pi / (1 - pi), for a mixture of multipliers m. The wealth is an e-process against "pi is right",
valid at every look and under any change of weights. A threshold of 10^4 lets a sound
experiment be held once in ten thousand; 51/49 instead of 50/50 is found in some 60 000 units.

A large value holds a rollout and is shown; it never rolls back, for it does not say which arm
suffers.

Rejected: a chi-square test at each look (false alarms without end), one test per epoch (an epoch
of a bandit is too short to show anything).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controller.core.estimate.sequential import Wealth
from controller.core.model import Cell

LOG_THRESHOLD = float(np.log(1e4))
"""The log e-value from which the sample ratio counts as wrong."""

_STEPS = np.array([0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2])
_ODDS = np.exp(np.concatenate([-_STEPS, _STEPS]))


def start() -> Wealth:
    """Every bet begins with 1."""
    return Wealth(log_wealth=np.zeros(len(_ODDS)))


def update(wealth: Wealth, cells: Sequence[Cell]) -> Wealth:
    """The wealth after counts of units n0 and n1 at each pi; cells without a coin are left out."""
    log_wealth = wealth.log_wealth
    for cell in cells:
        if not 0.0 < cell.pi < 1.0:
            continue
        # p' = m pi / (1 - pi + m pi), so p' / pi = m / c and (1 - p') / (1 - pi) = 1 / c
        scale = np.log1p(cell.pi * (_ODDS - 1.0))
        log_wealth = log_wealth + cell.n1 * (np.log(_ODDS) - scale) - cell.n0 * scale
    return Wealth(log_wealth=log_wealth)


def log_sample_ratio(wealth: Wealth) -> float:
    """The natural logarithm of the e-value against the known propensities."""
    return float(np.logaddexp.reduce(wealth.log_wealth) - np.log(len(_ODDS)))
