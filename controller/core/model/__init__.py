"""The vocabulary: the values that pass between the rooms of the house.

Two kinds of value live here. Small ones (a split, a decision, an effect) are frozen dataclasses.
Large ones (exposures, rewards, outcomes) are *columns*: one NumPy array per field, all of one
length, in log order. Text that serves as a key (request id, unit, reward id) is carried as its
xxh64, 0 for "absent"; the text itself stays in the event log, found again by its offset.

An *offset* is the number of an event in the log of its model, counted from 0.
Times are epoch seconds (float64), shares are basis points (int, 10 000 is everything).
"""

from __future__ import annotations

from controller.core.model.cluster import (
    Capacity,
    Intent,
    Leaving,
)
from controller.core.model.decisions import (
    ClusterEffect,
    Decision,
    Effect,
    KeepRejected,
    PointService,
    Rollout,
    Ruling,
    Scale,
    SetRole,
    SetSplit,
    weights_sentence,
)
from controller.core.model.events import (
    CapacityEvent,
    CommandEvent,
    ControlEvent,
    Covariates,
    EventBatch,
    Exposures,
    Rejected,
    Rewards,
    SplitEvent,
    Tick,
    VersionEvent,
)
from controller.core.model.evidence import (
    ArmSummary,
    CandidateEvidence,
    Growth,
    GuardEvidence,
    Health,
    Lift,
    Signals,
)
from controller.core.model.reports import (
    ArmReport,
    EarlierArms,
    Report,
)
from controller.core.model.splits import (
    Split,
    Version,
)
from controller.core.model.sums import (
    Cells,
    Flow,
    Outcomes,
    Sample,
)
from controller.core.model.tallies import (
    Partitions,
    Standing,
    Tallies,
    TalliesEvent,
)
from controller.core.model.values import evolved, quick
from controller.core.model.words import (
    BASIS,
    NO_EPOCH,
    ArmRole,
    Bool,
    Float,
    Int,
    Json,
    Key,
    Operation,
    Phase,
    Presence,
    Reason,
    Role,
    Verdict,
    key,
)
from controller.core.model.worries import (
    SIGNS,
    HealthKey,
    Worry,
    worries,
)

__all__ = [
    "BASIS",
    "NO_EPOCH",
    "SIGNS",
    "ArmReport",
    "ArmRole",
    "ArmSummary",
    "Bool",
    "CandidateEvidence",
    "Capacity",
    "CapacityEvent",
    "Cells",
    "ClusterEffect",
    "CommandEvent",
    "ControlEvent",
    "Covariates",
    "Decision",
    "EarlierArms",
    "Effect",
    "EventBatch",
    "Exposures",
    "Float",
    "Flow",
    "Growth",
    "GuardEvidence",
    "Health",
    "HealthKey",
    "Int",
    "Intent",
    "Json",
    "KeepRejected",
    "Key",
    "Leaving",
    "Lift",
    "Operation",
    "Outcomes",
    "Partitions",
    "Phase",
    "PointService",
    "Presence",
    "Reason",
    "Rejected",
    "Report",
    "Rewards",
    "Role",
    "Rollout",
    "Ruling",
    "Sample",
    "Scale",
    "SetRole",
    "SetSplit",
    "Signals",
    "Split",
    "SplitEvent",
    "Standing",
    "Tallies",
    "TalliesEvent",
    "Tick",
    "Verdict",
    "Version",
    "VersionEvent",
    "Worry",
    "evolved",
    "key",
    "quick",
    "weights_sentence",
    "worries",
]
