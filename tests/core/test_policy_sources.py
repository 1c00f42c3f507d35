"""Topics that a policy names: what may be said, how a fault is told, and what cannot work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controller.core.policy import digest, parse, warnings
from tests.core.policy_texts import SMALLEST, document, fault_at, faults, written

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"
EXAMPLES = re.findall(r"```yaml\n(apiVersion.*?)```", PAGE.read_text("utf-8"), re.DOTALL)

HEAD = """\
  sources:
    - kafka:
        topic: clicks
"""


def sourced(text: str) -> str:
    return SMALLEST + HEAD + "".join(f"        {line}\n" for line in text.splitlines())


def test_faults_name_the_line_the_field_and_what_was_expected():
    text = sourced(
        "when: {$.event: [click, [1]], event: 2}\n"
        "map:\n"
        "  request_id: ctx.rid\n"
        "  name: $.event name\n"
        "  valeu: $.v\n"
        "  time: $.ts\n"
        "  time_unit: min"
    )
    found = {p.path: (p.line, p.sentence()) for p in faults(text)}
    at = "spec.sources[0].kafka"
    assert {path: line for path, (line, _) in found.items()} == {
        f"{at}.when.$.event": 13,
        f"{at}.map": 14,
        f"{at}.map.request_id": 15,
        f"{at}.map.name": 16,
        f"{at}.map.valeu": 17,
        f"{at}.map.time_unit": 19,
    }
    assert "found ctx.rid, expected a path such as $.ctx.rid" in found[f"{at}.map.request_id"][1]
    assert "(did you mean 'value'?)" in found[f"{at}.map.valeu"][1]
    assert "a name and a value with type reward" in found[f"{at}.map"][1]
    assert "a text, a number, true or false, or a list" in found[f"{at}.when.$.event"][1]


def test_a_choice_by_something_that_is_no_path_is_told_with_what_was_written():
    problem = fault_at(sourced("when: {event: click}"), "spec.sources[0].kafka.when.event")
    assert (problem.line, problem.expected.endswith("before the colon")) == (13, True)


@pytest.mark.parametrize(
    "path",
    ["$", "$.", "$.a.", "$..a", "$.*", "$.a b", "$.user-id", "$[?@.a]", "$[1:2]", "$['a', 'b']"],
)
def test_what_names_more_than_one_place_is_no_path(path):
    given = {"request_id": path, "name": "click", "value": 1}
    source = {"kafka": {"topic": "clicks", "map": given}}
    expected = fault_at(written(document(sources=[source])), "spec.sources[0].kafka.map.request_id")
    assert "a path such as" in expected.expected


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("{request_id: $.r, name: clicked, value: 1}", "every record is named clicked, which is"),
        ("{unit: $.u, name: correct, value: 1}", "these name a unit only: none can be joined"),
        ("{type: exposure, request_id: $.r, arm: $.a}", "neither epoch nor propensity"),
    ],
)
def test_advice_on_what_cannot_work(mapping, said):
    (advice,) = [a for a in warnings(parse(sourced(f"map: {mapping}"), "f")) if "sources" in a.path]
    assert said in advice.sentence
    assert advice.path.startswith("spec.sources[0].kafka.map")


def test_a_source_that_works_has_no_advice():
    policy = parse(sourced("map: {request_id: $.r, name: $.event, value: $.v}"), "f")
    assert not [a for a in warnings(policy) if "sources" in a.path]
    assert policy.spec.sources[0].name == "kafka:clicks"


def test_policies_without_sources_mean_what_they_meant_before_there_were_any():
    # A digest stands in every decision: this one is of a version that knew no sources.
    before = "c661384b9da0e438cea91c0e1fa90125682f690ee34e642e3760e8fd8dbf34eb"
    assert digest(parse(SMALLEST, "f")) == before
    assert digest(parse(SMALLEST + "  sources: []\n", "f")) == before


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_of_the_page_are_policies_that_work(text):
    assert len(EXAMPLES) == 2
    assert warnings(parse(text, "docs/sources.md")) == ()
