"""Short slices of `make chaos`, and of its long size: the whole storm over a little work, judged by the checker."""

import json
from dataclasses import replace

import pytest
from chaos.__main__ import SIZES, figures
from chaos.story import Scale, play

pytestmark = [pytest.mark.system, pytest.mark.long]

SCALE = Scale(steps=36, faults=7, pause_seconds=0.4, seconds_a_step=0.4, drain_seconds=120)
# The long size with as little work: kills beside the other strikes, wide runs, processes that were forged, several
# submitters, two processes of each pool.
LONG = replace(
    SIZES["long"],
    steps=320,
    kills=5,
    faults=4,
    pause_seconds=0.4,
    wide_share=0.8,
    seconds_a_step=0.2,
    drain_seconds=120,
    steps_a_part=100,
)


def test_a_storm_of_every_kind_loses_nothing_and_pays_nothing_twice(home):
    told: list[str] = []

    verdict = play(home, seed=7, scale=SCALE, say=told.append)

    assert verdict.objections == (), told
    # The instrument was there: it struck, people acted, a model was paid, effects were seen.
    assert sum(verdict.strikes.values()) >= SCALE.faults
    assert sum(verdict.outcomes.values()) == 2
    assert verdict.outcomes.keys() <= {"succeeded", "failed", "cancelled"}
    assert verdict.outcomes_of_calls["ok"] > 0
    assert verdict.knocks >= verdict.effects > 0
    assert verdict.claims > 0
    by_name = {figure["figure"]: figure for figure in figures(verdict)}
    assert by_name["chaos_objections"]["ok"]
    assert json.loads(json.dumps(by_name)).keys() >= {"chaos_seconds", "chaos_strikes", "chaos_recovery_max_seconds"}


def test_a_slice_of_the_long_size_is_judged_in_parts_and_loses_nothing(home):
    told: list[str] = []

    verdict = play(home, seed=8, scale=LONG, say=told.append)

    assert verdict.objections == (), told
    assert verdict.steps == LONG.steps
    assert verdict.made["kills"] >= LONG.kills
    assert verdict.made["others"] >= LONG.faults
    assert verdict.made["killed"] >= verdict.made["kills"]
    assert sum(line.startswith("judged part") for line in told) > 1
