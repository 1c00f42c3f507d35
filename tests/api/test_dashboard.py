"""The dashboard in a real Chromium: it shows what the API says, at once, on any screen."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from controller.core.model import EarlierArms, Phase, Verdict
from tests.api.conftest import Served, serving
from tests.api.fake import T0, decision, exploring, ramping
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
    page.wait("document.querySelectorAll('.condition').length == 10")
    text = page.text()
    for said in ("ramping", "canary, step 3", "no harm seen", "Live", "waiting: v3", "orphan"):
        assert said in text
    assert "v2 against v1: +4.2 % [−1.1 %, ∞]" in text  # noqa: RUF001 - a real minus sign

    later = ramping("digits", served.fake.reports["digits"].time + 60, 2_500, 8_000)
    earlier = EarlierArms(arms=4_200, exposures=9, outcomes=8_000, rewards=7, errors=1)
    served.publish(replace(later, reason="v2 goes to 25 %", epoch=18, earlier=earlier))
    page.wait("document.body.innerText.includes('v2 goes to 25 %')")
    page.wait("document.body.innerText.includes('split 18 wanted, 17 in force')")
    assert "Arms of digits, without 4,200 earlier ones that had 8,000 outcomes" in page.value(
        "document.querySelector('.arms caption').textContent"
    )
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


def test_a_model_that_is_held_since_the_start_is_told_at_the_top(
    served: Served, page: Page
) -> None:
    served.fake.stuck = {"n": "its log was lost"}
    page.open(served.url, width=1200, height=900)
    page.wait("!document.querySelector('#held').hidden")
    assert page.value("document.querySelector('#held').textContent") == (
        "n is held since the start: its log was lost"
    )
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
        health = {
            "trouble": "Retryable: the disk is full",
            "carrier": "there is no HTTPRoute public",
            "unreported": "partition 2 has told nothing",
            "split": "refused by the router: no",
        }
        own.publish(replace(sound, health=health))
        page.wait("document.querySelector('.alert').innerText.includes('the disk is full')")
        assert "refused by the router: no" in page.text()
        assert "there is no HTTPRoute public" in page.text()
        assert "partition 2 has told nothing" in page.text()
        own.publish(sound)
        page.wait("document.querySelector('.alert').innerText == ''")
        page.open("about:blank", width=100, height=100)


CONDITIONS = """[...document.querySelectorAll('.why .condition')].map((row) => ({
    name: row.querySelector('.what').firstChild.textContent,
    then: row.dataset.then,
    of: row.querySelector('.of').textContent,
    left: row.querySelector('.left')?.textContent ?? '',
    waits: row.querySelector('.waits') != null,
    reached: 'reached' in row.dataset,
    way: Number(row.querySelector('[role=meter]').getAttribute('aria-valuenow')),
    said: row.querySelector('[role=meter]').getAttribute('aria-valuetext'),
    heading: row.closest('.purpose').querySelector('h4').textContent,
}))"""


def test_each_condition_is_a_bar_with_its_words(served: Served, page: Page) -> None:
    page.open(served.url, width=1200, height=900)
    page.wait("document.querySelectorAll('.why .condition').length == 10")
    told = served.client.get("/v1/models/digits/explain").json()["conditions"]
    shown = {(row["then"], row["name"]): row for row in page.value(CONDITIONS)}
    for row in told:
        bar = shown[row["then"], row["name"]]
        way = max(0.0, min(1.0, math.log(row["evidence"]) / math.log(row["threshold"])))
        assert abs(bar["way"] - 100 * way) <= 0.51
        assert bar["of"].endswith(f"of {row['threshold']:,.0f}")
        assert (bar["waits"], bar["reached"]) == (row["holds"], row["reached"])
        assert ("not reached" in bar["said"]) == (row["then"] != "promote")
    claim = shown["promote", "not worse by the margin"]
    assert claim["left"] == "≈ 5,200 requests left"
    assert shown["promote", "within the bound: latency p95"]["left"] == "not in sight"
    headings = {row["then"]: row["heading"] for row in shown.values()}
    assert headings["promote"].startswith("Promotes")
    assert headings["roll_back"].startswith("Rolls back")
    assert headings["hold"].startswith("Holds")
    text = page.text()
    for said in ("yet to be proven: not worse by the margin", "4.3 % over 84.2 ms", "0.25 %"):
        assert said in text
    assert page.errors == []


def test_the_explanation_follows_the_reports(served: Served, page: Page) -> None:
    page.open(served.url, width=1200, height=900)
    page.wait("document.querySelectorAll('.why .condition').length == 10")
    later = ramping("digits", served.fake.reports["digits"].time + 60, 5_000, 20_000)
    served.publish(later)
    page.wait(
        "document.querySelectorAll('.why .condition[data-then=promote][data-reached]').length == 1"
    )
    rows = page.value(CONDITIONS)
    assert next(row["left"] for row in rows if row["reached"]) == "reached"
    assert page.errors == []


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_several_candidates_and_segments_are_shown(
    served: Served, page: Page, size: tuple[int, int]
) -> None:
    served.fake.reports["digits"] = exploring("digits", T0 + 601)
    page.open(served.url, width=size[0], height=size[1])
    page.wait("document.querySelectorAll('.why .condition').length == 24")
    text = page.text()
    for said in (
        "candidates v2, v3, v4", "v2 against v1: +16.8 % [+1.1 %, +35.2 %]",
        "v4 against v1: −13.9 % [−31.2 %, +8.1 %]",  # noqa: RUF001 - a real minus sign
        "v2 is best with 93 %, expected loss 0.1 %", "yet to be proven: better (v2)",
    ):  # fmt: skip
        assert said in text
    whose = "[...document.querySelectorAll('.purpose[data-then=promote] .whose')]"
    assert page.value(f"{whose}.map((name) => name.textContent)") == ["v2", "v3", "v4"]
    row = "[...document.querySelectorAll('.segments tbody tr')].map((row) => row.innerText)"
    assert [" ".join(text.split()) for text in page.value(row)] == [
        "DE 10 % 74 % 15 % 1 %", "SE 9 % 21 % 69 % 1 %", "US 26 % 52 % 18 % 4 %",
    ]  # fmt: skip
    assert page.value("document.documentElement.scrollWidth") <= size[0]
    assert page.errors == []


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_a_decision_opens_by_keyboard_and_stays_open(
    served: Served, page: Page, size: tuple[int, int]
) -> None:
    page.open(served.url, width=size[0], height=size[1])
    page.wait("document.querySelectorAll('.decisions button').length == 8")
    third = "document.querySelectorAll('.decisions button')[2]"
    page.value(f"{third}.focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                  windowsVirtualKeyCode=13)  # fmt: skip
    page.wait("document.querySelectorAll('.explained .condition').length == 10")
    assert page.value(f"{third}.getAttribute('aria-expanded')") == "true"
    opened = "document.querySelector('.explained:not([hidden])').innerText"
    for said in (
        "split 23: v1 50 %, v2 50 %",
        "Promotes",
        "not worse by the margin",
        "latency p95",
    ):
        assert said in page.value(opened)
    assert "requests left" not in page.value(opened)  # nothing is foretold of the past

    served.fake.ledger["digits"].append(
        decision(13, "digits", Verdict.ROLL_BACK, "v2 is worse, and rolled back")
    )
    served.publish(replace(served.fake.reports["digits"], cause="reward_harm"))
    page.wait("document.querySelector('.decisions').innerText.includes('and rolled back')")
    fourth = "document.querySelectorAll('.decisions button')[3]"
    assert page.value(f"{fourth}.getAttribute('aria-expanded')") == "true"
    assert page.value(f"document.activeElement == {fourth}")
    assert "Promotes" in page.value(opened)
    page.value("document.querySelector('.more').click()")
    page.wait("document.querySelectorAll('.decisions button').length == 13")
    assert page.value("document.querySelector('.more').hidden")
    page.value("[...document.querySelectorAll('.decisions button')].at(-1).click()")
    page.wait(
        "document.querySelector('.decisions > li:last-child').innerText.includes('No evidence')"
    )
    assert page.value("document.documentElement.scrollWidth") <= size[0]
    assert page.errors == []


def test_signals_of_the_data_are_said_in_words(page: Page) -> None:
    with serving("digits") as own:
        page.open(own.url, width=390, height=844)
        page.wait("document.querySelectorAll('.why .condition').length == 10")
        sound = own.fake.reports["digits"]
        health = {**sound.health, "join_rate": {"now": 0.02, "before": 0.11}}
        own.publish(replace(sound, health=health))
        page.wait("document.querySelector('.alert').innerText.includes('fell to 2.00%')")
        page.open("about:blank", width=100, height=100)
