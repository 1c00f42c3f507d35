"""Can the data be trusted: did the arms get the traffic that the splits say, do rewards come?

If exposures of one arm are lost, or the router does not do what it was told, what is seen is no
longer a random sample and every comparison is worthless, however significant. So the arm itself
is tested: given its propensity pi it is a coin, and a gambler bets that its odds are really m times
pi / (1 - pi), for a mixture of multipliers m. The wealth is an e-process against "pi is right",
valid at every look and under any change of weights. A threshold of 10^4 lets a sound
experiment be held once in ten thousand. The test is kept three times: on exposures, on closed
outcomes, on dropped events.

The multipliers are dense and heavy near 1, because a small mismatch is what takes long to find:
one of 4 % (51/49 where 50/50 was wanted) is found in some 49 000 units, where a gambler who knew
its size beforehand would need 45 500. A large one is found at once whatever its weight.

`JoinRate` asks whether rewards still come at all: the share of outcomes with a reward, now
against its own history.

Large values hold a rollout and are shown; they never roll back, for they do not say which arm
suffers.

Rejected: a chi-square test at each look (false alarms without end), one test per epoch (an epoch
of a bandit is too short to show anything), a Dirichlet prior on the shares (it has one centre;
propensities change with every epoch, multipliers of the odds mean the same in each).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from controller.core.estimate import restart
from controller.core.estimate.restart import Wealth
from controller.core.model import Cells, Float, evolved, quick

LOG_THRESHOLD = float(np.log(1e4))
"""The log e-value from which the sample ratio counts as wrong."""

_STEPS = np.array([0.01, 0.02, 0.03, 0.04, 0.055, 0.08, 0.12, 0.2, 0.35, 0.6, 1.2, 2.5])
_STEP_WEIGHTS = np.array([0.02, 0.05, 0.2, 0.35, 0.15, 0.05, 0.05, 0.04, 0.03, 0.02, 0.02, 0.02])
_LOG_ODDS = np.concatenate([-_STEPS, _STEPS])
_ODDS_LESS_ONE = np.expm1(_LOG_ODDS)
_LOG_WEIGHTS = np.log(np.tile(_STEP_WEIGHTS / (2.0 * _STEP_WEIGHTS.sum()), 2))

KEPT = 0.9
"""The part of the stake that is in from the first unit on; the rest finds a loss that begins later,
which must not look like harm meanwhile: the tests of harm begin again, too."""


@quick
@dataclass(frozen=True)
class SampleRatio:
    """What each multiplier's bet made of 1, per candidate.

    log_e  (C,) float64, of all of them together: worked out when units come, read at every tick
    """

    wealth: Wealth
    log_e: Float


def start(candidates: int = 1) -> SampleRatio:
    """Every bet begins with 1."""
    bets = len(_LOG_ODDS)
    return _with(restart.fresh(bets, candidates, restarted=bets))


def _with(wealth: Wealth) -> SampleRatio:
    return SampleRatio(wealth, restart.mixed(_LOG_WEIGHTS, wealth, KEPT))


def with_candidate(ratio: SampleRatio) -> SampleRatio:
    """One more candidate joins."""
    return _with(restart.joined(ratio.wealth, start().wealth))


def update(ratio: SampleRatio, cells: Cells) -> SampleRatio:
    """The wealth after counts n0 and n1 at each pi; cells without a coin are left out."""
    candidate, pi, n1, n = cells.candidate, cells.pi, cells.n1, cells.n0 + cells.n1
    coins = (pi > 0.0) & (pi < 1.0)
    if np.count_nonzero(coins) < len(coins):
        candidate, pi, n1, n = candidate[coins], pi[coins], n1[coins], n[coins]
    # p' = m pi / (1 - pi + m pi), so p' / pi = m / c and (1 - p') / (1 - pi) = 1 / c
    c = np.log1p(pi[:, np.newaxis] * _ODDS_LESS_ONE)
    gain = n1[:, np.newaxis] * _LOG_ODDS - n[:, np.newaxis] * c
    every = list(range(len(ratio.wealth.trials)))
    if candidate.tolist() != every:  # else each has one cell, as where all are of one stratum
        own = (np.array(every)[:, np.newaxis] == candidate).astype(np.float64)
        gain, n = own @ gain, own @ n
    return _with(restart.earned(ratio.wealth, gain, n))


def log_sample_ratio(ratio: SampleRatio) -> Float:
    """Log e-values against the known propensities, (C,)."""
    return ratio.log_e


# --- do rewards come ------------------------------------------------------------------------------

RECENT = 100.0
"""Rewards that the recent past holds: so many outcomes that this many would be joined."""

LEAST_RECENT, MOST_RECENT = 200.0, 1e6
"""Bounds of the outcomes that the recent past holds."""

HISTORY = 100.0
"""The history's memory, in recent pasts."""

BEFORE = 20.0
"""Rewards in the history without which nothing is said."""

AGAIN = 50.0
"""Rewards in the recent past without which a fall is not over."""

LOG_SURPRISE = float(np.log(1e6))
"""Log likelihood ratio from which a fall is called."""

_FALLS = (0.02, 0.3, 0.6, 0.8)
"""Rates that are looked for, as parts of the least that is allowed."""


@quick
@dataclass(frozen=True)
class JoinRate:
    """The share of closed outcomes to which a reward was joined, of late and before that.

    recent_n, recent_joined    outcomes and joined ones, fading out
    history_n, history_joined  the same of what has faded out of the recent past, fading slowly
    evidence   per rate that is looked for, the log likelihood ratio of the stretch that speaks for
               it most, up to now
    is_fallen  as of the last update; the history stands still meanwhile
    """

    recent_n: float = 0.0
    recent_joined: float = 0.0
    history_n: float = 0.0
    history_joined: float = 0.0
    evidence: tuple[float, ...] = (0.0,) * len(_FALLS)
    is_fallen: bool = False


@dataclass(frozen=True, slots=True)
class JoinFall:
    """Rewards fail to come: the share of outcomes with one now, and before."""

    now: float
    before: float


def update_join_rate(rate: JoinRate, outcomes: float, joined: float, *, least: float) -> JoinRate:
    """Add closed outcomes, `joined` of them with a reward; see `fell` for `least`.

    What fades out of the recent past becomes history, unless the rate is fallen: an outage must
    not become what is normal.
    """
    if outcomes <= 0.0:
        return rate
    memory = _memory(rate)
    stays = math.exp(-outcomes / memory)
    recent_n = stays * rate.recent_n + outcomes
    recent_joined = stays * rate.recent_joined + joined
    if rate.is_fallen:
        after = evolved(rate, recent_n=recent_n, recent_joined=recent_joined)
        return _recovered(after, least)
    left, left_joined = (1.0 - stays) * rate.recent_n, (1.0 - stays) * rate.recent_joined
    kept = math.exp(-left / (HISTORY * memory))
    after = JoinRate(
        recent_n=recent_n,
        recent_joined=recent_joined,
        history_n=kept * rate.history_n + left,
        history_joined=kept * rate.history_joined + left_joined,
        evidence=_evidence(rate, outcomes, joined, least),
    )
    if max(after.evidence) < LOG_SURPRISE:
        return after
    # Of the recent past most lies before the fall: whether it is over is asked of what follows.
    return evolved(after, recent_n=outcomes, recent_joined=joined, is_fallen=True)


def _recovered(rate: JoinRate, least: float) -> JoinRate:
    """The rate that was fallen, and no longer is where enough rewards have come back."""
    is_back = rate.recent_joined >= max(AGAIN, _line(rate, least) * rate.recent_n)
    return evolved(rate, evidence=(0.0,) * len(_FALLS), is_fallen=False) if is_back else rate


def fell(rate: JoinRate) -> JoinFall | None:
    """The fall of the join rate to less than `least` times what it was before, if there is one.

    It is called by Page's CUSUM (Biometrika 41, 1954): for each of a few rates below the line p,
    `least` times the history, the log likelihood ratio against p is added up and never let below
    0, so that it begins anew whenever nothing speaks for a fall. From 0 it reaches log 10^6 by
    chance about once in 10^6 outcomes if the rate is p itself (Lorden, Ann. Math. Stat. 42, 1971),
    and practically never at the rates above it that are normal. It ends when the recent rate is
    no longer below the line.
    """
    if not rate.is_fallen:
        return None
    return JoinFall(
        now=rate.recent_joined / rate.recent_n, before=rate.history_joined / rate.history_n
    )


def _memory(rate: JoinRate) -> float:
    """How many outcomes the recent past holds."""
    n = rate.history_n + rate.recent_n
    share = (rate.history_joined + rate.recent_joined) / n if n > 0.0 else 1.0
    return min(max(RECENT / max(share, 1e-9), LEAST_RECENT), MOST_RECENT)


def _line(rate: JoinRate, least: float) -> float:
    """The least rate that is allowed; 0 while there is too little history."""
    if rate.history_joined < BEFORE:
        return 0.0
    return min(least * rate.history_joined / rate.history_n, 1.0 - 1e-9)


def _evidence(rate: JoinRate, outcomes: float, joined: float, least: float) -> tuple[float, ...]:
    p = _line(rate, least)
    if p <= 0.0:
        return rate.evidence
    stood, lost = math.log1p(-p), outcomes - joined
    return tuple(
        max(0.0, known + joined * math.log(fall) + lost * (math.log1p(-fall * p) - stood))
        for fall, known in zip(_FALLS, rate.evidence, strict=True)
    )
