"""The page on policies in Kubernetes names every condition, reason and bound that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller import notify
from controller.core.model import SIGNS, Phase
from controller.core.policy import parse
from controller.deploy import held, reporter, status
from tests.api.fake import ramping
from tests.core.policy_texts import SMALLEST
from tests.deploy import test_status as cases

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes-policy.md").read_text(encoding="utf-8")


def test_every_condition_and_reason_is_named():
    mark = next(m for m in cases.test_condition_says_whether_it_is_so_and_why.pytestmark)
    for changes, name, (_, reason) in mark.args[1]:
        assert f"`{name}`" in PAGE
        is_phase = changes.get("phase") not in {None, Phase.HOLDING} or reason == "Ramping"
        if is_phase and reason in {"Ramping", "Promoting", "RollingBack"}:
            continue  # "the reason is the phase"
        assert f"`{reason}`" in PAGE, reason
    for reason in (held.INVALID, held.DUPLICATE_MODEL, held.DUPLICATE_ROUTE):
        assert f"`{reason}`" in PAGE
    for word in ("Conflict", "Accepted", "NotInForce", "NotYetRead"):
        assert f"`{word}`" in PAGE
    for key, sign in SIGNS.items():
        if sign.tells and sign.is_wrong:
            assert f"`{status.camel(sign.word or key)}`" in PAGE


@pytest.mark.parametrize(
    "said",
    [
        f"at most every {reporter.NUMBERS_S:g} s",
        f"up to {reporter.MOST_EVENTS:,} Events".replace(",", " "),
        f"within {notify.ATTEMPT_S:g} s",
    ],
)
def test_bounds_are_those_of_the_code(said):
    assert said in " ".join(PAGE.split())


def test_table_of_kubectl_shows_what_a_status_says():
    policy = parse(SMALLEST.replace("[5%, 25%]", "[1%, 5%, 25%, 50%]"), "file.yaml")
    found = status.told(
        ramping("digits", 0.0, 2_500), policy, status.VALID, generation=1, before={}, now=0.0
    ).status
    for column in ("model", "phase", "champion", "candidate", "step", "weight"):
        assert str(found[column]) in PAGE
