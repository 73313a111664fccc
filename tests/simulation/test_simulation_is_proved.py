"""Each promise that the simulation watches over is missed as soon as it is taken out.

`python tests/simulation/test_simulation_is_proved.py` writes anew in which world each is missed first.
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from simulation.mutations import MUTATIONS, Mutation, mutated
from simulation.world import simulate

# Four minutes of a processor: what the worlds themselves say is in `make test`, that they would notice is not.
pytestmark = pytest.mark.long

# Among so many worlds there is one for nearly every promise in which it is needed; for the others it is written down.
SEEDS = range(1, 1001)
# Mutation → a world in which it was missed: looked at first, because some are rare. Worlds change; then all are tried.
SEEN_IN = Path(__file__).with_name("seen_in.json")


@pytest.fixture(autouse=True)
def _without_logs() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def first_seen(mutation: Mutation, seeds: Iterable[int]) -> int | None:
    """The first of these worlds in which a rule objects; None: none does."""
    with mutated(mutation):
        return next((seed for seed in seeds if simulate(seed).objection), None)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_some_world_breaks_a_rule_when(mutation: Mutation) -> None:
    seen = json.loads(SEEN_IN.read_text()).get(mutation.name)
    likely = [] if seen is None else [seen]
    assert first_seen(mutation, [*likely, *SEEDS]) is not None


def test_in_the_worlds_where_promises_are_missed_none_is_broken_when_all_are_kept() -> None:
    assert [seed for seed in sorted(set(json.loads(SEEN_IN.read_text()).values())) if simulate(seed).objection] == []


def main() -> None:
    """Look for each mutation, and write down where it was seen."""
    logging.disable(logging.CRITICAL)
    seen = {}
    for mutation in MUTATIONS:
        seen[mutation.name] = first_seen(mutation, SEEDS)
        sys.stderr.write(f"{mutation.name}: {seen[mutation.name]}\n")
    SEEN_IN.write_text(json.dumps(seen, indent=1) + "\n")


if __name__ == "__main__":
    main()
