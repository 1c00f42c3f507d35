"""What a broker says of an offset, when it says something."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException


def told(asked: Future[Any]) -> int:
    """The answer to a question for an offset; -1 where there is no record as was asked for.

    Of a broker that is lost meanwhile, hangs, or ends, there may come one that says nothing. It has
    neither an offset nor an error then, but librdkafka's placeholder (2.16; seen with Kafka 4.4).

    Raises:
        KafkaException: there is none.
    """
    at = int(asked.result().offset)
    if at == OFFSET_INVALID:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "a broker did not answer"))  # noqa: SLF001 - the client's name for it
    return at
