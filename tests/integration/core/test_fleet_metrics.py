"""What a scrape finds is what is under way, and what was counted is what was committed."""

from uuid import uuid4

import pytest

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator import turns
from chargehand.orchestrator.errors import BudgetExceeded
from chargehand.orchestrator.facts import ModelRequested, ModelResponded, StepFinished, StepWaiting, Usage
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor import watch
from chargehand.orchestrator.telemetry import meters, metrics
from chargehand.orchestrator.telemetry.exposition import FleetCollector, ProcessMeter, render
from chargehand.orchestrator.telemetry.fleet import read_fleet

LEASE_SECONDS = 60.0


def work(key, **fields):
    return Step(key=key, kind="script", script="sort", pool="audit", **fields)


def snapshot(house):
    return read_fleet(house.supervisor, lease_seconds=LEASE_SECONDS)


def test_a_scrape_tells_what_is_queued_running_waiting_and_asked(house):
    run = house.start(work("a"), work("b"), work("c"), work("d", after=("a",)), budget_microusd=700)
    house.execute(
        "UPDATE steps SET queued_at = queued_at - interval '90 s' WHERE run = :run AND key = 'b'", {"run": run}
    )
    house.claim(run, "a")
    asked = house.claim(run, "c")
    asked.wait(StepWaiting(wait_id=new_wait_id(), reason="human", question="May I?", options=("retry",)))
    house.expire(run, "a")

    found = snapshot(house)

    assert found.of(metrics.RUNS, "running") == 1
    assert found.of(metrics.BUDGET_CAP) == 700
    assert found.of(metrics.QUEUE_STEPS, "audit", "sort", "queued") == 1
    assert 90 <= found.of(metrics.QUEUE_AGE, "audit", "sort") < 150
    assert found.of(metrics.RUNNING_STEPS, "audit", "sort") == 1
    assert found.of(metrics.EXPIRED_LEASES, "audit") == 1
    assert 60 < found.of(metrics.LEASE_AGE, "audit") < 120
    assert found.of(metrics.WAITING_STEPS, "human") == 1
    assert found.of(metrics.ESCALATIONS, "human") == 1
    assert found.of(metrics.ESCALATION_AGE, "human") < 60
    assert found.of(metrics.ESCALATIONS, "gate") == 0
    assert found.of(metrics.POOL_THREADS, "audit") == 50
    assert found.of(metrics.RINGS) > 0


def test_a_step_without_a_place_is_as_old_as_the_end_of_what_it_waited_for(house):
    run = house.start(work("a"), work("c"), work("b", after=("a", "c")))
    house.run(run, "a")
    house.run(run, "c")
    house.advance(run)
    house.execute("UPDATE runs SET created_at = created_at - interval '1 h' WHERE id = :run", {"run": run})
    assert house.statuses(run)["b"] == "ready"

    assert snapshot(house).of(metrics.QUEUE_STEPS, "audit", "sort", "ready") == 1
    assert 0 < snapshot(house).of(metrics.QUEUE_AGE, "audit", "sort") < 60


def test_a_scrape_counts_nothing_that_has_ended_and_all_tenants(house):
    run = house.start(work("a"))
    house.run(run, "a")
    house.advance(run)
    house.submit(work("a"), tenant=uuid4())

    found = snapshot(house)

    assert found.of(metrics.RUNS, "running") == 1
    assert found.of(metrics.RUNNING_STEPS, "audit", "sort") == 0


def test_a_turn_is_counted_when_it_is_committed(house):
    run = house.start(work("a"), budget_microusd=10_000)
    meter = ProcessMeter()
    with meters.heard_by(meter):
        held = house.claim(run, "a")
        recorder = turns.StepRecorder(house.connections, held, lease_seconds=LEASE_SECONDS)
        recorder.request((), requested := request(1_000))
        recorder.respond(
            ModelResponded(
                call_id=requested.call_id,
                model="small",
                content=(),
                stop_reason="end_turn",
                usage=Usage(input_tokens=10, output_tokens=5, cache_read_tokens=90),
                cost_microusd=321,
                duration_ms=1_500,
            )
        )
        with pytest.raises(BudgetExceeded):
            recorder.request((), request(1_000_000))
        held.finish(StepFinished(outcome="succeeded"))
        house.advance(run)

    text = render(meter=meter).decode()
    for line in (
        'chargehand_turns_total{model="small",pool="audit",role="sort"} 1.0',
        'chargehand_cost_microusd_total{model="small",role="sort"} 321.0',
        'chargehand_tokens_total{kind="cache_read",model="small"} 90.0',
        'chargehand_model_call_seconds_sum{model="small"} 1.5',
        'chargehand_budget_refusals_total{kind="exceeded"} 1.0',
        'chargehand_steps_finished_total{outcome="succeeded",pool="audit",role="sort"} 1.0',
        'chargehand_step_phase_seconds_count{phase="queued",pool="audit",role="sort"} 1.0',
        'chargehand_step_phase_seconds_count{phase="running",pool="audit",role="sort"} 1.0',
        'chargehand_runs_finished_total{outcome="succeeded"} 1.0',
    ):
        assert line in text.splitlines()


def request(need):
    return ModelRequested(
        call_id=uuid4(),
        turn=1,
        model="small",
        tier="small",
        routed_because="test",
        prompt_hash="",
        max_tokens=100,
        reserved_microusd=need,
    )


def test_recoveries_and_waits_are_counted_by_the_supervisor(house):
    run = house.start(work("a"), work("b"))
    meter = ProcessMeter()
    house.claim(run, "a")
    house.claim(run, "b").wait(StepWaiting(wait_id=new_wait_id(), reason="rate", question="later"), after_seconds=0.0)
    house.expire(run, "a")
    with meters.heard_by(meter):
        assert house.recover() == 1
        assert watch.wake(house.supervisor) == [run]

    lines = render(meter=meter).decode().splitlines()
    assert 'chargehand_recoveries_total{cause="crash"} 1.0' in lines
    assert 'chargehand_step_phase_seconds_count{phase="waiting",pool="audit",role="sort"} 1.0' in lines


def test_a_database_that_is_away_is_a_value_of_the_scrape_and_no_error():
    engine = open_engine("postgresql://nobody@127.0.0.1:1/none", role=SUPERVISOR_ROLE, connect_timeout_seconds=1)
    lines = render(fleet=FleetCollector(engine, lease_seconds=LEASE_SECONDS)).decode().splitlines()
    assert "chargehand_database_up 0.0" in lines
    assert not [line for line in lines if line.startswith("chargehand_runs")]


def test_a_scrape_of_a_healthy_fleet_has_every_metric_of_postgres(house):
    run = house.start(work("a"), work("b"))
    house.claim(run, "a")
    lines = render(fleet=FleetCollector(house.supervisor, lease_seconds=LEASE_SECONDS)).decode()
    missing = [one.name for one in metrics.ALL if one.source == "postgres" and f"\n{one.name}" not in lines]
    # Nothing waits.
    assert missing == ["chargehand_waiting_steps"]
