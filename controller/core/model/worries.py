"""What the health of a report may hold, and what of it people are told: one list for all who tell.

The core, the loop and the cluster each find something and put it under a key of `HealthKey`; mypy
refuses other keys. `SIGNS` says what each key means and turns its value into a sentence when
something does not work. The command line, the dashboard (by the API), the condition `Healthy` of a
RolloutPolicy and the page of the HTTP API are made from it, so a key that has its line there is
told everywhere.

Rejected: a list of keys at each place that tells. A clock that is wrong was in none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from controller.core.model.words import Json

HealthKey: TypeAlias = Literal[
    "trouble",
    "unreported",
    "carrier",
    "left_behind",
    "kept",
    "deploy",
    "cluster",
    "clock",
    "notify",
    "split",
    "sample_ratio",
    "join_rate",
    "sample_ratio_evidence",
    "silent_s",
    "unattributed",
    "sources",
    "partitions",
    "partitioning",
    "waiting",
]


@dataclass(frozen=True, slots=True)
class Worry:
    """Something that does not work, or not yet.

    name      the constant word for it
    is_wrong  somebody should look, so the model is not `Healthy`
    """

    name: str
    sentence: str
    is_wrong: bool


@dataclass(frozen=True, slots=True)
class Sign:
    """What stands under a key.

    tells     its value -> what does not work, in a sentence, if it is so; None: a figure or a plan
    is_wrong  of what it tells; false where it ends by waiting, or another condition says it
    word      the constant word for what it tells; empty: the key
    """

    meaning: str
    tells: Callable[[Json], str | None] | None = None
    is_wrong: bool = True
    word: str = ""


def worries(health: Mapping[HealthKey, Json] | Mapping[str, Json]) -> list[Worry]:
    """What of a report's health people must be told, in the order of `SIGNS`."""
    found = []
    for key, sign in SIGNS.items():
        sentence = sign.tells(health.get(key)) if sign.tells is not None else None
        if sentence is not None:
            found.append(Worry(sign.word or key, sentence, sign.is_wrong))
    return found


def _as_it_is(value: Json) -> str | None:
    """The value is a sentence about what does not work."""
    return str(value) if value else None


def _if_refused(value: Json) -> str | None:
    return f"the split was {value}" if str(value).startswith("refused") else None


def _if_mismatched(value: Json) -> str | None:
    if value != "mismatch":
        return None
    return "the arms did not get the traffic that the splits say: sample-ratio mismatch"


def _if_fallen(value: Json) -> str | None:
    if not isinstance(value, dict):
        return None
    now, before = _share(value.get("now")), _share(value.get("before"))
    return f"the share of outcomes with a reward fell to {now}, from {before}"


def _share(value: Json) -> str:
    return f"{value:.2%}" if isinstance(value, float | int) else "unknown"


SIGNS: Final[Mapping[HealthKey, Sign]] = {
    "trouble": Sign("log, ledger or a topic is out of reach, or a bug: the model holds", _as_it_is),
    "unreported": Sign("a partition has told nothing: its data are missing", _as_it_is),
    "carrier": Sign("what carries the split cannot, or somebody else has changed it", _as_it_is),
    "left_behind": Sign("an arm is kept running for users of an older split", _as_it_is),
    "kept": Sign("the same, until a lost router is forgotten", _as_it_is, is_wrong=False),
    "deploy": Sign("a change to the cluster does not succeed", _as_it_is),
    "cluster": Sign("objects of the cluster cannot be used, or it is out of reach", _as_it_is),
    "clock": Sign("a clock was set, or is ahead of another", _as_it_is),
    "notify": Sign("a webhook was not reached", _as_it_is),
    "split": Sign(
        "`in force`, `not yet confirmed by the router`, or refused and why",
        _if_refused,
        is_wrong=False,
        word="split_refused",
    ),
    "sample_ratio": Sign(
        "`ok`, or `mismatch`: the arms did not get the traffic that the splits say",
        _if_mismatched,
        word="sample_ratio_mismatch",
    ),
    "join_rate": Sign(
        "`now` and `before`: the share of outcomes with a reward, once it has fallen too far",
        _if_fallen,
        is_wrong=False,
    ),
    "sample_ratio_evidence": Sign("the e-value of a mismatch"),
    "silent_s": Sign("seconds since a request was answered"),
    "unattributed": Sign("exposures of this rollout without a known split: not used"),
    "sources": Sign("of each topic that the policy reads: what became of its records"),
    "partitions": Sign("of each partition: what is open, how far behind, who folds it"),
    "partitioning": Sign("a number of partitions that takes effect after this rollout"),
    "waiting": Sign("what a model in a cluster waits for, or does next"),
}
