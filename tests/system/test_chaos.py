"""A short slice of `make chaos`: the whole storm over a little work, judged by the checker."""

import json

import pytest
from chaos.__main__ import figures
from chaos.story import Scale, play

pytestmark = [pytest.mark.system, pytest.mark.long]

SCALE = Scale(steps=36, faults=7, pause_seconds=0.4, seconds_a_step=0.4, drain_seconds=120)


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
