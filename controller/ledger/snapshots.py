"""The snapshots that the ledger keeps, with the parts that they name (see `parts`).

Inside a transaction that the caller opened; none of this commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from sqlalchemy import Connection, and_, bindparam, delete, insert, select

from controller.errors import InvariantError
from controller.ledger import limits
from controller.ledger.database import insert_new
from controller.ledger.parts import Parts, named_in
from controller.ledger.tables import snapshot_parts, snapshots
from controller.ledger.values import Place
from controller.ledger.writer import Pen


def keep(  # noqa: PLR0913 - columns of a row
    pen: Pen,
    offset: int,
    state: bytes,
    parts: Parts,
    *,
    place: Place | None,
    retain_s: float | None,
) -> None:
    """Keep a snapshot, and drop those that are needed no more, with the parts only they name.

    Raises:
        InvariantError: the newest is of a later offset: two controllers write here; or it names a
            part that neither came with it nor is kept.
    """
    kept = _manifests(pen.connection, pen.model)
    _require_next(pen.model, offset, parts, kept)
    new = [{"model": pen.model, "digest": d, "body": body} for d, body in parts.new.items()]
    insert_new(pen.connection, snapshot_parts, new)
    _delete_snapshots(pen.connection, pen.model, [offset] if offset in kept else [])
    pen.connection.execute(
        insert(snapshots).values(
            model=pen.model,
            offset=offset,
            state=state,
            code_version=pen.code_version,
            time=pen.now,
            parts=parts.manifest or None,
            clock=None if place is None else place.clock,
            needs=None if place is None else place.needs,
            digest=None if place is None else place.digest,
        )
    )
    gone = limits.thin_snapshots(pen.connection, pen.model, retain_s) | {offset}
    live = parts.named.union(*(names for old, names in kept.items() if old not in gone))
    dead = set().union(*(names for old, names in kept.items() if old in gone))
    _drop_parts(pen.connection, pen.model, dead - live)


def _require_next(
    model: str, offset: int, parts: Parts, kept: Mapping[int, AbstractSet[bytes]]
) -> None:
    """Make sure that a snapshot is not older than the kept ones, and that its parts are here."""
    newest = max(kept, default=offset)
    if offset < newest:
        raise InvariantError(
            f"{model}: a snapshot at offset {offset} after one at {newest}; "
            "does a second controller write to this ledger?"
        )
    missing = parts.named.difference(parts.new, *kept.values())
    if missing:
        raise InvariantError(f"{model}: {len(missing)} parts of a snapshot are not kept")


def drop_since(connection: Connection, model: str, since: int) -> None:
    """Forget the snapshots at offset `since` and after it, with the parts that only they name."""
    kept = _manifests(connection, model)
    gone = [offset for offset in kept if offset >= since]
    _delete_snapshots(connection, model, gone)
    live = set().union(*(kept[offset] for offset in kept if offset < since))
    _drop_parts(connection, model, set().union(*(kept[offset] for offset in gone)) - live)


def _manifests(connection: Connection, model: str) -> dict[int, set[bytes]]:
    """The parts that each kept snapshot names, by its offset."""
    query = select(snapshots.c.offset, snapshots.c.parts).where(snapshots.c.model == model)
    return {row.offset: named_in(row.parts or b"") for row in connection.execute(query)}


def _delete_snapshots(connection: Connection, model: str, offsets: Sequence[int]) -> None:
    if offsets:
        old = and_(snapshots.c.model == model, snapshots.c.offset.in_(offsets))
        connection.execute(delete(snapshots).where(old))


def _drop_parts(connection: Connection, model: str, digests: AbstractSet[bytes]) -> None:
    if digests:
        one = and_(snapshot_parts.c.model == model, snapshot_parts.c.digest == bindparam("d"))
        connection.execute(delete(snapshot_parts).where(one), [{"d": d} for d in sorted(digests)])
