"""A scenario: what users, arms and pipes do in a simulated world, as a YAML file.

Everything has a default, so a file says only what is special about its world. It is an edge of the
system, like a policy: unknown fields are errors, and an error names file, line, field and what was
expected. The built-in scenarios are such files themselves, in `sim/scenarios`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pydantic import Field, ValidationError

from controller.core.policy import document as _document
from controller.core.policy.base import Object, given, written
from controller.core.policy.quantities import Count, PositiveDuration, Share
from controller.errors import UnderstudyError
from controller.sim.faults import lines_of
from controller.sim.quantities import (
    Curve,
    OfGrace,
    OfRun,
    OfWindow,
    PositiveNumber,
    Rate,
    Relative,
)

FOLDER: Final = Path(__file__).parent / "scenarios"
"""Where the built-in scenarios are."""

Side: TypeAlias = Literal["champion", "candidate", "both"]


class ScenarioError(UnderstudyError):
    """A scenario that cannot be used; one line for each fault."""


class Swing(Object):
    """A wave over the day that is common to all arms."""

    period: PositiveDuration = written("1d")
    """How long one wave is."""
    rate: Share = written("0%")
    """By which share the traffic swings about its mean."""
    base_rate: Share = written("0%")
    """By which share the base rate swings about its curve."""


class Delay(Object):
    """How long after an exposure its reward comes; later than the window, it does not count."""

    distribution: Literal["exponential", "lognormal", "uniform", "fixed"] = "exponential"
    """The law of the delay; `uniform` is between 0 and twice the mean."""
    mean: OfWindow = written("10%")
    """Its mean: a duration, or a share of the attribution window."""
    sigma: PositiveNumber = 1.0
    """With lognormal: the standard deviation of the logarithm."""


class Bursts(Object):
    """Times at which there is a multiple of the traffic."""

    every: OfRun = written("10%")
    """From the beginning of one to that of the next: a duration, or a share of the run."""
    lasts: OfRun = written("1%")
    """How long each lasts."""
    factor: PositiveNumber = 10.0
    """How many times the usual traffic comes."""


class Duplicates(Object):
    """Events that are delivered twice."""

    share: Share = written("30%")
    """How many of them."""
    arm: Side = "both"
    """Whose."""


class Units(Object):
    """Users who come back, and are alike from request to request."""

    requests_per_unit: PositiveNumber = 10.0
    """How many requests a user makes in the run, on average."""
    icc: Share = written("10%")
    """The intraclass correlation: the share of the variance of a reward that lies between users."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        if values.get("icc") in (1, 1.0, "100%"):
            yield "an icc below 100%"


class Contamination(Object):
    """Forged labels: a share of exposures whose reward somebody else decides."""

    share: Share
    """How many of the exposures."""
    arm: Side = "candidate"
    """Whose."""
    label: Literal["good", "bad"] = "good"
    """What the forger says."""


class Loss(Object):
    """Events that never reach the log."""

    share: Share
    """How many of them."""
    arm: Side = "candidate"
    """Whose."""
    events: Literal["exposures", "rewards"] = "exposures"
    """Which of them."""


class RewardLaw(Object):
    """What a reward is worth, where it is an amount."""

    kind: Literal["binary", "lognormal"] = "binary"
    """`binary`: the end of the policy's range; `lognormal`: an amount with a heavy tail."""
    mean: PositiveNumber | None = None
    """Of an amount: its mean; without it a fiftieth of the policy's range."""
    sigma: PositiveNumber = 1.5
    """Of an amount: the standard deviation of its logarithm."""
    effect_on: Literal["rate", "value"] = "rate"
    """Whether a candidate's effect changes how many users reward it, or by how much."""


class Other(Object):
    """A second reward event, that a guardrail watches."""

    base_rate: Share = written("1%")
    """How many exposures of the champion have one; its value is the end of its range."""
    effect: Relative = 0.0
    """The candidates' relative change of that."""


class Latency(Object):
    """How long answers take: lognormal."""

    median: PositiveDuration = written("50ms")
    """The champion's median."""
    sigma: PositiveNumber = 0.5
    """The standard deviation of the logarithm."""


class Later(Object):
    """A candidate that changes its behaviour."""

    effect: Relative
    """Its effect from then on."""
    at: OfRun | None = None
    """When: a duration, or a share of the run, after it came."""
    after_requests: Count | None = None
    """After how many requests (of all arms) since it came."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        if given(values, "at", "after_requests") != 1:
            yield "exactly one of at and after_requests"


class Candidate(Object):
    """One version that is offered."""

    at: OfRun = written("0s")
    """When it comes."""
    effect: Relative = 0.0
    """Its reward, relative to the champion's."""
    later: Later | None = None
    """A later change of its effect."""
    errors: Share | None = None
    """How many of its answers fail; without it as many as the champion's."""
    latency_factor: PositiveNumber = 1.0
    """Its latency, in those of the champion."""


class Scenario(Object):
    """A world in which a policy is rehearsed."""

    description: str = ""
    """What is special about it, for people."""
    rate: Rate = written("50/s")
    """The traffic of the model."""
    base_rate: Curve = written("5%")
    """How many of the champion's exposures earn a reward: a share, or a curve over the run."""
    swing: Swing = written({})
    """A daily wave of traffic and base rate."""
    delay: Delay = written({})
    """How late rewards come."""
    bursts: Bursts | None = None
    """Bursts of traffic."""
    duplicates: Duplicates | None = None
    """Events that are delivered twice."""
    disorder: OfGrace = written("0s")
    """How late an event may reach the log: a duration, or a share of the grace."""
    units: Units | None = None
    """Users who come back; without it each request is a user of its own."""
    contamination: Contamination | None = None
    """Forged labels."""
    loss: Loss | None = None
    """Events that are lost."""
    rewards_end: OfRun | None = None
    """When the pipe of the rewards breaks."""
    reward: RewardLaw = written({})
    """What a reward is worth."""
    others: dict[str, Other] = Field(default={})
    """Second reward events by name; those that guardrails watch exist without being listed."""
    errors: Share = written("0.5%")
    """How many of the champion's answers fail; a failed answer earns no reward."""
    latency: Latency = written({})
    """How long answers take."""
    candidates: tuple[Candidate, ...] = written([{}])
    """The versions that are offered, in order."""
    requests: Count = 1_000_000
    """A run ends after about so many requests, if it is not decided."""
    max_time: PositiveDuration | None = None
    """A run ends after this time, if it is not decided."""
    tick: PositiveDuration | None = None
    """The time between two looks; without it, it follows from policy and traffic."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        if values.get("candidates") == []:
            yield "at least one candidate"


def names() -> tuple[str, ...]:
    """The built-in scenarios."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name: str) -> Scenario:
    """The scenario of this name, or of the file at this path.

    Raises:
        ScenarioError: with every fault found, or the names that there are.
    """
    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        raise ScenarioError(
            f"{name}: found no such scenario and no such file, expected a file or one of "
            f"{', '.join(names())}"
        )
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise ScenarioError(f"{name}: found no readable file ({exc}), expected YAML") from exc


def parse(text: str, source: str) -> Scenario:
    """The scenario that a YAML text describes; `source` names it in errors.

    Raises:
        ScenarioError: with every fault found, each with its line.
    """
    read = _document.read(text)
    lines = [f"{source}:{fault.line}:{fault.column}: {fault.sentence()}" for fault in read.faults]
    try:
        scenario = Scenario.model_validate({} if read.value is None else read.value)
    except ValidationError as exc:
        if not (read.faults and read.value is None):
            lines += lines_of(source, read, exc, Scenario)
        raise ScenarioError("\n".join(lines)) from exc
    if lines:
        raise ScenarioError("\n".join(lines))
    return scenario
