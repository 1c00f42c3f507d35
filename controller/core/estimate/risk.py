"""The fast path for late labels: an anytime-valid log-rank test on first rewards as they come.

The closed prefix waits for the whole window; here each first reward (an *event*) is scored at
once, against the units that could have had it. In a set of units with Y0 of the champion and Y1 of
the candidate that still had no event, the arm of the next event is, if the candidate's hazard is
theta times the champion's, the candidate with probability

    q_theta = theta Y1 / (theta Y1 + Y0),      e = q_theta / q_1, or (1 - q_theta) / (1 - q_1)

ter Schure, Pérez-Ortiz, Ly, Grünwald, arXiv:2011.06931, section 2. The null is "the candidate's
hazard is nowhere lower than the champion's" (nowhere higher where the reward is minimised, for
then an event is bad). It may roll back; it never promotes, because it cannot tell a candidate
whose rewards come later from one whose rewards do not come.

*Whom a unit is compared with* decides whether this is exact. Arms are drawn at random, so under the
null the arms of the units of one stratum say nothing of when their events come: given how many of
each arm are at risk, every unit of the set is equally likely to be of the candidate. But if units
keep entering a set, the counts tell more of the young than of the old, whose hazards differ; a
test that ignores it is too bold by a factor of 1 / (1 - rate) in the variance. So units enter in
*cohorts*: consecutive exposures, of all strata, until they are a sixty-fourth of all units at
risk. Events of a cohort that still fills are kept, as are those who leave it without; they count
when it is full, the events against all that entered. A set is the units of one stratum in one
cohort; within it ages do not matter at all.

Invariant: given everything scored before, the mean of each e is at most 1 under the null. Several
events of one set in one micro-batch are all scored with the counts at its start (Breslow). That
is conservative: of d events those of the candidate are hypergeometric, D1, where the bets suppose
them binomial; e = theta^D1 times a constant is convex in D1; and the hypergeometric is below the
binomial in convex order (Hoeffding 1963, theorem 4), so the mean of e is lower still.

Sets are dropped when all of their exposures have closed, or nobody is left in them: cost and
size follow what is open, not the length of the history.

Late regressions are found by the mixture of `restart`: bets start anew at each ramp step, and as
the units that are done with grow.

Rejected: an event against the units of its whole stratum (too bold, above); events against the
propensity alone (exact as well, but it wastes the factor above in sample); the ratio of rewards to
exposures (a ramp makes -27 to -42 % of nothing at all).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.core.estimate import book, restart
from controller.core.estimate.restart import Wealth
from controller.core.model import Bool, Float, Flow, Int, evolved

COHORTS = 64
"""A cohort is full when it holds this part of all units at risk: so long do its events wait."""

SMALLEST = 64.0
"""Units that a cohort holds at least: in a set of n units 1/n of the information is lost."""

_STRATUM_BITS = 32


@dataclass(frozen=True)
class Risk:
    """Units at risk and the wealth of the bets; C candidates, K bets, S sets, in order of `key`.

    key            (S,) int64, cohort * 2^32 + stratum, rising; the last cohort may be filling
    units          (S, 1 + C, 3) float64, the champion's first: units at risk; of these, those with
                   an event that is not scored yet, and those who lapsed and are not taken out yet
    ends           (M,) float64, latest exposure time in each full cohort from `first` on
    first, cohort  numbers of the oldest cohort that is kept, and of the one that fills
    filled         units in the cohort that fills
    latest         latest exposure time seen
    wealth         of the bets; its trials are units that left a set in which arms are compared
    log_thetas, log_weights  (K,) float64, the bets
    """

    key: Int
    units: Float
    ends: Float
    first: int
    cohort: int
    filled: float
    latest: float
    wealth: Wealth
    log_thetas: Float
    log_weights: Float


def start(candidates: int, min_effect: float | None, *, is_minimised: bool = False) -> Risk:
    """Nobody at risk, nothing known."""
    bets = book.bind((book.harm(min_effect, 0.0, -1 if is_minimised else 1),))
    return Risk(
        key=np.zeros(0, np.int64),
        units=np.zeros((0, 1 + candidates, 3)),
        ends=np.zeros(0),
        first=0,
        cohort=0,
        filled=0.0,
        latest=-np.inf,
        wealth=restart.start(bets, candidates),
        log_thetas=np.log(bets.slope),
        log_weights=bets.log_weights,
    )


def with_candidate(risk: Risk) -> Risk:
    """One more candidate joins; its e-value starts at 1."""
    bets = len(risk.log_thetas)
    return evolved(
        risk,
        units=np.pad(risk.units, ((0, 0), (0, 1), (0, 0))),
        wealth=restart.joined(risk.wealth, restart.fresh(bets, 1, restarted=bets)),
    )


def new_step(risk: Risk) -> Risk:
    """Place one more stake on each candidate: a ramp step or a stage begins."""
    return evolved(risk, wealth=restart.stepped(risk.wealth))


def observe(risk: Risk, flow: Flow) -> Risk:
    """Let the units of a micro-batch enter, score its events, let units leave: in this order."""
    return _forget(_score(_fill(_add(risk, flow), flow)), flow)


def log_harm(risk: Risk) -> Float:
    """Log e-values against "not worse", of the restart mixture, (C,)."""
    return restart.mixed(risk.log_weights, risk.wealth)


def _add(risk: Risk, flow: Flow) -> Risk:
    """Note who entered, had an event or lapsed; rows of forgotten sets say nothing more."""
    cohort = risk.first + risk.ends.searchsorted(flow.time)
    is_new = (flow.matured > 0.0) & (flow.stratum >= 0)
    cohort[is_new] = risk.cohort
    key = (cohort << _STRATUM_BITS) + flow.stratum
    risk = _with_sets(risk, flow.stratum[is_new])
    if not len(risk.key):
        return risk
    row = risk.key.searchsorted(key)
    known = risk.key.take(row, mode="clip") == key
    cell = row * risk.units.shape[1] + flow.arm
    columns = [flow.matured, flow.events, flow.lapsed]
    if np.count_nonzero(known) < len(known):
        cell, columns = cell[known], [column[known] for column in columns]
    # One count per column: a tenth of what one count over cells of all three takes.
    counts = [np.bincount(cell, column, risk.units[..., 0].size) for column in columns]
    return evolved(risk, units=risk.units + np.array(counts).T.reshape(risk.units.shape))


def _with_sets(risk: Risk, strata: Int) -> Risk:
    """The same with an empty set for each of the strata that the cohort that fills has not yet."""
    filling = risk.key[_full(risk) :]
    keys = (risk.cohort << _STRATUM_BITS) + strata
    others = keys[1:][keys[1:] != keys[:-1]]  # they come in long runs
    wanted = {*keys[:1].tolist(), *others.tolist()}.difference(filling.tolist())
    if not wanted:
        return risk
    new = np.array(sorted(wanted), np.int64)
    key = np.concatenate([risk.key, new])
    units = np.concatenate([risk.units, np.zeros((len(new), *risk.units.shape[1:]))])
    if len(filling):
        order = key.argsort()
        key, units = key[order], units[order]
    return evolved(risk, key=key, units=units)


def _full(risk: Risk) -> int:
    """How many sets are closed for entry."""
    return int(risk.key.searchsorted(risk.cohort << _STRATUM_BITS))


def _fill(risk: Risk, flow: Flow) -> Risk:
    """Close the cohort that fills when it is large enough."""
    entered = flow.matured.nonzero()[0]
    if not len(entered):
        return risk
    filled = risk.filled + float(flow.matured.sum())
    times = flow.time[entered]
    latest = max(risk.latest, float(times[times.argmax()]))
    if filled < SMALLEST or filled < float(risk.units[..., 0].sum()) / COHORTS:
        return evolved(risk, filled=filled, latest=latest)
    ends, cohort = np.append(risk.ends, latest), risk.cohort + 1
    return evolved(risk, ends=ends, cohort=cohort, filled=0.0, latest=latest)


def _score(risk: Risk) -> Risk:
    """Bet on the events of sets that are closed for entry, then take out all who are to leave."""
    full = risk.units[: _full(risk)]
    leaving = full[..., 1] + full[..., 2]
    rows = np.logical_or.reduce(leaving, axis=1).nonzero()[0]
    if not len(rows):
        return risk
    full, gone = full[rows], leaving[rows]
    at_risk = full[..., 0]
    gain, compared = _gain(risk.log_thetas, at_risk, full[..., 1])
    trials = ((gone[:, :1] + gone[:, 1:]) * compared).sum(axis=0)
    units = risk.units.copy()
    units[rows] = 0.0
    units[rows, :, 0] = np.maximum(at_risk - gone, 0.0)
    return evolved(risk, units=units, wealth=restart.earned(risk.wealth, gain, trials))


def _gain(log_thetas: Float, at_risk: Float, events: Float) -> tuple[Float, Bool]:
    """What bets gain on events of sets (E, 1 + C), (C, K); and which sets compare whom, (E, C).

    log e = d1 log(theta) - (d0 + d1) log(1 + (theta - 1) q), with q = Y1 / (Y0 + Y1); nothing is
    known from a set without both arms.
    """
    Y0, Y1, d0, d1 = at_risk[:, :1], at_risk[:, 1:], events[:, :1], events[:, 1:]
    compared = (Y0 > 0.0) & (Y1 > 0.0)
    q = np.divide(Y1, Y0 + Y1, out=np.zeros(Y1.shape), where=compared)
    spent = np.log1p(np.expm1(log_thetas) * q[:, :, np.newaxis])
    spent *= ((d0 + d1) * compared)[:, :, np.newaxis]
    worth = (d1 * compared).sum(axis=0)
    gain: Float = worth[:, np.newaxis] * log_thetas - spent.sum(axis=0)
    return gain, compared


def _forget(risk: Risk, flow: Flow) -> Risk:
    """Without sets that have nobody left, or whose exposures have all closed."""
    closed = flow.closed.nonzero()[0]
    over = flow.time[closed]
    ended = int(risk.ends.searchsorted(over[over.argmax()])) if len(over) else 0
    first = risk.first + ended
    kept = (risk.key >= first << _STRATUM_BITS) & risk.units[..., 0].any(axis=1)
    if np.count_nonzero(kept) == len(kept):
        return evolved(risk, ends=risk.ends[ended:], first=first) if ended else risk
    units = risk.units[kept]
    return evolved(risk, key=risk.key[kept], units=units, ends=risk.ends[ended:], first=first)
