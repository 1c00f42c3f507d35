"""Tallies have the law of events: against a joiner written here, and against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import poisson

from controller.sim.simulate import generator, world_of
from controller.sim.tallies import NoChance, TallySource, pieces
from controller.sim.truth import Truth, setting
from tests.sim.worlds import batches, plan, scenario, small_policy, split_of

WINDOW, GRACE, TICK, TICKS = 10.0, 5.0, 7.0, 7
RUNS = 250
FIELDS = ("exposures", "errors", "matured", "events", "outcomes", "joined", "value", "lapsed")

WORLDS = {
    "exponential": {"delay": {"mean": "4s"}},
    "lognormal": {"delay": {"distribution": "lognormal", "mean": "6s", "sigma": 0.8}},
    "uniform": {"delay": {"distribution": "uniform", "mean": "7s"}},
    "forged": {"contamination": {"share": "20%", "arm": "candidate"}, "errors": "20%"},
    "broken pipe": {"rewards_end": "23s", "delay": {"mean": "4s"}},
    "swinging": {"swing": {"period": "90s", "rate": "50%", "base_rate": "50%"}},
}


def counted(found):
    """(ticks, arms, fields) what a joiner would count, one watermark after the other."""
    time, arm, failed, request, made, of = (
        np.concatenate(columns)
        for columns in zip(
            *(
                (
                    b.exposures.time,
                    b.exposures.arm,
                    b.exposures.status == 500,
                    b.exposures.request,
                    b.rewards.time,
                    b.rewards.request,
                )
                for b in found
            ),
            strict=True,
        )
    )
    order = np.argsort(request)
    rewarded = order[np.searchsorted(request[order], of)]
    reward_time = np.full(len(time), np.inf)
    reward_time[rewarded] = made
    reward_time[reward_time - time > WINDOW] = np.inf
    counts = np.zeros((len(found), 2, len(FIELDS)))
    for t in range(len(found)):
        low, high = t * TICK - GRACE, (t + 1) * TICK - GRACE  # watermarks

        def due(at):
            return (at > low) & (at <= high)  # noqa: B023

        now = (time > t * TICK) & (time <= (t + 1) * TICK)
        closed, event = due(time + WINDOW), due(reward_time)
        has = np.isfinite(reward_time)
        masks = (
            now,
            now & failed,
            due(time),
            event,
            closed,
            closed & has,
            closed & has,
            closed & ~has,
        )
        for f, mask in enumerate(masks):
            counts[t, :, f] = np.bincount(arm[mask], minlength=2)
    return counts


def tallied(found):
    counts = np.zeros((len(found), 2, len(FIELDS)))
    for t, batch in enumerate(found):
        for f, name in enumerate(FIELDS):
            counts[t, :, f] = np.bincount(batch.tallies.arm, getattr(batch.tallies, name), 2)
    return counts


@pytest.mark.parametrize("name", WORLDS)
def test_both_levels_agree_in_law(name):
    """Means and variances of every count at every tick.

    Of some 110 comparisons each fails by chance with probability 1e-6 (means, 4.9 standard
    errors); the seeds are fixed.
    """
    fields = WORLDS[name] | {"rate": 12, "base_rate": "30%", "tick": f"{TICK}s"}
    split = split_of(0.3)
    events = plan("events", **fields)
    tallies = plan("tallies", **fields)
    seen = np.array([counted(batches(events, split, TICKS, seed=s)[1]) for s in range(RUNS)])
    drawn = np.array(
        [tallied(batches(tallies, split, TICKS, seed=10_000 + s)[1]) for s in range(RUNS)]
    )
    error = np.sqrt((seen.var(axis=0) + drawn.var(axis=0)) / RUNS)
    gap = np.abs(seen.mean(axis=0) - drawn.mean(axis=0))
    assert (gap <= 4.9 * error + 1e-12).all(), (gap / np.maximum(error, 1e-12)).max()
    varied = seen.mean(axis=0) > 5.0  # where a variance of counts is near normal
    ratio = np.log(seen.var(axis=0)[varied] / drawn.var(axis=0)[varied])
    assert (np.abs(ratio) < 4.9 * np.sqrt(4.0 / RUNS)).all(), np.abs(ratio).max()
    # Whole cohorts: what was exposed in a tick and what became of it vary together.
    for f, g in ((2, 3), (4, 5)):
        a, b = (np.corrcoef(x[:, 3, 0, f], x[:, 3, 0, g])[0, 1] for x in (seen, drawn))
        assert abs(np.arctanh(a) - np.arctanh(b)) < 4.9 * np.sqrt(2 / (RUNS - 3))


def test_every_exposure_is_matured_and_closed_once_and_every_reward_known_once():
    fields = {"rate": 30, "base_rate": "40%", "tick": f"{TICK}s", "delay": {"mean": "4s"}}
    source = _source(**fields)
    split = split_of(0.3)
    total = np.zeros(6)
    for tick in range(1, 30):
        found, _ = source.draw(split, 0, tick, 0.0, idle=tick > 20)
        total += [
            getattr(found, n).sum()
            for n in ("exposures", "matured", "outcomes", "events", "joined", "lapsed")
        ]
    exposures, matured, outcomes, events, joined, lapsed = total
    assert exposures == matured == outcomes == joined + lapsed > 4_000
    assert events == joined > 1_000


def _source(**fields) -> TallySource:
    made = plan("tallies", **fields)
    return TallySource(_truth(**fields), generator(1, 0), made.tick_s)


def _truth(**fields) -> Truth:
    return Truth(scenario(**fields), setting(small_policy()), 1_000.0)


@pytest.mark.parametrize("tick_s", [0.7, 3.0, 5.0, 7.5, 10.0, 40.0])
def test_the_share_that_is_known_by_then_is_that_of_the_delays(tick_s):
    """Against the exponential's own integral, for exposures uniform over a whole tick."""
    mean = 4.0
    cut = pieces(_truth(delay={"mean": f"{mean:g}s"}), tick_s)
    width = (cut.end - cut.begin) / tick_s
    assert width.sum() == pytest.approx(1.0)
    within = (cut.share[:, :-1].sum(axis=1) * width).sum()
    assert within == pytest.approx(1.0 - np.exp(-WINDOW / mean), rel=1e-9)
    total = (cut.share[:, :-1] * cut.delay).sum(axis=1)
    truth = mean - np.exp(-WINDOW / mean) * (WINDOW + mean)  # E[D; D <= window]
    assert total == pytest.approx(np.full(len(total), truth), rel=1e-6)


def test_pieces_are_closed_by_the_first_watermark_that_reaches_their_end():
    cut = pieces(_truth(), TICK)
    for end, matures, closes in zip(cut.end, cut.matures, cut.closes, strict=True):
        for at, reach in ((matures, end), (closes, end + WINDOW)):
            assert at * TICK - GRACE >= reach - 1e-9
            assert (at - 1) * TICK - GRACE < reach


def test_without_chance_counts_are_their_expectations():
    """Against the mean of real draws, and the closed form of the first tick."""
    fields = {"rate": 40, "base_rate": "10%", "errors": "10%", "tick": f"{TICK}s"}
    made = plan("tallies", **fields)
    split = split_of(0.3)
    world = world_of(made, generator(0, 0))
    calm = replace_chance(world)
    offset, expected = world.first().count, []
    for _ in range(TICKS):
        expected.append(calm.tick(split, offset))
        offset += expected[-1].count
    expected = tallied(expected)
    assert expected[0, :, 0] == pytest.approx([40 * TICK * 0.7, 40 * TICK * 0.3])
    drawn = np.array([tallied(batches(made, split, TICKS, seed=s)[1]) for s in range(200)])
    error = drawn.std(axis=0) / np.sqrt(200)
    assert (np.abs(drawn.mean(axis=0) - expected) <= 4.9 * error + 1e-9).all()
    assert poisson(40 * TICK * 0.7).std() == pytest.approx(drawn[:, 0, 0, 0].std(), rel=0.25)


def replace_chance(world):
    """The same world, without chance."""
    world._tallies._rng = NoChance()
    return world


def test_what_is_known_does_not_depend_on_the_split_of_later_ticks():
    made = plan("tallies", rate=40, tick=f"{TICK}s")
    still = batches(made, split_of(0.3), 3)[1]
    world = world_of(made, generator(0, 0))
    offset = world.first().count
    moved = []
    for share, epoch in ((0.3, 1), (0.3, 1), (0.0, 2)):
        moved.append(world.tick(replace(split_of(share, epoch=epoch)), offset))
        offset += moved[-1].count
    old = moved[2].tallies.epoch == 1
    for name in ("matured", "events", "outcomes"):
        before = still[2].tallies
        same = before.exposures == 0
        assert getattr(moved[2].tallies, name)[old].sum() == getattr(before, name)[same].sum()
