"""Estimate: what units, answers and rewards of one rollout say of its candidates.

The order is the statement of this room, and is spelled in `game`:

    1. bet on what came with what was known of the champion before it;
    2. only then learn the champion's mean from it (so that bets stay predictable);
    3. begin again where a start is due.

Invariant: `Estimators` is a value. The same cells in the same batches give the same state, and
`evidence` of a state is a pure function, so recomputing from the log equals the live state to 1e-9.
Nothing here decides: thresholds, shares of alpha and stages belong to `decide`.

The rooms, from the bottom: `moments` counts; `book` lists nulls and bets; `sequential` makes an
e-value of a coin and `betting` of an amount; `restart` keeps the wealth; `game` and `purse` spell
the order for one metric, `reward` and `latency` for those that are made of more; `effect` sizes;
`findings` and `forecast` tell. `risk` is the fast path of late rewards, `bandit` steers, `health`
asks whether the data can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from controller.core.estimate import bandit, findings, game, latency, moments, reward, risk, rivals
from controller.core.estimate import health as ratios
from controller.core.estimate import recent as week
from controller.core.estimate.estimators import Estimators, judges
from controller.core.estimate.forecast import ebh
from controller.core.estimate.latency import bins as latency_bins
from controller.core.estimate.latency import counted as latency_counted
from controller.core.estimate.spec import EstimatorSpec, History, RewardSpec
from controller.core.model import (
    CandidateEvidence,
    Cells,
    Float,
    Flow,
    Growth,
    Health,
    Lift,
    Sample,
    evolved,
)

__all__ = [
    "EstimatorSpec",
    "Estimators",
    "History",
    "RewardSpec",
    "best",
    "ebh",
    "evidence",
    "growth",
    "health",
    "judged",
    "latency_bins",
    "latency_counted",
    "latency_limits",
    "new_epoch",
    "new_step",
    "observe_answers",
    "observe_dropped",
    "observe_flow",
    "observe_latency",
    "observe_outcomes",
    "observe_reward",
    "observe_shadow",
    "observe_units",
    "odds",
    "recent",
    "start",
    "superior",
    "with_candidate",
]

_ERROR_PRIOR = (50.0, 0.5)
"""Pseudo-trials and their sum: errors are rare, so the first guess is 1 %, not one half."""

_NO_PAST = (0.0, 0.0, 0.0)


def start(spec: EstimatorSpec, history: History, *, candidates: int = 1) -> Estimators:
    """The state before the rollout's first unit."""
    books = judges(spec)
    errors = moments.plug_in(history.answers, prior_n=_ERROR_PRIOR[0], prior_s=_ERROR_PRIOR[1])
    pasts = history.rewards or (_NO_PAST,) * len(spec.rewards)
    return Estimators(
        reward=reward.start(books.reward, history.outcomes, candidates),
        errors=game.start(books.errors, errors, candidates),
        shadow=game.start(books.errors, errors, candidates),
        latency=None if spec.latency is None else latency.start(spec.latency[0], candidates),
        rewards=tuple(
            reward.start(by, past, candidates)
            for by, past in zip(books.rewards, pasts, strict=True)
        ),
        risk=risk.start(candidates, spec.min_effect, is_minimised=spec.is_minimised),
        blocks=_blocks(spec, history, candidates) if spec.has_bandit else None,
        rivals=rivals.start(spec, history, candidates),
        recent=week.start(candidates),
        units=ratios.start(candidates),
        outcomes=ratios.start(candidates),
        dropped=ratios.start(candidates),
        candidates=candidates,
        clock=-math.inf,
    )


def _blocks(spec: EstimatorSpec, history: History, candidates: int) -> bandit.Blocks:
    terms = bandit.Terms(
        is_binary=spec.reward.is_binary,
        low=spec.reward.low,
        high=spec.reward.high,
        default=spec.reward.default,
        window_s=spec.window_s,
        is_minimised=spec.is_minimised,
        half_life_s=spec.half_life_s,
    )
    return bandit.start(terms, history.outcomes, candidates=candidates)


def with_candidate(spec: EstimatorSpec, est: Estimators) -> Estimators:
    """One more candidate joins; its e-values start at 1."""
    books, slow = judges(spec), est.latency
    if spec.latency is not None and slow is not None:
        slow = latency.with_candidate(spec.latency[0], slow)
    return replace(
        est,
        reward=reward.with_candidate(books.reward, est.reward),
        errors=game.with_candidate(books.errors, est.errors),
        shadow=game.with_candidate(books.errors, est.shadow),
        latency=slow,
        rewards=tuple(
            reward.with_candidate(by, one)
            for by, one in zip(books.rewards, est.rewards, strict=True)
        ),
        risk=risk.with_candidate(est.risk),
        blocks=None if est.blocks is None else bandit.with_arm(est.blocks),
        rivals=rivals.with_candidate(spec, est.rivals),
        recent=week.with_candidate(est.recent),
        units=ratios.with_candidate(est.units),
        outcomes=ratios.with_candidate(est.outcomes),
        dropped=ratios.with_candidate(est.dropped),
        candidates=est.candidates + 1,
    )


def new_epoch(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that changes the state
    est: Estimators,
) -> Estimators:
    """Another split comes into force: the champion's past counts a little less."""
    return replace(
        est,
        reward=reward.new_epoch(est.reward),
        errors=game.new_epoch(est.errors),
        rewards=tuple(reward.new_epoch(one) for one in est.rewards),
        rivals=rivals.new_epoch(est.rivals),
    )


def new_step(spec: EstimatorSpec, est: Estimators) -> Estimators:
    """A ramp step or a stage begins: a start of everything that can begin again."""
    books, slow = judges(spec), est.latency
    if slow is not None:
        slow = replace(slow, game=game.new_step(latency.BOOK, slow.game)[0])
    known, done = reward.new_step(books.reward, est.reward)
    return replace(
        est,
        reward=known,
        errors=game.new_step(books.errors, est.errors)[0],
        latency=slow,
        rewards=tuple(
            reward.new_step(by, one)[0] for by, one in zip(books.rewards, est.rewards, strict=True)
        ),
        risk=risk.new_step(est.risk),
        outcomes=est.outcomes if done is None else ratios.update(est.outcomes, done),
    )


def observe_outcomes(
    spec: EstimatorSpec,
    est: Estimators,
    cells: Cells | None,
    sample: Sample | None,
    time: float,
) -> Estimators:
    """Add closed outcomes: cells of a reward that is a yes or no, else a sample.

    time  epoch seconds of the latest
    """
    known, done = reward.observed(judges(spec).reward, est.reward, cells, sample)
    clock = max(est.clock, time)
    seen = sample if sample is not None else done
    recent = est.recent if seen is None else week.observe(est.recent, seen, clock)
    if done is None:  # all that came waits
        return evolved(est, reward=known, recent=recent, clock=clock)
    return evolved(
        est,
        reward=known,
        rivals=rivals.observed(spec, est.rivals, done),
        recent=recent,
        outcomes=ratios.update(est.outcomes, done),
        clock=clock,
    )


def observe_reward(
    spec: EstimatorSpec, est: Estimators, i: int, cells: Cells | None, sample: Sample | None
) -> Estimators:
    """Add closed outcomes of the second reward i."""
    rewards = list(est.rewards)
    rewards[i], _ = reward.observed(judges(spec).rewards[i], rewards[i], cells, sample)
    return evolved(est, rewards=tuple(rewards))


def observe_answers(spec: EstimatorSpec, est: Estimators, cells: Cells) -> Estimators:
    """Add answers, known at once: a trial is an answer and its value 1 if it was an error."""
    if not len(cells.pi):
        return est
    return evolved(est, errors=game.observed(judges(spec).errors, est.errors, cells)[0])


def observe_shadow(spec: EstimatorSpec, est: Estimators, cells: Cells) -> Estimators:
    """Add answers of mirrored requests: all of the champion's, and the candidate's to the copies.

    pi is the candidate's part of the answers in the cell: n1 / (n0 + n1). The bet is fair given the
    counts: (1 - pi) a + pi b <= 1 for a = E[e(champion)] and b = E[e(candidate)], so, were all
    answers independent, a^n0 b^n1 <= 1 by the inequality of arithmetic and geometric means. The two
    answers to a copied request are not: but an error of the champion lowers its e, an error of the
    candidate raises its own; so if a request that breaks one tends to break the other, the
    covariance of the two is negative and the product smaller still.
    Rejected: pi from the share that is copied. Copies that were never made or logged then count
    as evidence against the candidate.
    """
    if not len(cells.pi):
        return est
    return evolved(est, shadow=game.observed(judges(spec).errors, est.shadow, cells)[0])


def observe_units(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is observed
    est: Estimators,
    cells: Cells,
) -> Estimators:
    """Add assigned units, n0 and n1, for the sample ratio."""
    return evolved(est, units=ratios.update(est.units, cells))


def observe_dropped(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is observed
    est: Estimators,
    cells: Cells,
) -> Estimators:
    """Add dropped events; pi = the candidate's share of such events that were not dropped."""
    return evolved(est, dropped=ratios.update(est.dropped, cells))


def observe_flow(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is observed
    est: Estimators,
    flow: Flow,
    now: float,
) -> Estimators:
    """Add entries, first rewards and ends of analysed units; `now` is the watermark."""
    return evolved(
        est,
        risk=risk.observe(est.risk, flow),
        blocks=None if est.blocks is None else bandit.observe(est.blocks, flow, now),
        clock=max(est.clock, now),
    )


def latency_limits(spec: EstimatorSpec, est: Estimators) -> tuple[int | None, ...]:
    """What answers are held against, per watched quantile: those in a later bin are longer.

    None until the champion has had enough answers. Empty where latency is not guarded.
    """
    if spec.latency is None or est.latency is None:
        return ()
    found = latency.limits(spec.latency[0], est.latency).tolist()
    return tuple(None if limit == latency.UNKNOWN else limit for limit in found)


def observe_latency(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is observed
    est: Estimators,
    cells: tuple[Cells, ...],
    champion: Float,
) -> Estimators:
    """Add answers: cells of exceedances per watched quantile (empty where its limit is unknown).

    champion  as `latency_counted` gives it for the champion's answers, for later limits
    """
    if est.latency is None:
        return est
    return evolved(est, latency=latency.observed(est.latency, cells, champion))


def evidence(
    spec: EstimatorSpec, est: Estimators, champion: str, candidates: Sequence[str]
) -> tuple[CandidateEvidence, ...]:
    """What is known of each candidate against the champion, in the order of `candidates`.

    candidates  names of the first len(candidates) candidates of the rollout, in order of joining
    """
    return findings.of_candidates(spec, est, champion, candidates)


def health(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is asked
    est: Estimators,
) -> Health:
    """Whether the data can be trusted."""
    return Health(
        log_exposures=max(ratios.log_sample_ratio(est.units).tolist()),
        log_outcomes=max(ratios.log_sample_ratio(est.outcomes).tolist()),
        log_dropped=max(ratios.log_sample_ratio(est.dropped).tolist()),
    )


def best(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is asked
    est: Estimators,
    segment: int | None = None,
) -> tuple[float, ...]:
    """The probability to be best, of the champion, then of each candidate; NaN without bandit."""
    if est.blocks is None:
        return (math.nan,) * (1 + est.candidates)
    return bandit.best(est.blocks, est.clock, segment)


def odds(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is asked
    est: Estimators,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`best` for all, and what promoting each candidate loses on average, relative; or NaN."""
    if est.blocks is None:
        return (math.nan,) * (1 + est.candidates), (math.nan,) * est.candidates
    return bandit.odds(est.blocks, est.clock)


def judged(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is asked
    est: Estimators,
) -> tuple[int, ...]:
    """Analysed outcomes of each candidate so far."""
    return tuple(round(n) for n in reward.seen(est.reward)[:, 2].tolist())


def superior(est: Estimators) -> tuple[float, ...]:
    """The log e-values against "not better", of each candidate."""
    return tuple(reward.log_e(est.reward)[0][:, 1].tolist())


def recent(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is asked
    est: Estimators,
) -> tuple[Lift | None, ...]:
    """What the last week alone says of each candidate's lift."""
    return week.lifts(est.recent)


def growth(spec: EstimatorSpec, est: Estimators, candidate: int, pi: float) -> Growth:
    """Evidence that one more unit brings for each condition of promotion, at the propensity pi."""
    return findings.growth_of(spec, est, candidate, pi)
