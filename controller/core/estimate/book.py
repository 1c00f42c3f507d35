"""Books: the nulls of one metric, and the alternatives that are bet on against each.

A *family* is one null, p1 on one side of the line p1 = ratio p0 + shift, with a few alternatives
beyond it and a weight for each. A *book* is all families of one metric as one array of bets, so
that one update serves them all. Books hold no data: they follow from the policy alone.

The directions. "Worse" is less reward where reward is maximised and more where it is minimised
(errors, a second reward that guards); values are never turned around, sides are: `_sign` is +1
where more is better, -1 where less is. With a share epsilon of forged labels, both means
may be off by what epsilon does, so the lines move against whoever claims something:

    harm           null  p1 >= p0 - eps            minimised  p1 <= p0 + eps
    superior       null  p1 <= p0 + eps            minimised  p1 >= p0 - eps
    not inferior   null  p1 <= p0 - margin + eps   minimised  p1 >= p0 + margin - eps
    guard: worse   null  p1 <= p0 + increase       within     null  p1 >= p0 + increase

Rejected: one book per null (six updates where one does), turning values into 1 - value (which is
wrong for relative effects: half of the failures is not half of the successes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.core.model import Float, Int

HARM = np.array(
    [0.99, 0.98, 0.97, 0.95, 0.93, 0.90, 0.87, 0.84, 0.80, 0.75, 0.70, 0.60, 0.50, 0.35, 0.20, 0.05]
)
"""Candidate over champion, for a candidate that has less: from 1 % less to nearly nothing."""

ERRORS = np.array([1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0])
"""Candidate's error rate over the tolerated one."""

MARGINS_ABOVE = np.array([-0.5, 0.0, 1.0, 3.0, 7.0, 15.0])
"""Candidate minus champion, in margins, for a candidate that is not inferior.

The growth of the bet u when the truth is t is about (1 + t)^2 - (t - u)^2, in units of that of an
equal candidate: with the bets a factor of two apart (counted from the null at -1) no truth loses
more than a ninth of the growth. Half of the weight lies on "equal", the case that must be fast."""

_MARGIN_WEIGHTS = np.array([0.1, 0.5, 0.15, 0.1, 0.1, 0.05])


@dataclass(frozen=True, slots=True)
class Family:
    """One null and the alternatives bet on; all arrays (K,).

    An alternative says p1 = slope p0 + offset, but leaves at least the share `spare` of the
    distance of `anchor` p0 to 1, and of p0 to 0 the share `floor`: a bet on certainty would be
    ruined by the first failure.

    slope, offset, anchor, spare, floor   float64
    log_weights   float64, natural logarithms of weights that sum to 1
    ratio, shift  the null's boundary, p1 = ratio p0 + shift
    side          +1: the null lies below its boundary; -1: above
    """

    slope: Float
    offset: Float
    anchor: Float
    spare: Float
    floor: Float
    log_weights: Float
    ratio: float
    shift: float
    side: int


@dataclass(frozen=True, slots=True, eq=False)
class Book:
    """Families side by side; as `Family`, with ratio, shift and side as arrays (K,) too.

    starts     (F,) int64, the first bet of each family
    restarted  how many of the leading bets are also kept from every start on (see `restart`)
    """

    slope: Float
    offset: Float
    anchor: Float
    spare: Float
    floor: Float
    log_weights: Float
    ratio: Float
    shift: Float
    side: Float
    starts: Int
    restarted: int


def bind(families: tuple[Family, ...], *, restarts: bool = True) -> Book:
    """One book of these families; with `restarts`, the first is also kept from every start on."""
    sizes = np.array([len(f.slope) for f in families], np.int64)
    return Book(
        slope=np.concatenate([f.slope for f in families]),
        offset=np.concatenate([f.offset for f in families]),
        anchor=np.concatenate([f.anchor for f in families]),
        spare=np.concatenate([f.spare for f in families]),
        floor=np.concatenate([f.floor for f in families]),
        log_weights=np.concatenate([f.log_weights for f in families]),
        ratio=np.repeat([float(f.ratio) for f in families], sizes),
        shift=np.repeat([float(f.shift) for f in families], sizes),
        side=np.repeat([float(f.side) for f in families], sizes),
        starts=np.cumsum(sizes) - sizes,
        restarted=int(sizes[0]) if restarts else 0,
    )


def reward_book(
    margins: tuple[float | None, ...],
    *,
    contamination: float,
    min_effect: float | None,
    is_minimised: bool,
) -> Book:
    """Harm, superiority, and non-inferiority per margin that is given, in this order."""
    sign = -1 if is_minimised else 1
    stages = [noninferiority(m - contamination, m, sign) for m in margins if m is not None]
    return bind(
        (
            harm(min_effect, contamination, sign),
            superiority(min_effect, contamination, sign),
            *stages,
        )
    )


def guard_book(thetas: Float, max_increase: float) -> Book:
    """Worse than tolerated, and within what is tolerated, in this order; less is better."""
    worse = _relative(thetas, _flat(thetas), shift=max_increase, side=1)
    if max_increase > 0.0:
        within = noninferiority(max_increase, max_increase, -1)
    else:
        within = superiority(None, 0.0, -1)
    return bind((worse, within))


def harm(min_effect: float | None, contamination: float, sign: int) -> Family:
    """Null: the candidate is not worse."""
    thetas = HARM if sign > 0 else 1.0 / HARM
    weights = _weights(thetas, min_effect)
    return _relative(thetas, weights, shift=-sign * contamination, side=-sign)


def superiority(min_effect: float | None, contamination: float, sign: int) -> Family:
    """Null: the candidate is not better."""
    thetas = 1.0 / HARM if sign > 0 else HARM
    weights = _weights(thetas, min_effect)
    return _relative(thetas, weights, shift=sign * contamination, side=sign)


def noninferiority(tolerated: float, margin: float, sign: int) -> Family:
    """Null: the candidate is worse by at least `tolerated`: the margin less what forgers can do.

    Where forgers can do more than the margin, `tolerated` is negative: nothing but a gain counts.
    """
    above = 1.0 + MARGINS_ABOVE
    step = tolerated if tolerated > 0.0 else margin
    spare = 1.0 / np.maximum(above, 1.0)
    return Family(
        slope=np.ones_like(above),
        offset=sign * (step * above - tolerated),
        anchor=np.ones_like(above),
        spare=spare,
        floor=np.zeros_like(above) if sign > 0 else spare,
        log_weights=np.log(_MARGIN_WEIGHTS),
        ratio=1.0,
        shift=-sign * tolerated,
        side=sign,
    )


def _relative(thetas: Float, log_weights: Float, *, shift: float, side: int) -> Family:
    """Bets that p1 = theta (p0 + shift), against the boundary p1 = p0 + shift."""
    return Family(
        slope=thetas,
        offset=thetas * shift,
        anchor=np.ones_like(thetas),
        spare=np.minimum(0.5, 1.0 / thetas),
        floor=np.zeros_like(thetas),
        log_weights=log_weights,
        ratio=1.0,
        shift=shift,
        side=side,
    )


def _weights(thetas: Float, min_effect: float | None) -> Float:
    """Log weights: a part flat, so that no effect is missed, the rest a bell around `min_effect`.

    Where none is stated half is a wide bell around a fifth: against a flat one that saves a
    twentieth of the sample for effects from 10 to 50 %, and costs as much for 3 or for 80 %.
    """
    middle, width, part = (0.2, 1.0, 0.5) if min_effect is None else (min_effect, 0.3, 0.8)
    z = (np.log(np.abs(1.0 - thetas)) - np.log(middle)) / width
    bell = -0.5 * z * z
    bell = bell - np.logaddexp.reduce(bell)
    mixed: Float = np.logaddexp(np.log1p(-part) + _flat(thetas), np.log(part) + bell)
    return mixed


def _flat(thetas: Float) -> Float:
    return np.full_like(thetas, -np.log(len(thetas)))
