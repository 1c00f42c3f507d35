"""A world's counts: what a joiner would count of its events, drawn without making them.

Where requests are independent and a reward is yes or no, the counts that the engine feeds on have
a closed law, and a tick costs the same for ten requests and for ten million.

A *cohort* is what one arm answered within one piece of one tick. Ticks come every h seconds, so
watermarks (tick - grace) and closings (watermark - window) cut each tick at the same places; the
pieces between these cuts are matured, and closed, as a whole:

    exposures        Poisson(volume of the piece x share of the arm)
    errors           binomial
    rewards          binomial(answered, rate), then multinomial over the ticks at which the
                     watermark reaches them:
                     P(j) = mean over u in the piece of F(j h - g - u) - F((j - 1) h - g - u)

with F the law of the delay, cut at the window. Between two cuts F is smooth in u, so Gauss-Legendre
quadrature is exact to rounding. What is idealised: within a piece traffic is uniform and the base
rate is that of its middle; the mean delay of a cell is its expectation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from controller.core.model import BASIS, Float, Int, Split, Tallies
from controller.sim.truth import DelayLaw, Truth

_GAUSS, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_U, _W = (_GAUSS + 1.0) / 2.0, _WEIGHTS / 2.0
"""Nodes and weights on (0, 1)."""

_ALMOST = 1e-9


class Chance(Protocol):
    """What draws counts: a `numpy` generator, or `NoChance`."""

    def poisson(self, lam: Any) -> Any:
        """Counts of mean `lam`."""

    def binomial(self, n: Any, p: Any) -> Any:
        """How many of n."""

    def multinomial(self, n: Any, pvals: Any) -> Any:
        """How many of n fall on each."""

    def hypergeometric(self, ngood: Any, nbad: Any, nsample: Any) -> Any:
        """How many good ones a sample has."""


class NoChance:
    """A world in which everything happens as often as expected: what `plan` looks at."""

    def poisson(self, lam: Any) -> Any:
        """The mean."""
        return np.asarray(lam, np.float64)

    def binomial(self, n: Any, p: Any) -> Any:
        """The mean."""
        return np.asarray(n) * np.asarray(p)

    def multinomial(self, n: Any, pvals: Any) -> Any:
        """The means."""
        return np.asarray(n)[..., None] * np.asarray(pvals)

    def hypergeometric(self, ngood: Any, nbad: Any, nsample: Any) -> Any:
        """The mean."""
        return nsample * np.asarray(ngood) / np.maximum(ngood + nbad, 1e-300)


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a tick of h seconds is cut, and when what happens in each piece is known.

    begin, end  (P,) seconds from the beginning of the tick
    matures     (P,) ticks from the beginning of the tick until the watermark has passed the piece
    closes      (P,) until it has passed the piece and the window
    share       (P, J + 2) of the rewards: column j is known j ticks after the beginning; the last
                comes after the window, or never leaves a broken pipe
    delay       (P, J + 1) seconds from exposure to reward, in the mean
    """

    begin: Float
    end: Float
    matures: Int
    closes: Int
    share: Float
    delay: Float


def pieces(truth: Truth, tick_s: float, *, rewards_end_s: float = math.inf) -> Pieces:
    """The pieces of a tick; `rewards_end_s` counts from the tick's beginning."""
    grace, window = truth.setting.grace_s, truth.setting.window_s
    cuts = {0.0, tick_s, (-grace) % tick_s, (-grace - window) % tick_s}
    edges = np.array(sorted(cuts))
    edges = edges[np.append(np.diff(edges) > _ALMOST * tick_s, True)]
    edges[0], edges[-1] = 0.0, tick_s
    begin, end = edges[:-1], edges[1:]
    matures = np.ceil((end + grace) / tick_s - _ALMOST).astype(np.int64)
    closes = np.ceil((end + grace + window) / tick_s - _ALMOST).astype(np.int64)
    share, delay = _known(truth, (begin, end), (tick_s, int(closes.max())), rewards_end_s)
    return Pieces(begin, end, matures, closes, share, delay)


def _known(
    truth: Truth, piece: tuple[Float, Float], ticks: tuple[float, int], rewards_end_s: float
) -> tuple[Float, Float]:
    """When rewards are known: `share` and `delay` of `Pieces`."""
    (begin, end), (tick_s, last) = piece, ticks
    law, window = DelayLaw(truth), truth.setting.window_s
    watermark = np.minimum(np.arange(-1, last + 1) * tick_s - truth.setting.grace_s, rewards_end_s)
    exposed = begin[:, None] + (end - begin)[:, None] * _U
    late = np.clip(watermark[None, :, None] - exposed[:, None, :], 0.0, window)
    below = law.share(late)
    below[late <= 0.0] = 0.0
    inner = law.share(late[..., None] * _U) @ _W
    moment = late * (below - inner)  # E[D; D <= late] = late F(late) - integral of F up to late
    mass, first = np.diff(below @ _W, axis=1), np.diff(moment @ _W, axis=1)
    mass = np.maximum(mass, 0.0)
    delay = np.divide(first, mass, out=np.zeros_like(mass), where=mass > 1e-15)
    missed = np.maximum(1.0 - mass.sum(axis=1, keepdims=True), 0.0)
    share = np.concatenate([mass, missed], axis=1)
    return share / share.sum(axis=1, keepdims=True), delay


class TallySource:
    """Draws the counts of a world, tick by tick."""

    def __init__(self, truth: Truth, rng: Chance, tick_s: float) -> None:
        self._truth, self._rng, self._tick_s = truth, rng, tick_s
        self._names = (*truth.versions, truth.setting.event, *truth.setting.others)
        self._pieces = pieces(truth, tick_s)
        self._reach = int(self._pieces.closes.max())
        shape = (self._reach, len(self._pieces.begin), len(truth.versions))
        # What became of the last `reach` ticks, in a ring; tick k stands at k modulo reach.
        self._answered, self._failed = np.zeros(shape), np.zeros(shape)
        self._rewards = np.zeros((*shape, self._reach + 2))
        self._epoch = np.zeros(self._reach, np.int64)
        self._delay = np.zeros((self._reach, *self._pieces.delay.shape))

    def draw(
        self, split: Split, start: int, tick: int, requests: float, *, idle: bool
    ) -> tuple[Tallies, np.ndarray]:
        """What is known at this tick (from 1) that was not at the last, and requests per version.

        `idle`: nobody comes; what came before goes on being known.
        """
        self._come(split, tick - 1, requests, idle=idle)
        counts: np.ndarray = self._answered[(tick - 1) % self._reach].sum(axis=0)
        born = np.arange(max(0, tick - self._reach), tick)
        return self._tallies(born, tick, start), counts

    def _come(self, split: Split, tick: int, requests: float, *, idle: bool) -> None:
        """Draw all that will ever become of what comes in one tick."""
        truth, rng, cut, here = self._truth, self._rng, self._pieces, tick % self._reach
        since = tick * self._tick_s
        share = np.array([split.weights.get(name, 0) for name in truth.versions]) / BASIS
        volume = truth.volume(since + cut.begin, since + cut.end) * (not idle)
        answered = rng.poisson(volume[:, None] * share)
        failed = rng.binomial(answered, [truth.errors(a) for a in range(len(share))])
        left = truth.rewards_end_s - since
        if left < self._tick_s * (self._reach + 1):
            cut = pieces(truth, self._tick_s, rewards_end_s=left)
        happy = self._happy(answered, failed, since, requests)
        self._answered[here], self._failed[here] = answered, failed
        self._rewards[here] = rng.multinomial(happy, cut.share[:, None, :])
        self._epoch[here], self._delay[here] = split.epoch, cut.delay

    def _happy(self, answered: Int, failed: Int, since: float, requests: float) -> Any:
        """(P, A) exposures that earn a reward, however late."""
        truth, cut = self._truth, self._pieces
        arms = range(answered.shape[1])
        factor = np.array([truth.factor(arm, since, requests) for arm in arms])
        forgery = np.array([truth.forged(arm) for arm in arms])
        base = truth.base(since + (cut.begin + cut.end) / 2)
        rate = np.minimum(base[:, None] * factor, 1.0)
        silent = failed if truth.setting.is_event_good else np.zeros_like(failed)
        if not forgery.any():
            return self._rng.binomial(answered - silent, rate)
        forged = self._rng.binomial(answered, forgery[:, 0])
        both = self._rng.hypergeometric(silent, answered - silent, forged)
        honest = answered - forged - silent + both
        return self._rng.binomial(honest, rate) + forged * forgery[:, 1].astype(np.int64)

    def _tallies(self, born: Int, tick: int, start: int) -> Tallies:
        """One row for each cohort of which something is known now."""
        cut, truth, ring = self._pieces, self._truth, born % self._reach
        age = tick - born
        answered = self._answered[ring]
        is_new = (age == 1)[:, None, None]
        is_ripe = (age[:, None] == cut.matures)[..., None]
        is_closed = (age[:, None] == cut.closes)[..., None]
        events = self._rewards[ring, :, :, age]
        outcomes = answered * is_closed
        total = self._rewards[ring, :, :, :-1].sum(axis=-1) if is_closed.any() else 0 * answered
        joined = total * is_closed
        new, failed = answered * is_new, self._failed[ring] * is_new
        matured = answered * is_ripe
        default, value = truth.setting.default, truth.setting.event_value
        worth = joined * value + (outcomes - joined) * default
        keep = (new + matured + events + outcomes) > 0
        k, p, arm = np.nonzero(keep)
        n = len(k)

        def column(counts: Int | Float) -> Float:
            kept: Float = counts[keep].astype(np.float64)
            return kept

        return Tallies.of(
            n,
            offset=np.arange(start, start + n),
            time=born[k] * self._tick_s + ((cut.begin + cut.end) / 2)[p],
            epoch=self._epoch[ring[k]],
            arm=arm,
            exposures=column(new),
            errors=column(failed),
            entered=column(new),
            entered_errors=column(failed),
            matured=column(matured),
            events=column(events),
            event_value=column(events * value),
            delay=self._delay[ring[k], p, age[k]],
            outcomes=column(outcomes),
            joined=column(joined),
            value=column(worth),
            square=column(joined * value**2 + (outcomes - joined) * default**2),
            analysed=column(outcomes),
            analysed_value=column(worth),
            lapsed=column(outcomes - joined),
        )
