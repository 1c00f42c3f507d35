"""Whatever the text: a policy, or its faults; and a hint for each typo."""

from __future__ import annotations

import copy
import itertools
import json
import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.core.policy import (
    Policy,
    parse,
)
from controller.core.policy.document import read
from controller.core.policy.faults import nearest
from controller.errors import PolicyError
from tests.core.policy_texts import (
    EVERY_FIELD,
    POLICIES,
    SMALLEST,
    VALUES,
    document,
    objects,
    places,
)

# --- typos ------------------------------------------------------------------------------------


def distance(a: str, b: str) -> int:
    """Levenshtein, by the textbook."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        left = [i]
        for j, y in enumerate(b, 1):
            left.append(min(row[j] + 1, left[-1] + 1, row[j - 1] + (x != y)))
        row = left
    return row[-1]


@st.composite
def typos(draw: st.DrawFn) -> tuple[str, str, tuple[str, ...]]:
    names = draw(st.sampled_from(objects()))
    name = draw(st.sampled_from([n for n in names if len(n) > 2] or names))
    at = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    typo = draw(
        st.sampled_from(
            [
                name[:at] + name[at + 1 :],
                name[:at] + letter + name[at:],
                name[:at] + letter + name[at + 1 :],
                name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :],
                name.upper(),
                name.replace("_", "-"),
            ]
        )
    )
    return name, typo, names


@given(typos())
@settings(max_examples=500, derandomize=True, deadline=None)
def test_typo_of_a_field_gives_the_nearest_name(case):
    name, typo, names = case
    # Where another name is as near by a textbook's measure, either of them is right.
    plain = typo.lower().replace("-", "_")
    least = min(distance(plain, other.lower()) for other in names)
    near = {other for other in names if distance(plain, other.lower()) <= max(least, 2)}
    assert name in near
    assert nearest(typo, names) in near


def test_word_that_resembles_nothing_gives_no_name():
    assert nearest("zzzzzz", ("prefix", "unit", "timeout")) is None
    assert nearest("anything", ()) is None


# --- whatever the text ------------------------------------------------------------------------


def outcome(text: str) -> Policy | PolicyError:
    """What `parse` gives or raises: anything but these two ends the test."""
    try:
        return parse(text, "file.yaml")
    except PolicyError as error:
        fault = error
    lines = text.count("\n") + len(re.findall("[\r\x85\u2028\u2029]", text)) + 1
    assert fault.problems
    for problem in fault.problems:
        assert problem.expected
        assert problem.found
        assert 1 <= (problem.line or 0) <= lines
        assert (problem.column or 0) >= 1
    return fault


@given(st.text() | st.text(alphabet=" \n\t:-{}[],?&*!|>'\"%@`#a1\\uU\0\ud800"))
@example('"\\ud800": "\\ud800"')
@example("%YAML 9" + "9" * 5_000 + ".1")
@example("a: !!int five\nb: !!float x\nc: !!bool x\nd: !!timestamp x")
@example("a: 2026-99-99\nb: 0x_\nc: " + "9" * 5_000)
@example("<<: {a: 1}\n=: 2\n: 3\nnull: 4\n~: 5\nyes: 6")
@settings(max_examples=500, derandomize=True, deadline=None)
def test_parse_raises_nothing_but_policy_errors_on_any_text(text):
    assert isinstance(outcome(text), PolicyError)


@given(st.data())
@settings(max_examples=250, derandomize=True, deadline=None)
def test_parse_raises_nothing_but_policy_errors_on_damaged_policies(data):
    text = data.draw(
        st.sampled_from([SMALLEST, EVERY_FIELD, *(p.read_text("utf-8") for p in POLICIES)])
    )
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 30, len(text))))
    damage = data.draw(
        st.text(max_size=5) | st.sampled_from(['"\\ud800"', "1" * 400, ".nan", "- "])
    )
    outcome(text[:start] + damage + text[end:])


def test_parse_raises_nothing_but_policy_errors_whatever_stands_in_a_field():
    whole: Any = read(EVERY_FIELD).value
    for section, content in whole["spec"].items():
        # One section at a time: short texts are read faster.
        small = document(**{section: content})
        inside = [path for path in places(small) if path[:2] == ("spec", section)]
        for path, value in itertools.product(inside, VALUES):
            changed = copy.deepcopy(small)
            parent: Any = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            outcome(json.dumps(changed))
