"""What passes from the joiner to the estimators."""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.model.values import quick
from controller.core.model.words import Bool, Float, Int, Key


@quick
@dataclass(frozen=True)
class Outcomes:
    """Exposures that were closed, in exposure order; all arrays (n,).

    time      float64, of the exposure
    arm       int64, index into the state's arms
    stratum   int64, index into the state's strata: the split it was routed with; -1 unknown
    value     float64, the aggregated reward, or the default
    joined    bool, whether a reward was joined
    analysed  bool, whether it enters the inference: each exposure of a rollout without units, else
              the first exposure of each unit in the rollout, and its re-entries
    analysed_value  float64, the value that enters: `value`, or the unit's aggregated reward within
              the window after its first exposure
    unit      uint64, xxh64 of the unit, 0 where there is none
    bin       int64, covariate bin that the exposure came with; 0 unknown
    base      int64, basis points: the level from which its unit re-entered the analysis (see
              `core.join.levels`); 0 for a first entry and for what is not analysed
    scored    bool, whether it had its row in `core.join.Events`, now or before: then it is no
              longer at risk, and does not lapse by closing
    """

    time: Float
    arm: Int
    stratum: Int
    value: Float
    joined: Bool
    analysed: Bool
    analysed_value: Float
    unit: Key
    bin: Int
    base: Int
    scored: Bool


@quick
@dataclass(frozen=True)
class Cells:
    """Counts of one micro-batch that are alike in everything the e-processes look at.

    All arrays (m,), in any order.

    candidate  int64, index into the rollout's candidates
    stratum    int64, what was routed with one split; only equality has a meaning
    bin        int64, covariate bin of the units; 0: nothing known of them
    pi         float64, probability of the candidate given that it was the champion or the candidate
    n0, s0     float64, champion: number of trials, sum of values in [0, 1]
    n1, s1     float64, candidate: the same
    """

    candidate: Int
    stratum: Int
    bin: Int
    pi: Float
    n0: Float
    s0: Float
    n1: Float
    s1: Float


@dataclass(frozen=True, slots=True)
class Sample:
    """Analysed outcomes of one micro-batch, of a reward that is an amount; in exposure order.

    arm      (n,) int64, 0 for the champion, 1 + c for candidate c of the rollout
    stratum  (n,) int64, as in `Cells`
    bin      (n,) int64, as in `Cells`
    pi       (n, C) float64, as in `Cells` for each candidate; NaN where the row says nothing of it
    value    (n,) float64, as it was reported
    """

    arm: Int
    stratum: Int
    bin: Int
    pi: Float
    value: Float


@quick
@dataclass(frozen=True)
class Flow:
    """What became of analysed units in one micro-batch: entries, first rewards, ends.

    All arrays (m,), in any order. A unit is at risk from `matured` until `events` or `lapsed`.

    stratum, arm  int64, as in `Sample`
    segment       int64, index into the state's segments; -1: none
    time          float64, epoch seconds of the exposures
    matured       units whose exposure the watermark reached now
    events        units whose first reward above the default came now; `event_value` their sum,
                  `delay` the mean seconds from exposure to reward
    lapsed        units that closed, or got a reward not above the default, without an event
    closed, value, square  units that closed now; sum of their values and of the values' squares
    """

    stratum: Int
    segment: Int
    arm: Int
    time: Float
    matured: Float
    events: Float
    event_value: Float
    delay: Float
    lapsed: Float
    closed: Float
    value: Float
    square: Float
