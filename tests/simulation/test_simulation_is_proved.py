"""Each promise that the simulation watches over is missed as soon as it is taken out."""

import logging
from collections.abc import Iterator

import pytest

from simulation.mutations import MUTATIONS, Mutation, mutated
from simulation.world import simulate

# Four minutes of a processor: what the worlds themselves say is in `make test`, that they would notice is not.
pytestmark = pytest.mark.long

# Among so many worlds there is one for every promise in which it is needed.
SEEDS = range(1, 501)


@pytest.fixture(autouse=True)
def _without_logs() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_some_world_breaks_a_rule_when(mutation: Mutation) -> None:
    with mutated(mutation):
        assert any(simulate(seed).objection for seed in SEEDS)
