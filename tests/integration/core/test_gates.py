"""A person approves exact arguments: shown with a hash, bound to it, used as they are, and asked for anew otherwise."""

# ruff: noqa: F401, F811 - a fixture of another module

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from chargehand.memory import journal
from chargehand.orchestrator import runs, views
from chargehand.orchestrator.answering import answer
from chargehand.orchestrator.facts import SignalReceived, StepFinished, StepWaiting, parse_fact
from chargehand.orchestrator.plan import ITEM, RESULT_OF, CeleryTask, Expiry, Map, PlanPatch, Step, step_id
from chargehand.orchestrator.views import Escalation
from chargehand.workers.scripts.registry import SCRIPTS, script
from tests.integration.core.test_packs import Worker, worker

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


def price(key: str = "price") -> Step:
    return Step(key=key, kind="script", script="work")


def gate(*after: str, **fields: Any) -> Step:
    return Step(key="ok", kind="gate", instruction="Send it?", after=after, **fields)


def send(*after: str, key: str = "send", source: str = "price") -> Step:
    return Step(key=key, kind="script", script="send", after=after, arguments={"price": {RESULT_OF: source}})


def go(house: "House", run_id: UUID) -> None:
    """Whatever supervisors do until nothing rings."""
    house.watch()
    while house.rings(run_id):
        house.advance(run_id)
    house.admit()


def question(house: "House", run_id: UUID) -> Escalation:
    with house.as_tenant() as session:
        (asked,) = views.escalations(session, run_id)
    return asked


def decide(house: "House", asked: Escalation, choice: str, by: str = "ada") -> bool:
    with house.as_tenant() as session:
        return answer(
            session,
            house.tenant,
            run_id=asked.run_id,
            step=asked.step_id,
            wait_id=asked.wait_id,
            choice=choice,
            by=by,
        ).first


def facts(house: "House", run_id: UUID, key: str) -> list[Any]:
    with house.as_tenant() as session:
        entries = journal.read(session, run_id, step=step_id(run_id, key))
        return [parse_fact(one.body or "", schema_version=one.schema_version) for one in entries]


def ends_whole(house: "House", run_id: UUID) -> None:
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


@pytest.fixture
def sent(worker: Worker) -> list[str]:
    """Keys of the steps whose effect has happened."""
    done: list[str] = []

    def work() -> str:
        return "14.70 EUR"

    def send(price: str) -> str:
        done.append(price)
        return price

    for function in (work, send):
        worker.scripts[function.__name__] = script(function)
        SCRIPTS.pop(function.__name__)
    return done


def run(house: "House", worker: Worker, run_id: UUID, key: str) -> None:
    worker.run(run_id, key)
    go(house, run_id)


def test_the_gate_shows_what_would_be_done_with_results_filled_in_and_a_hash(
    house: "House",
    worker: Worker,
    sent: list[str],
) -> None:
    run_id = house.start(price(), gate("price"), send("price", "ok"))
    run(house, worker, run_id, "price")

    asked = question(house, run_id)

    (shown,) = asked.guards
    assert (shown.step, shown.does, shown.arguments) == ("send", "script send", {"price": "14.70 EUR"})
    assert len(shown.hash) == 64
    assert decide(house, asked, "approve", by="ada")
    go(house, run_id)
    waited, heard, ended = facts(house, run_id, "ok")
    assert (type(waited), type(heard), type(ended)) == (StepWaiting, SignalReceived, StepFinished)
    # Who, when, and what exactly: all of it in the journal, under its chain of hashes.
    assert (heard.by, heard.choice, heard.wait_id) == ("ada", "approve", waited.wait_id)
    assert heard.sent_at is not None
    assert ended.approved == {"send": shown.hash}
    run(house, worker, run_id, "send")
    assert sent == ["14.70 EUR"]
    assert house.run_row(run_id).status == "succeeded"
    ends_whole(house, run_id)


def asked_again(house: "House", worker: Worker, first: Escalation) -> Escalation:
    """Approve before the price is there, and let it come; gives what the step behind is asked about then."""
    assert decide(house, first, "approve")
    run(house, worker, first.run_id, "price")
    run(house, worker, first.run_id, "send")
    return question(house, first.run_id)


def sends(house: "House", worker: Worker, asked: Escalation) -> None:
    """Approve, and let the step do what was approved."""
    assert decide(house, asked, "approve")
    go(house, asked.run_id)
    run(house, worker, asked.run_id, "send")


def test_arguments_that_nobody_could_see_at_the_gate_are_put_before_a_person_when_they_are_known(
    house: "House",
    worker: Worker,
    sent: list[str],
) -> None:
    # The gate opens before the price is there: what it approves is not what the step would be given.
    run_id = house.start(price(), gate(), send("price", "ok"))
    go(house, run_id)
    first = question(house, run_id)
    assert first.guards[0].arguments == {"price": {RESULT_OF: "price"}}
    again = asked_again(house, worker, first)
    assert (again.step_key, again.reason, sent) == ("send", "gate", [])
    assert again.guards[0].arguments == {"price": "14.70 EUR"}
    assert "other arguments than were approved at 'ok'" in again.question
    sends(house, worker, again)
    assert sent == ["14.70 EUR"]
    ends_whole(house, run_id)


@pytest.mark.parametrize(("choice", "error"), [("reject", "a person chose 'reject'"), ("approve", "")])
def test_after_backtracking_the_old_approval_does_not_count(
    house: "House",
    worker: Worker,
    sent: list[str],
    choice: str,
    error: str,
) -> None:
    run_id = house.start(price(), gate(), send("price", "ok"))
    go(house, run_id)
    decide(house, question(house, run_id), "approve")
    run(house, worker, run_id, "price")
    with house.as_tenant() as session:
        runs.retry(session, house.tenant, run_id, "price")
    go(house, run_id)
    run(house, worker, run_id, "price~2")
    run(house, worker, run_id, "send~2")
    asked = question(house, run_id)
    assert (asked.step_key, sent) == ("send~2", [])

    decide(house, asked, choice)
    go(house, run_id)
    run(house, worker, run_id, "send~2")

    assert sent == ([] if error else ["14.70 EUR"])
    assert facts(house, run_id, "send~2")[-1].error == error
    ends_whole(house, run_id)


def test_an_attempt_that_dies_behind_its_approval_need_not_ask_again(
    house: "House",
    worker: Worker,
    sent: list[str],
) -> None:
    run_id = house.start(price(), gate(), send("price", "ok"))
    go(house, run_id)
    decide(house, question(house, run_id), "approve")
    run(house, worker, run_id, "price")
    run(house, worker, run_id, "send")
    asked = question(house, run_id)
    decide(house, asked, "approve")
    go(house, run_id)
    # It hears the answer, and dies before it does anything.
    assert house.claim(run_id, "send").fold_signal(asked.wait_id) is not None
    house.expire(run_id, "send")
    house.recover()
    house.admit()

    run(house, worker, run_id, "send")

    assert sent == ["14.70 EUR"]
    ends_whole(house, run_id)


def test_a_step_that_a_patch_puts_behind_an_answered_gate_was_not_approved(
    house: "House",
    worker: Worker,
    sent: list[str],
) -> None:
    run_id = house.start(price(), gate("price"), send("price", "ok"))
    run(house, worker, run_id, "price")
    decide(house, question(house, run_id), "approve")
    go(house, run_id)
    with house.as_tenant() as session:
        late = send("price", "ok", key="late")
        runs.patch(session, runs.lock(session, house.tenant, run_id), PlanPatch(add=(late,)))
    go(house, run_id)

    run(house, worker, run_id, "late")

    assert (question(house, run_id).step_key, sent) == ("late", [])


def test_a_map_behind_a_gate_shows_its_items_and_begins_only_with_those_that_were_approved(
    house: "House",
    worker: Worker,
    sent: list[str],
) -> None:
    body = Step(key="one", kind="script", script="send", arguments={"price": {ITEM: None}})
    each = Step(key="each", kind="map", after=("list", "ok"), map=Map(items={RESULT_OF: "list"}, body=(body,)))
    run_id = house.start(Step(key="list", kind="script", script="work"), gate(), each)
    go(house, run_id)
    decide(house, question(house, run_id), "approve")
    go(house, run_id)
    house.claim(run_id, "list").finish(StepFinished(outcome="succeeded", result=["1 EUR", "2 EUR"]))
    go(house, run_id)

    asked = question(house, run_id)
    assert (asked.step_key, asked.guards[0].arguments) == ("each", {"items": ["1 EUR", "2 EUR"]})
    decide(house, asked, "approve")
    go(house, run_id)

    for key in ("each/0/one", "each/1/one"):
        run(house, worker, run_id, key)
    assert sent == ["1 EUR", "2 EUR"]
    assert house.run_row(run_id).status == "succeeded"
    ends_whole(house, run_id)


def test_a_step_that_runs_however_the_gate_was_decided_is_not_asked_about(
    house: "House", worker: Worker, sent: list[str]
) -> None:
    tidy = Step(key="tidy", kind="script", script="send", after=("ok",), join="settled", arguments={"price": "none"})
    run_id = house.start(gate(), tidy)
    go(house, run_id)
    decide(house, question(house, run_id), "reject")
    go(house, run_id)
    run(house, worker, run_id, "tidy")
    assert sent == ["none"]


def test_a_task_of_the_users_own_app_is_sent_only_with_arguments_that_were_approved(
    house: "House", worker: Worker, sent: list[str]
) -> None:
    refund = Step(
        key="refund",
        kind="celery_task",
        after=("price", "ok"),
        arguments={"price": {RESULT_OF: "price"}},
        celery_task=CeleryTask(task="billing.refund", queue="billing"),
    )
    run_id = house.start(price(), gate(), refund)
    go(house, run_id)
    decide(house, question(house, run_id), "approve")
    run(house, worker, run_id, "price")
    asked = question(house, run_id)
    assert (asked.step_key, asked.guards[0].arguments) == ("refund", {"price": "14.70 EUR"})
    assert house.row(run_id, "refund").wait_reason == "gate"

    decide(house, asked, "approve")
    go(house, run_id)

    assert house.row(run_id, "refund").wait_reason == "celery_task"
    assert "task.requested" in house.kinds(run_id, "refund")
    assert house.drift(run_id) == []


# --- time -------------------------------------------------------------------------------------------------------------


def let_time_pass(house: "House", run_id: UUID, key: str, column: str = "expires_at") -> None:
    house.execute(
        f"UPDATE steps SET {column} = {column} - interval '1 h' WHERE id = :step", {"step": step_id(run_id, key)}
    )


def test_a_gate_whose_deadline_passes_fails(house: "House") -> None:
    run_id = house.start(gate(deadline_seconds=60), send("ok", key="send", source="ok"))
    go(house, run_id)
    assert house.row(run_id, "ok").status == "waiting"
    let_time_pass(house, run_id, "ok", "deadline_at")

    go(house, run_id)

    assert house.statuses(run_id) == {"ok": "failed", "send": "skipped"}
    assert facts(house, run_id, "ok")[-1].error == "its deadline has passed"
    ends_whole(house, run_id)


@pytest.mark.parametrize(
    ("then", "status", "choice", "error"),
    [("fail", "failed", "abort", "nobody answered in time"), ("approve", "succeeded", "approve", "")],
)
def test_a_gate_that_expires_comes_to_what_its_policy_says(
    house: "House", then: str, status: str, choice: str, error: str
) -> None:
    run_id = house.start(gate(expires=Expiry(after_seconds=60, then=then)))
    go(house, run_id)
    asked = question(house, run_id)
    assert asked.expires_at is not None
    assert asked.expires_then == then
    go(house, run_id)
    assert house.row(run_id, "ok").status == "waiting"
    let_time_pass(house, run_id, "ok")

    go(house, run_id)

    _, heard, ended = facts(house, run_id, "ok")
    assert (heard.by, heard.choice) == ("expiry", choice)
    assert (house.row(run_id, "ok").status, ended.error) == (status, error)
    assert not decide(house, asked, "approve")
    ends_whole(house, run_id)


def test_a_person_who_was_first_is_not_overruled_by_the_clock(house: "House") -> None:
    run_id = house.start(gate(expires=Expiry(after_seconds=60)))
    go(house, run_id)
    assert decide(house, question(house, run_id), "approve")
    let_time_pass(house, run_id, "ok")

    go(house, run_id)

    assert house.row(run_id, "ok").status == "succeeded"
    assert facts(house, run_id, "ok")[1].by == "ada"


def test_questions_of_a_paused_run_expire_when_it_goes_on(house: "House") -> None:
    run_id = house.start(gate(expires=Expiry(after_seconds=60)))
    go(house, run_id)
    with house.as_tenant() as session:
        runs.pause(session, house.tenant, run_id)
    let_time_pass(house, run_id, "ok")
    go(house, run_id)
    assert house.row(run_id, "ok").status == "waiting"
    with house.as_tenant() as session:
        runs.resume(session, house.tenant, run_id)
    go(house, run_id)
    assert house.row(run_id, "ok").status == "failed"


def test_a_script_that_asks_whether_its_effect_happened_is_skipped_when_its_policy_says_so(
    house: "House",
    worker: Worker,
) -> None:
    worker.knows("charge", effect="effectful")(lambda key: key)
    policy = Expiry(after_seconds=60, then="skip")
    run_id = house.start(Step(key="a", kind="script", script="charge", expires=policy))
    house.claim(run_id, "a")
    house.expire(run_id, "a")
    house.recover()
    house.admit()
    worker.run(run_id, "a")
    assert question(house, run_id).expires_then == "skip"
    let_time_pass(house, run_id, "a")
    go(house, run_id)

    worker.run(run_id, "a")

    assert (house.row(run_id, "a").status, worker.ran) == ("succeeded", [])
    go(house, run_id)
    ends_whole(house, run_id)


def test_the_settings_say_how_long_questions_wait_whose_step_does_not(house: "House", worker: Worker) -> None:
    worker.knows("charge", effect="effectful")(lambda key: key)
    worker.shop = replace(worker.shop, settings=house.settings.model_copy(update={"question_seconds": 60.0}))
    run_id = house.start(Step(key="a", kind="script", script="charge"))
    house.claim(run_id, "a")
    house.expire(run_id, "a")
    house.recover()
    house.admit()
    worker.run(run_id, "a")
    let_time_pass(house, run_id, "a")
    go(house, run_id)

    worker.run(run_id, "a")

    assert facts(house, run_id, "a")[-1].error == "nobody answered in time"


def test_what_a_step_reads_of_the_steps_before_it_is_shown_and_approved_with_its_arguments(
    house: "House",
    worker: Worker,
    sent: list[str],
) -> None:
    fixed = Step(key="send", kind="script", script="send", after=("price", "ok"), arguments={"price": "1 EUR"})
    run_id = house.start(price(), gate("price"), fixed)
    run(house, worker, run_id, "price")

    asked = question(house, run_id)

    (shown,) = asked.guards
    assert (shown.arguments, shown.inputs) == ({"price": "1 EUR"}, {"price": "14.70 EUR"})
    assert decide(house, asked, "approve")
    go(house, run_id)
    run(house, worker, run_id, "send")
    assert sent == ["1 EUR"]
    ends_whole(house, run_id)


def test_what_came_to_be_read_after_the_gate_was_approved_is_put_before_a_person_once(
    house: "House",
    worker: Worker,
    sent: list[str],
) -> None:
    # Nothing that it reads is among its arguments, and nothing of it was there when the gate opened.
    fixed = Step(key="send", kind="script", script="send", after=("price", "ok"), arguments={"price": "1 EUR"})
    run_id = house.start(price(), gate(), fixed)
    go(house, run_id)
    first = question(house, run_id)
    assert first.guards[0].inputs == {}
    again = asked_again(house, worker, first)
    assert (again.step_key, again.reason, sent) == ("send", "gate", [])
    assert again.guards[0].inputs == {"price": "14.70 EUR"}
    assert "other arguments or results than were approved at 'ok'" in again.question
    sends(house, worker, again)
    assert sent == ["1 EUR"]
    ends_whole(house, run_id)


def test_what_a_map_behind_a_gate_may_read_is_put_before_a_person_before_it_begins(
    house: "House",
    worker: Worker,
    sent: list[str],
) -> None:
    body = (Step(key="send", kind="script", script="send", arguments={"price": {ITEM: None}}),)
    each = Step(key="each", kind="map", map=Map(items=["1 EUR"], body=body), after=("price", "ok"))
    run_id = house.start(price(), gate(), each)
    go(house, run_id)
    assert decide(house, question(house, run_id), "approve")
    go(house, run_id)
    run(house, worker, run_id, "price")

    asked = question(house, run_id)

    assert (asked.step_key, asked.guards[0].inputs, sent) == ("each", {"price": "14.70 EUR"}, [])
    assert decide(house, asked, "approve")
    go(house, run_id)
    run(house, worker, run_id, "each/0/send")
    assert sent == ["1 EUR"]
    ends_whole(house, run_id)
