"""The page of the phases says what the table says, all of it."""

from __future__ import annotations

import re

from controller.core.decide.phases import TRANSITIONS, Happening
from controller.core.model import Phase
from docs.phases import PHASES_PAGE, phases_page


def test_committed_page_equals_the_generated_one():
    assert PHASES_PAGE.read_text(encoding="utf-8") == phases_page(), "run `make docs`"


def test_the_written_table_is_the_table_of_the_code():
    lines = phases_page().splitlines()
    start = next(i for i, line in enumerate(lines) if f"`{Happening.PAUSE}`" in line)
    columns = [cell.strip(" `") for cell in lines[start].split("|")[2:-1]]
    read = {}
    for line in lines[start + 2 :]:
        phase, *targets = [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for happening, target in zip(columns, targets, strict=True):
            if target:
                read[Phase(phase), Happening(happening)] = Phase(target)
    assert read == TRANSITIONS


def test_every_phase_is_drawn_and_every_other_phase_can_be_left_or_entered_by_an_arrow():
    diagram = phases_page().split("```")[1]
    arrows = re.findall(r"(\S+) --> (\w+)", diagram)
    boxes = dict(re.findall(r"state (\w+) \{([^}]*)\}", diagram))
    inside = {phase: box for box, members in boxes.items() for phase in members.split()}
    ends = {end for arrow in arrows for end in arrow}
    for phase in Phase:
        assert phase.value in ends or inside[phase.value] in ends, phase
