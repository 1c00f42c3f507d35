"""The part of a policy's schema that says where events come from that nobody posts: topics.

A team that has an event stream has its rewards in it already. A source names the topic, and `map`
says where in a record the fields of an event stand. Where Kafka and Redis are is no matter of a
policy: it is the same in every one, and a secret.

What a text in `map` means is told by its first character: a path begins with `$`, anything else is
what it says. Rejected: `{const: click}` for the latter (a second way to write a text, for the sake
of constants that begin with `$`, which no name of an event does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator

from controller.core.policy.base import Object, broken, given
from controller.core.policy.paths import (
    A_PATH,
    NumberOrPath,
    Path,
    TextOrPath,
    Wanted,
    Wishes,
    names_a_place,
)
from controller.core.policy.quantities import Text

Topic: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._-]+$",
        max_length=249,
        title="a topic of at most 249 letters, digits, '.', '_' and '-'",
    ),
]
Kind: TypeAlias = Literal["kafka", "redis"]


class Map(Object):
    """Where in a record the fields of an event stand."""

    type: Literal["reward", "exposure"] = "reward"
    """What a record is: what a user did, or, where routers are not ours, that a request was
    answered."""
    request_id: Path | None = None
    """The request. A reward needs this or a unit, an exposure needs it."""
    unit: Path | None = None
    """The unit: user, session or device."""
    time: Path | None = None
    """When it happened: RFC 3339, or a number. Without it, the time that the record has in its
    topic."""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    """What a time that is a number counts, since 1970."""
    id: Path | None = None
    """What identifies a reward: one with the same id counts once. Without it, the record's place in
    its topic, so that a record counts once, and one that was produced twice counts twice."""
    name: TextOrPath | None = None
    """The name of a reward event; those that the policy does not ask for count for nothing."""
    value: NumberOrPath | None = None
    """The value of a reward. In a record it may also be a number as text, true (1) or false (0)."""
    arm: TextOrPath | None = None
    """The version that answered."""
    status: Path | None = None
    """The HTTP status of the answer. Without it, it was answered well."""
    latency_ms: Path | None = None
    """How long the answer took."""
    epoch: Path | None = None
    """The number of the split that it was routed with, from `POST …/assignments`."""
    propensity: Path | None = None
    """The probability with which the arm was chosen, where there is no epoch."""
    segment: Path | None = None
    """The segment that it was routed in."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        is_reward = values.get("type", "reward") == "reward"
        if is_reward and not given(values, "request_id", "unit"):
            yield "a request_id or a unit with type reward"
        if not is_reward and not given(values, "request_id"):
            yield "a request_id with type exposure"
        if given(values, "name", "value") != (2 if is_reward else 0):
            yield "a name and a value with type reward, and with no other"
        if given(values, "arm") == is_reward:
            yield "an arm with type exposure, and with no other"
        if given(values, "id") > is_reward:
            yield "an id with type reward only"
        if is_reward and given(values, "status", "latency_ms", "epoch", "propensity", "segment"):
            yield "status, latency_ms, epoch, propensity and segment with type exposure only"
        if values.get("time_unit", "s") != "s" and not given(values, "time"):
            yield "a time beside time_unit"


class _Records(Object):
    """What the sources have in common."""

    start: Literal["latest", "earliest"] = "latest"
    """Where to begin in a topic that was never read here: with what comes from now on, or with all
    that it has. What came before our own requests has nothing to be joined to."""
    when: Wishes = Field(default={})
    """Path to value, or to a list of values: only records in which each of these paths has (one of)
    its values are events; others are counted as skipped."""
    map: Map | None = None
    """Where in a record the fields of an event stand. Without it, records are events already: our
    own, or CloudEvents, which name their model."""

    @field_validator("when")
    @classmethod
    def _paths(cls, when: dict[str, Wanted]) -> dict[str, Wanted]:
        faults = [
            broken(f"{A_PATH} before the colon", value, path)
            for path, value in when.items()
            if not names_a_place(path)
        ]
        if faults:
            raise ValidationError.from_exception_data("when", faults)
        return when


class KafkaSource(_Records):
    """A topic of the Kafka that `serve --kafka` names."""

    topic: Topic
    """The topic; all its partitions are read."""


class RedisSource(_Records):
    """A stream of the Redis that `serve --redis` names."""

    stream: Text
    """The key of the stream."""
    field: Text | None = None
    """The field of an entry that has the record, as JSON. Without it, the entry's fields are the
    record, each a text: field `rid` is `$.rid`."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        if not given(values, "map", "field"):
            yield "a map, or the field that has an event as JSON"


class Source(Object):
    """A topic of yours from which events are read."""

    kafka: KafkaSource | None = None
    """A topic of Kafka."""
    redis: RedisSource | None = None
    """A stream of Redis."""

    @classmethod
    def _broken_rules(cls, values: Mapping[str, object]) -> Iterator[str]:
        if given(values, "kafka", "redis") != 1:
            yield "exactly one of kafka and redis"

    @property
    def kind(self) -> Kind:
        """Which of the two."""
        return "redis" if self.kafka is None else "kafka"

    @property
    def place(self) -> str:
        """The topic, or the key of the stream."""
        if self.kafka is not None:
            return self.kafka.topic
        assert self.redis is not None
        return self.redis.stream

    @property
    def name(self) -> str:
        """What positions, counts and dead letters are kept under, such as `kafka:clicks`."""
        return f"{self.kind}:{self.place}"

    @property
    def records(self) -> KafkaSource | RedisSource:
        """How its records are read."""
        found = self.redis if self.kafka is None else self.kafka
        assert found is not None
        return found
