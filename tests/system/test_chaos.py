"""A short slice of `make chaos`."""

import pytest
from chaos.story import play


@pytest.mark.system
def test_a_random_plan_survives_a_random_nemesis(home):
    verdict = play(home, seed=7, steps=40, pause_seconds=1.5, timeout_seconds=120)
    assert verdict.objections == ()
    assert verdict.strikes["repeat"] > 0
    assert sum(verdict.strikes.values()) > verdict.strikes["repeat"]
