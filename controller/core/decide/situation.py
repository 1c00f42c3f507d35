"""What a stage function is given, and nothing else: the whole of what a decision may depend on."""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.model import BASIS, CandidateEvidence, Health, Rollout


@dataclass(frozen=True, slots=True)
class Situation:
    """One candidate's case at one tick.

    now        event time of the tick
    settle_s   how long an exposure stays open: attribution window plus grace
    share      the candidate's present weight, basis points
    is_last    whether this stage's success promotes
    has_error_guardrail  whether the policy bounds the error rate
    """

    now: float
    rollout: Rollout
    evidence: CandidateEvidence
    health: Health
    share: int
    settle_s: float
    is_last: bool
    has_error_guardrail: bool

    def split_at(self, share: int) -> dict[str, int]:
        """The weights that give the candidate `share` basis points and the champion the rest.

        The champion keeps at least one: it stays the champion of the split, and comparable, even
        where a policy ramps to 100 %.
        """
        share = min(share, BASIS - 1)
        return {self.rollout.champion: BASIS - share, self.rollout.candidate: share}

    @property
    def in_stage_s(self) -> float:
        """Seconds since this stage began."""
        return self.now - self.rollout.stage_started

    @property
    def in_step_s(self) -> float:
        """Seconds since this step began."""
        return self.now - self.rollout.step_started

    @property
    def stage_outcomes(self) -> int:
        """Analysed outcomes of the candidate since this stage began."""
        return self.evidence.candidate.n - self.rollout.stage_outcomes

    @property
    def step_outcomes(self) -> int:
        """Analysed outcomes of the candidate since this step began."""
        return self.evidence.candidate.n - self.rollout.step_outcomes


def basis_points(share: float) -> int:
    """A share in basis points; a share that is not 0 is at least one."""
    return max(1, round(share * BASIS)) if share > 0 else 0


def for_people(seconds: float) -> str:
    """A duration as people write it: `45 s`, `10 min`, `3.5 h`, `7 d`."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
