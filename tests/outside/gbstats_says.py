"""Run by the interpreter that has gbstats: what it says of two arms, one line for each line.

Lines are JSON. A question is [kind, champion, candidate]: `proportion` or `amount`, and (n, sum,
sum of squares) for each arm.
"""

from __future__ import annotations

import json
import sys

from gbstats.bayesian.tests import EffectBayesianABTest, EffectBayesianConfig
from gbstats.frequentist.tests import SequentialTwoSidedTTest, TwoSidedTTest
from gbstats.models.statistics import ProportionStatistic, SampleMeanStatistic


def statistic(kind: str, arm: list[float]):
    n, total, square = arm
    if kind == "proportion":
        return ProportionStatistic(n=n, sum=total)
    return SampleMeanStatistic(n=n, sum=total, sum_squares=square)


def says(kind: str, champion: list[float], candidate: list[float]) -> dict[str, float]:
    arms = (statistic(kind, champion), statistic(kind, candidate))
    fixed = TwoSidedTTest(*arms).compute_result()
    sequential = SequentialTwoSidedTTest(*arms).compute_result()
    config = EffectBayesianConfig(difference_type="absolute")
    absolute = EffectBayesianABTest(*arms, config).compute_result()
    found = {
        "lift": fixed.expected,
        "low": fixed.ci[0],
        "high": fixed.ci[1],
        "sequential_low": sequential.ci[0],
        "sequential_high": sequential.ci[1],
        "chance": absolute.chance_to_win,
        "risk_of_champion": absolute.risk[0],
        "risk_of_candidate": absolute.risk[1],
    }
    return {name: float(value) for name, value in found.items()}


for line in sys.stdin:
    print(json.dumps(says(*json.loads(line))), flush=True)
