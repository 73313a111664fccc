"""Questions, answers and webhooks on a real laptop whose workers and supervisors are killed in the middle."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from chaos.machine import Fleet, Machine, until

from chargehand.orchestrator.plan import Expiry, Plan, Step
from chargehand.orchestrator.views import Escalation
from chargehand.orchestrator.webhooks.signing import verify_webhook

pytestmark = [pytest.mark.system, pytest.mark.long]

RUNS = 12
RUN_SECONDS = 90.0
# Every third run's gate is left to the clock.
PATIENCE_SECONDS = 2.0


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(pools=("research",), twins=("supervisor",), forged=True)


class Ear:
    """A server of the user's, that fails twice before it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.failures = 2
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                fails, ear.failures = ear.failures > 0, ear.failures - 1
                if not fails:
                    ear.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(500 if fails else 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def told(self) -> Counter[tuple[str, str]]:
        """(event, run) → under how many ids."""
        found = {(headers["webhook-id"], body) for headers, body in self.heard}
        messages = [json.loads(body) for _, body in found]
        return Counter((message["type"], message["data"]["run_id"]) for message in messages)


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear()
    yield made
    made.server.shutdown()
    made.server.server_close()


def plan(number: int) -> Plan:
    expires = Expiry(after_seconds=PATIENCE_SECONDS, then="approve") if number % 3 == 0 else None
    return Plan.of(
        [
            Step(key="before", kind="script", script="count", arguments={"seconds": 0.2}),
            Step(key="ok", kind="gate", instruction="Go on?", after=("before",), expires=expires),
            Step(key="behind", kind="script", script="count", after=("ok",), arguments={"seconds": 0.2}),
        ]
    )


def test_answers_race_while_workers_and_supervisors_are_killed_and_webhooks_hear_of_all(
    laptop: Machine, ear: Ear
) -> None:
    webhook = laptop.client.add_webhook(ear.url, events=["escalation.opened", "run.finished"])
    runs = [laptop.client.submit(plan=plan(number)) for number in range(RUNS)]
    told_first: Counter[str] = Counter()
    guard, stop = threading.Lock(), threading.Event()

    def answer(asked: Escalation, name: str) -> None:
        if laptop.client.answer(asked, "approve", by=name):
            with guard:
                told_first[str(asked.run_id)] += 1

    def people(name: str) -> None:
        patient = {run.run_id for number, run in enumerate(runs) if number % 3 == 0}
        while not stop.wait(0.1):
            for asked in laptop.client.escalations():
                if asked.run_id not in patient:
                    answer(asked, name)

    with ThreadPoolExecutor(3) as threads:
        going = [threads.submit(people, name) for name in ("ada", "bob", "eve")]
        try:
            for victims in (("supervisor",), ("research",), ("supervisor-2", "research"), ("supervisor",)):
                for victim in victims:
                    until(lambda name=victim: name not in laptop.missing(), 60, f"{victim} is up")
                    laptop.signal(victim)
                until(laptop.is_whole, 60, "everything is up")
            for run in runs:
                assert laptop.wait(run, RUN_SECONDS) == "succeeded"
        finally:
            stop.set()
        for one in going:
            one.result()

    for number, run in enumerate(runs):
        assert laptop.objections(run, plan(number)) == []
        heard = [event.fact for event in run.events(follow=False) if event.kind == "signal.received"]
        (only,) = heard
        by_clock = number % 3 == 0
        assert (only.by == "expiry") == by_clock  # type: ignore[union-attr]
        assert told_first[str(run.run_id)] == (0 if by_clock else 1)
    # Each fact under one id, however often it was tried and by whom.
    expected = Counter({(event, str(run.run_id)): 1 for run in runs for event in webhook.events})
    until(lambda: ear.told() == expected, 60, "the webhook has heard of all")
    assert webhook.secret is not None
    for headers, body in ear.heard:
        assert verify_webhook(webhook.secret, headers, body, now=float(headers["webhook-timestamp"]))

    # What was heard is written down after it, and what a killed supervisor had under way is sent by another one later.
    def unsettled() -> set[str]:
        return {one.status for one in laptop.client.deliveries(limit=100)} - {"delivered"}

    until(lambda: not unsettled(), 120, "all deliveries are written down")
    listed = laptop.client.deliveries(limit=100)
    assert sum(one.attempts for one in listed) >= len(expected) + 2
