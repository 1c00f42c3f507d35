"""What the estimators are asked, and what they are told of the time before the rollout."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """A reward as it is judged.

    is_binary      a yes or no, or a share of it: it comes as `Cells`, scaled to [0, 1] by
                   (v - low) / (high - low); else an amount, which comes as a `Sample`, raw
    max_increase   of a guardrail: the tolerated increase, absolute, in the reward's unit
    """

    event: str
    is_binary: bool
    low: float
    high: float
    default: float
    max_increase: float | None = None


@dataclass(frozen=True, slots=True)
class EstimatorSpec:
    """What is asked of the estimators.

    margins         per stage of the policy: absolute loss tolerated, in the reward's unit; or None
    contamination   share of rewards that may be forged, as a share of the reward's range: harm must
                    show beyond it, promotion in spite of it
    min_effect      relative effect worth detecting; bets gather around it
    error_increase  absolute increase of the error rate that is tolerated; None: no such guardrail
    latency         the declared quantile and the relative increase of it that is tolerated
    rewards         second rewards: guardrails with `max_increase`
    interval_alpha  1 - coverage of every confidence sequence
    window_s        how long after an exposure a reward still counts
    half_life_s     of the bandit's memory; None: it never forgets
    has_bandit      whether `p_best` and `loss` are asked for (NaN when not)
    cuts            covariate cut points: bin 0 is "unknown", 1 .. len(cuts) + 1 lie between them
    """

    reward: RewardSpec
    is_minimised: bool = False
    margins: tuple[float | None, ...] = ()
    contamination: float = 0.0
    min_effect: float | None = None
    error_increase: float | None = None
    latency: tuple[float, float] | None = None
    rewards: tuple[RewardSpec, ...] = ()
    interval_alpha: float = 0.05
    window_s: float = 30.0
    half_life_s: float | None = None
    has_bandit: bool = False
    cuts: tuple[float, ...] = ()

    def __hash__(self) -> int:
        """Of a part: books are looked up by their spec many times a tick, and specs are few."""
        return hash((self.margins, self.window_s))

    @property
    def bins(self) -> int:
        """How many covariate bins there are, that of unknown units included."""
        return 1 if not self.cuts else len(self.cuts) + 2


@dataclass(frozen=True, slots=True)
class History:
    """The champion's past before the rollout, in the rewards' own units.

    outcomes  number, sum, sum of squares
    answers   number, errors
    rewards   per second reward, as `outcomes`
    """

    outcomes: tuple[float, float, float] = (0.0, 0.0, 0.0)
    answers: tuple[float, float] = (0.0, 0.0)
    rewards: tuple[tuple[float, float, float], ...] = ()
