"""Events as columns: from objects, one field after the other, and from lines of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from xxhash import xxh64_intdigest

from controller.core.model import Covariates, Exposures, Float, Int, Key, Rewards
from controller.stream.shapes import Alike
from controller.stream.wire import Covariate, Exposure, Reward

_Filled = TypeVar("_Filled", Exposures, Rewards)

_EMPTY: Final = xxh64_intdigest(b"")
_FIELDS: Final = {"request": "request_id"}
"""What a column's field is called on a line, where that is something else."""

_BARE: Final = Exposure(time=0.0, model="m", request_id="r", arm="a")
_ABSENT: Final = {
    "request": np.uint64(0),
    "unit": np.uint64(0),
    "epoch": np.int64(_BARE.epoch),
    "propensity": np.float64(_BARE.propensity),
    "status": np.int64(_BARE.status),
    "latency_ms": np.float64(_BARE.latency_ms),
    "segment": np.int64(-1),
}
"""What a column holds where a line does not say it."""


def filled(kind: type[_Filled], alike: Alike, offset: Int) -> _Filled:
    """The columns of lines of one shape; what they do not say is absent."""
    columns: list[Any] = [
        alike.columns[name]
        if (name := _FIELDS.get(field, field)) in alike.columns
        else np.full(len(offset), _ABSENT[field])
        for field in list(kind.__dataclass_fields__)[1:]
    ]
    return kind(offset, *columns)


def exposures_of(offset: Int, events: Sequence[Exposure], index: dict[str, int]) -> Exposures:
    """The columns of these exposures or shadows. `index`, the dictionary of names, grows."""
    return Exposures(
        offset=offset,
        time=_floats([e.time for e in events]),
        request=_keys([e.request_id for e in events]),
        unit=_keys([e.unit for e in events]),
        arm=_indices([e.arm for e in events], index),
        epoch=_ints([e.epoch for e in events]),
        propensity=_floats([e.propensity for e in events]),
        status=_ints([e.status for e in events]),
        latency_ms=_floats([e.latency_ms for e in events]),
        segment=_segments([e.segment for e in events], index),
    )


def rewards_of(offset: Int, events: Sequence[Reward], index: dict[str, int]) -> Rewards:
    """The columns of these rewards. `index`, the dictionary of names, grows."""
    id_ = _keys([e.id for e in events])
    for at in np.flatnonzero(id_ == 0).tolist():
        id_[at] = _content_key(events[at])
    return Rewards(
        offset=offset,
        time=_floats([e.time for e in events]),
        id=id_,
        request=_keys([e.request_id for e in events]),
        unit=_keys([e.unit for e in events]),
        name=_indices([e.name for e in events], index),
        value=_floats([e.value for e in events]),
    )


def covariates_of(offset: Int, events: Sequence[Covariate]) -> Covariates:
    """The columns of these covariates."""
    return Covariates(
        offset=offset,
        unit=_keys([e.unit for e in events]),
        value=_floats([e.value for e in events]),
    )


def _content_key(event: Reward) -> int:
    """What identifies a reward without id: sent again, it is the same reward."""
    content = [event.request_id, event.unit, event.name, event.time, event.value]
    return xxh64_intdigest(msgspec.json.encode(content)) or 1


def _floats(values: list[float]) -> Float:
    return np.fromiter(values, np.float64, len(values))


def _ints(values: list[int]) -> Int:
    return np.fromiter(values, np.int64, len(values))


def _keys(texts: list[str]) -> Key:
    """`key` of every text, as a column."""
    digests = [xxh64_intdigest(text.encode()) for text in texts]
    keys = np.fromiter(digests, np.uint64, len(texts))
    keys[keys == 0] = 1
    keys[keys == _EMPTY] = 0
    return keys


def _indices(names: list[str], index: dict[str, int]) -> Int:
    for name in dict.fromkeys(names):
        index.setdefault(name, len(index))
    return np.fromiter(map(index.__getitem__, names), np.int64, len(names))


def _segments(names: list[str], index: dict[str, int]) -> Int:
    """As `_indices`, -1 for no text; quick where no event of the chunk is in a segment."""
    if not any(names):
        return np.full(len(names), -1, np.int64)
    known = dict.fromkeys(names)
    code = {name: index.setdefault(name, len(index)) if name else -1 for name in known}
    return np.fromiter(map(code.__getitem__, names), np.int64, len(names))
