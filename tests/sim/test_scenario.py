"""Scenarios: what a file may say, and how its faults are told."""

from __future__ import annotations

import re

import pytest

from controller.sim.quantities import Moment, rate_per_s
from controller.sim.scenario import Candidate, Scenario, ScenarioError, load, names, parse
from docs.scenarios import SCENARIOS_PAGE, scenarios_page
from tests.sim.worlds import scenario

LINE = re.compile(r"^f\.yaml:\d+:\d+: (\S+: )?found .+, expected .+$")


def faults(text: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "f.yaml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", names())
def test_every_built_in_scenario_can_be_read_and_says_what_it_is(name):
    assert load(name).description.endswith(".")


def test_the_built_in_scenarios_cover_the_scoreboard():
    assert set(names()) >= {
        *("flat", "daily_swing", "baseline_falls", "baseline_rises", "delayed_labels"),
        *("duplicates", "out_of_order", "bursts", "sticky_users", "common_drift", "harmful"),
        *("better", "late_regression", "errors", "slow", "contaminated", "revenue"),
        *("lost_exposures", "dead_pipe"),
    }


def test_an_empty_file_is_the_world_of_defaults():
    assert parse("", "f.yaml") == Scenario()


@pytest.mark.parametrize(
    ("text", "place", "field", "expected"),
    [
        ("rate: fast", "1:7", "rate", "such as 50/s"),
        ("rate: -3", "1:7", "rate", "such as 50/s"),
        ("base_rat: 5%", "1:1", "base_rat", "did you mean 'base_rate'?"),
        ("swing: {rat: 5%}", "1:9", "swing.rat", "one of the fields period, rate, base_rate"),
        ("units: 4", "1:8", "units", "a mapping of fields"),
        ("\n\nrequests: 0", "3:11", "requests", "a whole number of at least 1"),
        ("candidates: []", "1:1", "", "at least one candidate"),
        ("candidates: [{effect: -300%}]", "1:23", "candidates[0].effect", "at least -100%"),
        ("candidates: [{later: {effect: 3%}}]", "1:22", "candidates[0].later", "exactly one of"),
        ("contamination: {}", "1:16", "contamination.share", "the field share"),
        ("base_rate: [[1h, 5%], [0s, 3%]]", "1:12", "base_rate", "whose moments rise"),
        ("base_rate: [[0s, 5%], [50%, 3%]]", "1:12", "base_rate", "all durations|all moments"),
        ("delay: {mean: 3}", "1:15", "delay.mean", "a share of the attribution window"),
        ("units: {icc: 100%}", "1:8", "units", "an icc below 100%"),
        ("others: {refund: {x: 1}}", "1:19", "others.refund.x", "base_rate, effect"),
    ],
)
def test_a_fault_names_line_field_and_what_was_expected(text, place, field, expected):
    (line,) = faults(text)
    assert line.startswith(f"f.yaml:{place}: {field}")
    assert LINE.match(line)
    assert re.search(expected.replace("?", r"\?").replace("(", r"\("), line)


def test_all_faults_of_a_file_are_told_at_once_in_its_order():
    lines = faults("rate: x\nfoo: 1\nunits: {icc: 2}\n")
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3"]


def test_a_text_that_is_no_yaml_is_one_fault():
    (line,) = faults("rate: [1")
    assert "expected YAML" in line


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ScenarioError, match=r"one of baseline_falls, .*sticky_users"):
        load(str(tmp_path / "flatt"))


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("rate: 3000/min\nbase_rate: 0.1\n", encoding="utf-8")
    assert load(str(path)).rate == 50.0


@pytest.mark.parametrize(
    ("written", "per_s"), [("50/s", 50.0), ("3000/min", 50.0), ("2/h", 2 / 3600), (7, 7.0)]
)
def test_rates_are_read(written, per_s):
    assert rate_per_s(written) == pytest.approx(per_s, rel=1e-12)


@pytest.mark.parametrize("written", ["50", "50/year", "-1/s", "0/s", "1e3/s", None, True, ""])
def test_what_is_no_rate_is_refused(written):
    with pytest.raises(ValueError, match="such as 50/s"):
        rate_per_s(written)


def test_moments_are_durations_or_shares():
    made = scenario(disorder="80%", rewards_end="2h")
    assert (made.disorder, made.rewards_end) == (Moment(share=0.8), Moment(seconds=7200.0))
    assert made.disorder.of(60.0) == pytest.approx(48.0)


def test_the_committed_page_of_scenarios_equals_the_generated_one():
    assert SCENARIOS_PAGE.read_text(encoding="utf-8") == scenarios_page(), "run `make docs`"


def test_every_field_and_every_built_in_scenario_is_on_its_page():
    page = scenarios_page()
    for name in (*Scenario.model_fields, *Candidate.model_fields, *names()):
        assert re.search(rf"^\| `{name}` \| \S", page, re.MULTILINE), name


def test_the_page_of_simulate_shows_a_scenario_that_works():
    page = SCENARIOS_PAGE.with_name("simulate.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert parse(block, "docs/simulate.md") != Scenario()
