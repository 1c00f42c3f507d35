"""What a bandit knows: rewards by time of exposure, and from them the posterior of each arm.

Two things make the naive posterior (all rewards over all exposures) steer wrongly:

1. *Late labels.* An exposure without a reward is not a failure before its window is over. Young
   exposures count as F(age) of an exposure each, F being the distribution of delays: early
   successes S against sum F(age) (Vernade, Cappé, Perchet, arXiv:1706.09186, section 3). F is
   learnt from exposures that have closed: the delays of open ones are cut off on the right.
2. *Drift.* A bandit moves shares while the baseline moves, so an arm that got its traffic in good
   hours looks good (Simpson). Arms are compared within *blocks* of exposure time, see `contrast`.

A segment's prior is the pooled posterior: its means, worth what they are known to, but at most as
much as effects are alike across segments (`ALIKE`). A segment never seen gets the pooled answer.

Rejected: open exposures as failures (3 to 6 times the regret); one posterior of all rewards
(above); no pooling of segments (each would explore as if it were alone).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.core.estimate import contrast, posterior
from controller.core.estimate.contrast import Belief, Seen
from controller.core.estimate.posterior import Means
from controller.core.model import Float, Flow, Int

STRENGTH = 50.0
"""Outcomes of each arm that the prior is worth."""

ALIKE = 0.25
"""Standard deviation over segments of the relative effect, where the pooled one is known."""

MOST_ALIKE = 5_000.0
"""Outcomes that the pooled posterior is worth to a segment at most."""

PARTS = 16
"""Blocks in a half-life; cohorts in an attribution window."""

BLOCKS = 128
"""Blocks that are kept: eight half-lives; without one, they merge in pairs when there are more."""

LEARNT = 10_000.0
"""Delays that are remembered: older ones fade."""

_EDGES = (np.arange(33) / 32.0) ** 2
"""Ends of the bins of delays, as parts of the window; finer where most rewards come."""

_CLOSED = 3
_OPEN = 7


@dataclass(frozen=True, slots=True)
class Terms:
    """How rewards are read, and how long they count.

    is_binary      outcomes are `low` or `high` (or between): shares of 1; else they are amounts
    default        what an exposure without a reward is worth
    is_minimised   the best arm has the smallest mean
    window_s       attribution window
    half_life_s    of what was seen; None: nothing fades
    """

    is_binary: bool
    low: float
    high: float
    default: float
    window_s: float
    is_minimised: bool = False
    half_life_s: float | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rewards by exposure time, segment and arm; S segments (the first: none), A arms.

    Values are differences from the default, in units of the range for coins.

    prior_mean    from the champion's past; of coins as a share of the range
    prior_var     variance of outcomes, from the champion's past; NaN: unknown
    width_s       of a block; the block of a time is floor(time / width)
    block         (B,) int64, rising
    closed        (B, S, A, 3) float64: outcomes, their sum, sum of squares
    cohort        (L,) int64, rising: open exposures by floor(time / cohort width)
    open          (L, S, A, 7) float64: units, units with an early reward, sum, sum of squares of
                  early rewards, then the three of `closed` for those that closed already
    open_time     (L,) float64, sum of the units' exposure times since the cohort's begin
    open_delays   (L, D) float64, early rewards by delay
    delays        (D,) float64, rewards of closed cohorts by delay
    now           everything up to this time is known
    """

    terms: Terms
    prior_mean: float
    prior_var: float
    width_s: float
    block: Int
    closed: Float
    cohort: Int
    open: Float
    open_time: Float
    open_delays: Float
    delays: Float
    now: float


def start(terms: Terms, history: tuple[float, float, float], *, candidates: int = 1) -> Blocks:
    """Nothing seen; `history` is (n, sum, sum of squares) of the champion's past outcomes, raw."""
    n, total, square = history
    scale = terms.high - terms.low if terms.is_binary else 1.0
    arms, bins = 1 + candidates, len(_EDGES) - 1
    if terms.is_binary:
        mean = (0.5 + (total - n * terms.low) / scale) / (n + 1.0)  # Jeffreys
    else:
        mean = total / n - terms.default if n > 0.0 else 0.0
    variance = (square - total * total / n) / n / scale**2 if n > 1.0 else np.nan
    width = terms.half_life_s if terms.half_life_s is not None else terms.window_s
    return Blocks(
        terms=terms,
        prior_mean=mean,
        prior_var=max(variance, 0.0),
        width_s=width / PARTS,
        block=np.zeros(0, np.int64),
        closed=np.zeros((0, 1, arms, _CLOSED)),
        cohort=np.zeros(0, np.int64),
        open=np.zeros((0, 1, arms, _OPEN)),
        open_time=np.zeros(0),
        open_delays=np.zeros((0, bins)),
        delays=np.diff(_EDGES),
        now=-np.inf,
    )


def with_arm(blocks: Blocks) -> Blocks:
    """One more candidate joins, without outcomes."""
    one = ((0, 0), (0, 0), (0, 1), (0, 0))
    return replace(blocks, closed=np.pad(blocks.closed, one), open=np.pad(blocks.open, one))


# --- what comes in --------------------------------------------------------------------------------


def observe(blocks: Blocks, flow: Flow, now: float) -> Blocks:
    """Add what became of units; `now` is the watermark: all events up to it are in."""
    blocks = replace(blocks, now=max(blocks.now, now))
    if len(flow.time):
        blocks = _add(_with_room(blocks, flow), flow)
    return _close(blocks)


def _cohort_width(blocks: Blocks) -> float:
    return blocks.terms.window_s / PARTS


def _with_room(blocks: Blocks, flow: Flow) -> Blocks:
    """The same with cohorts and segments for all rows of the flow."""
    missing = int(flow.segment.max()) + 2 - blocks.open.shape[1]
    if missing > 0:
        more = ((0, 0), (0, missing), (0, 0), (0, 0))
        blocks = replace(blocks, closed=np.pad(blocks.closed, more), open=np.pad(blocks.open, more))
    cohorts = np.floor(flow.time / _cohort_width(blocks)).astype(np.int64)
    at = np.searchsorted(blocks.cohort, cohorts)
    new = np.append(blocks.cohort, -1)[at] != cohorts
    if not new.any():
        return blocks
    new = np.unique(cohorts[new])
    at = np.searchsorted(blocks.cohort, new)
    return replace(
        blocks,
        cohort=np.insert(blocks.cohort, at, new),
        open=np.insert(blocks.open, at, 0.0, axis=0),
        open_time=np.insert(blocks.open_time, at, 0.0),
        open_delays=np.insert(blocks.open_delays, at, 0.0, axis=0),
    )


def _add(blocks: Blocks, flow: Flow) -> Blocks:
    width = _cohort_width(blocks)
    cohort = np.floor(flow.time / width).astype(np.int64)
    row = np.searchsorted(blocks.cohort, cohort)
    _, segments, arms, columns = blocks.open.shape
    cell = (row * segments + flow.segment + 1) * arms + flow.arm
    cells = (cell[:, np.newaxis] * columns + np.arange(columns)).ravel()
    added = np.bincount(cells, _columns(blocks.terms, flow).ravel(), blocks.open.size)
    since = flow.matured * (flow.time - cohort * width)
    events = np.flatnonzero(flow.events > 0.0)
    bins = blocks.open_delays.shape[1]
    part = delay_bins(flow.delay[events], blocks.terms.window_s)
    delays = np.bincount(row[events] * bins + part, flow.events[events], len(blocks.cohort) * bins)
    return replace(
        blocks,
        open=blocks.open + added.reshape(blocks.open.shape),
        open_time=blocks.open_time + np.bincount(row, since, len(blocks.cohort)),
        open_delays=blocks.open_delays + delays.reshape(blocks.open_delays.shape),
    )


def delay_bins(delay: Float, window_s: float) -> Int:
    """The bin of each delay: delays in one bin are told apart by nothing here."""
    bins: Int = np.searchsorted(_EDGES[1:-1], delay / window_s)
    return bins


def _columns(terms: Terms, flow: Flow) -> Float:
    """The columns of `Blocks.open`, (m, 7)."""
    scale = terms.high - terms.low if terms.is_binary else 1.0
    default = terms.default
    early = (flow.event_value - default * flow.events) / scale
    per_event = np.divide(early, flow.events, out=np.zeros_like(early), where=flow.events > 0.0)
    value = (flow.value - default * flow.closed) / scale
    square = flow.square - 2.0 * default * flow.value + default**2 * flow.closed
    square = square / scale**2
    return np.column_stack(
        [flow.matured, flow.events, early, early * per_event, flow.closed, value, square]
    )


def _close(blocks: Blocks) -> Blocks:
    """Move cohorts of which all units have closed to their block; forget blocks that are old."""
    ends = (blocks.cohort + 1) * _cohort_width(blocks)
    units = blocks.open.sum(axis=(1, 2))
    complete = (units[:, 4] >= units[:, 0] - 1e-6) | (
        ends + 2.0 * blocks.terms.window_s < blocks.now
    )
    over = complete & (ends <= blocks.now)
    if not over.any():
        return blocks
    delays = blocks.delays + blocks.open_delays[over].sum(axis=0)
    middle = (blocks.cohort[over] + 0.5) * _cohort_width(blocks)
    number = np.floor(middle / blocks.width_s).astype(np.int64)
    blocks = _merged(blocks, number, blocks.open[over, :, :, 4:])
    return replace(
        blocks,
        cohort=blocks.cohort[~over],
        open=blocks.open[~over],
        open_time=blocks.open_time[~over],
        open_delays=blocks.open_delays[~over],
        delays=delays * min(1.0, LEARNT / float(delays.sum())),
    )


def _merged(blocks: Blocks, number: Int, closed: Float) -> Blocks:
    """The same with more closed outcomes in blocks of these numbers, and at most BLOCKS blocks."""
    number = np.concatenate([blocks.block, number])
    closed = np.concatenate([blocks.closed, closed])
    width = blocks.width_s
    if blocks.terms.half_life_s is not None:
        young = number > number.max() - BLOCKS
        number, closed = number[young], closed[young]
    block, row = np.unique(number, return_inverse=True)
    while len(block) > BLOCKS:
        number, width = number >> 1, 2.0 * width
        block, row = np.unique(number, return_inverse=True)
    summed = np.zeros((len(block), *closed.shape[1:]))
    np.add.at(summed, row, closed)
    return replace(blocks, block=block, closed=summed, width_s=width)


# --- what it says ---------------------------------------------------------------------------------


def best(blocks: Blocks, clock: float, segment: int | None = None) -> tuple[float, ...]:
    """The probability of each arm to be best, the champion first, for a segment or for all."""
    return _p_best(blocks, posteriors(blocks, clock, segment))


def best_by_segment(blocks: Blocks, clock: float) -> tuple[tuple[float, ...], ...]:
    """`best` of each segment that was seen, from 0: what is known of all is worked out once."""
    pooled = _pooled(blocks, clock)
    segments = range(blocks.open.shape[1] - 1)
    return tuple(_p_best(blocks, _own(blocks, clock, pooled, s)) for s in segments)


def _p_best(blocks: Blocks, arms: Means) -> tuple[float, ...]:
    if blocks.terms.is_minimised:
        arms = posterior.mirrored(arms)
    return tuple(posterior.p_best(arms).tolist())


def odds(blocks: Blocks, clock: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`best` for all, and what promoting each candidate loses on average, at one price.

    Losses are relative to the champion's mean; infinite where that is 0.
    """
    terms = blocks.terms
    arms = posteriors(blocks, clock)
    nothing = terms.low / (terms.high - terms.low) if terms.is_binary else terms.default
    level = abs(float(posterior.mean(arms)[0]) + nothing)
    if terms.is_minimised:
        arms = posterior.mirrored(arms)
    p_best, lost = posterior.compare(arms)
    relative = lost[1:] / level if level > 0.0 else np.full(len(lost) - 1, np.inf)
    return tuple(p_best.tolist()), tuple(relative.tolist())


def loss(blocks: Blocks, clock: float, candidate: int) -> float:
    """What promoting a candidate loses on average, relative to the champion's mean."""
    return odds(blocks, clock)[1][candidate]


def posteriors(blocks: Blocks, clock: float, segment: int | None = None) -> Means:
    """Of the arms' means, the champion's first, for a segment or for all.

    The means are shares of the range for coins, differences from the default for amounts.
    """
    pooled = _pooled(blocks, clock)
    return pooled[0] if segment is None else _own(blocks, clock, pooled, segment)


def _pooled(blocks: Blocks, clock: float) -> tuple[Means, Belief]:
    arms = blocks.open.shape[2]
    prior = Belief(
        mean=np.full(arms, blocks.prior_mean),
        worth=np.full(arms, STRENGTH),
        variance=blocks.prior_var,
    )
    return _fit(blocks.terms, _seen(blocks, clock, None), prior)


def _own(blocks: Blocks, clock: float, pooled: tuple[Means, Belief], segment: int) -> Means:
    """A segment's posterior; the pooled one where it was never seen."""
    if 1 + segment >= blocks.open.shape[1]:
        return pooled[0]
    prior = _alike(blocks.terms, pooled[1])
    return _fit(blocks.terms, _seen(blocks, clock, 1 + segment), prior)[0]


def _fit(terms: Terms, seen: Seen, prior: Belief) -> tuple[Means, Belief]:
    if not terms.is_binary:
        return contrast.amounts(seen, prior)
    nothing = (terms.default - terms.low) / (terms.high - terms.low)
    return contrast.coins(seen, prior, nothing)


def _seen(blocks: Blocks, clock: float, slot: int | None) -> Seen:
    if slot is None:
        closed, young = blocks.closed.sum(axis=1), blocks.open[..., [0, 2, 3]].sum(axis=1)
    else:
        closed, young = blocks.closed[:, slot], blocks.open[:, slot][..., [0, 2, 3]]
    young[..., 0] *= _known(blocks)[:, np.newaxis]
    closed_left = _left(blocks, clock, blocks.block, blocks.width_s)
    young_left = _left(blocks, clock, blocks.cohort, _cohort_width(blocks))
    return Seen(
        closed=closed * closed_left[:, np.newaxis, np.newaxis],
        young=young * young_left[:, np.newaxis, np.newaxis],
        closed_left=closed_left,
        young_left=young_left,
    )


def _left(blocks: Blocks, clock: float, number: Int, width_s: float) -> Float:
    """What the half-life leaves of blocks with these numbers."""
    age_s = clock - (number.astype(np.float64) + 0.5) * width_s
    half_life = blocks.terms.half_life_s
    if half_life is None:
        return np.ones_like(age_s)
    left: Float = np.exp2(-np.maximum(age_s, 0.0) / half_life)
    return left


def _known(blocks: Blocks) -> Float:
    """F(age) of the units of each cohort, on average, (L,).

    They are taken to be spread evenly around their mean age, as far as the cohort's ends allow.
    """
    units = blocks.open[..., 0].sum(axis=(1, 2))
    width = _cohort_width(blocks)
    since = np.divide(blocks.open_time, units, out=np.zeros_like(units), where=units > 0.0)
    age = blocks.now - blocks.cohort * width - since
    spread = np.maximum(np.minimum(np.minimum(since, width - since), age), 1e-3 * width)
    window = blocks.terms.window_s
    older, younger = _integral(blocks.delays, np.stack([age + spread, age - spread]) / window)
    known: Float = (older - younger) * window / (2.0 * spread)
    return known


def _integral(delays: Float, age: Float) -> Float:
    """The integral from 0 to `age`, in windows, of F; which is linear in each bin, then 1."""
    age = np.maximum(age, 0.0)
    widths = np.diff(_EDGES)
    mass = delays / delays.sum()
    below = np.cumsum(mass) - mass
    before = np.cumsum((below + 0.5 * mass) * widths)
    before = np.concatenate([[0.0], before])
    i = np.minimum(np.searchsorted(_EDGES, age, side="right") - 1, len(mass) - 1)
    inside = np.minimum(age, 1.0) - _EDGES[i]
    within = below[i] * inside + 0.5 * mass[i] / widths[i] * inside**2
    total: Float = before[i] + within + np.maximum(age - 1.0, 0.0)
    return total


def _alike(terms: Terms, pooled: Belief) -> Belief:
    """A segment's prior: the pooled means, worth at most what effects are alike over segments."""
    level = float(pooled.mean.mean()) + (0.0 if terms.is_binary else terms.default)
    if terms.is_binary:
        level = min(level, 1.0 - level)
    most = min(pooled.variance / max(level * level, 1e-300) / ALIKE**2, MOST_ALIKE)
    return replace(pooled, worth=1.0 / (1.0 / pooled.worth + 1.0 / max(most, STRENGTH)))
