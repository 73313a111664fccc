"""A short slice of `make chaos SIZE=long`, with everything that lets that be long."""

from dataclasses import replace

import pytest
from chaos.__main__ import SIZES
from chaos.story import play

pytestmark = [pytest.mark.system, pytest.mark.long]

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


def test_a_slice_of_the_long_size_is_judged_in_parts_and_loses_nothing(home):
    told: list[str] = []

    verdict = play(home, seed=8, scale=LONG, say=told.append)

    assert verdict.objections == (), told
    assert verdict.steps == LONG.steps
    assert verdict.made["kills"] >= LONG.kills
    assert verdict.made["others"] >= LONG.faults
    assert verdict.made["killed"] >= verdict.made["kills"]
    assert sum(line.startswith("judged part") for line in told) > 1
