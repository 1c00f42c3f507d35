"""What a stage function is given, and nothing else: the whole of what a decision may depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.core.model import BASIS, CandidateEvidence, Lift, Rollout, Signals


@dataclass(frozen=True, slots=True)
class Situation:
    """The case of a rollout's candidates at one tick.

    now        event time of the tick
    evidence   of each of the rollout's candidates, in their order, those that were dropped too
    weights    the present split, basis points
    settle_s   how long an exposure stays open: attribution window plus grace
    is_last    whether this stage's success promotes
    is_minimised  whether less of the reward is better
    is_binary  whether the reward is yes or no
    has_fast_path  whether rewards may be judged as they come: the reward is yes or no, and the
               policy does not allow for forged ones, of which that test knows nothing
    min_units  units of a candidate without which it is not promoted
    best       P(best) of the champion and of each live candidate, in the rollout's order; with a
               bandit only
    segments   the same by segment: header value -> P(best)
    recent     of each candidate, what the last week alone says of its lift; None: too little
    """

    now: float
    rollout: Rollout
    evidence: tuple[CandidateEvidence, ...]
    health: Signals
    weights: Mapping[str, int]
    settle_s: float
    is_last: bool
    is_minimised: bool = False
    is_binary: bool = True
    has_fast_path: bool = True
    min_units: int = 1
    best: tuple[float, ...] = ()
    segments: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    recent: tuple[Lift | None, ...] = ()

    @property
    def live(self) -> tuple[CandidateEvidence, ...]:
        """The evidence of the candidates that are still in."""
        if not self.rollout.dropped:
            return self.evidence
        live = self.rollout.live
        return tuple(seen for seen in self.evidence if seen.candidate.arm in live)

    @property
    def only(self) -> CandidateEvidence:
        """The evidence of the candidate, where the stage takes one at a time."""
        return self.live[0]

    def split_of(self, shares: Mapping[str, int]) -> dict[str, int]:
        """The weights that give each candidate its share, basis points, and the champion the rest.

        The champion keeps at least one: it stays the champion of the split, and comparable, even
        where a policy ramps to 100 %.
        """
        most = BASIS - 1
        kept = {name: min(share, most) for name, share in shares.items()}
        return {self.rollout.champion: BASIS - sum(kept.values()), **kept}

    def split_at(self, share: int) -> dict[str, int]:
        """The weights that give the live candidates `share` basis points together, evenly."""
        live = self.rollout.live
        each, rest = divmod(min(share, BASIS - 1), len(live))
        return self.split_of({name: each + (i < rest) for i, name in enumerate(live)})

    @property
    def unchanged(self) -> dict[str, int]:
        """The weights as they are."""
        return dict(self.weights)

    @property
    def in_stage_s(self) -> float:
        """Seconds since this stage began."""
        return self.now - self.rollout.stage_started

    @property
    def in_step_s(self) -> float:
        """Seconds since this step began."""
        return self.now - self.rollout.step_started

    def stage_outcomes(self, seen: CandidateEvidence) -> int:
        """Analysed outcomes of a candidate since this stage began."""
        return seen.candidate.n - self.rollout.stage_outcomes.get(seen.candidate.arm, 0)

    def step_outcomes(self, seen: CandidateEvidence) -> int:
        """Analysed outcomes of a candidate since this step began."""
        return seen.candidate.n - self.rollout.step_outcomes.get(seen.candidate.arm, 0)

    def greatest_gain(self, seen: CandidateEvidence) -> float:
        """The greatest relative gain over the champion that the evidence leaves possible."""
        return -seen.lift.lower if self.is_minimised else seen.lift.upper


def basis_points(share: float) -> int:
    """A share in basis points; a share that is not 0 is at least one."""
    return max(1, round(share * BASIS)) if share > 0 else 0


def for_people(seconds: float) -> str:
    """A duration as people write it: `45 s`, `10 min`, `3.5 h`, `7 d`."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
