"""A webhook hears of each fact at least once, under one id, signed, whatever its server or ours do meanwhile."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from chargehand.memory.database import tenant_session
from chargehand.orchestrator import runs
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.facts import StepWaiting, Usage
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.prices import cost_microusd
from chargehand.orchestrator.steps import new_wait_id
from chargehand.orchestrator.supervisor.messenger import Messenger
from chargehand.orchestrator.supervisor.warning import warn
from chargehand.orchestrator.turns import StepRecorder
from chargehand.orchestrator.webhooks import outbox
from chargehand.orchestrator.webhooks.outbox import BACKOFF_SECONDS, LEASE_SECONDS, MOST_ATTEMPTS, Delivery, Webhook
from chargehand.orchestrator.webhooks.payload import EVENTS
from chargehand.orchestrator.webhooks.sending import post
from chargehand.orchestrator.webhooks.signing import verify_webhook
from tests.integration.core.agents import agent, start
from tests.integration.core.test_turns import take_turn

if TYPE_CHECKING:
    from tests.conftest import WaitUntil
    from tests.integration.core.conftest import House


class Ear:
    """A server that hears webhooks, and can be made to behave badly."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        """Answers to give before the usual 204."""
        self.hangs = threading.Event()
        """Set: it takes the request, and never answers."""
        self.closed = threading.Event()
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                ear.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
                if ear.hangs.is_set():
                    ear.closed.wait(60)
                    return
                self.send_response(ear.statuses.pop(0) if ear.statuses else 204)
                self.send_header("location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?of=test"

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.heard]

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.heard]

    def close(self) -> None:
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def ear(house: "House") -> Iterator[Ear]:
    made = Ear()
    yield made
    made.close()
    house.execute("DELETE FROM webhooks")


def listen(house: "House", ear: Ear, *events: str) -> Webhook:
    with house.as_tenant() as session:
        return outbox.add(session, house.tenant, ear.url, events or EVENTS)


def deliver(house: "House") -> int:
    """What one supervisor does about everything that is due now; gives the number of attempts."""
    messenger, attempts = Messenger(house.supervisor, private=True), 0
    while True:
        with Session(house.supervisor) as session, session.begin():
            due = outbox.take(session, most=10)
        if not due:
            return attempts
        for one in due:
            messenger.attempt(one)
            attempts += 1


def deliveries(house: "House") -> list[Delivery]:
    with house.as_tenant() as session:
        return outbox.deliveries(session, house.tenant)


def make_due(house: "House") -> None:
    house.execute("UPDATE deliveries SET due_at = clock_timestamp() WHERE status = 'pending'")


def ask(house: "House", run_id: UUID, key: str, cause: str = "") -> None:
    asked = StepWaiting(wait_id=new_wait_id(), reason="human", question="?", options=("retry",), cause=cause)
    house.claim(run_id, key).wait(asked)


def scripts(*keys: str) -> list[Step]:
    return [Step(key=key, kind="script", script="work") for key in keys]


def test_an_escalation_and_the_end_of_a_run_are_told_signed(house: "House", ear: Ear) -> None:
    webhook = listen(house, ear)
    run_id = house.submit(Step(key="ok", kind="gate", instruction="Send it?"), goal="Send the offer")
    house.advance(run_id)
    assert deliver(house) == 1
    gate = house.row(run_id, "ok")
    with house.as_tenant() as session:
        runs.answer(session, house.tenant, run_id=run_id, step=gate.id, wait_id=gate.wait_id, choice="approve")
    house.watch()
    house.advance(run_id)
    assert deliver(house) == 1

    opened, finished = ear.told()
    assert (opened["type"], finished["type"]) == ("escalation.opened", "run.finished")
    assert opened["data"]["question"] == "Send it?"
    assert (opened["data"]["step"], opened["data"]["goal"]) == ("ok", "Send the offer")
    assert finished["data"] == {"run_id": str(run_id), "goal": "Send the offer", "outcome": "succeeded", "reason": ""}
    for headers, body in ear.heard:
        assert webhook.secret is not None
        assert verify_webhook(webhook.secret, headers, body, now=time.time())
        assert not verify_webhook(webhook.secret, headers, body.replace(b"Send", b"Burn"), now=time.time())


def test_a_fact_that_is_rolled_back_is_not_told(house: "House", ear: Ear) -> None:
    listen(house, ear)
    run_id = house.submit(*scripts("a"))
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
        session.rollback()
    assert deliveries(house) == []
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
    assert [one.event for one in deliveries(house)] == ["run.finished"]


def test_only_what_was_asked_for_is_told_and_to_its_own_tenant_only(house: "House", ear: Ear) -> None:
    listen(house, ear, "run.finished")
    run_id = house.submit(Step(key="ok", kind="gate"))
    house.advance(run_id)
    other = uuid4()
    foreign = house.submit(*scripts("a"), tenant=other)
    with house.as_tenant(other) as session:
        runs.cancel(session, other, foreign)
        assert outbox.webhooks(session, other) == []
    assert deliver(house) == 0
    assert ear.heard == []


def test_a_server_that_fails_hears_it_again_later_under_the_same_id(house: "House", ear: Ear) -> None:
    listen(house, ear, "run.finished")
    run_id = house.submit(*scripts("a"))
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
    ear.statuses = [503, 302]
    assert deliver(house) == 1
    (waiting,) = deliveries(house)
    assert (waiting.status, waiting.attempts, waiting.outcome) == ("pending", 1, "503")
    assert waiting.due_at is not None
    assert waiting.tried_at is not None
    wait = (waiting.due_at - waiting.tried_at).total_seconds()
    # From the attempt's end on, and not the same for all.
    assert 0.79 * BACKOFF_SECONDS[0] < wait < LEASE_SECONDS / 2
    # Not before its time.
    assert deliver(house) == 0
    make_due(house)
    # A redirect is a failure: nobody follows it.
    assert deliver(house) == 1
    make_due(house)

    assert deliver(house) == 1

    assert len(set(ear.ids())) == 1
    assert len({body for _, body in ear.heard}) == 1
    (done,) = deliveries(house)
    assert (done.status, done.attempts, done.outcome) == ("delivered", 3, "204")
    make_due(house)
    assert deliver(house) == 0


def test_attempts_are_bounded_and_a_person_can_begin_anew(house: "House", ear: Ear) -> None:
    listen(house, ear, "run.finished")
    run_id = house.submit(*scripts("a"))
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
    ear.statuses = [500] * MOST_ATTEMPTS
    for _ in range(MOST_ATTEMPTS + 3):
        deliver(house)
        make_due(house)
    (given_up,) = deliveries(house)
    assert (given_up.status, given_up.attempts, len(ear.heard)) == ("failed", MOST_ATTEMPTS, MOST_ATTEMPTS)
    with house.as_tenant() as session:
        assert outbox.redeliver(session, house.tenant) == 1
    assert deliver(house) == 1
    assert deliveries(house)[0].status == "delivered"


def test_a_server_that_hangs_or_is_gone_costs_its_time_and_no_more(ear: Ear) -> None:
    ear.hangs.set()
    began = time.monotonic()
    assert post(ear.url, b"{}", {}, private=True, seconds=0.5).outcome == "TimeoutError"
    assert time.monotonic() - began < 30
    ear.close()
    assert post(ear.url, b"{}", {}, private=True).outcome == "ConnectionRefusedError"


def test_a_server_that_drips_its_answer_is_cut_off_in_time() -> None:
    def drip(listening: socket.socket) -> None:
        stream, _ = listening.accept()
        with stream:
            for _ in range(1_200):
                try:
                    stream.sendall(b"H")
                except OSError:
                    return
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        began = time.monotonic()
        sent = post(f"http://127.0.0.1:{listening.getsockname()[1]}/", b"{}", {}, private=True, seconds=0.6)
    # Each byte alone would have been in time.
    assert (sent.delivered, sent.outcome) == (False, "TimeoutError")
    assert time.monotonic() - began < 30


def test_private_addresses_are_refused_where_they_are_not_allowed(ear: Ear) -> None:
    assert post(ear.url, b"{}", {}, private=False).outcome == "RefusedAddress"
    assert ear.heard == []


def test_a_supervisor_that_dies_in_the_middle_of_an_attempt_leaves_it_to_the_others(house: "House", ear: Ear) -> None:
    listen(house, ear, "run.finished")
    run_id = house.submit(*scripts("a"))
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
    with Session(house.supervisor) as session, session.begin():
        (lost,) = outbox.take(session, most=10)
    # Its lease is not over: nobody else tries.
    assert deliver(house) == 0
    make_due(house)
    assert deliver(house) == 1
    # The one that was lost was only slow, and comes back with its failure: it is not believed any more.
    with Session(house.supervisor) as session, session.begin():
        outbox.settle(session, lost, post("http://127.0.0.1:1/", b"", {}, private=True))
    (done,) = deliveries(house)
    assert (done.status, done.attempts) == ("delivered", 2)


def test_many_supervisors_share_the_deliveries_and_a_hanging_server_stops_nobody(
    house: "House", ear: Ear, wait_until: "WaitUntil", threads: ThreadPoolExecutor
) -> None:
    deaf = Ear()
    deaf.hangs.set()
    with house.as_tenant() as session:
        outbox.add(session, house.tenant, deaf.url, ["run.finished"])
    listen(house, ear, "run.finished")
    run_ids = [house.submit(*scripts("a")) for _ in range(20)]
    with house.as_tenant() as session:
        for run_id in run_ids:
            runs.cancel(session, house.tenant, run_id)
    stop = threading.Event()
    for _ in range(3):
        threads.submit(Messenger(house.supervisor, private=True).deliver_forever, stop)
    try:
        wait_until(lambda: len({*ear.ids()}) == 20, timeout_seconds=60)
    finally:
        stop.set()
        deaf.close()
    assert sorted(told["data"]["run_id"] for told in ear.told()) == sorted(map(str, run_ids))


def test_of_several_steps_that_ask_about_one_cause_the_first_is_told(house: "House", ear: Ear) -> None:
    listen(house, ear, "escalation.opened")
    run_id = house.start(*scripts("a", "b", "c"))
    ask(house, run_id, "a", cause="same_error 1")
    ask(house, run_id, "b", cause="same_error 1")
    ask(house, run_id, "c", cause="same_error 2")
    deliver(house)
    assert sorted(told["data"]["step"] for told in ear.told()) == ["a", "c"]


def test_a_wait_that_is_for_nobody_is_not_told(house: "House", ear: Ear) -> None:
    listen(house, ear)
    run_id = house.start(*scripts("a"))
    waiting = StepWaiting(wait_id=new_wait_id(), reason="rate", question="429")
    house.claim(run_id, "a").wait(waiting, after_seconds=60)
    assert deliveries(house) == []


# --- budgets ----------------------------------------------------------------------------------------------------------


def spend(house: "House", run_id: UUID, microusd: int) -> None:
    house.execute("UPDATE steps SET spent_microusd = :spent WHERE run = :run", {"spent": microusd, "run": run_id})
    house.execute(
        "UPDATE budgets SET drawn_microusd = greatest(drawn_microusd, :spent) WHERE run = :run",
        {"spent": microusd, "run": run_id},
    )


def test_a_budget_is_warned_of_at_50_80_and_95_percent_once_each(house: "House", ear: Ear) -> None:
    listen(house, ear, "budget.warning")
    run_id = house.submit(*scripts("a"), budget_microusd=1_000)
    house.advance(run_id)
    for spent in (499, 500, 501, 960, 1_000):
        spend(house, run_id, spent)
        warn(house.supervisor)
        warn(house.supervisor)
    deliver(house)
    told = sorted((one["data"]["percent"], one["data"]["spent_microusd"]) for one in ear.told())
    assert told == [(50, 500), (80, 960), (95, 960)]


def test_a_model_with_a_price_is_warned_of_while_its_agent_spends(house: "House", ear: Ear) -> None:
    listen(house, ear, "budget.warning")
    usage = Usage(input_tokens=1_000, output_tokens=200)
    cost = cost_microusd("claude-sonnet-5-5", usage)
    run_id = start(house, agent("a"), tools={}, budget_microusd=10 * cost, on_budget="ask")
    mine = StepRecorder(house.connections, house.claim(run_id, "a"), lease_seconds=60)
    warned = []
    for _ in range(10):
        take_turn(mine, need=cost, cost=cost)
        warn(house.supervisor)
        warned.append(house.kinds(run_id).count("budget.warned"))
    deliver(house)

    assert cost == 4_000
    assert warned == [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert sorted(one["data"]["percent"] for one in ear.told()) == [50, 80, 95]


def test_more_money_makes_the_marks_new(house: "House", ear: Ear) -> None:
    listen(house, ear, "budget.warning")
    run_id = house.submit(*scripts("a"), budget_microusd=1_000)
    spend(house, run_id, 600)
    warn(house.supervisor)
    with house.as_tenant() as session:
        runs.raise_budget(session, house.tenant, run_id, to_microusd=2_000)
    warn(house.supervisor)
    spend(house, run_id, 1_100)
    warn(house.supervisor)
    deliver(house)
    assert sorted((one["data"]["percent"], one["data"]["budget_microusd"]) for one in ear.told()) == [
        (50, 1_000),
        (50, 2_000),
    ]


def test_a_run_that_ends_between_two_looks_is_warned_of_at_its_end(house: "House") -> None:
    run_id = house.start(*scripts("a"), budget_microusd=1_000)
    spend(house, run_id, 850)
    house.run(run_id, "a")
    house.advance(run_id)
    assert house.kinds(run_id)[-3:] == ["budget.warned", "budget.warned", "run.finished"]
    assert house.objections(run_id) == []


# --- who may do what --------------------------------------------------------------------------------------------------


def test_the_secret_is_not_read_again_by_the_applications_role(house: "House", ear: Ear) -> None:
    made = listen(house, ear)
    with house.as_tenant() as session:
        (listed,) = outbox.webhooks(session, house.tenant)
    assert (listed.webhook_id, listed.secret) == (made.webhook_id, None)
    with pytest.raises(ProgrammingError, match="permission denied"), house.as_tenant() as session:
        session.execute(outbox.select(outbox.WebhookRow.secret))


def test_a_webhook_is_removed_by_a_beginning_of_its_id_with_what_it_was_to_hear(house: "House", ear: Ear) -> None:
    made = listen(house, ear)
    run_id = house.submit(*scripts("a"))
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
        with pytest.raises(NotFound):
            outbox.remove(session, uuid4(), str(made.webhook_id))
        outbox.remove(session, house.tenant, str(made.webhook_id)[:8])
    assert deliveries(house) == []
    assert deliver(house) == 0


def test_events_that_do_not_exist_are_refused_with_those_that_do(house: "House", ear: Ear) -> None:
    with tenant_session(house.app, house.tenant) as session, pytest.raises(UserError, match="events are: escalation"):
        outbox.add(session, house.tenant, ear.url, ["run.started"])
