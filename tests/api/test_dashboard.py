"""The dashboard in a real Chromium: it shows what the API says, at once, on any screen."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from controller.core.model import Phase
from tests.api.conftest import Served, serving
from tests.api.fake import ramping
from tests.api.screenshot import Page

PHONE, DESKTOP = (390, 844), (1200, 900)
CELL = "document.querySelector('#model-{model} tr[data-arm={arm}] .c-{column}')?.textContent"


def cell(page: Page, arm: str, column: str, model: str = "digits") -> str:
    return str(page.value(CELL.format(model=model, arm=arm, column=column)))


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_the_page_shows_the_numbers_of_the_api_and_updates(
    served: Served, page: Page, size: tuple[int, int]
) -> None:
    page.open(served.url, width=size[0], height=size[1])
    page.wait("document.querySelectorAll('.plot .line').length == 2")
    page.wait("document.querySelectorAll('.decisions li').length == 8")
    for arm in served.client.get("/v1/models/digits/arms").json()["arms"]:
        for column in ("exposures", "rewards", "pending", "errors"):
            assert cell(page, arm["arm"], column) == f"{arm[column]:,}"
        assert cell(page, arm["arm"], "wanted") == f"{arm['weight'] / 100:g} %"
        assert cell(page, arm["arm"], "mean")[:4] in f"{arm['mean']:.3f}"
    text = page.text()
    for said in ("ramping", "canary, step 3", "no harm seen", "Live", "waiting: v3", "orphan"):
        assert said in text
    assert "v2 against v1: +4.2 % [−1.1 %, ∞]" in text  # noqa: RUF001 - a real minus sign

    later = ramping("digits", served.fake.reports["digits"].time + 60, 2_500, 8_000)
    served.publish(replace(later, reason="v2 goes to 25 %", epoch=18))
    page.wait("document.body.innerText.includes('v2 goes to 25 %')")
    page.wait("document.body.innerText.includes('split 18 wanted, 17 in force')")
    assert cell(page, "v2", "wanted") == "25 %"
    assert cell(page, "v1", "exposures") == "8,000"
    assert page.value("document.documentElement.scrollWidth") <= size[0]
    assert page.errors == []


def test_the_columns_become_one_on_a_phone(served: Served, page: Page) -> None:
    across = "getComputedStyle(document.querySelector('.plots')).gridTemplateColumns.split(' ')"
    for (width, height), columns in ((PHONE, 1), (DESKTOP, 2)):
        page.open(served.url, width=width, height=height)
        page.wait("document.querySelectorAll('.plot .line').length == 2")
        assert page.value(f"{across}.length") == columns
        rows = "document.querySelectorAll('.arms [role=row]').length"
        assert page.value(rows) == 3  # the roles survive the cards of a phone


def test_hostile_words_stay_words(served: Served, page: Page) -> None:
    evil = "<img src=x onerror=alert(1)><script>document.title='owned'</script>"
    served.fake.reports["digits"] = replace(served.fake.reports["digits"], reason=evil)
    page.open(served.url, width=1200, height=900)
    page.wait("document.querySelector('.reason')?.textContent.length")
    assert page.value("document.querySelector('.reason').textContent") == evil
    assert page.value("document.querySelectorAll('.reason *').length") == 0
    assert page.value("document.title") == "Understudy"
    assert page.errors == []


@pytest.mark.parametrize("names", [()])
def test_without_a_model_the_page_says_what_to_do(served: Served, page: Page) -> None:
    page.open(served.url, width=1200, height=900)
    page.wait("document.body.innerText.includes('No models yet')")
    assert page.errors == []


@pytest.mark.parametrize("names", [tuple(f"model-{n}" for n in range(12))])
def test_many_models_fold_and_are_found_by_name(served: Served, page: Page) -> None:
    page.open(served.url, width=1200, height=900)
    page.wait("document.querySelectorAll('details.model').length == 12")
    assert page.value("document.querySelectorAll('details.model[open]').length") == 3
    assert page.value("document.querySelectorAll('nav a').length") == 12
    page.value("document.querySelectorAll('nav a')[9].click()")
    page.wait("document.querySelector('#model-model-9').open")
    assert page.errors == []


def test_a_lost_connection_is_said_clearly(page: Page) -> None:
    with serving("digits") as own:
        page.open(own.url, width=390, height=844)
        page.wait("document.querySelector('#live').dataset.state == 'live'")
        assert page.value("document.querySelector('#banner').hidden")
    page.wait("document.querySelector('#live').dataset.state == 'lost'")
    page.wait("!document.querySelector('#banner').hidden")
    assert "Connection to Understudy lost" in page.text()


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of `#rgb` or `#rrggbb`."""
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(served: Served, scheme: int) -> None:
    css = served.client.get("/assets/style.css").text
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{([^}]*)\}", css)[scheme]))
    pairs = [
        ("ink", "card"),
        ("ink", "page"),
        ("soft", "card"),
        ("soft", "page"),
        ("soft", "track"),
    ]
    pairs += [(name, f"{name}-soft") for name in ("good", "bad", "warn", "busy")]
    pairs += [(name, "card") for name in ("good", "bad", "warn")]
    pairs += [("on-arm", f"arm-{n}") for n in range(8)]
    for text, ground in pairs:
        low, high = sorted((luminance(colours[text]), luminance(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_a_promoted_version_is_not_compared_with_itself(page: Page) -> None:
    with serving("digits") as own:
        page.open(own.url, width=1200, height=900)
        page.wait("document.body.innerText.includes('v2 against v1')")
        report = own.fake.reports["digits"]
        own.publish(
            replace(report, phase=Phase.PROMOTED, champion="v2", candidate=None, candidates=())
        )
        page.wait("document.body.innerText.includes('champion v2')")
        assert "against" not in page.text()
        page.open("about:blank", width=100, height=100)


def test_what_holds_a_model_is_shown_and_goes_when_it_is_over(page: Page) -> None:
    with serving("digits") as own:
        page.open(own.url, width=1200, height=900)
        page.wait("document.querySelectorAll('.plot .line').length == 2")
        assert page.value("document.querySelector('.alert').innerText") == ""
        sound = own.fake.reports["digits"]
        health = {"trouble": "Retryable: the disk is full", "split": "refused by the router: no"}
        own.publish(replace(sound, health=health))
        page.wait("document.querySelector('.alert').innerText.includes('the disk is full')")
        assert "refused by the router: no" in page.text()
        own.publish(sound)
        page.wait("document.querySelector('.alert').innerText == ''")
        page.open("about:blank", width=100, height=100)
