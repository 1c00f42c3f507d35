"""Whether the decisions of a model are those that were written, and all of them."""

from __future__ import annotations

from sqlalchemy import Connection, select

from controller.ledger import limits, writer
from controller.ledger.rows import is_intact
from controller.ledger.tables import decisions

_PAGE = 1_000


def first_broken(connection: Connection, model: str) -> int | None:
    """The number of the first decision that is not as it was written, None when all are.

    Where older ones were dropped, the chain hangs on the hash that was noted then.
    """
    query = select(decisions).where(decisions.c.model == model).order_by(decisions.c.number)
    begun = limits.beginning(connection, model)
    number, previous_hash = begun.decision - 1, begun.previous_hash
    with connection.execution_options(yield_per=_PAGE).execute(query) as rows:
        for row in rows.mappings():
            number += 1
            if row["number"] != number or not is_intact(dict(row), previous_hash=previous_hash):
                return number
            previous_hash = row["hash"]
    end = writer.chain_end(connection, model)
    if end.number != number:
        return min(number, end.number) + 1
    return None if end.hash == previous_hash else max(number, 1)
