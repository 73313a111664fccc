"""A short slice of the benchmarks: that what they measure is what runs, not how long it takes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from benchmarks import core, turn
from benchmarks.ground import Ground, make_floor_table
from chargehand.memory import journal
from chargehand.orchestrator import verification, views
from chargehand.orchestrator.laptop import Valkey
from chargehand.orchestrator.settings import Settings

ROUNDS = 20


@pytest.fixture
def ground(database_url: str, valkey: Valkey, tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(database_url, valkey.url, Settings(home=tmp_path))
    yield ground
    ground.close()


def test_measured_turns_are_real_ones_whose_journal_verifies(ground: Ground) -> None:
    make_floor_table(ground)
    floor, turns = turn.tight_loop(ground, rounds=ROUNDS, warm_up=2)
    assert len(floor.wall) == len(turns.wall) == len(turns.cpu) == ROUNDS
    with Session(ground.supervisor) as session:
        run_id = views.list_runs(session, limit=1)[0].run_id
        assert verification.verify_run(session, run_id).objections == ()
        step = next(entry.step for entry in journal.read(session, run_id) if entry.kind == "step.claimed")
        kinds = [entry.kind for entry in journal.read(session, run_id, step=step)]
    assert kinds == ["step.claimed", *["model.requested", "model.responded"] * (ROUNDS + 2)]


def test_a_turn_of_the_benchmark_has_an_answer_of_two_kilobytes() -> None:
    _, response = turn.facts_of_a_turn(1)
    assert 1_900 <= len(response.model_dump_json()) <= 2_300


def test_waiting_threads_write_to_a_row_each(ground: Ground) -> None:
    times = turn.from_threads(ground, threads=3, rounds=2)
    assert len(times.wall) == 6


def test_claims_rounds_and_messages_are_measured(ground: Ground, redis_url: str) -> None:
    figures = {figure.name: figure for figure in core.measure(ground, claims=3, sizes=(5,), published=7)}
    assert set(figures) == {
        *(f"{name}_p{percent}_ms" for name in ("commit_floor", "claim", "finish") for percent in (50, 99)),
        "advance_5_steps_p50_ms",
        "publish_chains_per_second",
        "publish_chord_per_second",
    }
    assert all(figure.value > 0 for figure in figures.values())
