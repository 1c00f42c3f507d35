"""What health may hold: no key is forgotten, and what does not work is said."""

from __future__ import annotations

from typing import get_args

from controller.core.model import SIGNS, HealthKey, worries

TELLING = {
    "split": "refused by the router: no",
    "sample_ratio": "mismatch",
    "join_rate": {"now": 0.02, "before": 0.11},
}
"""Values of which something is told; of the other keys with a sentence, the sentence."""

FIGURES = {
    "sample_ratio_evidence": 0.4,
    "silent_s": 0.2,
    "unattributed": 0,
    "sources": {"clicks": {"read": 3}},
    "partitions": [{"partition": 0, "open": 812}],
    "partitioning": "events are split over 5, not 3, once this rollout has ended",
    "waiting": "v1 is scaled down in 5 min",
}


def test_every_key_has_its_line_and_there_is_no_other():
    assert set(SIGNS) == set(get_args(HealthKey))


def test_every_key_but_figures_and_plans_is_told():
    telling = {key: TELLING.get(key, f"{key} fails") for key in SIGNS if key not in FIGURES}
    found = worries({**FIGURES, **telling})
    assert [each.sentence for each in found] == [
        "trouble fails",
        "unreported fails",
        "carrier fails",
        "left_behind fails",
        "kept fails",
        "deploy fails",
        "cluster fails",
        "clock fails",
        "notify fails",
        "the split was refused by the router: no",
        "the arms did not get the traffic that the splits say: sample-ratio mismatch",
        "the share of outcomes with a reward fell to 2.00%, from 11.00%",
    ]
    waits = {"kept", "split_refused", "join_rate"}
    assert {each.name for each in found if not each.is_wrong} == waits


def test_nothing_is_told_of_what_is_sound():
    sound = {"sample_ratio": "ok", "split": "not yet confirmed by the router", "cluster": ""}
    assert worries({**FIGURES, **sound}) == []
