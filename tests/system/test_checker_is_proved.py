"""The checker objects when the engine breaks one of its promises, and to nothing in the same story when it keeps it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from chaos.hand import Hand, running_hand
from chaos.ledger import Ledger, running_ledger
from chaos.mutations import MUTANTS, Mutant
from chaos.stage import Stage

from chargehand.orchestrator.laptop.services import Postgres

pytestmark = [pytest.mark.system, pytest.mark.long]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """The ledger of all stories."""
    with running_ledger(tmp_path_factory.mktemp("ledger")) as running:
        yield running


@pytest.fixture(scope="module")
def hands(ledger: Ledger) -> Iterator[tuple[Hand, Hand]]:
    """Two workers, as far as the ledger can tell."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(running_hand(ledger.folder)) for _ in range(2))
        yield first, second


@pytest.fixture
def stage(
    postgres: Postgres, database_url: str, tmp_path: Path, ledger: Ledger, hands: tuple[Hand, Hand]
) -> Iterator[Stage]:
    """A stage with a database of its own: some mutations cannot be taken back."""
    name = f"stage_{uuid4().hex[:12]}"
    template = database_url.rpartition("/")[2].partition("?")[0]
    (tmp_path / "roles").mkdir()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    stage = Stage(postgres.url_of(name), tmp_path, ledger, hands)
    yield stage
    stage.close()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.promise)
def test_the_checker_objects_when_the_promise_is_taken_out(stage: Stage, mutant: Mutant) -> None:
    with mutant.mutation(stage):
        run = mutant.story(stage)
        told = stage.objections(run)
    assert any(mutant.objection in line for line in told), told


@pytest.mark.parametrize("story", dict.fromkeys(mutant.story for mutant in MUTANTS), ids=lambda story: story.__name__)
def test_the_checker_has_no_objection_to_the_same_story_with_the_promise_kept(stage: Stage, story) -> None:
    assert stage.objections(story(stage)) == []
