"""The ledger: what was decided, what is to be done about it, and where to go on after a crash.

A commit is one transaction that holds the decisions, the effects they intend, the events that could
not be used, and a snapshot of the state that came out of it. Nothing acts on a decision before its
commit returned; an effect is marked done only after the world was read back. So a crash leaves one
of two things: nothing of a step, and the fold makes it again; or all of it, and `pending_effects`
says what may still have to be done.

Recovery folds the log from a snapshot and derives decisions that stand here already. Committing one
again changes nothing if it is the same, and is an `InvariantError` if it is not: then the code or
the log changed under a decision that may have moved traffic, and only a person can say which was
right.

Invariant, per model, at every moment that a reader can see:

    decisions are numbered 1..N without a gap, and chains.(number, hash) = (N, hash of decision N)
    hash of n = SHA-256(canonical JSON of the rest of n, which includes the hash of n - 1)

The chain ends in a row of its own because a chain alone cannot show that its tail was cut off. It
is no signature: whoever can rewrite every row can forge it. `understudy ledger --verify` derives
the decisions from the log as well.

Rejected: an ORM (rows here are values, written once), triggers against updates (two dialects of
them, and `verify_chain` finds more), JSON columns (see `tables`). The clock is an argument: times
of writing are for people, and nothing is decided by them.

    ledger     what callers have: one object, safe to call from any thread
    writer     what it writes; `snapshots`: those of them that it keeps
    reader     what it reads
    limits     what it drops
    chain      whether the decisions are those that were written
    terms      who may write
    leases     who folds which partition
    codec      snapshots as bytes; `parts`: of these, what did not change is not written again
    database   opening it, and its faults; `tables`, `rows`, `values`: what stands in it
    migrations how an older one gets there
    checks     what `understudy doctor` looks at
"""

from __future__ import annotations

from controller.ledger.ledger import Ledger, open_ledger
from controller.ledger.parts import Parts
from controller.ledger.values import (
    AdoptedPolicy,
    Beginning,
    DeadLetter,
    IntakeRejection,
    Limits,
    PendingEffect,
    Place,
    Stamp,
    Term,
)

__all__ = [
    "AdoptedPolicy",
    "Beginning",
    "DeadLetter",
    "IntakeRejection",
    "Ledger",
    "Limits",
    "Parts",
    "PendingEffect",
    "Place",
    "Stamp",
    "Term",
    "open_ledger",
]
