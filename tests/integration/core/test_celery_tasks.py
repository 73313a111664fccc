"""Tasks of a user's own Celery app on real Postgres: sent after the commit, answered once, given up by policy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from pydantic import JsonValue
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.orchestrator import completion, explaining, runs, switches, views
from chargehand.orchestrator.celery_tasks import Labels, Message, arguments_hash, lost_id
from chargehand.orchestrator.completion import Completion, Received
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.plan import ARGS, ITEM, RESULT_OF, CeleryTask, Expiry, Map, Step, step_id
from chargehand.orchestrator.supervisor import dispatch
from chargehand.orchestrator.supervisor.dispatch import Dispatcher

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


@dataclass
class Post:
    """A broker of somebody else, in memory."""

    sent: list[Message] = field(default_factory=list)
    revoked: list[UUID] = field(default_factory=list)
    is_away: bool = False
    before_send: Callable[[Message], None] = lambda _message: None

    def known(self) -> frozenset[str]:
        return frozenset({"default"})

    def away(self) -> frozenset[str]:
        return frozenset()

    def send(self, message: Message) -> bool:
        self.before_send(message)
        if not self.is_away:
            self.sent.append(message)
        return not self.is_away

    def revoke(self, broker: str, task_id: UUID) -> None:
        self.revoked.append(task_id)


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def post() -> Iterator[Post]:
    return Post()


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


def task(key: str = "pay", *after: str, **fields: Any) -> Step:
    mine = {name: fields.pop(name) for name in ("effect", "resend_seconds", "when_lost", "broker") if name in fields}
    spec = CeleryTask(task="billing.refund", queue="billing", **mine)
    return Step(key=key, kind="celery_task", celery_task=spec, after=after, **fields)


def go(house: "House", post: Post, run_id: UUID) -> None:
    """What a supervisor does when the bell rings."""
    while house.rings(run_id):
        house.advance(run_id)
        house.admit()
        Dispatcher(house.supervisor, post).dispatch(run_id)


def begun(house: "House", post: Post, *steps: Step) -> UUID:
    run_id = house.start(*steps)
    Dispatcher(house.supervisor, post).dispatch(run_id)
    return run_id


def answer(
    house: "House", run_id: UUID, key: str = "pay", result: JsonValue = None, *, received: Received | None = None
) -> bool:
    with house.as_tenant() as session:
        return completion.complete(
            session,
            house.tenant,
            run_id=run_id,
            step=step_id(run_id, key),
            completion=Completion(outcome="succeeded", by="worker", result=result),
            received=received,
        )


def pass_time(house: "House", run_id: UUID, key: str, seconds: float) -> None:
    house.execute(
        "UPDATE steps SET run_after = run_after - make_interval(secs => :s), "
        "deadline_at = deadline_at - make_interval(secs => :s) WHERE id = :step",
        {"s": seconds, "step": step_id(run_id, key)},
    )


def decide(house: "House", run_id: UUID, choice: str, body: JsonValue = None) -> bool:
    with house.as_tenant() as session:
        [asked] = views.escalations(session, run_id)
        return runs.answer(
            session,
            house.tenant,
            run_id=run_id,
            step=asked.step_id,
            wait_id=asked.wait_id,
            choice=choice,
            body=body,
        )


def end_of(house: "House", run_id: UUID, key: str = "pay") -> Any:
    with house.as_tenant() as session:
        return views.results(session, run_id, [key])[key]


def check(house: "House", run_id: UUID, status: str) -> None:
    assert house.run_row(run_id).status == status
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


# --- sending ----------------------------------------------------------------------------------------------------------


def test_a_task_is_sent_with_the_results_that_it_takes_and_its_answer_lets_the_run_go_on(
    house: "House", post: Post
) -> None:
    arguments: dict[str, JsonValue] = {ARGS: [{RESULT_OF: "load"}], "reason": {"note": [{RESULT_OF: "load"}]}}
    run_id = begun(house, post, script("load"), task("pay", "load", arguments=arguments), script("mail", "pay"))
    assert post.sent == []
    house.run(run_id, "load", {"order_id": 7})
    go(house, post, run_id)
    [message] = post.sent
    assert (message.task.task, message.task.queue) == ("billing.refund", "billing")
    assert message.call.args == ({"order_id": 7},)
    assert message.call.kwargs == {"reason": {"note": [{"order_id": 7}]}}
    assert message.labels.headers() == {
        "chargehand_tenant": str(house.tenant),
        "chargehand_run": str(run_id),
        "chargehand_step": str(step_id(run_id, "pay")),
        "chargehand_wait": str(step_id(run_id, "pay")),
        "chargehand_idempotency_key": str(step_id(run_id, "pay")),
        "chargehand_sending": "1",
    }
    assert house.row(run_id, "pay").status == "waiting"

    assert answer(house, run_id, result={"receipt": 1})
    go(house, post, run_id)

    assert house.statuses(run_id) == {"load": "succeeded", "pay": "succeeded", "mail": "queued"}
    house.run(run_id, "mail")
    go(house, post, run_id)
    check(house, run_id, "succeeded")
    assert end_of(house, run_id).result == {"receipt": 1}
    kinds = ["task.requested", "step.waiting", "task.sent", "task.returned", "step.finished"]
    assert house.kinds(run_id, "pay") == kinds
    assert len(post.sent) == 1


def test_what_was_sent_and_what_came_back_stand_in_the_journal(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(arguments={"order_id": 7}, deadline_seconds=30.0))
    answer(house, run_id, result="paid")
    go(house, post, run_id)
    with house.as_tenant() as session:
        bodies = [entry.body or "" for entry in journal.read(session, run_id, step=step_id(run_id, "pay"))]
    digest = arguments_hash([], {"order_id": 7})
    requested, _, sent, returned, _ = bodies
    for said in (
        '"billing.refund"',
        '"billing"',
        f'"key":"{step_id(run_id, "pay")}"',
        digest,
        '"deadline_seconds":30.0',
    ):
        assert said in requested
    assert '"sending":1' in sent
    assert '"outcome":"succeeded","by":"worker"' in returned
    assert '"result_hash":"' in returned


def test_a_supervisor_that_dies_between_the_commit_and_the_publish_is_followed_by_another(
    house: "House", post: Post
) -> None:
    def die(_message: Message) -> None:
        raise Killed

    run_id = house.submit(task())
    post.before_send = die
    with pytest.raises(Killed):
        go(house, post, run_id)
    assert house.row(run_id, "pay").status == "waiting"
    post.before_send = lambda _message: None
    dispatcher = Dispatcher(house.supervisor, post)
    dispatcher.dispatch()
    assert post.sent == [], "it is another's to send, until that one has had the time"

    pass_time(house, run_id, "pay", dispatch.LEASE_SECONDS)
    dispatcher.dispatch()
    dispatcher.dispatch()

    assert [message.labels.sending for message in post.sent] == [1]


def test_one_that_dies_between_the_publish_and_its_note_sends_the_same_message_again(
    house: "House", post: Post
) -> None:
    run_id = house.submit(task())
    house.advance(run_id)
    for message in dispatch.take_due(house.supervisor, post).messages:
        post.send(message)

    pass_time(house, run_id, "pay", dispatch.LEASE_SECONDS)
    Dispatcher(house.supervisor, post).dispatch()

    first, second = post.sent
    assert first.labels == second.labels
    assert first.call == second.call
    assert house.kinds(run_id, "pay").count("task.sent") == 1


def test_an_answer_that_is_quicker_than_the_note_of_the_sending_counts(house: "House", post: Post) -> None:
    run_id = house.submit(task())

    def at_once(_message: Message) -> None:
        answer(house, run_id, result=1)

    post.before_send = at_once
    go(house, post, run_id)
    check(house, run_id, "succeeded")
    assert len(post.sent) == 1


def test_a_broker_that_is_away_is_tried_again_and_its_absence_takes_nothing_of_the_deadline(
    house: "House", post: Post
) -> None:
    post.is_away = True
    run_id = begun(house, post, task(deadline_seconds=5.0))
    assert house.row(run_id, "pay").deadline_at is None
    with house.as_tenant() as session:
        [(_, why)] = explaining.explain(session, run_id)
    assert "is not sent yet" in why
    post.is_away = False
    Dispatcher(house.supervisor, post).dispatch()
    assert len(post.sent) == 1
    with house.as_tenant() as session:
        [(_, why)] = explaining.explain(session, run_id)
    assert "waits for task 'billing.refund' on queue 'billing', sent 0 s ago, given up in 5 s" in why


def test_a_paused_run_sends_nothing_until_it_goes_on(house: "House", post: Post) -> None:
    run_id = house.submit(task())
    house.advance(run_id)
    with house.as_tenant() as session:
        runs.pause(session, house.tenant, run_id)
    Dispatcher(house.supervisor, post).dispatch()
    assert post.sent == []
    with house.as_tenant() as session:
        runs.resume(session, house.tenant, run_id)
    go(house, post, run_id)
    assert len(post.sent) == 1


def test_a_paused_fleet_sends_nothing_and_takes_answers_to_what_was_sent_before(house: "House", post: Post) -> None:
    run_id = begun(house, post, task("pay"), task("thank", "pay"))
    with Session(house.supervisor) as session, session.begin():
        assert switches.pause(session, "all", "", by="ada")
    try:
        answer(house, run_id, result=1)
        go(house, post, run_id)
        assert house.statuses(run_id) == {"pay": "succeeded", "thank": "waiting"}
        with house.as_tenant() as session:
            [(_, why)] = explaining.explain(session, run_id)
        assert "the whole fleet is paused by ada" in why
        assert len(post.sent) == 1
    finally:
        with Session(house.supervisor) as session, session.begin():
            assert switches.resume(session, "all", "", by="ada")
    Dispatcher(house.supervisor, post).dispatch()
    assert len(post.sent) == 2


def test_an_answer_to_a_paused_run_is_heard_when_it_goes_on(house: "House", post: Post) -> None:
    run_id = begun(house, post, task())
    with house.as_tenant() as session:
        runs.pause(session, house.tenant, run_id)
    answer(house, run_id, result=1)
    go(house, post, run_id)
    assert house.row(run_id, "pay").status == "waiting"
    with house.as_tenant() as session:
        runs.resume(session, house.tenant, run_id)
    go(house, post, run_id)
    check(house, run_id, "succeeded")


def test_an_unknown_broker_fails_the_step_and_says_where_to_name_it(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(broker="legacy"))
    go(house, post, run_id)
    check(house, run_id, "failed")
    assert (
        "broker 'legacy' has no address; give it one in CHARGEHAND_CELERY_TASKS_BROKERS (known: default)"
        in end_of(house, run_id).error
    )


def test_arguments_that_are_not_there_or_too_large_fail_the_step(house: "House", post: Post) -> None:
    lacking = begun(
        house, post, script("load"), task("pay", "load", join="settled", arguments={"a": {RESULT_OF: "load"}})
    )
    house.claim(lacking, "load").finish(StepFinished(outcome="failed", error="broken"))
    go(house, post, lacking)
    assert "takes the result of 'load', which gave none" in end_of(house, lacking).error
    large = begun(house, post, task(arguments={"text": "x" * 1_000_001}))
    go(house, post, large)
    assert "at most 1,000,000 are sent" in end_of(house, large).error
    assert post.sent == []


def test_a_map_sends_one_task_for_each_item(house: "House", post: Post) -> None:
    body = (task("do", arguments={ARGS: [{ITEM: None}]}),)
    run_id = begun(house, post, Step(key="each", kind="map", map=Map(items=[1, 2, 3], body=body)))
    go(house, post, run_id)
    assert sorted(message.call.args for message in post.sent) == [(1,), (2,), (3,)]
    for number in range(3):
        answer(house, run_id, f"each/{number}/do", number * 10)
    go(house, post, run_id)
    check(house, run_id, "succeeded")
    assert end_of(house, run_id, "each").result == [0, 10, 20]


def test_a_wide_map_is_opened_and_sent_a_hundred_at_a_time(house: "House", post: Post) -> None:
    items: list[JsonValue] = [*range(250)]
    body = (task("do", arguments={ARGS: [{ITEM: None}]}),)
    run_id = begun(house, post, Step(key="each", kind="map", map=Map(items=items, body=body)))
    opened: list[int] = []
    while house.rings(run_id):
        house.advance(run_id)
        Dispatcher(house.supervisor, post).dispatch(run_id)
        opened.append(len(post.sent))
    assert max(after - before for before, after in pairwise([0, *opened])) <= dispatch.BATCH
    assert sorted(message.call.args for message in post.sent) == [(number,) for number in range(250)]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_second_answer_is_told_that_it_comes_second(house: "House", post: Post) -> None:
    run_id = begun(house, post, task())
    assert answer(house, run_id, result="first")
    assert not answer(house, run_id, result="second")
    go(house, post, run_id)
    assert not answer(house, run_id, result="third")
    assert end_of(house, run_id).result == "first"


def test_a_task_that_fails_fails_its_step_with_its_own_words(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(), script("mail", "pay"))
    with house.as_tenant() as session:
        failed = Completion(outcome="failed", by="worker", error="ValueError: no such order\x00")
        assert completion.complete(session, house.tenant, run_id=run_id, step=step_id(run_id, "pay"), completion=failed)
    go(house, post, run_id)
    check(house, run_id, "failed")
    assert end_of(house, run_id).error == "ValueError: no such order\ufffd"
    assert house.statuses(run_id)["mail"] == "skipped"


def test_a_message_that_somebody_else_made_up_does_not_answer(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(arguments={"order_id": 7}))
    genuine = Received(task="billing.refund", arguments_hash=post.sent[0].call.digest)
    for forged in (
        Received(task="billing.refund", arguments_hash=arguments_hash([], {"order_id": 8})),
        Received(task="billing.look", arguments_hash=genuine.arguments_hash),
    ):
        with pytest.raises(UserError, match="is not ours"):
            answer(house, run_id, result="forged", received=forged)
    assert answer(house, run_id, result="paid", received=genuine)
    go(house, post, run_id)
    assert end_of(house, run_id).result == "paid"


def test_a_task_that_retries_itself_with_other_arguments_may_answer(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(arguments={"order": {"order_id": 7}}))
    first = Received(task="billing.refund", arguments_hash=post.sent[0].call.digest)
    second = Received(task="billing.refund", arguments_hash=arguments_hash([], {"order": {"order_id": 7, "tries": 1}}))
    with house.as_tenant() as session:
        completion.note_change(session, post.sent[0].labels, received=first, arguments_hash=second.arguments_hash)
    forged = Received(task="billing.refund", arguments_hash="0" * 64)
    with pytest.raises(UserError, match="is not ours"), house.as_tenant() as session:
        completion.note_change(session, post.sent[0].labels, received=forged, arguments_hash="1" * 64)
    go(house, post, run_id)
    assert answer(house, run_id, result="paid", received=second)
    go(house, post, run_id)
    check(house, run_id, "succeeded")


def test_nobody_answers_for_another_tenant(house: "House", post: Post) -> None:
    run_id = begun(house, post, task())
    stranger = uuid4()
    with pytest.raises(NotFound), house.as_tenant(stranger) as session:
        completion.complete(
            session,
            stranger,
            run_id=run_id,
            step=step_id(run_id, "pay"),
            completion=Completion(outcome="succeeded", by="stranger"),
        )
    go(house, post, run_id)
    assert house.row(run_id, "pay").status == "waiting"


def test_a_step_that_waits_for_no_task_takes_no_answer_of_one(house: "House") -> None:
    run_id = house.start(Step(key="pay", kind="gate", instruction="Pay?"))
    with pytest.raises(UserError, match="waits for no task"):
        answer(house, run_id)


# --- when nothing comes back ------------------------------------------------------------------------------------------


def test_a_task_that_has_answered_is_not_given_up_because_its_answer_is_taken_late(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(deadline_seconds=60.0, when_lost="fail"))
    with house.as_tenant() as session:
        runs.pause(session, house.tenant, run_id)
    answer(house, run_id, result="paid")
    pass_time(house, run_id, "pay", 61)
    with house.as_tenant() as session:
        runs.resume(session, house.tenant, run_id)
    # A supervisor may look at what is due before any round has heard the answer.
    Dispatcher(house.supervisor, post).dispatch()
    go(house, post, run_id)
    check(house, run_id, "succeeded")
    assert end_of(house, run_id).result == "paid"


def test_an_effectful_task_that_says_nothing_is_put_before_a_person_with_the_evidence(
    house: "House", post: Post
) -> None:
    run_id = begun(house, post, task(deadline_seconds=60.0))
    pass_time(house, run_id, "pay", 61)
    Dispatcher(house.supervisor, post).dispatch()
    go(house, post, run_id)
    assert len(post.sent) == 1, "it may have happened: it is not sent again"
    with house.as_tenant() as session:
        [asked] = views.escalations(session, run_id)
    assert "nothing came back within 60 s: whether it has happened is not known" in asked.question
    assert asked.options == ("retry", "skip", "override", "abort")
    pay = step_id(run_id, "pay")
    assert asked.evidence == (f"{pay}:1", f"{pay}:3")
    house.watch()
    assert house.row(run_id, "pay").status == "waiting"

    decide(house, run_id, "override", {"receipt": 4})
    go(house, post, run_id)

    check(house, run_id, "succeeded")
    assert end_of(house, run_id).result == {"receipt": 4}
    assert not answer(house, run_id, result="late")


@pytest.mark.parametrize(("choice", "status"), [("skip", "succeeded"), ("abort", "failed")])
def test_a_person_skips_or_ends_what_was_lost(house: "House", post: Post, choice: str, status: str) -> None:
    run_id = begun(house, post, task(deadline_seconds=60.0))
    pass_time(house, run_id, "pay", 61)
    Dispatcher(house.supervisor, post).dispatch()
    decide(house, run_id, choice)
    go(house, post, run_id)
    check(house, run_id, status)


def test_a_person_has_it_sent_once_more_under_the_same_key_with_the_whole_time(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(deadline_seconds=60.0))
    for _ in range(2):
        pass_time(house, run_id, "pay", 61)
        Dispatcher(house.supervisor, post).dispatch()
        decide(house, run_id, "retry")
        go(house, post, run_id)
    assert [message.labels.sending for message in post.sent] == [1, 2, 3]
    assert {message.labels.idempotency_key for message in post.sent} == {str(step_id(run_id, "pay"))}
    assert answer(house, run_id, result="paid")
    go(house, post, run_id)
    check(house, run_id, "succeeded")


def test_a_question_that_was_answered_does_not_expire_into_an_answer_of_the_task(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(deadline_seconds=60.0, expires=Expiry(after_seconds=5.0)))
    pass_time(house, run_id, "pay", 61)
    Dispatcher(house.supervisor, post).dispatch()
    assert house.row(run_id, "pay").expires_at is not None
    decide(house, run_id, "retry")
    go(house, post, run_id)
    assert house.row(run_id, "pay").expires_at is None
    pass_time(house, run_id, "pay", 61)
    Dispatcher(house.supervisor, post).dispatch()
    late = "UPDATE steps SET expires_at = clock_timestamp() WHERE id = :step"
    house.execute(late, {"step": step_id(run_id, "pay")})
    house.watch()
    go(house, post, run_id)
    check(house, run_id, "failed")
    assert end_of(house, run_id).error == "nobody answered in time"


def test_the_task_itself_may_still_answer_while_a_person_is_asked(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(deadline_seconds=60.0))
    pass_time(house, run_id, "pay", 61)
    Dispatcher(house.supervisor, post).dispatch()
    assert answer(house, run_id, result="paid after all")
    go(house, post, run_id)
    check(house, run_id, "succeeded")
    assert end_of(house, run_id).result == "paid after all"
    with house.as_tenant() as session:
        assert views.escalations(session, run_id) == []


def test_an_idempotent_task_is_sent_again_under_its_key_until_its_deadline(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(effect="idempotent", resend_seconds=10.0, deadline_seconds=25.0, when_lost="fail"))
    for _ in range(2):
        pass_time(house, run_id, "pay", 10.5)
        Dispatcher(house.supervisor, post).dispatch()
    assert [message.labels.sending for message in post.sent] == [1, 2, 3]
    assert post.sent[2].expires_seconds < 5
    pass_time(house, run_id, "pay", 10.5)
    Dispatcher(house.supervisor, post).dispatch()
    go(house, post, run_id)
    check(house, run_id, "failed")
    assert "nothing came back within 25 s: whether it has happened is not known" in end_of(house, run_id).error


def test_a_worker_that_was_cut_off_says_so_and_a_person_is_asked_at_once(house: "House", post: Post) -> None:
    run_id = begun(house, post, task())
    labels = post.sent[0].labels
    with house.as_tenant() as session:
        assert completion.report_lost(session, labels, by="worker", why="WorkerLostError: signal 9")
    go(house, post, run_id)
    with house.as_tenant() as session:
        [asked] = views.escalations(session, run_id)
    assert "lost: WorkerLostError: signal 9" in asked.question
    check_of_streams = house.objections(run_id)
    assert (house.drift(run_id), check_of_streams) == ([], [])


def test_a_task_that_is_delivered_again_after_its_worker_was_lost_answers(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(effect="idempotent", resend_seconds=10.0))
    with house.as_tenant() as session:
        completion.report_lost(session, post.sent[0].labels, by="worker", why="lost")
    go(house, post, run_id)
    assert house.row(run_id, "pay").wait_reason == "celery_task", "it is sent again by its own clock"
    assert answer(house, run_id, result=1)
    go(house, post, run_id)
    check(house, run_id, "succeeded")


def test_a_report_of_loss_takes_nobodys_place() -> None:
    labels = Labels(tenant=uuid4(), run_id=uuid4(), step_id=uuid4(), sending=1)
    assert len({lost_id(labels.step_id, 1), lost_id(labels.step_id, 2), labels.task_id}) == 3


# --- when nobody wants it ---------------------------------------------------------------------------------------------


def test_a_cancelled_run_revokes_its_tasks_once(house: "House", post: Post) -> None:
    run_id = begun(house, post, task())
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
    go(house, post, run_id)
    Dispatcher(house.supervisor, post).dispatch(run_id)
    assert post.revoked == [step_id(run_id, "pay")]
    assert not answer(house, run_id, result="too late")
    check(house, run_id, "cancelled")


def test_a_task_that_leaves_while_its_run_is_cancelled_is_revoked(house: "House", post: Post) -> None:
    run_id = house.submit(task())

    def cancel(_message: Message) -> None:
        with house.as_tenant() as session:
            runs.cancel(session, house.tenant, run_id)

    post.before_send = cancel
    go(house, post, run_id)
    assert post.revoked == [step_id(run_id, "pay")]


def test_the_loser_of_a_race_is_revoked(house: "House", post: Post) -> None:
    run_id = begun(
        house, post, task("slow"), task("quick"), script("use", "slow", "quick").model_copy(update={"join": "any"})
    )
    answer(house, run_id, "quick", 1)
    go(house, post, run_id)
    assert post.revoked == [step_id(run_id, "slow")]
    assert house.statuses(run_id)["slow"] == "cancelled"


def test_a_step_that_is_done_again_is_another_task_with_another_key(house: "House", post: Post) -> None:
    run_id = begun(house, post, task(), Step(key="hold", kind="gate", instruction="Hold?"))
    answer(house, run_id, result=1)
    go(house, post, run_id)
    with house.as_tenant() as session:
        [again] = runs.retry(session, house.tenant, run_id, "pay")
    go(house, post, run_id)
    assert [message.labels.step_id for message in post.sent] == [step_id(run_id, "pay"), step_id(run_id, again)]


def test_nothing_is_counted_as_waiting_for_a_place_of_ours(house: "House", post: Post) -> None:
    run_id = begun(house, post, task())
    assert house.row(run_id, "pay").epoch == 0
    assert house.execute(
        "SELECT count(*) FROM steps WHERE run = :run AND status IN ('queued', 'running')", {"run": run_id}
    )[0] == (0,)
