"""Snapshots as bytes: a state of nested dataclasses and arrays, and the same state back.

    blob = MAGIC (2)  version (1)  flags (1)  CRC-32 of the body (4, big-endian)  body
    body = msgpack of the value, whole or compressed; dataclasses are maps of their fields
    array = msgpack extension 1: length of dtype (1)  dtype  dimensions (1)  shape (8 each)  bytes
          | extension 2: the same with what `parts.Cut` gave for it in place of the bytes

Version 1, up to 0.2.0, had no parts and compressed by zlib. Both are read, for ever: the log before
a snapshot may have been trimmed. A field that a state gains needs a default for the same reason.

Encoding is a function of the value: fields stand in the order of their declaration, dicts in the
order of insertion, arrays in C order. Dicts are *not* sorted: a fold that goes on from a snapshot
must write the same sentences as one that never stopped, and sentences list arms in dict order. Sets
have no order that two processes agree on, so a type that contains one is refused.

Decoding is typed, so a state of another shape (a newer or older Understudy) is an error and never a
state with holes. A snapshot is a shortcut: whoever gets `Permanent` here folds the log instead.

Rejected: pickle (runs code, and its bytes change with the Python version), np.savez (one file entry
per array, and a second format for all that is no array).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Hashable
from functools import lru_cache, partial
from typing import Any, TypeVar, cast, get_args, get_origin

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.errors import InvariantError, Permanent
from controller.ledger.parts import Cut, Gaps, flat_bytes
from controller.stream.packing import compressed, plain

T = TypeVar("T")

_MAGIC = b"US"
_VERSION = 2
_VERSIONS = (1, 2)
_HEADER = struct.Struct(">2sBBI")
_COMPRESSED = 1
_COMPRESS_ABOVE = 64 * 1024
_ARRAY = 1
_PARTED = 2
_KINDS = "biufcmM"
"""NumPy's kinds that are kept: numbers, booleans and times; no objects, text or records."""


def encode(value: object, *, compress: bool = False, cut: Cut | None = None) -> bytes:
    """The value's bytes; equal for values that are equal in content, types and dict order.

    Takes dataclasses, NumPy arrays of numbers, and what msgpack has. With
    `compress`, a body above 64 KiB is compressed: a third of the size, but no zero-copy read. With
    `cut`, large arrays are left to it.

    Raises:
        InvariantError: the value contains something else.
    """
    _refuse_sets(cast("Any", type(value)))
    try:
        body = msgspec.msgpack.Encoder(enc_hook=partial(_encode_other, cut=cut)).encode(value)
    except (TypeError, OverflowError, msgspec.MsgspecError) as exc:
        raise InvariantError(f"not a state that can be kept: {exc}") from exc
    flags = 0
    if compress and len(body) > _COMPRESS_ABOVE:
        body, flags = compressed(body), _COMPRESSED
    return _HEADER.pack(_MAGIC, _VERSION, flags, zlib.crc32(body)) + body


def decode(kind: type[T], blob: bytes, *, copy: bool = False, gaps: Gaps | None = None) -> T:
    """The value of type `kind` that `encode` made these bytes of.

    Arrays are read-only views into `blob`, which they keep alive; with `copy` they are writable
    arrays of their own. Those that were cut are without content until `gaps` is filled.

    Raises:
        Permanent: the bytes are damaged, of a newer format, or of another type; or arrays were cut,
            and there are no `gaps`.
    """
    body = _body(blob)
    hook = partial(_decode_extension, copy=copy, gaps=gaps)
    decoder = msgspec.msgpack.Decoder(kind, ext_hook=hook, dec_hook=_require_array)
    try:
        value: T = decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, struct.error, IndexError) as exc:
        raise Permanent(f"the snapshot is no {_name(kind)}: {exc}") from exc
    return value


def _body(blob: bytes) -> bytes | memoryview:
    if len(blob) < _HEADER.size:
        raise Permanent(f"the snapshot is cut off: {len(blob)} bytes")
    magic, version, flags, checksum = _HEADER.unpack_from(blob)
    body = memoryview(blob)[_HEADER.size :]
    if magic != _MAGIC:
        raise Permanent("the bytes are no snapshot")
    if version not in _VERSIONS or flags & ~_COMPRESSED:
        raise Permanent(f"the snapshot has format {version}.{flags}; this version reads {_VERSION}")
    if zlib.crc32(body) != checksum:
        raise Permanent("the snapshot is damaged: its checksum differs")
    if not flags & _COMPRESSED:
        return body
    try:
        return plain(bytes(body))
    except ValueError as exc:
        raise Permanent(f"the snapshot is damaged: {exc}") from exc


def _encode_other(value: object, *, cut: Cut | None) -> object:
    if isinstance(value, np.ndarray):
        if cut is not None and value.nbytes > cut.size:
            return msgspec.msgpack.Ext(_PARTED, _array_head(value) + cut.take(value))
        return msgspec.msgpack.Ext(_ARRAY, b"".join((_array_head(value), flat_bytes(value).data)))
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r:.80}")


def _array_head(array: NDArray[Any]) -> bytes:
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"an array of {array.dtype}")
    name = array.dtype.str.encode()
    return struct.pack(f">B{len(name)}sB{array.ndim}Q", len(name), name, array.ndim, *array.shape)


def _decode_extension(
    code: int, data: memoryview, *, copy: bool, gaps: Gaps | None
) -> NDArray[Any]:
    if code not in (_ARRAY, _PARTED):
        raise ValueError(f"unknown extension {code}")
    length = data[0]
    dtype = np.dtype(data[1 : 1 + length].tobytes().decode())
    dimensions = data[1 + length]
    start = 2 + length
    shape = struct.unpack_from(f">{dimensions}Q", data, start)
    rest = data[start + 8 * dimensions :]
    if code == _PARTED:
        if gaps is None:
            raise ValueError("it is kept in parts")
        return gaps.make(dtype, shape, rest.tobytes())
    flat = np.frombuffer(rest, dtype=np.uint8)
    array = flat.view(dtype).reshape(shape)
    return array.copy() if copy else array


def _require_array(kind: type, value: object) -> object:
    """What an annotation such as NDArray[np.float64] promises: an array, of that dtype."""
    expected = get_origin(kind) or kind
    if not isinstance(value, expected):
        raise TypeError(f"found {type(value).__name__}, expected {expected.__name__}")
    if isinstance(value, np.ndarray) and (arguments := get_args(kind)):
        (scalar,) = get_args(arguments[1])
        if isinstance(scalar, type) and not issubclass(value.dtype.type, scalar):
            raise TypeError(f"found an array of {value.dtype}, expected {scalar.__name__}")
    return value


@lru_cache(maxsize=64)
def _refuse_sets(kind: Hashable) -> None:
    seen: set[type] = set()

    def visit(node: msgspec.inspect.Type) -> None:
        if isinstance(node, (msgspec.inspect.SetType, msgspec.inspect.FrozenSetType)):
            raise InvariantError(f"{_name(kind)} contains a set, which has no order to keep")
        if isinstance(node, msgspec.inspect.DataclassType):
            if node.cls in seen:
                return
            seen.add(node.cls)
        for child in _children(node):
            visit(child)

    visit(msgspec.inspect.type_info(kind))


def _children(node: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, ...]:
    match node:
        case msgspec.inspect.DataclassType():
            return tuple(field.type for field in node.fields)
        case msgspec.inspect.UnionType():
            return node.types
        case msgspec.inspect.TupleType():
            return node.item_types
        case msgspec.inspect.DictType():
            return node.key_type, node.value_type
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            return (node.item_type,)
        case _:
            return ()


def _name(kind: object) -> str:
    return str(getattr(kind, "__name__", kind))
