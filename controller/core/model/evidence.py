"""What passes from the estimators to those who decide."""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.model.values import quick


@quick
@dataclass(frozen=True)
class ArmSummary:
    """What was seen of one arm in the rollout, in the reward's own unit.

    n, total, mean  analysed outcomes, the sum of their values, its mean (None before the first)
    interval        a confidence sequence for the mean, valid at all times at once; None as above
    """

    arm: str
    n: int
    total: float
    mean: float | None
    interval: tuple[float, float] | None
    errors: int
    answers: int


@quick
@dataclass(frozen=True)
class Lift:
    """Relative lift of a candidate over the champion: (mean1 / mean0) - 1, more or less reward.

    `estimate` is None when too little was seen; the interval is a confidence sequence, valid at
    all times at once, and may be unbounded above.
    """

    estimate: float | None
    lower: float
    upper: float


@quick
@dataclass(frozen=True)
class GuardEvidence:
    """What the estimators say of one guardrail, or of the errors of mirrored requests.

    metric        "error_rate", "latency" or "reward"
    detail        of a latency the quantile whose e-value is largest, such as "p99"; of a second
                  reward its event; else ""
    log_worse     null: the candidate is within the bound. With restarts; rolls back
    log_within    null: it is at or beyond the bound. Evidence that it may be promoted
    champion, candidate   what was seen: the error rate; the mean of the second reward; of a latency
                  the share of the champion's answers slower than its own quantile `detail`, and of
                  the candidate's slower than `limit_ms`. None where nothing was seen
    max_increase  the tolerated increase: relative of a latency, else absolute
    limit_ms      of a latency: (1 + max_increase) times the champion's quantile `detail`
    """

    metric: str
    detail: str
    log_worse: float
    log_within: float
    champion: float | None
    candidate: float | None
    max_increase: float
    limit_ms: float | None = None


@quick
@dataclass(frozen=True)
class CandidateEvidence:
    """What the estimators say of one candidate against the champion.

    All `log_*` are natural logarithms of e-values; evidence against the named null is complete at
    `log(1 / alpha)`. "Worse" and "better" respect the reward's direction.

    risk             greatest relative loss that the interval of the lift still allows, >= 0; inf
                     where it allows any
    log_harm         null: the candidate is not worse. Of the closed prefix, with restarts
    log_harm_fast    the same null, of rewards as they come (log-rank), with restarts; 0 where the
                     reward has no events
    log_superior     null: the candidate is not better
    log_noninferior  per stage of the policy: null: it is worse by at least that stage's margin
                     (stages without a margin carry 0)
    guards           errors, latency, each second reward, in this order, those that are asked for
    shadow           errors of mirrored requests; None where errors are not guarded
    log_better       of each candidate of the rollout: null: this one is not better than that; 0
                     against itself, and where the reward is an amount
    p_best, loss     posterior probability to be best; expected loss of promoting, relative; NaN
                     where the policy has no bandit
    capped           share of the outcomes that were cut at the cap (see `estimate.betting`)
    multiplicity     candidates that ever were in this rollout: promotion needs this many times
                     the evidence
    """

    champion: ArmSummary
    candidate: ArmSummary
    lift: Lift
    risk: float
    log_harm: float
    log_harm_fast: float
    log_superior: float
    log_noninferior: tuple[float, ...]
    guards: tuple[GuardEvidence, ...]
    shadow: GuardEvidence | None
    log_better: tuple[float, ...]
    p_best: float
    loss: float
    capped: float
    multiplicity: int


@dataclass(frozen=True, slots=True)
class Growth:
    """Evidence that one more analysed unit brings on average, in nats, if all stays as it seems.

    A unit is one of the champion's or the candidate's. Zero or less: the condition will not be met.

    noninferior  per stage of the policy; 0 where the stage has no margin
    within       per guardrail, in the order of `CandidateEvidence.guards`
    """

    superior: float
    noninferior: tuple[float, ...]
    within: tuple[float, ...]


@quick
@dataclass(frozen=True)
class Health:
    """Whether the data can be trusted: signals hold a rollout, they never roll back.

    Log e-values against "arms got the traffic that the splits say", the largest over candidates.

    log_exposures  of the units as they were assigned
    log_outcomes   of the closed outcomes
    log_dropped    of the events that came too late to count, against those that did count
    """

    log_exposures: float
    log_outcomes: float
    log_dropped: float


@quick
@dataclass(frozen=True)
class Signals:
    """Whether the data can be trusted: signals hold a rollout, they never roll back.

    log_exposures, log_outcomes, log_dropped  log e-values against "arms got, closed and lost what
                  the splits say"; the largest of the candidates'
    rewards       closed exposures of the rollout to which a reward was joined
    join_fall     (now, before): shares of outcomes with a reward, where it fell too far; else None
    silent_s      seconds since a request was answered; what is too many stands in stale_after_s
    unreported    a partition that has told nothing for too long, and the seconds; else None
    """

    log_exposures: float
    log_outcomes: float
    log_dropped: float
    rewards: int
    join_fall: tuple[float, float] | None = None
    silent_s: float = 0.0
    stale_after_s: float = float("inf")
    unreported: tuple[int, float] | None = None

    @property
    def log_lost(self) -> float:
        """The log e-value against "every unit that was assigned is here", at least 0."""
        return max(self.log_exposures, self.log_outcomes, 0.0)
