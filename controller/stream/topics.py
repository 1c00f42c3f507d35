"""Which reader a topic of others has, by its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from controller.errors import Permanent
from controller.stream.records import Position, Reader

Start: TypeAlias = Literal["latest", "earliest"]
"""Where to begin in a topic that was never read here."""


def open_reader(
    urls: Mapping[str, str | None],
    kind: str,
    place: str,
    *,
    start: Start | float,
    position: Position | None,
) -> Reader:
    """The reader of the topic `place` of the `kind` (kafka or redis) that is at `urls[kind]`.

    start  where it begins without a position; a number is a time, in epoch seconds

    Raises:
        Permanent: it is not said where that is, or the address is wrong.
    """
    url = urls.get(kind)
    if url is None:
        raise Permanent(
            f"spec.sources names {place!r} of {kind}, and it is not said where that is: give "
            f"`serve` --{kind} {kind}://HOST:PORT, or UNDERSTUDY_{kind.upper()}"
        )
    try:
        if kind == "kafka":
            from controller.stream.kafka_reader import (  # noqa: PLC0415 - pay for what is used
                KafkaReader,
            )

            return KafkaReader(url, place, start=start, position=position)
        from controller.stream.redis_reader import RedisReader  # noqa: PLC0415 - as above

        return RedisReader(url, place, start=start, position=position)
    except ImportError as exc:
        raise Permanent(f"no driver for {kind} ({exc}): install understudy[cluster]") from exc
