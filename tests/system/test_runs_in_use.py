"""What people and programs do with a laptop that is up: run a plan, stop it, decide, submit, look."""

import base64
import json
import time
import urllib.request
from collections import Counter as Tally
from urllib.parse import urlencode

import psycopg
import pytest
from chaos.machine import Fleet, Machine, until
from chaos.plans import READER, counted, held, reader
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from chargehand.orchestrator.errors import NotFound, RunCancelled, RunFailed
from chargehand.orchestrator.facts import ModelResponded, StepClaimed
from chargehand.orchestrator.plan import Plan, Step, step_id

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def fleet():
    return Fleet(threads={"coding": 1}, call_seconds=0.3, flower=True)


# --- run --------------------------------------------------------------------------------------------------------------


def in_flight(laptop: Machine):
    """Messages that workers hold and have not acknowledged: task name, ids, and what follows."""
    with laptop.redis() as client:
        rows = client.hvals("chargehand.unacked")
    for row in rows:
        message = json.loads(row)[0]
        _, kwargs, embed = json.loads(base64.b64decode(message["body"]))
        yield message["headers"]["task"], kwargs, embed


def test_lines_become_chains_and_a_fan_in_becomes_a_chord(laptop):
    lines = range(8)
    plan = Plan.of(
        [
            counted("start", pool="research"),
            *(held(f"a{i}", "start", door="lines", pool="audit") for i in lines),
            *(counted(f"b{i}", f"a{i}", pool="coding") for i in lines),
            *(counted(f"c{i}", f"b{i}", pool="research") for i in lines),
            counted("join", *(f"c{i}" for i in lines), pool="coding"),
            counted("left", "join"),
            counted("right", "join", pool="coding"),
            counted("bottom", "left", "right"),
            *(counted(f"fan{i}", "bottom", pool=pool) for i, pool in enumerate(("audit", "coding", "research") * 4)),
            counted("end", *(f"fan{i}" for i in range(12))),
        ]
    )
    assert len(plan.steps) == 42
    run = laptop.client.submit(plan=plan)
    until(lambda: len(laptop.ledger.knocks(run.run_id)) == 9, message="all lines have begun")

    heads = {kwargs["step_id"]: embed for name, kwargs, embed in in_flight(laptop) if name == "chargehand.audit"}
    assert set(heads) == {str(step_id(run.run_id, f"a{i}")) for i in lines}
    for i in lines:
        # Celery keeps the rest of a chain in reverse.
        follower, tail = reversed(heads[str(step_id(run.run_id, f"a{i}"))]["chain"])
        assert (follower["task"], tail["task"]) == ("chargehand.coding", "chargehand.research")
        assert follower["kwargs"]["step_id"] == str(step_id(run.run_id, f"b{i}"))
        assert tail["options"]["chord"]["task"] == "chargehand.advance"
        assert follower["immutable"]
        assert tail["immutable"]
    assert len({embed["chain"][0]["options"]["group_id"] for embed in heads.values()}) == 1
    assert Tally(laptop.statuses(run).values()) == {"succeeded": 1, "running": 8, "chained": 16, "pending": 17}

    laptop.ledger.open("lines")
    laptop.wait(run)
    assert laptop.objections(run, plan) == []
    assert run.result() == {"step": "end", "inputs": sorted(f"fan{i}" for i in range(12))}
    # Undisturbed, nothing is claimed twice.
    assert set(laptop.epochs(run).values()) == {1}


# --- stop -------------------------------------------------------------------------------------------------------------


def answers_of(run):
    return [event.fact for event in run.events(follow=False) if isinstance(event.fact, ModelResponded)]


def test_cancel_stops_an_agent_within_a_turn(laptop, workspace):
    plan = Plan.of([reader("read"), counted("end", "read")])
    run = laptop.client.submit("cancel me", plan=plan, workspace=workspace, roles=[READER])
    until(lambda: answers_of(run), message="the first answer")
    asked = len(laptop.calls())

    assert run.cancel("changed my mind")
    assert run.status().status == "cancelled"
    assert not run.cancel()
    with pytest.raises(RunCancelled, match="changed my mind"):
        run.wait(1)
    until(lambda: is_fenced(laptop, "audit", run, "read"), message="the worker is told")
    assert len(laptop.calls()) <= asked + 1
    until(lambda: laptop.objections(run, plan, status="cancelled") == [], message="the run is closed")


def is_fenced(laptop, name, run, step):
    """Whether the process has logged that it may not write to the step any more."""
    said = {"fenced", f"run_id={run.run_id}", f"step={step}"}
    return any(said <= set(line.split()) for line in laptop.log(name).splitlines())


def test_a_cancelled_script_ends_without_a_trace_and_its_successors_never_start(laptop):
    plan = Plan.of([held("work", door="cancel"), counted("end", "work")])
    run = laptop.client.submit(plan=plan)
    until(lambda: laptop.ledger.knocks(run.run_id))

    assert run.cancel()
    laptop.ledger.open("cancel")

    until(lambda: is_fenced(laptop, "audit", run, "work"), message="the worker is told")
    assert laptop.statuses(run) == {"work": "cancelled", "end": "cancelled"}
    assert [knock.step for knock in laptop.ledger.knocks(run.run_id)] == ["work"]
    until(lambda: laptop.objections(run, plan, status="cancelled") == [], message="the run is closed")


def test_a_paused_run_starts_nothing_until_it_is_resumed(laptop):
    plan = Plan.of([held("work", door="pause"), counted("next", "work"), counted("end", "next", pool="research")])
    run = laptop.client.submit(plan=plan)
    until(lambda: laptop.ledger.knocks(run.run_id))

    assert run.pause()
    laptop.ledger.open("pause")
    until(lambda: laptop.statuses(run)["work"] != "running", message="the running step has stopped or ended")
    # Another run passes by in the meantime.
    passing = laptop.client.submit(plan=Plan.of([counted("one"), counted("two", "one", pool="research")]))
    laptop.wait(passing)
    assert run.status().status == "paused"
    assert "next" not in {knock.step for knock in laptop.ledger.knocks(run.run_id)}

    assert run.resume()
    laptop.wait(run)
    assert laptop.objections(run, plan) == []


def test_a_run_past_its_deadline_fails_with_that_reason(laptop):
    plan = Plan.of([held("work", door="deadline"), counted("end", "work")])
    run = laptop.client.submit(plan=plan, deadline_seconds=1)
    assert laptop.wait(run, 15) == "failed"
    laptop.ledger.open("deadline")
    with pytest.raises(RunFailed, match="its deadline has passed"):
        run.result()
    until(lambda: laptop.objections(run, plan, status="failed") == [], message="the run is closed")


# --- decide -----------------------------------------------------------------------------------------------------------


def test_a_gate_waits_for_a_person_and_the_first_answer_counts(laptop):
    gate = Step(key="gate", kind="gate", after=("before",), instruction="Refund?", options=("refund", "keep"))
    plan = Plan.of([counted("before"), gate, counted("after", "gate")])
    run = laptop.client.submit(plan=plan)
    until(lambda: laptop.client.escalations(run.run_id))
    (asked,) = laptop.client.escalations(run.run_id)
    assert (asked.question, asked.options, asked.reason) == ("Refund?", ("refund", "keep"), "gate")

    assert laptop.client.answer(asked, "refund", {"amount": 7})
    assert not laptop.client.answer(asked, "keep")
    laptop.wait(run)

    assert laptop.objections(run, plan) == []
    assert run.result() == {"step": "after", "inputs": ["gate"]}
    assert laptop.client.escalations(run.run_id) == []


def test_a_gate_that_is_refused_ends_what_waits_for_it(laptop):
    plan = Plan.of([Step(key="gate", kind="gate", instruction="Go on?"), counted("after", "gate")])
    run = laptop.client.submit(plan=plan)
    until(lambda: laptop.client.escalations(run.run_id))
    assert laptop.client.answer(laptop.client.escalations(run.run_id)[0], "reject")
    assert laptop.wait(run) == "failed"
    assert laptop.statuses(run) == {"gate": "failed", "after": "skipped"}
    assert laptop.objections(run, plan, status="failed") == []


def test_what_a_person_tells_a_run_reaches_the_agents_that_start_later(laptop, workspace):
    plan = Plan.of([Step(key="gate", kind="gate", instruction="Go on?"), reader("read", "gate")])
    runs = [laptop.client.submit("listen", plan=plan, workspace=workspace, roles=[READER]) for _ in range(3)]
    prompts = []
    for run, message in zip(runs, ("", "", "Skip vendored code"), strict=True):
        if message:
            run.tell(message)
        until(lambda run=run: laptop.client.escalations(run.run_id))
        before = len(laptop.calls())
        assert laptop.client.answer(laptop.client.escalations(run.run_id)[0], "approve")
        laptop.wait(run)
        assert laptop.objections(run, plan) == []
        prompts.append(laptop.calls()[before].prompt_hash)
    untold, untold_too, told = prompts
    assert untold == untold_too != told


def test_a_step_that_fails_is_tried_again_as_often_as_its_plan_says(laptop):
    stumble = {"kind": "script", "script": "stumble"}
    plan = Plan.of([Step(key="work", retries=2, arguments={"times": 2}, **stumble), counted("end", "work")])
    run = laptop.client.submit(plan=plan)
    hopeless = laptop.client.submit(plan=Plan.of([Step(key="work", arguments={"times": 2}, **stumble)]))
    assert laptop.wait(hopeless) == "failed"
    assert "ConnectionError: The other side is not there yet." in hopeless.steps()[0].error
    laptop.wait(run)
    assert laptop.objections(run, plan) == []
    assert laptop.epochs(run) == {"work": 3, "end": 1}


# --- submit -----------------------------------------------------------------------------------------------------------


def test_a_run_on_a_callers_psycopg_connection_starts_if_and_only_if_it_commits(laptop):
    plan = Plan.of([counted("work")])
    with psycopg.connect(laptop.laptop.services.endpoints.database_url) as connection:
        dropped = laptop.client.submit(plan=plan, connection=connection)
        connection.rollback()
        run = laptop.client.submit(plan=plan, connection=connection)
        with pytest.raises(NotFound):
            run.wait(1)
        connection.commit()
        began = time.monotonic()
        until(lambda: laptop.ledger.knocks(run.run_id))
        seconds = time.monotonic() - began
    laptop.wait(run)
    # Nobody rings for a stranger's commit: the watch loop looks twice a second.
    assert seconds < 30
    assert laptop.objections(run, plan) == []
    with pytest.raises(NotFound):
        dropped.status()


def test_a_run_on_a_callers_sqlalchemy_session_starts_if_and_only_if_it_commits(laptop):
    plan = Plan.of([counted("work")])
    url = laptop.laptop.services.endpoints.database_url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with Session(engine) as session:
        dropped = laptop.client.submit(plan=plan, connection=session)
        session.rollback()
        run = laptop.client.submit(plan=plan, connection=session)
        session.commit()
    with engine.begin() as connection:
        too = laptop.client.submit(plan=plan, connection=connection)
    engine.dispose()
    for one in (run, too):
        until(lambda one=one: laptop.ledger.effects(one.run_id))
        laptop.wait(one)
        assert laptop.objections(one, plan) == []
    assert laptop.ledger.knocks(dropped.run_id) == []


def test_one_idempotency_key_is_one_run(laptop):
    plan = Plan.of([counted("work")])
    first = laptop.client.submit(plan=plan, idempotency_key="order 7")
    second = laptop.client.submit(plan=plan, idempotency_key="order 7")
    other = laptop.client.submit(plan=plan, idempotency_key="order 8")
    assert first.run_id == second.run_id != other.run_id
    laptop.wait(first)
    laptop.wait(other)
    assert len(laptop.ledger.knocks(first.run_id)) == 1


def test_a_pool_of_one_slot_serves_the_higher_priority_first(laptop):
    blocker = laptop.client.submit(plan=Plan.of([held("block", door="priority", pool="coding")]))
    until(lambda: laptop.ledger.knocks(blocker.run_id))
    plan = Plan.of([counted("work", pool="coding")])
    # The first one takes the place in the queue behind the running step; the others are decided on later.
    queued = laptop.client.submit(plan=plan)
    until(lambda: laptop.statuses(queued) == {"work": "queued"})
    low = [laptop.client.submit(plan=plan, priority=priority) for priority in (-1, 0)]
    high = laptop.client.submit(plan=plan, priority=5)
    everybody = [queued, *low, high]
    until(lambda: all(laptop.statuses(run)["work"] in {"ready", "queued"} for run in everybody))

    laptop.ledger.open("priority")
    for run in (blocker, *everybody):
        laptop.wait(run)

    started = {run: laptop.ledger.knocks(run.run_id)[0].at for run in everybody}
    assert sorted(everybody, key=started.__getitem__) == [queued, high, low[1], low[0]]


# --- look -------------------------------------------------------------------------------------------------------------


def test_flower_groups_tasks_by_pool_and_finds_those_of_a_run(laptop):
    plan = Plan.of([counted("a", pool="research"), counted("b", "a", pool="coding"), counted("c", "b")])
    run = laptop.client.submit(plan=plan)
    laptop.wait(run)
    password = (laptop.settings.home / "flower.password").read_text().strip()

    def tasks(**query):
        request = urllib.request.Request(f"{laptop.laptop.state.flower_url}/api/tasks?{urlencode(query)}")
        token = base64.b64encode(f"chargehand:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def found():
        return tasks(search=f"kwargs:run_id={run.run_id}").values()

    until(lambda: found() and {task["state"] for task in found()} == {"SUCCESS"}, 60, "Flower has seen the events")
    # One name a pool and kind of work, so that the list groups by it.
    assert {task["name"] for task in found()} == {"research/count", "coding/count", "audit/count", "supervisor/advance"}
    assert all(str(run.run_id) in task["kwargs"] for task in found())


def test_events_tell_a_run_from_its_submission_to_its_end(laptop):
    run = laptop.client.submit(plan=Plan.of([counted("a"), counted("b", "a")]))
    events = list(run.events(timeout_seconds=20))
    own = [event.kind for event in events if event.step_id is None]
    assert own[0] == "run.submitted"
    assert own[-1] == "run.finished"
    assert sum(isinstance(event.fact, StepClaimed) for event in events) == 2
    for stream in {event.step_id for event in events}:
        seqs = [event.seq for event in events if event.step_id == stream]
        assert seqs == list(range(1, len(seqs) + 1))
