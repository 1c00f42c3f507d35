"""How long things are kept, as it is written."""

import pytest

from controller.cli.printing import verified
from controller.settings import Retention, SettingsError


def test_durations_have_units_and_forever_is_none():
    assert Retention.of("1d", 100_000, "forever") == Retention()
    assert Retention.of("90m", 5, "365d") == Retention(5_400.0, 5, 365 * 86_400.0)
    assert Retention.of("forever", 5, "1w").log_s is None


@pytest.mark.parametrize(
    ("retain", "decisions", "name"),
    [
        ("10", "forever", "--retain"),
        ("1d", "a year", "--keep-decisions"),
        ("-1d", "1d", "--retain"),
    ],
)
def test_a_duration_that_is_none_is_refused_with_the_name_of_the_setting(retain, decisions, name):
    with pytest.raises(
        SettingsError, match=f"{name}: found .*, expected a duration with its unit.* or forever"
    ):
        Retention.of(retain, 1, decisions)


def test_verify_says_what_it_could_not_derive():
    assert verified("m", 5, 0, 0) == "m: 5 decisions derived again from the log, all equal"
    said = verified("m", 5, 3, 2)
    assert "; 3 older ones lie before the beginning of the log: their chain" in said
    assert said.endswith("; 2 still older ones are kept no more")
