"""A short slice of the benchmarks: that what they measure is what runs, not how long it takes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.orm import Session

from benchmarks import agents, api, browser, core, linear, memory, peers, recovery, replay, tenants, turn
from benchmarks.collection import collections_in
from benchmarks.ground import Ground, make_floor_table
from chargehand.memory import journal
from chargehand.memory.embedder import load_embedder
from chargehand.orchestrator import verification
from chargehand.orchestrator.laptop import Valkey
from chargehand.orchestrator.listing import RunFilter, page_of_runs
from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.settings import Settings

ROUNDS = 20
# Long enough for a busy machine's heartbeat.
LEASE_SECONDS = 4.0


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
        run_id = page_of_runs(session, RunFilter(), limit=1).runs[0].run_id
        assert verification.verify_run(session, run_id).objections == ()
        step = next(entry.step for entry in journal.read(session, run_id) if entry.kind == "step.claimed")
        kinds = [entry.kind for entry in journal.read(session, run_id, step=step)]
    assert kinds == ["step.claimed", *["model.requested", "model.responded"] * (ROUNDS + 2)]


def test_a_turn_of_the_benchmark_has_an_answer_of_two_kilobytes() -> None:
    _, response = turn.facts_of_a_turn(1)
    assert 1_900 <= len(response.model_dump_json()) <= 2_300


@pytest.mark.long
def test_waiting_threads_write_to_a_row_each(ground: Ground) -> None:
    times = turn.from_threads(ground, threads=3, rounds=2)
    assert len(times.wall) == 6


@pytest.mark.long
def test_claims_rounds_and_messages_are_measured(ground: Ground, redis_url: str) -> None:
    figures = {figure.name: figure for figure in core.measure(ground, claims=3, sizes=(5,), published=7)}
    assert set(figures) == {
        *(f"{name}_p{percent}_ms" for name in ("commit_floor", "claim", "finish") for percent in (50, 99)),
        "advance_5_steps_p50_ms",
        "publish_chains_per_second",
        "publish_chord_per_second",
    }
    assert all(figure.value > 0 for figure in figures.values())


@pytest.mark.long
def test_the_api_is_measured_as_a_process_of_its_own(ground: Ground) -> None:
    measured = api.measure(ground, warm_up=1, submissions=8, run_count=2, reader_count=4, turns=1)
    figures = {figure.name: figure.value for figure in measured}
    assert figures["api_submit_p99_ms"] >= figures["api_submit_p50_ms"] > 0
    assert figures["api_event_to_reader_p95_ms"] > 0
    assert figures["api_peak_rss_mb"] >= figures["api_rss_mb"] > 0


@pytest.mark.browser
def test_a_browser_draws_each_fact_of_the_run_that_is_watched(ground: Ground) -> None:
    figures = {figure.name: figure.value for figure in browser.measure(ground, run_count=2, turns=2)}
    assert figures["browser_runs_at_work"] == 2
    assert figures["event_to_browser_p99_ms"] >= figures["event_to_browser_p50_ms"] > 0


def test_a_journal_is_written_and_replayed_without_a_divergence(ground: Ground) -> None:
    figures = {figure.name: figure for figure in replay.measure(ground, steps=3)}
    assert figures["replay_rows"].value == 1 + 3 * 61
    assert figures["replay_requests"].value == 3 * 20
    assert figures["replay_rows_per_second"].target == 20_000


def test_turns_of_a_long_step_are_all_found_when_it_is_opened_again(ground: Ground) -> None:
    figures = {figure.name: figure for figure in linear.measure(ground, turns=40, compared=5)}
    assert figures["linear_late_over_early"].target == 1.2
    assert all(figure.value > 0 for figure in figures.values())
    assert len(facts_of(ground, "work-0")) == 1 + 2 * 40 + 1
    assert len(facts_of(ground, "work-1")) == 1 + 2 * (linear.FIRST_COMPARED + 5)


@pytest.mark.long
def test_agents_of_one_run_and_of_many_work_in_processes_of_their_own(ground: Ground) -> None:
    figures = {figure.name: figure for figure in agents.measure(ground, threads=3, seconds=0.5, rounds=1)}
    for crew in (agents.ONE_RUN, agents.MANY_RUNS, agents.UNSHARED):
        assert 0 < figures[f"agents_{crew}_share_of_ideal"].value <= 1
        # A turn takes a twentieth of a second or more.
        assert 0 < figures[f"agents_{crew}_turns_per_second"].value < 2 * 3 / agents.CALL_SECONDS[0]
    with Session(ground.supervisor) as session:
        runs = page_of_runs(session, RunFilter(), limit=8).runs
        counts = [len(journal.read(session, run.run_id, step=step_id(run.run_id, "work-0"))) for run in runs]
    assert len(counts) == 8
    # Claimed, and two facts for each of several turns.
    assert all(count >= 5 and count % 2 for count in counts)


@pytest.mark.long
def test_a_turn_and_a_script_step_are_run_between_the_steps_of_a_peer(ground: Ground) -> None:
    so_far: list[int] = []

    def nobody(database_url: str, *, count: int, answer: Callable[[], str], between: Callable[[], None]) -> list[float]:
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("bench_nobody",)
        for _ in range(count):
            assert len(answer()) == 500
            between()
            so_far.append(len(between.turns))  # type: ignore[attr-defined]
        return [1.0] * (count - 1)

    make_floor_table(ground)
    compared = peers.compare(ground, "nobody", nobody, count=4, size=500, block=3)
    assert so_far == [0, 0, 3, 4]
    assert [len(compared.turns), len(compared.script_steps), len(compared.commits)] == [4, 4, 4]
    figures = {figure.name: figure for figure in compared.figures("nobody", since=1, target=0.4)}
    assert figures["nobody_step_p50_ms"].value == 1_000
    assert figures["turn_over_nobody"].value == figures["turn_beside_nobody_p50_ms"].value / 1_000
    with Session(ground.supervisor) as session:
        assert [
            verification.verify_run(session, run.run_id).objections
            for run in page_of_runs(session, RunFilter(), limit=2).runs
        ] == [(), ()]


def test_the_bytes_of_turns_are_at_least_those_of_their_answers(ground: Ground) -> None:
    size = peers.bytes_of_turns(ground, count=20)
    assert 20 * peers.LONG_BYTES < size < 2 * 20 * peers.LONG_BYTES


@pytest.mark.system
@pytest.mark.long
def test_steps_of_a_killed_pool_run_again_and_end() -> None:
    settings = Settings(lease_seconds=LEASE_SECONDS, visibility_timeout_seconds=LEASE_SECONDS)
    figures = {figure.name: figure for figure in recovery.measure(steps=4, kills=1, settings=settings)}
    last = figures["killed_pool_all_steps_run_again_seconds"]
    assert last.target == LEASE_SECONDS + recovery.GRACE_SECONDS
    # A lease that was just renewed lasts nearly as long; how long a busy machine takes then is not this test's matter.
    assert last.value > LEASE_SECONDS / 2


def facts_of(ground: Ground, key: str) -> list[str]:
    """Kinds of the facts of a step of the newest run."""
    with Session(ground.supervisor) as session:
        run_id = page_of_runs(session, RunFilter(), limit=1).runs[0].run_id
        return [entry.kind for entry in journal.read(session, run_id, step=step_id(run_id, key))]


def test_each_collection_is_asked_as_the_product_is_and_tried_with_what_suits_the_other(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    found = collections_in(Path(__file__).parents[1] / "data" / "collections")

    figures = {figure.name: figure for figure in memory.measure_all(ground, found, load_embedder())}

    assert figures["ndcg_at_10_facts"].value == 1.0
    assert figures["ndcg_at_10_talk"].value > 0.9
    for name in ("facts", "talk"):
        for variant in ("dense_alone", "bm25_alone", "rrf", "tuned_on_the_others", "best_of_grid"):
            assert 0.0 < figures[f"ndcg_at_10_{name}_{variant}"].value <= 1.0
        assert figures[f"memory_ingest_texts_per_second_{name}"].target == memory.TARGET_INGEST
        assert figures[f"memory_query_p95_ms_{name}"].value >= figures[f"memory_query_p50_ms_{name}"].value > 0.0
    assert "talk: texts kept: 3 of 3" in capsys.readouterr().err


def test_many_tenants_find_what_is_nearest_and_nothing_of_each_other(ground: Ground) -> None:
    found = tenants.measure_rows(ground, rows=400, tenants=6, questions=16, clients=3)
    figures = {figure.name: figure for figure in found}
    assert figures["tenants_rows"].value == sum(tenants.zipf(400, 6))
    assert figures["tenants_recall_at_10"].value == 1.0
    assert figures["tenants_foreign_rows"].value == 0.0
    assert figures["tenants_queries_per_second_3_clients"].value > 0.0
    assert {figures["tenants_recall_at_10"].target, figures["tenants_nearest_p95_ms"].target} == {0.97, 15.0}
