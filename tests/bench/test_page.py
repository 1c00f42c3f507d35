"""The page of decision quality has a place for every table, and its pictures are there."""

from __future__ import annotations

import re

import pytest

from tests.bench import page, plots, quality


@pytest.mark.parametrize("name", page.TABLES)
def test_each_table_has_its_marks_and_stands_between_them(name):
    text = page.PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(f"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", text, re.DOTALL)
    assert found.strip(), "run `python -m tests.bench quality --write`"


def test_each_picture_is_small_and_shown():
    text = page.PAGE.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]+\]\(images/([^)]+\.svg)\)", text)
    assert len(pictures) == 4
    for name in pictures:
        assert 5_000 < (plots.FOLDER / name).stat().st_size < 400_000


def test_lai_and_robbins_bound_is_what_their_theorem_says():
    # KL(0.05, 0.06) by hand: 0.05 ln(5/6) + 0.95 ln(95/94) = 0.000937; 0.01 ln(10^5) / KL = 122.9
    assert pytest.approx(122.9, abs=0.3) == quality.LAI_ROBBINS


def test_a_share_is_allowed_what_chance_does_once_in_a_thousand():
    # Binomial(100, 0.01): P(X >= 5) = 0.0034, P(X >= 6) = 0.0005: five are allowed.
    assert quality.most(100, 0.01) == pytest.approx(0.05)
    # Binomial(100, 0.95): P(X <= 87) = 0.0015, P(X <= 86) = 0.0005: 87 are enough.
    assert quality.least(100, 0.95) == pytest.approx(0.87)
