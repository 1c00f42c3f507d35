"""The page of the phases: the table of `core.decide.phases`, drawn and written out.

The diagram folds phases that have the same exits into one box, and the four ways into a stage into
one arrow, or it would have fifty arrows; the table below it leaves nothing out. Which phases may be
folded is read off the table, so a phase that gets an exit of its own leaves its box by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from controller.core.decide.phases import ACTIVE, ENTER, RESTING, TRANSITIONS, Happening
from controller.core.model import Phase

PHASES_PAGE = Path(__file__).parent / "phases.md"

_HEAD = """\
<!-- Made by `make docs` from controller/core/decide/phases.py. Do not edit. -->
# Phases

Where a model's rollout is, and what moves it on. A happening that is not in the table is illegal in
that phase: it changes nothing, and an operator who asked for it is told why.

"""

_MEANING: Final[dict[Phase, str]] = {
    Phase.IDLE: "the champion serves everything; nothing was tried yet",
    Phase.SHADOWING: "the candidate answers copies of requests, users see the champion",
    Phase.RAMPING: "a canary: the candidate's share grows step by step",
    Phase.TESTING: "an A/B test: the share is fixed until something is proven",
    Phase.EXPLORING: "a bandit: the share follows the evidence",
    Phase.HOLDING: "the split stays, because the data cannot be trusted or time is up",
    Phase.PROMOTING: "the candidate gets everything; the routers have not confirmed it yet",
    Phase.PROMOTED: "the candidate is the champion now",
    Phase.ROLLING_BACK: "the champion gets everything; the routers have not confirmed it yet",
    Phase.ROLLED_BACK: "the candidate is out, and is not tried again",
    Phase.PAUSED: "an operator stopped the clockwork; the split stays",
}

_BOXES: Final = {"resting": RESTING, "stage": ACTIVE}
_ENTRIES: Final = frozenset(ENTER.values())


def phases_page() -> str:
    """The page `phases.md`, as Markdown."""
    diagram = "\n".join(f"    {line}" for line in _diagram())
    meanings = "".join(f"| `{phase}` | {_MEANING[phase]} |\n" for phase in Phase)
    return (
        f"{_HEAD}```mermaid\nstateDiagram-v2\n{diagram}\n```\n\n"
        f"| phase | means |\n|---|---|\n{meanings}\n"
        f"{_table()}"
    )


def _diagram() -> Iterator[str]:
    yield f"[*] --> {Phase.IDLE}"
    for box, members in _BOXES.items():
        yield f"state {box} {{"
        yield from (f"    {phase}" for phase in Phase if phase in members)
        yield "}"
    for source, happening, target in _arrows():
        yield f"{source} --> {target}: {happening}"


def _arrows() -> list[tuple[str, str, str]]:
    """(from, label, to), each once: folded where a whole box, or every entry, agrees."""
    arrows: dict[tuple[str, str, str], None] = {}
    for phase in Phase:
        for happening in Happening:
            target = TRANSITIONS.get((phase, happening))
            if target is None or target is phase:
                continue
            if happening in _ENTRIES and phase in ACTIVE:
                arrows["stage", "the next stage", "stage"] = None
            elif happening in _ENTRIES and _has_every_entry(phase):
                arrows[_source(phase, happening), "enter a stage", "stage"] = None
            else:
                arrows[_source(phase, happening), happening.value, target.value] = None
    return list(arrows)


def _has_every_entry(phase: Phase) -> bool:
    return all((phase, entry) in TRANSITIONS for entry in _ENTRIES)


def _source(phase: Phase, happening: Happening) -> str:
    """The phase's box where all of the box go the same way, else the phase itself."""
    for box, members in _BOXES.items():
        if phase in members and len({TRANSITIONS.get((p, happening)) for p in members}) == 1:
            return box
    return phase.value


def _table() -> str:
    head = "| phase | " + " | ".join(f"`{happening}`" for happening in Happening) + " |\n"
    rule = "|---" * (len(Happening) + 1) + "|\n"
    return head + rule + "".join(_row(phase) for phase in Phase)


def _row(phase: Phase) -> str:
    targets = (TRANSITIONS.get((phase, happening)) for happening in Happening)
    return f"| `{phase}` | " + " | ".join(t.value if t else "" for t in targets) + " |\n"
