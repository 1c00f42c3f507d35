import io

import pytest
from rich.console import Console

from controller.demo.control import Arm, Report
from controller.demo.tally import Tally
from controller.demo.terminal import BAR_CELLS, Lines, Picture, Silent, bar, open_screen, picture


def report(**changes) -> Report:
    arms = [
        Arm("v1", "champion", 8000, 9500, 1234, 1200, 34, 1190, 0.84, (0.81, 0.87)),
        Arm("v2", "candidate", 2000, 500, 60, 50, 10, 48, None, None),
    ]
    fields = {"phase": "ramping", "champion": "v1", "reason": "50 of 60 outcomes", "arms": arms}
    return Report(**{**fields, "candidate": "v2", **changes})


@pytest.mark.parametrize(
    ("mean", "interval", "drawn"),
    [
        (None, None, "." * 30),
        (0.5, None, "." * 15 + "o" + "." * 14),
        (0.5, (0.4, 0.6), "." * 12 + "---o---" + "." * 11),
        (1.0, (0.9, None), "." * 27 + "--o"),
        (0.0, (None, 0.1), "o---" + "." * 26),
    ],
)
def test_a_bar_shows_the_mean_in_its_interval(mean, interval, drawn):
    assert len(drawn) == BAR_CELLS
    assert bar(mean, interval) == drawn.translate(str.maketrans(".-o", "·━●"))


def test_the_picture_shows_phase_sentence_weights_and_counts():
    console = Console(file=io.StringIO(), width=120)
    tally = Tally(sent=1300, accepted=1238, dropped=2)
    console.print(picture(report(), tally, 21.4))
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("ramping", "50 of 60 outcomes", "95 % -> 80 %", "1,234", "0.840", "2 lost"):
        assert text in drawn


def test_lines_are_written_on_changes_only():
    console = Console(file=io.StringIO(), width=40)
    screen = Lines(console)
    screen.show(report(), Tally(sent=10), 1.0)
    screen.show(report(reason="51 of 60 outcomes"), Tally(sent=20), 2.0)
    screen.show(report(phase="holding"), Tally(sent=30), 3.0)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split()[2] for line in lines] == ["ramping", "holding"]
    assert "v1 95 %, v2 5 %" in lines[0]


def test_the_screen_fits_the_output():
    terminal = Console(file=io.StringIO(), force_terminal=True)
    pipe = Console(file=io.StringIO())
    assert isinstance(open_screen("table", terminal), Picture)
    assert isinstance(open_screen("table", pipe), Lines)
    assert type(open_screen("json", terminal)) is Silent


def test_the_live_picture_can_be_begun_again():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    screen = Picture(console)
    for seconds in (1.0, 2.0):
        with screen:
            screen.say("dashboard: here")
            screen.show(report(), Tally(), seconds)
    assert "dashboard: here" in console.file.getvalue()  # type: ignore[attr-defined]
